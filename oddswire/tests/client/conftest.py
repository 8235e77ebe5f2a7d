"""What the tests of the client share: clients, and a link that can be cut anywhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from oddswire import Client
from oddswire.testing.proxy import close_listener


class Cutter:
    """A TCP link to a real server that cuts a connection at a command.

    Attributes:
        port: Where it listens.
        connections: How many came.
        plan: Needles in the bytes on their way to the server; each is used once.
            ``(needle, "before")`` cuts before they are passed on, ``"after"`` when the
            server has answered them, without the answer, ``"mute"`` swallows the
            answers and keeps the connection open.
    """

    def __init__(self, server):
        self._server = server
        self._tasks = set()
        self._writers = []
        self.port = 0
        self.connections = 0
        self.plan = []

    async def open(self):
        """Listen."""
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self):
        """Cut everything."""
        await close_listener(self._listener, self._end)

    async def _end(self):
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader, writer):
        self.connections += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        self._writers.append(writer)
        upstream, up = await asyncio.open_connection(
            self._server.host, self._server.port
        )
        self._writers.append(up)
        muted = asyncio.Event()
        answered = asyncio.Event()
        down = asyncio.get_running_loop().create_task(
            self._down(upstream, writer, muted, answered)
        )
        self._tasks.add(down)
        with suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                how = self._due(data)
                if how == "before":
                    break
                if how is not None:
                    muted.set()
                up.write(data)
                if how == "after":
                    await answered.wait()
                    break
        writer.transport.abort()
        up.transport.abort()

    def _due(self, data):
        for needle, how in self.plan:
            if needle in data:
                self.plan.remove((needle, how))
                return how
        return None

    @staticmethod
    async def _down(upstream, writer, muted, answered):
        with suppress(ConnectionError):
            while data := await upstream.read(65536):
                if muted.is_set():
                    answered.set()
                else:
                    writer.write(data)
            writer.close()


@pytest.fixture
async def cutter(server):
    """A link to the shared server that the test cuts where it likes."""
    link = Cutter(server)
    await link.open()
    yield link
    await link.close()


@pytest.fixture
async def through(server, cutter):
    """`through(**options)`: a client whose link can be cut."""
    clients = []

    def connect(**options):
        options = {"reconnect_delay": 0.01, "retries": 3, **options}
        client = Client.from_url(
            f"redis://:{server.password}@127.0.0.1:{cutter.port}", **options
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.aclose()
