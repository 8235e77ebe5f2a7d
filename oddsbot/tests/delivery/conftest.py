from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from decimal import Decimal

import pytest

from oddsbot.alerts import Direction, PriceCrossed
from oddswire import Client, EmbeddedServer
from oddswire.keys import KeySpace


@pytest.fixture
def keys(prefix):
    """The keys of this test, on a server that others use too."""
    return KeySpace(prefix)


@pytest.fixture
async def durable():
    """A server of this test's own, which keeps every write through kill -9."""
    async with EmbeddedServer(aof=True, args=("--appendfsync", "always")) as server:
        yield server


@pytest.fixture
def alert():
    """Make the n-th of a series of alerts."""

    def make(n: int, user_id: int = 1) -> PriceCrossed:
        return PriceCrossed(
            id=f"rule:{n}",
            user_id=user_id,
            rule_id="rule",
            market="0xmarket",
            asset_id="1",
            direction=Direction.ABOVE,
            level=Decimal("0.60"),
            price=Decimal("0.61"),
            at=1_790_000_000_000 + n,
            seen_at=1_790_000_000.0,
        )

    return make


class Lossy:
    """A way to a server on which the reply to a chosen command gets lost.

    The command arrives and is executed; then the connection is cut before a byte of
    the reply came through.

    Attributes:
        url: Of this way.
        lose: How many more replies to lose, by what their request contains.
        lost: How many were lost.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self.lose: dict[bytes, int] = {}
        self.lost = 0
        self.url = ""
        self._server = server
        self._serving: set[asyncio.Task] = set()

    @asynccontextmanager
    async def open(self):
        """Listen."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.url = self._server.url.replace(f":{self._server.port}/", f":{port}/")
        async with listener:
            yield self
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader, writer) -> None:
        self._serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection(
            self._server.host, self._server.port
        )
        losing = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._requests(reader, up_writer, losing))
            tasks.create_task(self._replies(up_reader, writer, losing))
        for each in (up_writer, writer):
            with suppress(ConnectionError):
                await each.wait_closed()

    async def _requests(self, reader, writer, losing) -> None:
        while data := await _chunk(reader):
            for what, times in self.lose.items():
                if times and what in data:
                    self.lose[what] -= 1
                    losing.set()
            writer.write(data)
        writer.close()

    async def _replies(self, reader, writer, losing) -> None:
        while data := await _chunk(reader):
            if losing.is_set():
                self.lost += 1
                break
            writer.write(data)
        writer.transport.abort()


async def _chunk(reader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


@pytest.fixture
async def lossy(server):
    """A `Lossy` way to the server, and a client that takes it."""
    async with Lossy(server).open() as way, Client.from_url(way.url) as client:
        yield way, client
