"""What the tests of connections share: a peer that speaks byte by byte."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from oddswire.connection.multiplexer import ConnectionMetrics, Multiplexer
from oddswire.testing.proxy import close_listener

HELLO_REPLY = (
    b"%4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n"
    b"$2\r\nid\r\n:7\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
)


class Name:
    """What a call of a test is called."""

    def __init__(self, name="GET"):
        self.name = name
        self.slow = 0


class Line:
    """One connection at the peer's end."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def say(self, data):
        """Send bytes, whatever they mean."""
        self.writer.write(data)

    async def heard(self, *commands):
        """Read exactly these commands, packed, and fail on anything else."""
        from oddswire.connection.packing import pack

        expected = b"".join(map(pack, commands))
        async with asyncio.timeout(10):
            assert await self.reader.readexactly(len(expected)) == expected

    async def greet(self, info=b"$-1\r\n", more=b""):
        """Answer a handshake that consists of HELLO, and of INFO when it comes.

        What is said in addition (`more`) is of the same write.
        """
        async with asyncio.timeout(10):
            while b"HELLO" not in await self.reader.readline():
                pass
            assert await self.reader.readline() == b"$1\r\n"
            await self.reader.readline()
        said = HELLO_REPLY
        asked = b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"
        if self.reader._buffer.startswith(asked):
            await self.reader.readexactly(len(asked))
            said += info
        self.say(said + more)

    async def ended(self):
        """Wait until the other side has closed; return what it had still sent."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def hang_up(self):
        """Reset the connection."""
        self.writer.transport.abort()

    def finish(self):
        """End it in order, after what was said."""
        self.writer.close()


class Peer:
    """A TCP server whose every byte the test decides."""

    def __init__(self):
        self.lines = asyncio.Queue()
        self.accepted = 0
        self.port = 0

    def take(self, reader, writer):
        """Have the test take a connection."""
        self.accepted += 1
        self.lines.put_nowait(Line(reader, writer))

    async def line(self):
        """Return the next connection."""
        async with asyncio.timeout(10):
            return await self.lines.get()


@asynccontextmanager
async def open_peer():
    """Open a peer; its connections are cut at the end."""
    peer = Peer()
    lines = []

    def taken(reader, writer):
        lines.append(writer)
        peer.take(reader, writer)

    listener = await asyncio.start_server(taken, "127.0.0.1", 0)
    peer.port = listener.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:

        async def end():
            for writer in lines:
                writer.transport.abort()

        await close_listener(listener, end)


@pytest.fixture
async def peer():
    """A server that says only what the test has it say."""
    async with open_peer() as peer:
        yield peer


@pytest.fixture
async def pair(peer):
    """Connect a connection: returns it and the peer's end of it."""
    connections = []

    async def connect(**options):
        options.setdefault("metrics", ConnectionMetrics())
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Multiplexer(**options), "127.0.0.1", peer.port
        )
        connections.append(connection)
        return connection, await peer.line()

    yield connect
    for connection in connections:
        await connection.aclose(0)


@pytest.fixture
def name():
    """What a call is called in its errors."""
    return Name


@pytest.fixture
def peers():
    """For tests whose loop is not that of the fixtures."""
    return open_peer
