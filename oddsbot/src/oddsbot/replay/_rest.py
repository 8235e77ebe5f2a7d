"""Gamma's and the CLOB's read endpoints, answered from the `Exchange`.

Shapes are Polymarket's: JSON arrays inside strings on Gamma, numbers inside strings
on the CLOB, each with its own form of an error. Keys whose value no recording has
(volume, trades, fees) are left out, as Gamma itself leaves out what is null.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from . import _derive

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from multidict import MultiMapping

    from ._exchange import Exchange
    from .recording import RecordedMarket, Snapshot

# "number": Gamma's prices and the history's are JSON numbers.
_encoder = msgspec.json.Encoder(decimal_format="number")
_PAGE_MAX = 100
_INTERVALS = {
    "1h": 3600,
    "6h": 21_600,
    "1d": 86_400,
    "1w": 604_800,
    "1m": 2_592_000,
    "max": None,
    "all": None,
}
_NO_BOOK = "No orderbook exists for the requested token id"


def routes(exchange: Exchange, position: Callable[[], int]) -> list[web.RouteDef]:
    """Return the routes; `position` tells the recorded moment it is now."""
    rest = _Rest(exchange, position)
    return [
        web.get("/markets/keyset", rest.markets_keyset),
        web.get("/markets/slug/{slug}", rest.market_by_slug),
        web.get("/markets/{id}", rest.market_by_id),
        web.get("/markets", rest.markets),
        web.get("/events/keyset", rest.events_keyset),
        web.get("/events/slug/{slug}", rest.event_by_slug),
        web.get("/events/{id}", rest.event_by_id),
        web.get("/public-search", rest.search),
        web.get("/book", rest.book),
        web.post("/books", rest.books),
        web.get("/price", rest.price),
        web.get("/midpoint", rest.midpoint),
        web.get("/prices-history", rest.prices_history),
        web.get("/ok", rest.ok),
        web.get("/time", rest.time),
    ]


class _Rest:
    def __init__(self, exchange: Exchange, position: Callable[[], int]) -> None:
        self._exchange = exchange
        self._position = position

    # --- Gamma

    async def market_by_slug(self, request: web.Request) -> web.Response:
        slug = request.match_info["slug"]
        for market in self._exchange.markets.values():
            if market.slug == slug:
                return _json(self._gamma(market))
        return _gamma_error(404, "not found error", "slug not found")

    async def market_by_id(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for market in self._exchange.markets.values():
            if market.gamma_id == wanted:
                return _json(self._gamma(market))
        return _gamma_error(404, "not found error", "id not found")

    async def markets(self, request: web.Request) -> web.Response:
        try:
            limit, offset = _whole(request, "limit", 20), _whole(request, "offset", 0)
        except ValueError as error:
            return _gamma_error(422, "validation error", str(error))
        found = self._filtered(request.query)
        return _json([self._gamma(each) for each in found[offset : offset + limit]])

    async def markets_keyset(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            if "offset" in query:
                raise ValueError("offset is not supported, use after_cursor")  # noqa: TRY301 (one answer for all three)
            limit = min(_whole(request, "limit", 20), _PAGE_MAX)
            offset = _offset(query.get("after_cursor", ""))
        except ValueError as error:
            return _gamma_error(422, "validation error", str(error))
        found = self._filtered(query)
        page: dict[str, Any] = {
            "markets": [self._gamma(each) for each in found[offset : offset + limit]]
        }
        if offset + limit < len(found):
            page["next_cursor"] = _cursor(offset + limit)
        return _json(page)

    async def event_by_slug(self, request: web.Request) -> web.Response:
        return self._event_where("slug", request.match_info["slug"])

    async def event_by_id(self, request: web.Request) -> web.Response:
        return self._event_where("gamma_id", request.match_info["id"])

    def _event_where(self, field: str, value: str) -> web.Response:
        for market in self._exchange.markets.values():
            if getattr(market, field) == value:
                return _json(self._event(market))
        return _gamma_error(404, "not found error", "event not found")

    async def events_keyset(self, request: web.Request) -> web.Response:
        found = self._filtered(request.query)
        return _json({"events": [self._event(market) for market in found]})

    async def search(self, request: web.Request) -> web.Response:
        words = request.query.get("q", "").casefold().split()
        if not words:
            return _gamma_error(422, "validation error", "q is required")
        found = [
            market
            for market in self._exchange.markets.values()
            if all(word in market.question.casefold() for word in words)
        ]
        return _json(
            {
                "events": [self._event(market) for market in found] or None,
                "tags": None,
                "profiles": None,
                "pagination": {"hasMore": False, "totalResults": len(found)},
            }
        )

    def _event(self, market: RecordedMarket) -> dict[str, Any]:
        # The recording has no events: each market is one of its own.
        body = self._gamma(market)
        return {
            "id": body["id"],
            "slug": market.slug,
            "title": market.question,
            "active": True,
            "closed": body["closed"],
            "archived": False,
            "endDate": body["endDate"],
            "negRisk": False,
            "markets": [body],
        }

    def _filtered(self, query: MultiMapping[str]) -> list[RecordedMarket]:
        conditions = set(query.getall("condition_ids", []))
        slugs = set(query.getall("slug", []))
        # Gamma leaves closed markets out of a list unless it is asked for them.
        closed = query.get("closed") == "true"
        return [
            market
            for market in self._exchange.markets.values()
            if (not conditions or market.market_id in conditions)
            and (not slugs or market.slug in slugs)
            and (market.market_id in self._exchange.resolved) == closed
        ]

    def _gamma(self, market: RecordedMarket) -> dict[str, Any]:
        resolved_at = self._exchange.resolved.get(market.market_id)
        body: dict[str, Any] = {
            "id": market.gamma_id,
            "question": market.question,
            "conditionId": market.market_id,
            "slug": market.slug,
            "endDate": _iso(market.end_ts),
            "outcomes": _text(market.outcomes),
            "clobTokenIds": _text(market.tokens),
            "active": True,
            "closed": resolved_at is not None,
            "archived": False,
            "enableOrderBook": True,
            "acceptingOrders": resolved_at is None,
            "negRisk": False,
        }
        if resolved_at is not None:
            prices: list[Decimal] = list(market.payouts)
            body["umaResolutionStatus"] = "resolved"
            body["umaResolutionStatuses"] = _text(["proposed"])
            body["closedTime"] = _iso(resolved_at).replace("T", " ")[:19] + "+00"
        else:
            prices = [
                self._exchange.mids[token][-1][1]
                for token in market.tokens
                if token in self._exchange.mids
            ]
        if len(prices) == len(market.tokens):
            body["outcomePrices"] = _text([_derive.number(price) for price in prices])
        for snapshot in self._exchange.known(market.tokens[:1]):
            bid, ask = _derive.top(snapshot)
            body |= {"bestBid": bid, "bestAsk": ask, "spread": ask - bid}
            body["orderPriceMinTickSize"] = _derive.tick_size(snapshot)
        return body

    # --- CLOB

    def _book_of(self, request: web.Request) -> Snapshot | None:
        return self._exchange.books.get(request.query.get("token_id", ""))

    async def book(self, request: web.Request) -> web.Response:
        snapshot = self._book_of(request)
        if snapshot is None:
            return _clob_error(404, _NO_BOOK)
        return _json(_http_book(snapshot))

    async def books(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=list[dict[str, str]])
            tokens = [each["token_id"] for each in asked]
        except (msgspec.DecodeError, UnicodeError, KeyError):
            return _clob_error(400, "Invalid payload")
        return _json([_http_book(each) for each in self._exchange.known(tokens)])

    async def price(self, request: web.Request) -> web.Response:
        side = request.query.get("side", "").upper()
        if side not in {"BUY", "SELL"}:
            return _clob_error(400, "Invalid side")
        snapshot = self._book_of(request)
        if snapshot is None:
            return _clob_error(404, _NO_BOOK)
        bid, ask = _derive.top(snapshot)
        return _json({"price": _derive.number(bid if side == "BUY" else ask)})

    async def midpoint(self, request: web.Request) -> web.Response:
        snapshot = self._book_of(request)
        if snapshot is None:
            return _clob_error(404, _NO_BOOK)
        return _json({"mid": _derive.number(_derive.mid(snapshot))})

    async def prices_history(self, request: web.Request) -> web.Response:
        query = request.query
        now = self._position() // 1000
        try:
            step = 60 * _whole(request, "fidelity", 1)
            end = _whole(request, "endTs", now)
            if "interval" in query:
                length = _INTERVALS[query["interval"]]
                begin = 0 if length is None else now - length
            else:
                begin = _whole(request, "startTs", None)
            token = query["market"]
        except (ValueError, KeyError):
            return _clob_error(400, "Invalid filters: 'market' and a time component")
        points: dict[int, dict[str, Any]] = {}
        for ts, mid in self._exchange.mids.get(token, []):
            second = ts // 1000
            if begin <= second <= end:
                # The last price of each step of `fidelity` minutes.
                points[second // max(step, 1)] = {"t": second, "p": mid}
        return _json({"history": list(points.values())})

    async def ok(self, _request: web.Request) -> web.Response:
        return _json("OK")

    async def time(self, _request: web.Request) -> web.Response:
        return _json(self._position() // 1000)


def _http_book(snapshot: Snapshot) -> dict[str, Any]:
    """Return the HTTP book: it has three keys more than the websocket's."""
    return _derive.book(snapshot) | {
        "min_order_size": "5",
        "neg_risk": False,
        "last_trade_price": "",
    }


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=_encoder.encode(body), status=status, content_type="application/json"
    )


def _gamma_error(status: int, kind: str, text: str) -> web.Response:
    return _json({"type": kind, "error": text}, status)


def _clob_error(status: int, text: str) -> web.Response:
    return _json({"error": text}, status)


def _text(values: Any) -> str:
    return msgspec.json.encode(values).decode()


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whole(request: web.Request, name: str, default: int | None) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} must be a whole number")
    return int(text)


def _cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(str(offset).encode()).decode()


def _offset(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor, altchars=b"-_", validate=True) or b"0")
    except (binascii.Error, ValueError) as error:
        raise ValueError("after_cursor is not one of ours") from error
