"""Gamma: what markets and events there are. Models and the calls that return them.

Gamma writes lists as JSON text inside strings, some numbers as strings, and leaves
out what is null. Here a list is a tuple and a number a `Decimal`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Struct

from ._http import Found, LeftOut, bad_answer, call, next_cursor, segment
from ._reading import (
    EACH,
    Id,
    Shown,
    ids_of,
    read,  # noqa: F401 - for callers that have the decoded answer
    reading,
    reading_each,
)
from .events import check_price
from .slices import paced, release

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientSession

PAGE_MAX = 100
Model = TypeVar("Model", bound=Struct)

_FINAL = frozenset({"resolved", "settled"})
# A proposal can be disputed, and a dispute can end either way.
_PENDING = frozenset(
    {"requested", "proposed", "reproposed", "challenged", "disputed", "arbitration"}
)


class Token(Struct, frozen=True):
    """One side of a market.

    Attributes:
        outcome: Its name, such as ``"Yes"``.
        token_id: Its id on the CLOB: the ``asset_id`` of events.
        price: Gamma's price: a mid, not a quote; after the resolution the payout.
    """

    outcome: str
    token_id: str
    price: Decimal | None


class GammaMarket(Struct, frozen=True, kw_only=True, rename="camel"):
    """One market.

    ``outcomes``, ``outcome_prices`` and ``clob_token_ids`` belong together by index;
    `tokens` pairs them. Dates are ISO text as Gamma sent it.
    """

    id: Id
    condition_id: Id
    slug: Shown = ""
    question: Shown = ""
    description: Shown = ""
    outcomes: tuple[str, ...] = ()
    outcome_prices: tuple[Decimal, ...] = ()
    clob_token_ids: tuple[str, ...] = ()
    active: bool = False
    closed: bool = False
    archived: bool = False
    accepting_orders: bool = False
    enable_order_book: bool = False
    start_date: str = ""
    end_date: str = ""
    closed_time: str = ""
    automatically_resolved: bool = False
    volume: Decimal | None = None
    volume24hr: Decimal | None = None
    liquidity: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    last_trade_price: Decimal | None = None
    spread: Decimal | None = None
    one_day_price_change: Decimal | None = None
    order_min_size: Decimal | None = None
    order_price_min_tick_size: Decimal | None = None
    neg_risk: bool = False
    neg_risk_market_id: str = msgspec.field(default="", name="negRiskMarketID")
    group_item_title: Shown = ""
    uma_resolution_status: str = ""
    uma_resolution_statuses: tuple[str, ...] = ()
    resolution_status: str = ""
    image: Shown = ""
    events: Annotated[tuple[GammaEvent, ...], EACH] = ()

    def __post_init__(self) -> None:
        # Pairing by index is only sound when there is one of each.
        for values in (self.outcome_prices, self.clob_token_ids):
            if values and len(values) != len(self.outcomes):
                raise ValueError(f"{len(values)} values for {self.outcomes}")
        for price in (*self.outcome_prices, self.last_trade_price):
            check_price(price)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The sides of the market in order; none for one without an order book."""
        prices = self.outcome_prices or (None,) * len(self.outcomes)
        return tuple(
            Token(outcome, token_id, price)
            for outcome, token_id, price in zip(
                self.outcomes, self.clob_token_ids, prices, strict=False
            )
            if token_id  # empty before there is an order book
        )

    @property
    def resolved(self) -> bool:
        """Whether the outcome is final, whichever of Gamma's fields says so.

        A market of protocol 1 has the state of UMA, one of protocol 2 a state of its
        own, and one that was resolved by itself only its end and its payouts. While a
        state says that something is proposed or disputed, nothing is final.
        """
        states = {self.uma_resolution_status.lower(), self.resolution_status.lower()}
        states.discard("")
        if not states and self.uma_resolution_statuses:
            # The states that it went through; the last one is where it stands.
            states = {self.uma_resolution_statuses[-1].lower()}
        if states & _PENDING:
            return False
        if states & _FINAL or self.automatically_resolved:
            return True
        ended = self.closed and self.closed_time != ""
        return ended and self.payouts is not None

    @property
    def payouts(self) -> tuple[Decimal, ...] | None:
        """What a share of each outcome pays, if the prices are that: one 1, the rest 0.

        None for prices, and for a payout that is shared: `resolved` tells them apart.
        """
        one = sorted(self.outcome_prices, reverse=True)
        if one and one[0] == 1 and not any(one[1:]):
            return self.outcome_prices
        return None

    @property
    def winner(self) -> str | None:
        """The winning outcome; None while open, and when no single outcome won."""
        if not self.resolved:
            return None
        paid = zip(self.outcomes, self.outcome_prices, strict=False)
        return next((outcome for outcome, price in paid if price == 1), None)


class Tag(Struct, frozen=True, kw_only=True):
    """A topic of events."""

    id: Id
    label: Shown = ""
    slug: Shown = ""


class GammaEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """A question with its markets: one, or one for each possible answer.

    Attributes:
        skipped: How many of its markets could not be read.
    """

    id: Id
    slug: Shown = ""
    title: Shown = ""
    description: Shown = ""
    active: bool = False
    closed: bool = False
    archived: bool = False
    start_date: str = ""
    end_date: str = ""
    volume: Decimal | None = None
    volume24hr: Decimal | None = None
    liquidity: Decimal | None = None
    neg_risk: bool = False
    neg_risk_market_id: str = msgspec.field(default="", name="negRiskMarketID")
    image: Shown = ""
    markets: Annotated[tuple[GammaMarket, ...], EACH] = ()
    skipped: int = 0


class Profile(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a wallet shows of itself; every part of it may be absent."""

    proxy_wallet: str = ""
    name: str = ""
    pseudonym: str = ""
    bio: str = ""
    profile_image: str = ""
    x_username: str = ""


class SearchPage(Struct, frozen=True, kw_only=True):
    """One page of what was found by words.

    Attributes:
        events: With their markets; those that could be read.
        profiles: People whose name fits.
        total: How many events there are.
        more: Whether there is another page.
    """

    events: tuple[GammaEvent, ...] = ()
    profiles: tuple[Profile, ...] = ()
    total: int = 0
    more: bool = False


class MarketPage(Struct, frozen=True):
    """One page of a list of markets.

    Attributes:
        markets: Those of the page that could be read.
        next_cursor: For the next page, None on the last one.
        skipped: How many markets of the page could not be read.
        unread: Their condition ids, "" among them for one without.
    """

    markets: tuple[GammaMarket, ...]
    next_cursor: str | None = None
    skipped: int = 0
    unread: frozenset[str] = frozenset()


class EventPage(Struct, frozen=True):
    """One page of a list of events.

    Attributes:
        events: Those of the page that could be read.
        next_cursor: For the next page, None on the last one.
    """

    events: tuple[GammaEvent, ...]
    next_cursor: str | None = None


class Gamma:
    """Gamma's read endpoints.

    Every method raises the errors of `PolymarketError` and none else: `NotFound`,
    `RateLimitedUpstream`, `RequestRefused`, `UpstreamUnavailable`, `BadAnswer`.

    Args:
        session: Makes the calls; stays the caller's.
        base_url: Such as ``https://gamma-api.polymarket.com``.
        timeout: Seconds for one call, everything included.

    Attributes:
        left_out: Counts what could not be read.
    """

    def __init__(
        self, session: ClientSession, base_url: str, *, timeout: float = 10.0
    ) -> None:
        self.left_out = LeftOut()
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout

    async def market(self, slug: str) -> GammaMarket:
        """Return the market with this slug."""
        return await self._one(f"/markets/slug/{segment(slug)}", GammaMarket)

    async def market_by_id(self, market_id: str) -> GammaMarket:
        """Return the market with this id of Gamma's (not the condition id)."""
        return await self._one(f"/markets/{segment(market_id)}", GammaMarket)

    async def event(self, slug: str) -> GammaEvent:
        """Return the event with this slug, with its markets."""
        return await self._one(f"/events/slug/{segment(slug)}", GammaEvent)

    async def profile(self, wallet: str) -> Profile:
        """Return what the wallet with this address shows of itself."""
        return await self._one("/public-profile", Profile, [("address", wallet)])

    async def tag(self, slug: str) -> Tag:
        """Return the tag with this slug."""
        return await self._one(f"/tags/slug/{segment(slug)}", Tag)

    async def event_by_id(self, event_id: str) -> GammaEvent:
        """Return the event with this id of Gamma's, with its markets."""
        return await self._one(f"/events/{segment(event_id)}", GammaEvent)

    async def search(
        self, words: str, *, page: int = 1, limit: int = 5, closed: bool = False
    ) -> SearchPage:
        """Return a page of the events, and the profiles, that some words fit.

        Args:
            words: What to look for.
            page: From 1.
            limit: Of events and of profiles each.
            closed: Closed events too.
        """
        path = "/public-search"
        params = [
            ("q", words),
            ("page", str(page)),
            ("limit_per_type", str(limit)),
            ("search_profiles", "true"),
            ("keep_closed_markets", "1" if closed else "0"),
        ]
        if not closed:
            params.append(("events_status", "active"))
        answer = await self._get(path, params)
        if not isinstance(answer, dict):
            raise bad_answer(f"GET {path}", ValueError("no object"))
        pagination = answer.get("pagination")
        if not isinstance(pagination, dict):
            pagination = {}
        total = pagination.get("totalResults")
        return SearchPage(
            events=await self._rows(path, answer.get("events"), GammaEvent),
            profiles=await self._rows(path, answer.get("profiles"), Profile),
            total=total if type(total) is int and total >= 0 else 0,
            more=pagination.get("hasMore") is True,
        )

    async def events(
        self,
        *,
        after_cursor: str | None = None,
        limit: int = 20,
        order: str = "volume24hr",
        ascending: bool = False,
        tag: str | None = None,
    ) -> EventPage:
        """Return one page of the open events in an order.

        Args:
            after_cursor: As for `markets`.
            limit: How many, at most 100.
            order: A field to sort by, such as ``volume24hr`` or ``startDate``.
            ascending: The direction of `order`.
            tag: Only events with this tag, by its slug.
        """
        path = "/events/keyset"
        params = [
            ("limit", str(min(limit, PAGE_MAX))),
            ("order", order),
            ("ascending", str(ascending).lower()),
            ("closed", "false"),
        ]
        if tag is not None:
            params.append(("tag_slug", tag))
        if after_cursor is not None:
            params.append(("after_cursor", after_cursor))
        sent, cursor = await self._list(path, "events", params)
        return EventPage(await self._rows(path, sent, GammaEvent), cursor)

    async def _rows(self, path: str, sent: Any, kind: type[Model]) -> tuple[Model, ...]:
        """Return the rows of a list that can be read; the others are counted."""
        if sent is None:
            return ()
        if not isinstance(sent, list):
            raise bad_answer(f"GET {path}", ValueError("no list"))
        try:
            lines: list[str] = []
            found = await paced(reading_each(sent, kind, lines))
            if lines:
                self.left_out.note(f"GET {path}", lines)
            return found
        finally:
            await release(sent)

    async def markets_by_condition(self, *condition_ids: str) -> Found[GammaMarket]:
        """Return the markets with these condition ids, by condition id.

        Open or closed: Gamma leaves closed markets out of a list unless it is asked for
        closed ones, so those that are missing are asked for again as closed ones. At
        most 100 go into one call. A market that Gamma does not know is absent; one that
        cannot be read is absent too, and named in ``unread``.
        """
        found: Found[GammaMarket] = Found()
        unread: set[str] = set()
        wanted = [each for each in dict.fromkeys(condition_ids) if each]
        for at in range(0, len(wanted), PAGE_MAX):
            missing = wanted[at : at + PAGE_MAX]
            illegible: set[str] = set()
            for closed in (None, True):
                cursor, pages = None, 0
                # More pages than were asked for would be the same one again and again.
                while missing and pages < len(missing):
                    pages += 1
                    page = await self.markets(
                        after_cursor=cursor,
                        limit=PAGE_MAX,
                        condition_ids=missing,
                        closed=closed,
                    )
                    illegible |= page.unread
                    got = {market.condition_id: market for market in page.markets}
                    found |= {each: got[each] for each in missing if each in got}
                    # The cursor belongs to what was asked for.
                    cursor = page.next_cursor
                    if cursor is None or not page.markets:
                        break
                missing = [each for each in missing if each not in found]
            # One whose very id cannot be read may be any of them.
            unread.update(missing if "" in illegible else illegible & set(missing))
        found.unread = frozenset(unread)
        return found

    async def markets(
        self,
        *,
        after_cursor: str | None = None,
        limit: int = PAGE_MAX,
        condition_ids: Iterable[str] = (),
        closed: bool | None = None,
        order: str | None = None,
        ascending: bool | None = None,
    ) -> MarketPage:
        """Return one page of the markets.

        A market that cannot be read is counted in ``skipped`` and costs no other.

        Args:
            after_cursor: ``next_cursor`` of the page before; None for the first.
            limit: Markets a page, at most 100.
            condition_ids: Only these, at most 100.
            closed: Only closed ones, or only open ones.
            order: A field to sort by; ``volumeNum``, not ``volume``, which sorts as
                text.
            ascending: The direction of `order`.
        """
        params = [("limit", str(limit))]
        params += [("condition_ids", each) for each in condition_ids]
        # "after_cursor": a parameter named "cursor" is ignored without a word, and
        # every page is the first one.
        given = {"after_cursor": after_cursor, "order": order}
        flags = {"closed": closed, "ascending": ascending}
        given |= {name: _flag(flag) for name, flag in flags.items() if flag is not None}
        params += [(name, value) for name, value in given.items() if value]
        path = "/markets/keyset"
        sent, cursor = await self._list(path, "markets", params)
        try:
            lines: list[str] = []
            markets = await paced(reading_each(sent, GammaMarket, lines))
            if lines:
                self.left_out.note(f"GET {path}", lines)
            skipped = len(sent) - len(markets)
            unread = ids_of(sent, "conditionId") if skipped else set()
            unread -= {market.condition_id for market in markets}
            return MarketPage(markets, cursor, skipped, frozenset(unread))
        finally:
            await release(sent)

    async def _list(
        self, path: str, name: str, params: Iterable[tuple[str, str]]
    ) -> tuple[list[Any], str | None]:
        """Return the elements of a page, not read yet, and the next cursor."""
        answer = await self._get(path, params)
        sent = answer.get(name, False) if isinstance(answer, dict) else False
        sent = [] if sent is None else sent
        if not isinstance(sent, list):
            raise bad_answer(f"GET {path}", ValueError(f"no list of {name}"))
        return sent, next_cursor(answer.get("next_cursor"))

    async def _get(self, path: str, params: Iterable[tuple[str, str]] = ()) -> Any:
        return await call(
            self._session,
            "GET",
            self._base_url,
            path,
            timeout=self._timeout,
            params=params,
        )

    async def _one(
        self, path: str, kind: type[Model], params: Iterable[tuple[str, str]] = ()
    ) -> Model:
        return await self._read(f"GET {path}", await self._get(path, params), kind)

    async def _read(self, where: str, answer: Any, kind: type[Model]) -> Model:
        try:
            lines: list[str] = []
            try:
                found = await paced(reading(answer, kind, lines))
            except ValueError as error:
                raise bad_answer(where, error) from error
            if lines:
                self.left_out.note(where, lines)
                if isinstance(found, GammaEvent):
                    skipped = len(answer.get("markets") or ()) - len(found.markets)
                    return msgspec.structs.replace(found, skipped=skipped)
            return found
        finally:
            await release(answer)


def _flag(value: bool) -> str:  # noqa: FBT001 - what it is about
    return str(value).lower()
