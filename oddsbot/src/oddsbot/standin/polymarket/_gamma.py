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
from ._answers import Api, Refused, answer, iso, json_text, page_of, whole

if TYPE_CHECKING:
    from multidict import MultiMapping

    from ._ledger import Wallet
    from .recording import RecordedMarket

_PAGE_MAX = 100
_EVENTS_MAX = 500
_DAY = 86_400
_TAGS = {
    "crypto": {"id": "21", "label": "Crypto", "slug": "crypto"},
    "up-or-down": {"id": "102127", "label": "Up or Down", "slug": "up-or-down"},
}
_TEXTS = frozenset({"volume", "liquidity"})  # of markets; numbers of events


class GammaApi(Api):
    """Answers of Gamma at a moment."""

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        return [
            web.get("/markets/keyset", self._markets_keyset),
            web.get("/markets/slug/{slug}", self._one_market),
            web.get("/markets/{id}", self._one_market),
            web.get("/events/keyset", self._events_keyset),
            web.get("/events/slug/{slug}", self._one_event),
            web.get("/events/{id}", self._one_event),
            web.get("/tags/slug/{slug}", self._tag),
            web.get("/public-search", self._search),
            web.get("/public-profile", self._person),
        ]

    # --- markets

    def _found(self, request: web.Request) -> RecordedMarket:
        (name, wanted), *_ = request.match_info.items()
        for market in self._exchange.markets.values():
            if wanted == (market.slug if name == "slug" else market.gamma_id):
                return market
        raise _unknown(name)

    async def _one_market(self, request: web.Request) -> web.Response:
        return answer(self._market(self._found(request)))

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
        ]
        order = query.get("order")
        if order is not None:
            down = query.get("ascending") != "true"
            found.sort(key=lambda each: self._sort_key(each, order), reverse=down)
        return found

    def _sort_key(self, market: RecordedMarket, order: str) -> Any:
        if order in {"volumeNum", "volume_num", "volume24hr"} | _TEXTS:
            volume = self._exchange.ledger.volume(market.market_id)
            # "volume" is text at Gamma, and sorted as text: 9 is more than 10.
            return str(volume) if order in _TEXTS else volume
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
            body["umaResolutionStatus"] = "resolved"
            body["closedTime"] = iso(resolved_at).replace("T", " ")[:19] + "+00"
        elif proposal is not None:
            body["umaResolutionStatus"] = proposal[0]
        if resolved_at is not None or self._exchange.mids.keys() >= set(market.tokens):
            prices = [self._exchange.price(market.market_id, each) for each in (0, 1)]
            body["outcomePrices"] = json_text([_derive.number(each) for each in prices])
        for snapshot in self._exchange.known(market.tokens[:1]):
            bid, ask = _derive.top(snapshot)
            body |= {"bestBid": bid, "bestAsk": ask, "spread": ask - bid}
            body["orderPriceMinTickSize"] = _derive.tick_size(snapshot)
        amounts = self._amounts(market)
        texts = {key: str(amounts[key]) for key in _TEXTS & amounts.keys()}
        return body | amounts | texts

    def _amounts(self, market: RecordedMarket) -> dict[str, Decimal]:
        """Return what was traded and what rests; nothing where nobody trades."""
        ledger = self._exchange.ledger
        if not ledger.wallets:
            return {}
        resting = (
            price * size
            for book in self._exchange.known(market.tokens)
            for price, size in (*book.bids, *book.asks)
        )
        return {
            "volume": ledger.volume(market.market_id),
            "volume24hr": ledger.volume(market.market_id, self._now() - _DAY),
            "liquidity": sum(resting, Decimal(0)),
        }

    # --- events: one for each market

    async def _events_keyset(self, request: web.Request) -> web.Response:
        wanted = request.query.getall("tag_slug", [])
        has_tag = not wanted or bool(_TAGS.keys() & set(wanted))
        found = self._filtered(request.query) if has_tag else []
        page, cursor = _keyset(request, found, _EVENTS_MAX)
        return answer({"events": [self._event(each) for each in page]} | cursor)

    async def _one_event(self, request: web.Request) -> web.Response:
        return answer(self._event(self._found(request)))

    def _event(self, market: RecordedMarket) -> dict[str, Any]:
        closed = market.market_id in self._exchange.resolved
        return {
            "id": market.gamma_id,
            "slug": market.slug,
            "title": market.question,
            "startDate": iso(market.start_ts),
            "endDate": iso(market.end_ts),
            "active": True,
            "closed": closed,
            "archived": False,
            "negRisk": False,
            "markets": [self._market(market)],
            **self._amounts(market),
        }

    # --- tags, search, people

    async def _tag(self, request: web.Request) -> web.Response:
        tag = _TAGS.get(request.match_info["slug"])
        if tag is None:
            raise _unknown("slug")
        return answer(tag)

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query
        words = query.get("q", "").lower().split()
        if not words:
            raise _invalid("q is required")
        limit = min(_checked(request, "limit_per_type", 10), 50)
        begin = limit * max(0, _checked(request, "page", 1) - 1)
        resolved = self._exchange.resolved
        closed_too = query.get("keep_closed_markets", "0") in {"1", "true"}
        found = [
            market
            for market in self._exchange.markets.values()
            if all(word in f"{market.question} {market.slug}".lower() for word in words)
            and (closed_too or market.market_id not in resolved)
        ]
        people = [
            each
            for each in self._exchange.ledger.wallets.values()
            if query.get("search_profiles") == "true"
            and all(word in each.name.lower() for word in words)
        ]
        end = begin + limit
        pagination = {
            "hasMore": end < max(len(found), len(people)),
            "totalResults": len(found) + len(people),
        }
        return answer(
            {
                "events": [self._event(each) for each in found[begin:end]],
                "profiles": [_profile(each) for each in people[begin:end]],
                "pagination": pagination,
            }
        )

    async def _person(self, request: web.Request) -> web.Response:
        address = request.query.get("address", "").lower()
        wallet = self._exchange.ledger.wallets.get(address)
        if wallet is None:
            raise _unknown("profile")
        return answer(_profile(wallet))


def _profile(wallet: Wallet) -> dict[str, str]:
    return {
        "proxyWallet": wallet.address,
        "name": wallet.name,
        "pseudonym": wallet.pseudonym,
        "bio": "Generated: there is no such person.",
    }


def _keyset(
    request: web.Request, found: list[RecordedMarket], most: int
) -> tuple[list[RecordedMarket], dict[str, str]]:
    """Return a page and, unless it is the last one, the cursor of the next.

    A parameter named ``cursor`` is ignored without a word, and every page is the first.
    """
    if "offset" in request.query:
        raise _invalid("offset is not supported, use after_cursor")
    limit = min(_checked(request, "limit", 20), most)
    try:
        _, page, cursor = page_of(found, request.query.get("after_cursor", ""), limit)
    except Refused as error:
        raise _invalid(str(error)) from None
    return page, {"next_cursor": cursor} if cursor else {}


def _checked(request: web.Request, name: str, default: int) -> int:
    try:
        return whole(request, name, default)
    except Refused as error:
        raise _invalid(str(error)) from None


def _invalid(why: str) -> Refused:
    return Refused(422, why, type="validation error")


def _unknown(what: str) -> Refused:
    return Refused(404, f"{what} not found", type="not found error")
