"""`Channel`: websockets as Polymarket serves them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from ._exchange import Exchange


@dataclass(eq=False)
class Connection:
    """One websocket.

    Attributes:
        ws: What is sent goes here.
        transport: Writes it, by asyncio or uvloop; None: the client is gone.
    """

    ws: web.WebSocketResponse
    transport: Any


_C = TypeVar("_C", bound=Connection)


class Channel(Generic[_C]):
    """All connections to one path. PING is answered by PONG.

    Args:
        exchange: What is told of.
        patience: Seconds after which a connection that takes nothing is cut.
    """

    kind: type[_C]

    def __init__(self, exchange: Exchange, patience: float) -> None:
        self._exchange = exchange
        self._patience = patience
        self._open: set[_C] = set()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        # No compression: a frame must be on its way before the next one is made.
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        connection = self.kind(ws, request.transport)
        self._open.add(connection)
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    continue
                if message.data == "PING":
                    await self._write(connection, "PONG")
                else:
                    await self._hear(connection, message.data)
        finally:
            self._open.discard(connection)
        return ws

    def disconnect(self) -> int:
        """Cut every connection without a goodbye; return how many there were."""
        cut = list(self._open)
        for connection in cut:
            self._cut(connection)
        return len(cut)

    async def _hear(self, connection: _C, text: str) -> None:
        raise NotImplementedError

    async def _write(self, connection: _C, text: str) -> bool:
        """Return whether the connection took it."""
        try:
            async with asyncio.timeout(self._patience):
                await connection.ws.send_str(text)
        except TimeoutError:
            self._cut(connection)
            return False
        except (ConnectionError, RuntimeError):
            # Gone, or closing: `serve` notices by itself and lets go of it.
            self._open.discard(connection)
            return False
        return True

    def _cut(self, connection: _C) -> None:
        self._open.discard(connection)
        if connection.transport is not None:
            connection.transport.abort()
