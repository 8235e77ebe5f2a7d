"""With protocol=2 no HELLO is needed: Redis 5, and proxies that know few commands."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from oddswire import Client, SimpleClient
from oddswire.embedded.server import free_port
from oddswire.errors import AuthFailed, Outcome, Unavailable
from oddswire.events import DataReset, Disconnected
from oddswire.testing.proxy import close_listener
from support import eventually
from support.hooks import server_info

pytestmark = pytest.mark.requirement("C1")


class FewCommands:
    """A proxy in front of a server, that answers or hangs up at what it does not know.

    Args:
        server: Behind it.
        refuse: Answers in place of the server; None hangs up, as twemproxy does.
        pong: How it answers PING itself, whatever PING is given; None: it hangs up at
            a PING with an argument, and passes on the others.
    """

    UNKNOWN = frozenset(
        {b"HELLO", b"CLIENT", b"INFO", b"ROLE", b"MULTI", b"SUBSCRIBE", b"COMMAND"}
    )

    def __init__(self, server, refuse=None, pong=None):
        self._server, self._refuse, self._pong = server, refuse, pong
        self._writers, self.seen, self.connections = [], [], 0

    async def __aenter__(self):
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://:{self._server.password}@127.0.0.1:{self.port}/0"
        return self

    async def __aexit__(self, *_):
        async def end():
            for writer in self._writers:
                writer.transport.abort()

        await close_listener(self._listener, end)

    async def _take(self, reader, writer):
        self.connections += 1
        down, up = await asyncio.open_connection(self._server.host, self._server.port)
        self._writers += [writer, up]
        copying = asyncio.get_running_loop().create_task(self._copy(down, writer))
        try:
            while line := await reader.readline():
                args = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    args.append((await reader.readexactly(size + 2))[:-2])
                name = args[0].upper()
                self.seen.append(name)
                if name == b"PING" and self._pong is not None:
                    writer.write(self._pong)
                    continue
                if name in self.UNKNOWN or (name == b"PING" and len(args) > 1):
                    if self._refuse is None:
                        break
                    writer.write(self._refuse % name)
                    continue
                up.write(b"*%d\r\n" % len(args))
                for arg in args:
                    up.write(b"$%d\r\n%s\r\n" % (len(arg), arg))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            copying.cancel()
            writer.close()
            up.close()

    @staticmethod
    async def _copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()


PROXIES = {
    "hangs up, as twemproxy": {},
    "refuses, as envoy": {"refuse": b"-ERR unsupported command '%s'\r\n"},
    "answers PING itself": {
        "refuse": b"-ERR unknown command '%s'\r\n",
        "pong": b"+PONG\r\n",
    },
}


@pytest.mark.errors
@pytest.mark.parametrize("how", PROXIES)
@pytest.mark.parametrize("kind", [Client, SimpleClient])
async def test_a_proxy_that_knows_few_commands(own, how, kind):
    """Ordinary commands work through it, on one connection, and stay connected."""
    async with FewCommands(own, **PROXIES[how]) as proxy:
        options = {} if kind is SimpleClient else {"heartbeat": 0.1}
        async with kind.from_url(proxy.url, protocol=2, **options) as client:
            lost = []
            if kind is Client:
                client.events.subscribe(lost.append, Disconnected)
            assert await client.set("k", "v")
            connections = proxy.connections
            replies = await asyncio.gather(*(client.get("k") for _ in range(3_000)))
            assert set(replies) == {b"v"}
            if kind is Client:
                pings = proxy.seen.count(b"PING")
                await eventually(lambda: proxy.seen.count(b"PING") >= pings + 3)
                assert await client.blpop("none", timeout=0.01) is None
                assert await client.blpop("none", timeout=0.01) is None
                assert proxy.connections == connections + 1
            assert b"HELLO" not in proxy.seen
            assert lost == []


@pytest.mark.errors
@pytest.mark.parametrize(
    "refusal", [b"-ERR unknown command '%s'\r\n", b"-NOPROTO unsupported '%s'\r\n"]
)
async def test_without_protocol_2_the_error_says_so(own, refusal):
    """Where HELLO is not known the error names the option, at once."""
    async with (
        FewCommands(own, refusal) as proxy,
        Client.from_url(proxy.url, protocol=3) as client,
    ):
        for call in (client.get("k"), client.blpop("k", timeout=0.01)):
            with pytest.raises(Unavailable, match="protocol=2") as refused:
                await call
            assert refused.value.outcome is Outcome.REJECTED


class Old:
    """A Redis 7.0 that has forgotten HELLO, as Redis 5 never knew it.

    The starter of `EmbeddedServer` says HELLO itself.
    """

    host = "127.0.0.1"
    password = "secret"

    def __init__(self, folder):
        self._folder = folder
        self.port = free_port()

    async def start(self):
        """Start it, and wait until it answers."""
        self._process = await asyncio.create_subprocess_exec(
            *("redis-server", "--port", str(self.port), "--bind", self.host),
            *("--requirepass", self.password, "--rename-command", "HELLO", ""),
            *("--save", "", "--dir", str(self._folder)),
            stdout=asyncio.subprocess.DEVNULL,
        )

        async def listens():
            with suppress(OSError):
                _, writer = await asyncio.open_connection(self.host, self.port)
                writer.close()
                return True

        await eventually(listens)

    async def stop(self):
        """Kill it."""
        self._process.kill()
        await self._process.wait()


@pytest.fixture
async def old(tmp_path):
    """A server without HELLO."""
    server = Old(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.mark.integration
@pytest.mark.system("redis-server", package="redis-server")
async def test_a_server_without_hello(old):
    """Database, name, pipelines, blocking calls, restarts and their news all work."""
    async with Client.from_url(
        f"redis://default:{old.password}@{old.host}:{old.port}/3",
        protocol=2,
        client_name="bot",
        command_timeout=10,
    ) as client:
        resets = []
        client.events.subscribe(resets.append, DataReset)
        async with client.pipeline() as pipe:
            assert await pipe.set("k", "v").get("k").execute() == [True, b"v"]
        assert await client.blpop("none", timeout=0.01) is None
        names = {(each["name"], each["db"]) for each in await client.client_list()}
        assert names == {("bot", "3")}
        assert server_info(client).role == "master"
        assert server_info(client).version.startswith("7.0")
        raw = client.pubsub()
        await raw.subscribe("c")
        assert (await raw.get_message(timeout=5))["type"] == "subscribe"
        await raw.aclose()
        await old.stop()
        await old.start()
        assert await client.set("k", "w")
        assert len(resets) == 1


@pytest.mark.errors
@pytest.mark.system("redis-server", package="redis-server")
async def test_a_wrong_password_without_hello(old):
    """Wrong and missing passwords fail at once, as they do with HELLO."""
    for credentials in ("", ":wrong@", "somebody:wrong@"):
        url = f"redis://{credentials}{old.host}:{old.port}/0"
        async with Client.from_url(url, protocol=2) as client:
            for call in (client.get("k"), client.blpop("k", timeout=0.01)):
                with pytest.raises(AuthFailed):
                    await call
