"""Gamma's read endpoints: markets, events, tags, search, profiles.

Lists are JSON text inside strings, some numbers are strings, and what is null is left
out, as Gamma does it. Markets and prices come from the recording; an event for each
market, tags, volumes, liquidity and profiles are **generated**.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import _derive
from ._answers import Refused, answer, iso, json_text, page_cursor, read_cursor, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import MultiMapping

    from ._exchange import Exchange
    from .recording import RecordedMarket

_PAGE_MAX = 100
_EVENTS_MAX = 500
_DAY = 86_400
_TAGS = (
    {"id": "21", "label": "Crypto", "slug": "crypto"},
    {"id": "102127", "label": "Up or Down", "slug": "up-or-down"},
)
_TEXT_ORDERS = frozenset({"volume", "liquidity"})


class GammaApi:
    """Answers of Gamma at a moment.

    Args:
        exchange: What there is.
        now: Unix seconds.
    """

    def __init__(self, exchange: Exchange, now: Callable[[], int]) -> None:
        self._exchange = exchange
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        return [
            web.get("/markets/keyset", self._markets_keyset),
            web.get("/markets/slug/{slug}", self._market_by_slug),
            web.get("/markets/{id}", self._market_by_id),
            web.get("/events/keyset", self._events_keyset),
            web.get("/events/slug/{slug}", self._event_by_slug),
            web.get("/events/{id}", self._event_by_id),
            web.get("/tags/slug/{slug}", self._tag),
            web.get("/public-search", self._search),
            web.get("/public-profile", self._profile),
        ]

    # --- markets

    def _find(self, **wanted: str) -> RecordedMarket:
        (name, value), *_ = wanted.items()
        for market in self._exchange.markets.values():
            if getattr(market, "slug" if name == "slug" else "gamma_id") == value:
                return market
        raise Refused(404, f"{name} not found", type="not found error")

    async def _market_by_slug(self, request: web.Request) -> web.Response:
        return answer(self._market(self._find(slug=request.match_info["slug"])))

    async def _market_by_id(self, request: web.Request) -> web.Response:
        return answer(self._market(self._find(id=request.match_info["id"])))

    async def _markets_keyset(self, request: web.Request) -> web.Response:
        page, cursor = _keyset(request, self._filtered(request.query), _PAGE_MAX)
        return answer({"markets": [self._market(each) for each in page]} | cursor)

    def _filtered(self, query: MultiMapping[str]) -> list[RecordedMarket]:
        conditions = set(query.getall("condition_ids", []))
        # Gamma leaves closed markets out of a list unless it is asked for them.
        closed = query.get("closed") == "true"
        found = [
            market
            for market in self._exchange.markets.values()
            if (not conditions or market.market_id in conditions)
            and (market.market_id in self._exchange.resolved) == closed
            and query.get("tag_id", _TAGS[0]["id"]) in {tag["id"] for tag in _TAGS}
        ]
        order = query.get("order")
        if order is not None:
            down = query.get("ascending") != "true"
            found.sort(key=lambda each: self._sort_key(each, order), reverse=down)
        return found

    def _sort_key(self, market: RecordedMarket, order: str) -> Any:
        if order in {"volumeNum", "volume_num", "volume24hr"} | _TEXT_ORDERS:
            volume = self._exchange.ledger.volume([market.market_id])
            # "volume" is text at Gamma, and sorted as text: 9 is more than 10.
            return str(volume) if order in _TEXT_ORDERS else volume
        return market.end_ts if order == "endDate" else market.start_ts

    def _market(self, market: RecordedMarket) -> dict[str, Any]:
        resolved_at = self._exchange.resolved.get(market.market_id)
        body: dict[str, Any] = {
            "id": market.gamma_id,
            "question": market.question,
            "conditionId": market.market_id,
            "slug": market.slug,
            "startDate": iso(market.start_ts),
            "endDate": iso(market.end_ts),
            "outcomes": json_text(market.outcomes),
            "clobTokenIds": json_text(market.tokens),
            "active": True,
            "closed": resolved_at is not None,
            "archived": False,
            "enableOrderBook": True,
            "acceptingOrders": resolved_at is None,
            "negRisk": False,
        }
        proposal = self._exchange.proposals.get(market.market_id)
        if resolved_at is not None:
            prices: list[Decimal] = list(market.payouts)
            body["umaResolutionStatus"] = "resolved"
            body["umaResolutionStatuses"] = json_text(["proposed"])
            body["closedTime"] = iso(resolved_at).replace("T", " ")[:19] + "+00"
        else:
            prices = [
                self._exchange.mids[token][-1][1]
                for token in market.tokens
                if token in self._exchange.mids
            ]
            if proposal is not None:
                body["umaResolutionStatus"] = proposal[0]
        if len(prices) == len(market.tokens):
            body["outcomePrices"] = json_text(
                [_derive.number(price) for price in prices]
            )
        for snapshot in self._exchange.known(market.tokens[:1]):
            bid, ask = _derive.top(snapshot)
            body |= {"bestBid": bid, "bestAsk": ask, "spread": ask - bid}
            body["orderPriceMinTickSize"] = _derive.tick_size(snapshot)
        return body | self._amounts([market])

    def _amounts(self, markets: list[RecordedMarket]) -> dict[str, Any]:
        """Return what was traded and what rests; nothing where nobody trades."""
        ledger = self._exchange.ledger
        if not ledger.wallets:
            return {}
        ids = [market.market_id for market in markets]
        tokens = [token for market in markets for token in market.tokens]
        resting = sum(
            (
                price * size
                for book in self._exchange.known(tokens)
                for price, size in (*book.bids, *book.asks)
            ),
            Decimal(0),
        )
        volume = ledger.volume(ids)
        return {
            "volume": str(volume),
            "volumeNum": volume,
            "volume24hr": ledger.volume(ids, self._now() - _DAY),
            "liquidity": str(resting),
            "liquidityNum": resting,
        }

    # --- events: one for each market

    async def _events_keyset(self, request: web.Request) -> web.Response:
        slugs = {tag["slug"] for tag in _TAGS}
        wanted = request.query.getall("tag_slug", [])
        found = self._filtered(request.query)
        if wanted and not slugs & set(wanted):
            found = []
        page, cursor = _keyset(request, found, _EVENTS_MAX)
        return answer({"events": [self._event(each) for each in page]} | cursor)

    async def _event_by_slug(self, request: web.Request) -> web.Response:
        return answer(self._event(self._find(slug=request.match_info["slug"])))

    async def _event_by_id(self, request: web.Request) -> web.Response:
        return answer(self._event(self._find(id=request.match_info["id"])))

    def _event(self, market: RecordedMarket) -> dict[str, Any]:
        # On events these are numbers, where markets have text.
        amounts = self._amounts([market])
        numbers = {
            key: Decimal(amounts[key])
            for key in ("volume", "liquidity", "volume24hr")
            if key in amounts
        }
        closed = market.market_id in self._exchange.resolved
        return {
            "id": market.gamma_id,
            "ticker": market.slug,
            "slug": market.slug,
            "title": market.question,
            "description": "",
            "startDate": iso(market.start_ts),
            "endDate": iso(market.end_ts),
            "active": True,
            "closed": closed,
            "archived": False,
            "negRisk": False,
            "tags": list(_TAGS),
            "markets": [self._market(market)],
        } | numbers

    # --- tags, search, people

    async def _tag(self, request: web.Request) -> web.Response:
        for tag in _TAGS:
            if tag["slug"] == request.match_info["slug"]:
                return answer(tag)
        raise Refused(404, "slug not found", type="not found error")

    async def _search(self, request: web.Request) -> web.Response:
        words = request.query.get("q", "").lower().split()
        if not words:
            raise Refused(422, "q is required", type="validation error")
        limit = min(_checked(request, "limit_per_type", 10), 50)
        page = max(1, _checked(request, "page", 1))
        found = [
            market
            for market in self._exchange.markets.values()
            if all(word in f"{market.question} {market.slug}".lower() for word in words)
            and (
                request.query.get("keep_closed_markets", "0") in {"1", "true"}
                or market.market_id not in self._exchange.resolved
            )
        ]
        people = [
            each
            for each in self._exchange.ledger.wallets.values()
            if request.query.get("search_profiles") == "true"
            and all(word in each.name.lower() for word in words)
        ]
        begin = (page - 1) * limit
        return answer(
            {
                "events": [self._event(each) for each in found[begin : begin + limit]],
                "profiles": [
                    {
                        "id": each.address,
                        "name": each.name,
                        "pseudonym": each.pseudonym,
                        "proxyWallet": each.address,
                    }
                    for each in people[begin : begin + limit]
                ],
                "pagination": {
                    "hasMore": begin + limit < max(len(found), len(people)),
                    "totalResults": len(found) + len(people),
                },
            }
        )

    async def _profile(self, request: web.Request) -> web.Response:
        address = request.query.get("address", "").lower()
        wallet = self._exchange.ledger.wallets.get(address)
        if wallet is None:
            raise Refused(404, "profile not found", type="not found error")
        return answer(
            {
                "proxyWallet": wallet.address,
                "name": wallet.name,
                "pseudonym": wallet.pseudonym,
                "bio": "Generated: there is no such person.",
                "displayUsernamePublic": True,
            }
        )


def _keyset(
    request: web.Request, found: list[RecordedMarket], most: int
) -> tuple[list[RecordedMarket], dict[str, str]]:
    """Return a page and, unless it is the last one, the cursor of the next.

    A parameter named ``cursor`` is ignored without a word, and every page is the first.
    """
    if "offset" in request.query:
        reason = "offset is not supported, use after_cursor"
        raise Refused(422, reason, type="validation error")
    limit = min(_checked(request, "limit", 20), most)
    try:
        begin = read_cursor(request.query.get("after_cursor", ""))
    except Refused as error:
        raise Refused(422, str(error), type="validation error") from None
    end = begin + limit
    cursor = {"next_cursor": page_cursor(end)} if end < len(found) else {}
    return found[begin:end], cursor


def _checked(request: web.Request, name: str, default: int) -> int:
    try:
        return whole(request, name, default)
    except Refused as error:
        raise Refused(422, str(error), type="validation error") from None
