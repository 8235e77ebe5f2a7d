"""The CLOB's read endpoints, answered from the recorded books.

Numbers are inside strings, as Polymarket has it. The step, the smallest size and the
last trade that the HTTP book adds are derived or constant: no recording has them.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from . import _derive
from ._answers import Api, Refused, answer, whole

if TYPE_CHECKING:
    from .recording import Snapshot

_MOST_BOOKS = 500
_HOURS = {"1h": 1, "6h": 6, "1d": 24, "1w": 168, "1m": 720, "max": inf, "all": inf}


class ClobApi(Api):
    """Answers of the CLOB at a moment."""

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        return [
            web.get("/book", self._book),
            web.post("/books", self._books),
            web.get("/price", self._price),
            web.get("/midpoint", self._midpoint),
            web.get("/prices-history", self._history),
            web.get("/clob-markets/{condition}", self._market),
        ]

    def _book_of(self, request: web.Request) -> Snapshot:
        snapshot = self._exchange.books.get(request.query.get("token_id", ""))
        if snapshot is None:
            raise Refused(404, "No orderbook exists for the requested token id")
        return snapshot

    async def _book(self, request: web.Request) -> web.Response:
        return answer(_http_book(self._book_of(request)))

    async def _books(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=list[dict[str, str]])
            tokens = [each["token_id"] for each in asked]
        except (msgspec.DecodeError, UnicodeError, KeyError):
            raise Refused(400, "Invalid payload") from None
        if len(tokens) > _MOST_BOOKS:
            raise Refused(400, "Payload exceeds the limit")
        return answer([_http_book(each) for each in self._exchange.known(tokens)])

    async def _price(self, request: web.Request) -> web.Response:
        side = request.query.get("side", "").upper()
        if side not in {"BUY", "SELL"}:
            raise Refused(400, "Invalid side")
        bid, ask = _derive.top(self._book_of(request))
        return answer({"price": _derive.number(bid if side == "BUY" else ask)})

    async def _midpoint(self, request: web.Request) -> web.Response:
        return answer({"mid": _derive.number(_derive.mid(self._book_of(request)))})

    async def _history(self, request: web.Request) -> web.Response:
        query = request.query
        now = self._now()
        try:
            step = 60 * whole(request, "fidelity", 1)
            end = whole(request, "endTs", now)
            if "interval" in query:
                begin = now - 3600 * _HOURS[query["interval"]]
            else:
                begin = whole(request, "startTs", None)
            token = query["market"]
        except (Refused, KeyError):
            reason = "Invalid filters: 'market' and a time component"
            raise Refused(400, reason) from None
        points: dict[int, dict[str, Any]] = {}
        for ts, mid in self._exchange.mids.get(token, []):
            second = ts // 1000
            if begin <= second <= end:
                # The last price of each step of `fidelity` minutes.
                points[second // max(step, 1)] = {"t": second, "p": mid}
        return answer({"history": list(points.values())})

    async def _market(self, request: web.Request) -> web.Response:
        market = self._exchange.markets.get(request.match_info["condition"])
        if market is None:
            raise Refused(404, "market not found")
        steps = map(_derive.tick_size, self._exchange.known(market.tokens))
        sides = zip(market.tokens, market.outcomes, strict=True)
        return answer(
            {
                "c": market.market_id,
                "t": [{"t": token, "o": outcome} for token, outcome in sides],
                "mos": 5,
                "mts": min(steps, default=_derive.COARSE),
                "mbf": 0,
                "tbf": 0,
                "ao": market.market_id not in self._exchange.resolved,
                "nr": False,
            }
        )


def _http_book(snapshot: Snapshot) -> dict[str, Any]:
    """Return the HTTP book: it has three keys more than the websocket's."""
    return _derive.book(snapshot) | {
        "min_order_size": "5",
        "neg_risk": False,
        "last_trade_price": "",
    }
