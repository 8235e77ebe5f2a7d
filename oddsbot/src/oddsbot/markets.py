"""`Markets`: what the bot asks of Polymarket's markets, through the cache."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from oddsbot.polymarket import (
    Found,
    GammaEvent,
    GammaMarket,
    NotFound,
    OrderBook,
    PolymarketError,
    PricePoint,
    SearchPage,
    Unreadable,
)
from oddswire.cache import Namespace
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddsbot.limits import Upstream
    from oddsbot.polymarket import Clob, Gamma, MarketPage
    from oddswire.cache import Cache

T = TypeVar("T")


class Price(msgspec.Struct, frozen=True):
    """The top of one token's book.

    Attributes:
        bid: The highest price somebody pays, None when nobody does.
        ask: The lowest price somebody sells at, None when nobody does.
        at: When, in the market's time: Unix milliseconds; None where nothing says.
    """

    bid: Decimal | None
    ask: Decimal | None
    at: int | None

    @property
    def middle(self) -> Decimal | None:
        """Between both; None where one side is empty."""
        if self.bid is None or self.ask is None:
            return None
        return (self.bid + self.ask) / 2


class Volume(msgspec.Struct, frozen=True):
    """Dollars traded: ever, and in the last 24 hours; None where Gamma says nothing."""

    total: Decimal | None
    day: Decimal | None


class Liquidity(msgspec.Struct, frozen=True):
    """Dollars that rest in the books of a market, None where Gamma says nothing."""

    resting: Decimal | None


Span = Literal["1d", "1w", "max"]
"""How far back a history goes."""

_FIDELITY: dict[Span, int] = {"1d": 1, "1w": 60, "max": 1_440}  # minutes a point
_PAGE = 100  # markets in one answer of Gamma
_MINUTE = 60.0
_HOUR = 3_600.0
_DAY = 86_400.0

NAMESPACES = (
    Namespace(
        name="market", type=GammaMarket, ttl=600.0, stale=_HOUR, negative_ttl=_MINUTE
    ),
    Namespace(name="slug", type=str, ttl=_DAY, stale=_DAY, negative_ttl=_MINUTE),
    Namespace(name="number", type=str, ttl=_DAY, stale=_DAY, negative_ttl=_MINUTE),
    Namespace(
        name="event", type=GammaEvent, ttl=600.0, stale=_HOUR, negative_ttl=_MINUTE
    ),
    Namespace(name="markets", type=tuple[GammaMarket, ...], ttl=600.0, stale=_HOUR),
    Namespace(name="book", type=OrderBook, ttl=30.0, stale=120.0, negative_ttl=10.0),
    Namespace(name="history", type=tuple[PricePoint, ...], ttl=_MINUTE, stale=600.0),
    Namespace(name="search", type=SearchPage, ttl=_MINUTE, stale=_HOUR),
    Namespace(name="events", type=tuple[GammaEvent, ...], ttl=_MINUTE, stale=_HOUR),
    Namespace(name="busiest", type=tuple[str, ...], ttl=600.0, stale=_HOUR),
    # With the time until the next call of `Markets.warm`, and that of its load, less
    # than `Ages.liquidity`.
    Namespace(name="warm", type=int, ttl=30.0, stale=0.0),
)
"""How long each is fresh, and how long it may serve when Polymarket does not answer.
What is not there is remembered too, for less long."""


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds after which a part of an answer is asked for again.

    One answer has several of these in it, so one request makes all of them fresh.

    Attributes:
        volume: Of a market.
        liquidity: Of a market.
        book: Of a token, where more than its top is wanted.
    """

    volume: float = 120.0
    liquidity: float = 60.0
    book: float = 5.0


class _Turn:
    """How far a page of what is warmed has come."""

    def __init__(self) -> None:
        self.claimed = asyncio.Event()
        self.stored = asyncio.Event()


class Markets:
    """Markets, prices, volumes, liquidity and books, each fresh for its own time.

    A market carries the tag ``market:<condition id>``: a resolution makes it go at once
    (`resolved`). Prices and books are of tokens and run out by themselves. Calls for
    several markets or tokens within one turn of the loop become one request.

    Every method raises what the cache and Polymarket raise (`OddswireError`,
    `PolymarketError`), where nothing that may serve is there. "There is none" is None.

    Args:
        cache: With `NAMESPACES`.
        gamma: Describes the markets.
        clob: Has their books.
        upstream: Keeps within Polymarket's limits.
        ages: How old what may be.
    """

    def __init__(
        self,
        cache: Cache,
        gamma: Gamma,
        clob: Clob,
        upstream: Upstream,
        *,
        ages: Ages | None = None,
    ) -> None:
        self._cache = cache
        self._gamma = gamma
        self._clob = clob
        self._upstream = upstream
        ages = ages or Ages()
        # The same entries, and not as old for each: who asks together shares a load.
        market = functools.partial(
            cache.batched, self._load_markets, key="market:{id}", tags=("market:{id}",)
        )
        self._market = market()
        self._market_for_volume = market(max_age=ages.volume)
        self._market_for_liquidity = market(max_age=ages.liquidity)
        book = functools.partial(cache.batched, self._load_books, key="book:{token}")
        self._book = book()
        self._whole_book = book(max_age=ages.book)

    # --- what there is

    async def market(self, condition_id: str) -> GammaMarket | None:
        """Return the market with this condition id."""
        return await self._market(condition_id)

    async def by_id(self, number: str) -> GammaMarket | None:
        """Return the market with this number of Gamma's, as buttons carry it."""

        async def load() -> str | None:
            try:
                market = await self._upstream.call(
                    "gamma", "markets", lambda: self._gamma.market_by_id(number)
                )
            except NotFound:
                return None
            return market.condition_id

        condition_id = await self._cache.get_or_set(f"number:{number}", load)
        return None if condition_id is None else await self.market(condition_id)

    async def by_slug(self, slug: str) -> GammaMarket | None:
        """Return the market with this slug, the last part of its page's address."""

        # By way of its id, so that there is one copy of a market, under its tag.
        async def load() -> str | None:
            try:
                market = await self._upstream.call(
                    "gamma", "markets", lambda: self._gamma.market(slug)
                )
            except NotFound:
                return None
            return market.condition_id

        condition_id = await self._cache.get_or_set(f"slug:{slug}", load)
        return None if condition_id is None else await self.market(condition_id)

    async def event(self, slug: str) -> GammaEvent | None:
        """Return the event with this slug, with its markets."""

        async def load() -> GammaEvent | None:
            try:
                return await self._upstream.call(
                    "gamma", "events", lambda: self._gamma.event(slug)
                )
            except NotFound:
                return None

        return await self._cache.get_or_set(f"event:{slug}", load)

    async def event_by_id(self, number: str) -> GammaEvent | None:
        """Return the event with this number of Gamma's, as buttons carry it."""

        async def load() -> GammaEvent | None:
            try:
                return await self._upstream.call(
                    "gamma", "events", lambda: self._gamma.event_by_id(number)
                )
            except NotFound:
                return None

        return await self._cache.get_or_set(f"event:#{number}", load)

    async def search(
        self, words: str, *, page: int = 1, closed: bool = False
    ) -> SearchPage:
        """Return a page of what some words fit; pages count from 1."""

        async def load() -> SearchPage:
            return await self._upstream.call(
                "gamma",
                "search",
                lambda: self._gamma.search(words, page=page, closed=closed),
            )

        # Words of a person: a key has room for their digest, whatever they are.
        name = f"{int(closed)}:{page}:{words.casefold()}"
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return await self._cache.get_or_set(f"search:{digest}", load)

    async def top_events(self, tag: str = "") -> tuple[GammaEvent, ...]:
        """Return open events by what was traded in a day; of a tag, by its slug."""
        return await self._events("volume24hr", tag)

    async def new_events(self, tag: str = "") -> tuple[GammaEvent, ...]:
        """Return open events, the newest first; of a tag, by its slug."""
        return await self._events("startDate", tag)

    async def _events(self, order: str, tag: str) -> tuple[GammaEvent, ...]:
        async def load() -> tuple[GammaEvent, ...]:
            page = await self._upstream.call(
                "gamma",
                "events",
                lambda: self._gamma.events(order=order, tag=tag or None),
            )
            return page.events

        return await self._cache.get_or_set(f"events:{order}:{tag}", load)

    async def busiest(self, limit: int = 20) -> tuple[GammaMarket, ...]:
        """Return the open markets with the most volume, at most 100."""

        async def load() -> tuple[GammaMarket, ...]:
            return (await self._page(limit)).markets

        return await self._cache.get_or_set(f"markets:{limit}", load)

    async def warm(self, most: int = 500) -> None:
        """Load the answers about the busiest markets before somebody asks.

        One request brings 100 of them. Called at least every 15 s it keeps all of them
        younger than `Ages.liquidity`, while Polymarket answers: one process of all does
        it, once in 30 s, and the others return at once. Without Redis it asks for
        nothing.

        Args:
            most: Markets, those with the most volume.

        Raises:
            OddswireError: Redis could not be asked.
            PolymarketError: Of the requests, the first that failed; what the others
                brought is kept.
        """
        load = functools.partial(self._warm, most)
        await self._cache.get_or_set(f"warm:{most}", load)

    async def _warm(self, most: int) -> int:
        key = f"busiest:{most}"
        # It raises without Redis, where `get_or_set` would ask Polymarket.
        await self._cache.get(key)
        ids = await self._cache.get_or_set(
            key, functools.partial(self._busiest_ids, most)
        )
        keys = [f"market:{each}" for each in ids]
        parts = [keys[at : at + _PAGE] for at in range(0, len(keys), _PAGE)]
        turns = [_Turn() for _ in parts]
        async with asyncio.TaskGroup() as tasks:
            pages = [
                tasks.create_task(self._warm_page(part, before, turn))
                for part, before, turn in zip(
                    parts, [None, *turns], turns, strict=False
                )
            ]
        for page in pages:
            if (error := page.result()) is not None:
                raise error
        return len(ids)

    async def _warm_page(
        self, keys: list[str], before: _Turn | None, turn: _Turn
    ) -> Exception | None:
        """Load and store one page; return what it failed with.

        To claim or to store 500 answers at once would hold up every reader, and to wait
        for each request before the next one would let the first answers grow old. So
        the requests overlap, and pages claim and store one after the other.
        """

        async def load(keys: list[str]) -> dict[str, GammaMarket | Exception]:
            turn.claimed.set()
            found = await self._load_keys(keys)
            if before is not None:
                await before.stored.wait()
            return found

        try:
            if before is not None:
                await before.claimed.wait()
            await self._cache.refresh_many(keys, load, tags=lambda key: (key,))
        except Unreadable:
            pass  # a market that cannot be read costs no other
        except (OddswireError, PolymarketError) as error:
            return error
        finally:
            turn.claimed.set()
            turn.stored.set()
        return None

    async def _busiest_ids(self, most: int) -> tuple[str, ...]:
        # The markets in the list are not stored: what was invalidated since it was
        # made would be back. Asked for by their ids they are fenced, as any load is.
        ids: list[str] = []
        cursor = None
        while len(ids) < most:
            page = await self._page(min(_PAGE, most - len(ids)), cursor)
            ids += [market.condition_id for market in page.markets]
            cursor = page.next_cursor
            if cursor is None or not page.markets:
                break
        return tuple(ids)

    # --- how it stands

    async def price(self, token_id: str) -> Price | None:
        """Return the top of a token's book; None for a token without one."""
        book = await self._book(token_id)
        return None if book is None else Price(book.bid, book.ask, book.timestamp)

    async def prices(self, token_ids: Iterable[str]) -> dict[str, Price]:
        """Return the tops of these books, by token; those without one are absent."""
        tokens = list(dict.fromkeys(token_ids))
        prices = await asyncio.gather(*map(self.price, tokens))
        return {
            token: price
            for token, price in zip(tokens, prices, strict=True)
            if price is not None
        }

    async def age(self, token_ids: Iterable[str]) -> float:
        """Return how many seconds the oldest of these prices is past its time.

        0 while Polymarket answers: then nothing is past its time.
        """
        oldest = 0.0
        for token in token_ids:
            entry = await self._cache.get_entry(f"book:{token}")
            if entry is not None and entry.stale:
                oldest = max(oldest, entry.age)
        return oldest

    async def book(self, token_id: str) -> OrderBook | None:
        """Return the whole book of a token, best level last."""
        return await self._whole_book(token_id)

    async def volume(self, condition_id: str) -> Volume | None:
        """Return what was traded in a market."""
        market = await self._market_for_volume(condition_id)
        return None if market is None else Volume(market.volume, market.volume24hr)

    async def liquidity(self, condition_id: str) -> Liquidity | None:
        """Return what rests in the books of a market."""
        market = await self._market_for_liquidity(condition_id)
        return None if market is None else Liquidity(market.liquidity)

    async def history(self, token_id: str, span: Span = "1d") -> tuple[PricePoint, ...]:
        """Return the prices of a token, oldest first.

        Args:
            token_id: Of the outcome.
            span: The last day by minutes, the last week by hours, or all by days.
        """
        fidelity = _FIDELITY[span]

        async def load() -> tuple[PricePoint, ...]:
            return await self._upstream.call(
                "clob",
                "history",
                lambda: self._clob.prices_history(
                    token_id, interval=span, fidelity=fidelity
                ),
            )

        return await self._cache.get_or_set(f"history:{span}:{token_id}", load)

    async def resolved(self, condition_id: str) -> None:
        """A market was decided: forget what is known of it.

        Raises:
            InvalidationNotConfirmed: It may be served for as long as its time lasts.
        """
        await self._cache.invalidate_tags(f"market:{condition_id}")

    # --- inside

    async def _page(self, limit: int, cursor: str | None = None) -> MarketPage:
        return await self._upstream.call(
            "gamma",
            "markets",
            lambda: self._gamma.markets(
                after_cursor=cursor,
                limit=limit,
                closed=False,
                order="volumeNum",
                ascending=False,
            ),
        )

    async def _load_keys(self, keys: list[str]) -> dict[str, GammaMarket | Exception]:
        ids = [key.partition(":")[2] for key in keys]
        found = await self._load_markets(ids)
        return {f"market:{each}": market for each, market in found.items()}

    async def _load_markets(self, ids: list[str]) -> dict[str, GammaMarket | Exception]:
        return _known(
            await self._upstream.call(
                "gamma", "markets", lambda: self._gamma.markets_by_condition(*ids)
            )
        )

    async def _load_books(self, tokens: list[str]) -> dict[str, OrderBook | Exception]:
        return _known(
            await self._upstream.call(
                "clob", "books", lambda: self._clob.books(*tokens)
            )
        )


def _known(found: Found[T]) -> dict[str, T | Exception]:
    """Return what is known: a value, or that there is an answer nobody can read.

    What is absent from both does not exist, and is remembered as that. So what could
    not be read must not be absent.
    """
    known: dict[str, T | Exception] = dict(found)
    for each in found.unread:
        known[each] = Unreadable(f"{each}: Polymarket's answer about it is unreadable")
    return known
