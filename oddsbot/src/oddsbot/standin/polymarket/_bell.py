"""RTDS, ``activity/orders_matched``: each **generated** trade as soon as it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ._channel import Channel, Connection

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


@dataclass(eq=False)
class _Listener(Connection):
    wanted: set[_Wanted] = field(default_factory=set)


class Bell(Channel[_Listener]):
    """All connections to RTDS.

    A filter is compared as the exact text, as reported of the real one: compact JSON
    with one key works, and any other way to write the same does not.
    """

    kind = _Listener

    def __init__(self, exchange: Exchange, patience: float) -> None:
        super().__init__(exchange, patience)
        self._told = 0

    async def ring(self) -> None:
        """Tell of the rows that are new."""
        rows = self._exchange.ledger.rows
        new, self._told = rows[self._told :], len(rows)
        for row in new:
            if row.type != "TRADE":
                continue
            for listener in list(self._open):
                if any(self._wants(each, row) for each in listener.wanted):
                    await self._write(listener, self._message(row))

    async def _hear(self, connection: _Listener, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Request)
        except (msgspec.DecodeError, UnicodeError):
            return
        if asked.action == "subscribe":
            connection.wanted.update(asked.subscriptions)
        else:
            connection.wanted.difference_update(asked.subscriptions)

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
        }
        body = {
            "topic": "activity",
            "type": "orders_matched",
            "timestamp": row.at * 1000,
            "payload": payload,
        }
        return _encoder.encode(body).decode()
