"""Faults that were seen in other clients; the page of conformance has theirs."""

import asyncio
import signal
import sys
from importlib.metadata import requires

import hiredis
import pytest
import redis.asyncio as aredis
from redis.credentials import CredentialProvider
from redis.exceptions import DataError

from oddswire import EmbeddedServer
from oddswire.client import Client
from oddswire.errors import AuthFailed, CommandTimeout, Outcome, ProtocolBroken
from oddswire.events import Disconnected
from oddswire.testing import LoopLag, frozen


@pytest.fixture
async def stopped():
    """A server of one's own, to stop, and nobody else on it."""
    async with EmbeddedServer() as server:
        yield server


async def connections(admin):
    """Return how many connections the server has taken."""
    return (await admin.info("stats"))["total_connections_received"]


@pytest.mark.basic
@pytest.mark.requirement("C3")
async def test_an_idle_connection_that_the_server_closed(stopped):
    """The next command succeeds after CLIENT KILL of its connection, retries off."""
    async with (
        Client.from_url(stopped.url, retries=0) as client,
        aredis.Redis.from_url(stopped.url) as admin,
    ):
        connection, lost = await client.client_id(), asyncio.Event()
        client.events.subscribe(lambda _: lost.set(), Disconnected)
        assert await admin.client_kill_filter(_id=str(connection)) == 1
        # The reply to who killed it may be read before the end of this connection.
        async with asyncio.timeout(10):
            await lost.wait()
        assert await client.ping()
        assert await client.client_id() != connection


class SlowCredentials(CredentialProvider):
    """A token service that answers when it is let."""

    def __init__(self):
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def get_credentials_async(self):
        """Tell that somebody asks, and wait."""
        self.asked.set()
        await self.answer.wait()
        return "bob", "secret"


@pytest.mark.errors
@pytest.mark.requirement("C1")
@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
async def test_cancelled_while_credentials_are_fetched(stopped, exclusive):
    """No connection serves anybody before it has authenticated."""
    async with aredis.Redis.from_url(stopped.url) as admin:
        await admin.acl_setuser(
            "bob", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"]
        )
        await admin.config_set("requirepass", "")
    provider = SlowCredentials()
    async with Client(
        host=stopped.host, port=stopped.port, credential_provider=provider
    ) as client:
        used = client.client() if exclusive else client
        first = asyncio.get_running_loop().create_task(used.acl_whoami())
        await provider.asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        provider.answer.set()
        assert await used.acl_whoami() == "bob"
        if exclusive:
            await used.aclose()


@pytest.mark.errors
@pytest.mark.requirement("C4", "C7")
async def test_one_increment_across_a_stall(stopped):
    """A stalled INCR fails with outcome unknown and is executed at most once."""
    async with Client.from_url(stopped.url) as client:
        await client.ping()
        stopped.kill(signal.SIGSTOP)
        try:
            with pytest.raises(CommandTimeout) as caught:
                await client.bounded(0.1).incr("counter")
        finally:
            stopped.kill(signal.SIGCONT)
        assert caught.value.outcome is Outcome.UNKNOWN
        # On the same connection, so whatever was sent for the INCR came before it.
        assert await client.get("counter") == b"1"


@pytest.mark.errors
@pytest.mark.requirement("C4")
async def test_one_read_from_a_stopped_server(stopped):
    """A GET takes one deadline, not one for each attempt."""
    async with Client.from_url(stopped.url) as client:
        await client.ping()
        with frozen(stopped), LoopLag() as lag, pytest.raises(CommandTimeout):
            await client.bounded(0.2).get("key")
        # Two attempts would take twice as long.
        assert lag.free < 0.4


@pytest.mark.errors
async def test_an_argument_that_cannot_be_packed(server, prefix):
    """Calls beside one whose argument cannot be packed get their own replies."""
    async with Client.from_url(server.url) as client:
        await client.set(prefix + "key", "value")
        before, refused, after = await asyncio.gather(
            client.get(prefix + "key"),
            client.set(prefix + "other", object()),
            client.get(prefix + "key"),
            return_exceptions=True,
        )
        assert (before, after) == (b"value", b"value")
        assert isinstance(refused, DataError)
        assert await client.get(prefix + "other") is None


@pytest.mark.performance
async def test_push_frames_leak_no_memory():
    """100,000 push frames leave no memory behind in the parser that is asked for."""
    assert any(line.startswith("hiredis>=3.5.0") for line in requires("oddswire"))
    reader = hiredis.Reader()

    def feed(frames):
        for _ in range(frames // 100):
            reader.feed(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nv\r\n" * 100)
            for _ in range(100):
                assert reader.gets() == [b"message", b"c", b"v"]

    feed(1_000)
    before = sys.getallocatedblocks()
    feed(100_000)
    # The leak was of two blocks a frame.
    assert sys.getallocatedblocks() - before < 1_000


@pytest.mark.errors
@pytest.mark.requirement("C7")
async def test_a_reply_that_chokes_the_parser():
    """A map with an array as its key fails what it answers and nothing after it."""
    poisoned = []

    async def serve(reader, writer):
        requests = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                requests.feed(data)
                while request := requests.gets():
                    if request[0] == b"HELLO":
                        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                    elif request[0] == b"INCRBY" and not poisoned:
                        poisoned.append(request)
                        writer.write(b"%1\r\n*1\r\n:1\r\n:2\r\n")
                    else:
                        writer.write(b":7\r\n")
        finally:  # also when the loop ends before it was told that the client left
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        async with Client(host=host, port=port) as client:
            with pytest.raises(ProtocolBroken) as caught:
                await client.incr("key")
            assert caught.value.outcome is Outcome.UNKNOWN
            assert await client.incr("key") == 7
            assert await client.incr("key") == 7


@pytest.mark.errors
@pytest.mark.requirement("C1")
async def test_one_read_with_a_wrong_password(stopped):
    """A wrong password costs one connection and one refusal, and fails at once."""
    async with aredis.Redis.from_url(stopped.url) as admin:
        before = await connections(admin)
        async with Client(
            host=stopped.host, port=stopped.port, password="wrong"
        ) as client:
            with pytest.raises(AuthFailed):
                await client.get("key")
        assert await connections(admin) == before + 1
        refused = await admin.info("errorstats")
        assert refused["errorstat_WRONGPASS"]["count"] == 1
