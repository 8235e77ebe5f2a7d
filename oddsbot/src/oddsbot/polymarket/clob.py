"""The CLOB's public answers: books, prices, histories, and the calls for them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import Struct

from ._http import Found, LeftOut, bad_answer, call, segment
from ._reading import (
    EACH,
    Id,
    Milliseconds,
    Seconds,
    Shown,
    check_milliseconds,
    ids_of,
    reading,
    reading_each,
)
from .events import (
    Level,
    Side,
    best_ask,
    best_bid,
    check_levels,
    check_price,
    check_size,
)
from .slices import Steps, at_once, paced, release

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aiohttp import ClientSession

Interval = Literal["1h", "6h", "1d", "1w", "1m", "max", "all"]
_Answer = TypeVar("_Answer", bound=Struct)


class OrderBook(Struct, frozen=True, kw_only=True):
    """The whole book of one token.

    ``bids`` mostly ascend and ``asks`` descend; `bid` and `ask` do not rely on it.
    """

    market: Id
    asset_id: Id
    timestamp: Milliseconds | None
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()
    hash: Shown = ""
    min_order_size: Decimal | None = None
    tick_size: Decimal | None = None
    neg_risk: bool = False
    last_trade_price: Decimal | None = None

    def __post_init__(self) -> None:
        check_milliseconds(self.timestamp)
        check_levels(self.bids)
        check_levels(self.asks)
        check_size(self.min_order_size)
        check_price(self.tick_size)
        check_price(self.last_trade_price)

    @property
    def bid(self) -> Decimal | None:
        """The best bid, None when nobody bids."""
        return best_bid(self.bids)

    @property
    def ask(self) -> Decimal | None:
        """The best ask, None when nobody asks."""
        return best_ask(self.asks)


class ClobToken(Struct, frozen=True, rename={"token_id": "t", "outcome": "o"}):
    """One side of a market: its token and its name."""

    token_id: Id
    outcome: str = ""


class ClobMarket(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "condition_id": "c",
        "tokens": "t",
        "min_order_size": "mos",
        "tick_size": "mts",
        "maker_base_fee": "mbf",
        "taker_base_fee": "tbf",
        "neg_risk": "nr",
        "accepting_orders": "ao",
    },
):
    """What the CLOB knows of a market; on the wire each key is a letter or three.

    Fees are in basis points.
    """

    condition_id: Id
    tokens: Annotated[tuple[ClobToken, ...], EACH]
    min_order_size: Decimal | None = None
    tick_size: Decimal | None = None
    maker_base_fee: int = 0
    taker_base_fee: int = 0
    neg_risk: bool = False
    accepting_orders: bool = False

    def __post_init__(self) -> None:
        check_size(self.min_order_size)
        check_price(self.tick_size)


class PricePoint(Struct, frozen=True):
    """One point of a price history: ``t`` in Unix seconds, ``p`` a price."""

    t: Seconds
    p: Decimal

    def __post_init__(self) -> None:
        check_price(self.p)


class Clob:
    """The CLOB's read endpoints.

    Every method raises the errors of `PolymarketError` and none else: `NotFound` (no
    order book), `RateLimitedUpstream`, `RequestRefused`, `UpstreamUnavailable`,
    `BadAnswer`.

    Args:
        session: Makes the calls; stays the caller's.
        base_url: Such as ``https://clob.polymarket.com``.
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

    async def book(self, token_id: str) -> OrderBook:
        """Return the book of one token."""
        return await self._get("/book", {"token_id": token_id}, OrderBook)

    async def books(self, *token_ids: str) -> Found[OrderBook]:
        """Return the books of these tokens, by token id; those without are absent.

        A book that cannot be read is absent too, and named in ``unread``.
        """
        body = [{"token_id": token_id} for token_id in token_ids]
        answer = await call(
            self._session,
            "POST",
            self._base_url,
            "/books",
            timeout=self._timeout,
            json=body,
        )
        answer = [] if answer is None else answer  # as any other list that is null
        try:
            where = "POST /books"
            lines: list[str] = []
            wanted = frozenset(token_ids)
            books = list(await paced(_reading_books(answer, lines)))
            found = await paced(_newest(books, wanted))
            if lines:
                self.left_out.note(where, lines)
                missing = wanted - found.keys()
                illegible = ids_of(answer, "asset_id")
                found.unread = missing if "" in illegible else missing & illegible
            return found
        finally:
            await release(answer)

    async def market(self, condition_id: str) -> ClobMarket:
        """Return the market with this condition id."""
        return await self._get(f"/clob-markets/{segment(condition_id)}", {}, ClobMarket)

    async def price(self, token_id: str, side: Side) -> Decimal | None:
        """Return the best bid (``"BUY"``) or best ask (``"SELL"``) of a token.

        None when that side is empty, which the CLOB writes as 0 or 1.
        """
        params = {"token_id": token_id, "side": side}
        price = (await self._get("/price", params, _Price)).price
        return price if 0 < price < 1 else None

    async def midpoint(self, token_id: str) -> Decimal:
        """Return the middle between best bid and best ask of a token."""
        return (await self._get("/midpoint", {"token_id": token_id}, _Mid)).mid

    async def prices_history(
        self,
        token_id: str,
        *,
        interval: Interval | None = None,
        start: int | None = None,
        end: int | None = None,
        fidelity: int = 1,
    ) -> tuple[PricePoint, ...]:
        """Return the prices of a token over time, oldest first.

        Args:
            token_id: The token.
            interval: How far back from now; or give `start` instead.
            start: From when, Unix seconds.
            end: Until when, Unix seconds; None for now.
            fidelity: Minutes between points.

        A point that cannot be read is left out.
        """
        params = {"market": token_id, "fidelity": str(fidelity)}
        given = {"interval": interval, "startTs": start, "endTs": end}
        params |= {
            name: str(value) for name, value in given.items() if value is not None
        }
        lines: list[str] = []
        points = (await self._get("/prices-history", params, _History, lines)).history
        if lines and not points:
            raise bad_answer("GET /prices-history", ValueError(lines[0]))
        return tuple(sorted(points, key=lambda point: point.t))

    async def _get(
        self,
        path: str,
        params: Mapping[str, str],
        kind: type[_Answer],
        left_out: list[str] | None = None,
    ) -> _Answer:
        answer = await call(
            self._session,
            "GET",
            self._base_url,
            path,
            timeout=self._timeout,
            params=params.items(),
        )
        try:
            if kind is _History and isinstance(answer, dict) and "history" in answer:
                # An empty list is null in some answers.
                answer = answer | {"history": answer["history"] or []}
            lines: list[str] = [] if left_out is None else left_out
            found = await paced(_reading(f"GET {path}", answer, kind, lines))
            if lines:
                self.left_out.note(f"GET {path}", lines)
            return found
        finally:
            await release(answer)


class _Price(Struct):
    price: Decimal

    def __post_init__(self) -> None:
        check_price(self.price)


class _Mid(Struct):
    mid: Decimal

    def __post_init__(self) -> None:
        check_price(self.mid)


class _History(Struct):
    history: Annotated[tuple[PricePoint, ...], EACH]


def read_market(answer: Any) -> ClobMarket:
    """Turn the decoded answer of ``GET /clob-markets/{condition id}`` into a market.

    Raises:
        BadAnswer: It has another shape.
    """
    return at_once(_reading("GET /clob-markets", answer, ClobMarket, []))


def read_books(answer: Any, left_out: list[str] | None = None) -> tuple[OrderBook, ...]:
    """Turn the decoded answer of ``POST /books`` into books.

    Args:
        answer: The answer.
        left_out: Gets a line for each book that could not be read.

    Raises:
        BadAnswer: It has another shape.
    """
    return at_once(_reading_books(answer, [] if left_out is None else left_out))


def _newest(books: list[OrderBook], wanted: Collection[str]) -> Steps[Found[OrderBook]]:
    """Return the newest book of each token that is wanted; `books` is empty then.

    Of two of the same time the later one counts; no order is promised.
    """
    found: Found[OrderBook] = Found()
    while books:
        book = books.pop()
        other = found.get(book.asset_id)
        if book.asset_id in wanted and (
            other is None or (other.timestamp or 0) < (book.timestamp or 0)
        ):
            found[book.asset_id] = book
        yield
    return found


def _reading_books(answer: Any, left_out: list[str]) -> Steps[tuple[OrderBook, ...]]:
    if not isinstance(answer, list):
        raise bad_answer("POST /books", ValueError("a list was expected"))
    return (yield from reading_each(answer, OrderBook, left_out))


def _reading(
    where: str, answer: Any, kind: type[_Answer], left_out: list[str]
) -> Steps[_Answer]:
    try:
        return (yield from reading(answer, kind, left_out))
    except ValueError as error:
        raise bad_answer(where, error) from error
