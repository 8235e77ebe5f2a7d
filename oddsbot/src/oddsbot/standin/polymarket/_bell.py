"""RTDS, ``activity/orders_matched``: each **generated** trade as soon as it happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from ._exchange import Exchange
    from ._ledger import Row

_encoder = msgspec.json.Encoder(decimal_format="number")


class _Wanted(msgspec.Struct, frozen=True):
    topic: str
    type: str
    filters: str = ""


class _Request(msgspec.Struct):
    action: str
    subscriptions: list[_Wanted] = []


class Bell:
    """All connections to RTDS.

    A filter is compared as the exact text, as reported of the real one: compact JSON
    with one key works, and any other way to write the same does not.
    """

    def __init__(self, exchange: Exchange, patience: float) -> None:
        self._exchange = exchange
        self._patience = patience
        self._told = 0
        self._open: dict[web.WebSocketResponse, set[_Wanted]] = {}
        self._transports: dict[web.WebSocketResponse, asyncio.Transport | None] = {}

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        self._open[ws], self._transports[ws] = set(), request.transport
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    continue
                if message.data == "PING":
                    await ws.send_str("PONG")
                    continue
                try:
                    asked = msgspec.json.decode(message.data, type=_Request)
                except (msgspec.DecodeError, UnicodeError):
                    continue
                if asked.action == "subscribe":
                    self._open[ws].update(asked.subscriptions)
                else:
                    self._open[ws].difference_update(asked.subscriptions)
        finally:
            self._open.pop(ws, None)
            self._transports.pop(ws, None)
        return ws

    async def ring(self) -> None:
        """Tell of the rows that are new."""
        rows = self._exchange.ledger.rows
        new, self._told = rows[self._told :], len(rows)
        trades = [row for row in new if row.type == "TRADE"]
        if not trades:
            return
        for ws, wanted in list(self._open.items()):
            for row in trades:
                if any(self._wants(each, row) for each in wanted):
                    await self._send(ws, self._message(row))

    def disconnect(self) -> None:
        """Cut every connection, without a goodbye."""
        for transport in list(self._transports.values()):
            if transport is not None:
                transport.abort()

    def _wants(self, wanted: _Wanted, row: Row) -> bool:
        if wanted.topic != "activity" or wanted.type not in {"orders_matched", "*"}:
            return False
        slug = self._exchange.markets[row.market_id].slug
        return wanted.filters in {"", f'{{"event_slug":"{slug}"}}'}

    def _message(self, row: Row) -> str:
        market = self._exchange.markets[row.market_id]
        wallet = self._exchange.ledger.wallets[row.wallet]
        payload: dict[str, Any] = {
            "asset": row.token,
            "conditionId": row.market_id,
            "eventSlug": market.slug,
            "slug": market.slug,
            "title": market.question,
            "icon": "",
            "outcome": market.outcomes[row.outcome],
            "outcomeIndex": row.outcome,
            "price": row.price,
            "size": row.size,
            "side": row.side,
            "timestamp": row.at,
            "transactionHash": row.transaction,
            "proxyWallet": row.wallet,
            "name": wallet.name,
            "pseudonym": wallet.pseudonym,
            "bio": "",
            "profileImage": "",
        }
        body = {
            "topic": "activity",
            "type": "orders_matched",
            "timestamp": row.at * 1000,
            "payload": payload,
        }
        return _encoder.encode(body).decode()

    async def _send(self, ws: web.WebSocketResponse, text: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await ws.send_str(text)
        except (TimeoutError, ConnectionError, RuntimeError):
            self._open.pop(ws, None)
