"""Gamma: what markets and events there are. Models and the calls that return them.

Gamma writes lists as JSON text inside strings, some numbers as strings, and leaves
out what is null. Here a list is a tuple, a number a `Decimal`, and what is absent,
null or ``""`` is the field's default.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from ._http import bad_answer, call, segment
from .events import check_price

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientSession

PAGE_MAX = 100
Model = TypeVar("Model", bound=Struct)

_TEXT_LISTS = frozenset(
    {"clobTokenIds", "outcomePrices", "outcomes", "umaResolutionStatuses"}
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

    id: str
    condition_id: str
    slug: str = ""
    question: str = ""
    description: str = ""
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
    volume: Decimal | None = None
    volume24hr: Decimal | None = None
    liquidity: Decimal | None = None
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    last_trade_price: Decimal | None = None
    spread: Decimal | None = None
    order_min_size: Decimal | None = None
    order_price_min_tick_size: Decimal | None = None
    neg_risk: bool = False
    neg_risk_market_id: str = msgspec.field(default="", name="negRiskMarketID")
    group_item_title: str = ""
    uma_resolution_status: str = ""
    uma_resolution_statuses: tuple[str, ...] = ()
    resolution_status: str = ""
    image: str = ""
    events: tuple[GammaEvent, ...] = ()

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
        )

    @property
    def resolved(self) -> bool:
        """Whether the outcome is final."""
        return self.closed and "resolved" in {
            self.uma_resolution_status,
            self.resolution_status,
        }

    @property
    def winner(self) -> str | None:
        """The winning outcome; None while open, and when no single outcome won."""
        if not self.resolved:
            return None
        paid = zip(self.outcomes, self.outcome_prices, strict=False)
        return next((outcome for outcome, price in paid if price == 1), None)


class GammaEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """A question with its markets: one, or one for each possible answer."""

    id: str
    slug: str = ""
    title: str = ""
    description: str = ""
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
    image: str = ""
    markets: tuple[GammaMarket, ...] = ()


class Profile(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a wallet shows of itself; every part of it may be absent."""

    proxy_wallet: str = ""
    name: str = ""
    pseudonym: str = ""
    bio: str = ""
    profile_image: str = ""
    x_username: str = ""


class MarketPage(Struct, frozen=True):
    """One page of a list of markets.

    Attributes:
        markets: Those of the page that could be read.
        next_cursor: For the next page, None on the last one.
        skipped: How many markets of the page could not be read.
    """

    markets: tuple[GammaMarket, ...]
    next_cursor: str | None = None
    skipped: int = 0


class Gamma:
    """Gamma's read endpoints.

    Every method raises the errors of `PolymarketError` and none else: `NotFound`,
    `RateLimitedUpstream`, `RequestRefused`, `UpstreamUnavailable`, `BadAnswer`.

    Args:
        session: Makes the calls; stays the caller's.
        base_url: Such as ``https://gamma-api.polymarket.com``.
        timeout: Seconds for one call, everything included.
    """

    def __init__(
        self, session: ClientSession, base_url: str, *, timeout: float = 10.0
    ) -> None:
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

    async def markets_by_condition(self, *condition_ids: str) -> dict[str, GammaMarket]:
        """Return the markets with these condition ids, by condition id.

        Those Gamma does not know are absent. At most 100 go into one call; more
        make several.
        """
        found: dict[str, GammaMarket] = {}
        for at in range(0, len(condition_ids), PAGE_MAX):
            chunk = condition_ids[at : at + PAGE_MAX]
            page = await self.markets(limit=PAGE_MAX, condition_ids=chunk)
            found |= {market.condition_id: market for market in page.markets}
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
        given |= {
            name: str(flag).lower() for name, flag in flags.items() if flag is not None
        }
        params += [(name, value) for name, value in given.items() if value]
        path = "/markets/keyset"
        answer = await self._get(path, params)
        if not isinstance(answer, dict) or not isinstance(answer.get("markets"), list):
            raise bad_answer(f"GET {path}", ValueError("no list of markets"))
        markets: list[GammaMarket] = []
        skipped = 0
        for each in answer["markets"]:
            try:
                markets.append(read(each, GammaMarket))
            except ValueError:
                skipped += 1
        cursor = answer.get("next_cursor")
        return MarketPage(tuple(markets), cursor or None, skipped)

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
        answer = await self._get(path, params)
        try:
            return read(answer, kind)
        except ValueError as error:
            raise bad_answer(f"GET {path}", error) from error


def read(answer: Any, kind: type[Model]) -> Model:
    """Turn one decoded object of Gamma's into its model.

    Raises:
        ValueError: It has another shape.
    """
    try:
        return msgspec.convert(_plain(answer), kind, strict=False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _plain(value: Any) -> Any:
    """Drop what is null or empty, and open the lists that are JSON text."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    plain = {}
    for key, each in value.items():
        if each is None or each == "":
            continue
        opened = key in _TEXT_LISTS and isinstance(each, str)
        plain[key] = _plain(msgspec.json.decode(each) if opened else each)
    return plain
