"""The command connection comes back, and says so, whatever happens to the server."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import (
    AuthFailed,
    CircuitOpen,
    ConnectionLost,
    Outcome,
    Unavailable,
)
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    DataReset,
    Disconnected,
    Ready,
    Reconnecting,
)
from oddswire.testing import LoopLag
from support.hooks import skip_backoff, start_connecting

QUICK = {
    "reconnect_delay": 0.01,
    "reconnect_cap": 0.02,
    "reconnect_attempts": 3,
    "reconnect_probe": 0.1,
}


class Heard:
    """The events of a client, in order, and a way to wait for one."""

    def __init__(self, client):
        self.events = []
        self._waiting = []
        client.events.subscribe(self._hear)

    def _hear(self, event):
        self.events.append(event)
        for kind, future in self._waiting:
            if isinstance(event, kind) and not future.done():
                future.set_result(event)

    async def wait(self, kind):
        """Wait for the next event of this type."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((kind, future))
        async with asyncio.timeout(10):
            return await future

    @property
    def kinds(self):
        """The types, attempts and pauses between two of them folded into one."""
        kinds = [type(event) for event in self.events]
        return [
            kind
            for n, kind in enumerate(kinds)
            if kind not in kinds[max(0, n - 2) : n] or kind in (Ready, Disconnected)
        ]


@pytest.mark.requirement("C3")
@pytest.mark.advanced
async def test_a_hundred_first_calls_make_one_connection():
    """However many callers come first, the server sees one connection."""
    async with EmbeddedServer() as server, Client.from_url(server.url) as client:
        assert await asyncio.gather(*(client.incr("n") for _ in range(100))) == list(
            range(1, 101)
        )
        clients = await client.client_list()
        received = (await client.info("stats"))["total_connections_received"]

    assert len(clients) == 1
    assert received == 1 + 2  # and the starter's own checks, one on each listener


@pytest.mark.requirement("C3", "C8")
@pytest.mark.parametrize("aof", [True, False], ids=["with its data", "empty"])
@pytest.mark.integration
async def test_killed_and_restarted_server(aof):
    """After kill -9 and a restart the same client goes on, and tells the story."""
    always = ("--appendfsync", "always") if aof else ()
    async with EmbeddedServer(aof=aof, args=always) as server:
        client = Client.from_url(server.url, command_timeout=10.0, retries=3, **QUICK)
        heard = Heard(client)
        await client.set("k", "v")
        opened = asyncio.get_running_loop().create_task(heard.wait(CircuitOpened))
        lost = asyncio.get_running_loop().create_task(heard.wait(Disconnected))
        server.kill()
        await server.wait_exit()
        await lost
        circuit = await opened
        with pytest.raises(CircuitOpen) as refused:
            await client.get("k")
        back = asyncio.get_running_loop().create_task(heard.wait(Ready))
        await server.restart()
        ready = await back
        value = await client.get("k")
        await client.aclose()

    assert circuit.attempts == QUICK["reconnect_attempts"]
    assert 0 <= refused.value.retry_after <= QUICK["reconnect_probe"]
    assert refused.value.outcome is Outcome.NOT_SENT
    assert value == (b"v" if aof else None)
    assert ready.outage > 0
    assert heard.kinds == [
        Connecting,
        Connected,
        Ready,
        Disconnected,
        Reconnecting,
        Connecting,
        CircuitOpened,
        Reconnecting,
        Connecting,
        Connected,
        CircuitClosed,
        DataReset,
        Ready,
        Disconnected,
    ]


@pytest.mark.requirement("C3")
@pytest.mark.errors
async def test_circuit_opens_after_the_set_number_of_attempts(unused_port):
    """With nobody at the port the callers in wait fail when the circuit opens."""
    client = Client(host="127.0.0.1", port=unused_port, **QUICK)
    heard = Heard(client)
    failures = await asyncio.gather(
        *(client.get("a") for _ in range(10)), return_exceptions=True
    )
    attempts = [e for e in heard.events if isinstance(e, Connecting)]
    await client.aclose()

    assert {type(failure) for failure in failures} == {CircuitOpen}
    assert len({id(failure) for failure in failures}) == 10
    assert len(attempts) == 3
    assert "Connect call failed" in str(failures[0])


@pytest.mark.requirement("C3")
@pytest.mark.errors
async def test_waiting_for_a_connection_ends_with_the_deadline(unused_port):
    """While attempts go on a caller waits no longer than its own deadline."""
    client = Client(host="127.0.0.1", port=unused_port, command_timeout=0.2)
    with (
        LoopLag() as lag,
        pytest.raises(Unavailable, match="Connect call failed") as caught,
    ):
        await client.incr("a")

    assert lag.free < 0.2 * 1.1 + 0.1
    assert caught.value.outcome is Outcome.NOT_SENT
    await client.aclose()


@pytest.mark.errors
async def test_caller_that_gives_up_leaves_the_attempt_to_the_others(peer):
    """A cancelled caller does not end the attempt that others wait for."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3)
    loop = asyncio.get_running_loop()
    first, second = loop.create_task(client.get("a")), loop.create_task(client.get("b"))
    line = await peer.line()
    first.cancel()
    await asyncio.wait([first])
    await line.greet()
    await line.heard(("GET", "b"))
    line.say(b"$1\r\n2\r\n")

    assert await second == b"2"
    assert peer.accepted == 1
    await client.aclose()


@pytest.mark.requirement("C3")
@pytest.mark.errors
async def test_connection_lost_during_the_handshake_is_an_attempt(peer):
    """A server that hangs up in the handshake is tried again; the caller is served."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3, reconnect_delay=0.01)
    call = asyncio.get_running_loop().create_task(client.get("a"))
    (await peer.line()).hang_up()
    line = await peer.line()
    line.say(b"-ERR max number of clients reached\r\n")
    line.finish()
    line = await peer.line()
    await line.greet()
    await line.heard(("GET", "a"))
    line.say(b"$1\r\n1\r\n")

    assert await call == b"1"
    await client.aclose()


@pytest.mark.requirement("C3")
@pytest.mark.errors
async def test_server_that_accepts_and_drops_is_not_hammered(peer):
    """Connections that end right after the handshake are spaced out."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3, command_timeout=0.5)
    heard = Heard(client)
    start_connecting(client)
    for _ in range(4):
        line = await peer.line()
        await line.greet()
        ready = heard.wait(Disconnected)
        line.finish()
        await ready
    await client.aclose()

    pauses = [e.delay for e in heard.events if isinstance(e, Reconnecting)]
    assert pauses == sorted(pauses)
    assert len(pauses) >= 3
    assert pauses[2] >= 0.1


@pytest.mark.requirement("C3", "C8")
@pytest.mark.errors
async def test_connection_lost_with_the_last_reply_of_the_handshake_is_an_attempt(peer):
    """It counts and is told as any other failed attempt: the circuit opens with it."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3, **QUICK)
    heard = Heard(client)
    opened = asyncio.get_running_loop().create_task(heard.wait(CircuitOpened))
    call = asyncio.get_running_loop().create_task(client.get("a"))

    async def greet():
        while True:
            line = await peer.line()
            # In one write: the reply to nobody ends the connection at once.
            await line.greet(more=b"+OK\r\n")

    greeting = asyncio.get_running_loop().create_task(greet())
    assert "to no call" in (await opened).reason
    with pytest.raises(CircuitOpen):
        await call
    greeting.cancel()
    await client.aclose()


@pytest.mark.requirement("C3")
@pytest.mark.integration
async def test_killing_every_connection_does_not_hurt_the_caller():
    """CLIENT KILL of all others: the killer is answered, the others come back."""
    async with EmbeddedServer() as server:
        victim = Client.from_url(server.url, retries=3)
        killer = Client.from_url(server.url)
        await victim.set("k", "v")
        for _ in range(3):
            assert await killer.client_kill_filter(skipme=True, _type="normal") >= 1
            assert await victim.get("k") == b"v"
        await victim.blpop("none", 0.01)
        await killer.client_kill_filter(skipme=True, _type="normal")
        assert await victim.blpop("none", 0.01) is None
        assert await victim.get("k") == b"v"
        assert killer.stats().connects == 1
        await victim.aclose()
        await killer.aclose()


def _process(run_id):
    text = f"# Server\r\nrun_id:{run_id}\r\n".encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


@pytest.mark.requirement("C3", "C8")
@pytest.mark.errors
@pytest.mark.parametrize("now", ["one", "another"])
async def test_another_process_is_noticed_over_a_connection_that_did_not_tell(
    peer, now
):
    """A server too busy to say which process it is does not hide that it is new."""
    client = Client(host="127.0.0.1", port=peer.port, protocol=3, reconnect_delay=0.01)
    heard = Heard(client)
    for info in (_process("one"), b"-BUSY a script is running\r\n", _process(now)):
        ready = asyncio.get_running_loop().create_task(heard.wait(Ready))
        start_connecting(client)
        line = await peer.line()
        await line.greet(info)
        await ready
        line.finish()
    await client.aclose()

    resets = [each for each in heard.events if isinstance(each, DataReset)]
    assert len(resets) == (now == "another")


@pytest.mark.requirement("C8")
@pytest.mark.errors
async def test_nobody_listens_or_a_listener_fails(server):
    """No listener, or one that raises, changes nothing for the connection."""
    async with Client.from_url(server.url) as client:

        def broken(event):
            raise KeyError(event.connection)

        client.events.subscribe(broken)
        assert await client.ping()
        assert client.events.handler_errors == 3


@pytest.mark.errors
async def test_password_that_changes_is_noticed():
    """A password that is taken away fails calls at once; with it back they work."""
    async with EmbeddedServer() as server:
        client = Client.from_url(server.url)
        admin = Client.from_url(server.url, retries=0)
        await client.ping()
        await admin.config_set("requirepass", "another")
        heard = Heard(client)
        lost = asyncio.get_running_loop().create_task(heard.wait(Disconnected))
        await admin.client_kill_filter(skipme=True, _type="normal")
        await lost
        with pytest.raises(AuthFailed):
            await client.get("a")
        await admin.config_set("requirepass", server.password)
        skip_backoff(client)
        assert await client.get("a") is None
        await client.aclose()
        await admin.aclose()


@pytest.mark.errors
async def test_lost_between_two_calls_is_not_the_next_ones_problem(peer):
    """A call made after the loss waits for the new connection and is served there."""
    client = Client(
        host="127.0.0.1", port=peer.port, protocol=3, reconnect_delay=0.01, retries=0
    )
    loop = asyncio.get_running_loop()
    call = loop.create_task(client.get("a"))
    line = await peer.line()
    await line.greet()
    await line.heard(("GET", "a"))
    line.finish()
    with pytest.raises(ConnectionLost):
        await call
    again = loop.create_task(client.incr("a"))
    line = await peer.line()
    await line.greet()
    await line.heard(("INCRBY", "a", 1))
    line.say(b":1\r\n")

    assert await again == 1
    await client.aclose()


@pytest.fixture
def unused_port():
    """A port at which nobody listens."""
    from oddswire.embedded.server import free_port

    return free_port()
