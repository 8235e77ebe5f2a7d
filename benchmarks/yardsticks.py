"""What the client is measured against besides its peers: asyncio, a bare protocol.

A ratio to a peer moves with the machine. A ratio to one of these hardly does, so these
are the rows that a change may not worsen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import hiredis
from hiredis import pack_command

if TYPE_CHECKING:
    from contextlib import AsyncExitStack


class AsyncioAlone:
    """Resolves the futures of a loop tick together, as replies of one read are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self) -> None:
        """Wait for the end of this loop tick."""
        future = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._resolve)
        self._waiting.append(future)
        await future

    def _resolve(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_result(None)


class BareProtocol(asyncio.Protocol):
    """One command at a time, and nothing else: what asyncio needs for a reply."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to parse."""
        self._transport = cast("asyncio.Transport", transport)
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        """Resolve the one call that waits."""
        self._reader.feed(data)
        self._reply.set_result(self._reader.gets())

    async def call(self, packed: bytes) -> Any:
        """Send a packed command and return its reply."""
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(packed)
        return await self._reply

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def open_bare(
    stack: AsyncExitStack, host: str, port: int, password: str
) -> BareProtocol:
    """Open a bare protocol and log in; the stack closes it."""
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(BareProtocol, host, port)
    stack.callback(bare.close)
    await bare.call(pack_command(("AUTH", password)))
    return bare
