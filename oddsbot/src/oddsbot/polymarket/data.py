"""The Data API, version 2: what wallets did and hold, and what the oracle was told.

Every answer is ``{"data": ..., "pagination": {...}}``.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from msgspec import Struct

from ._http import Found, LeftOut, bad_answer, call, next_cursor
from ._reading import (
    EACH,
    Id,
    OutcomeIndex,
    Seconds,
    Shown,
    check_number,
    ids_of,
    reading,
    reading_each,
)
from .errors import NotFound
from .events import check_price, check_size
from .slices import Steps, paced, release

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientSession

PAGE_MAX = 1_000
RESOLUTIONS_MAX = 20
_UNSET = Decimal(69)  # how the oracle writes that there is no price
_Row = TypeVar("_Row", bound=Struct)
_Answer = TypeVar("_Answer", bound=Struct)


class Activity(Struct, frozen=True, kw_only=True):
    """Something a wallet did.

    A row has no id of its own, and one transaction may hold several fills that are
    alike in every field.

    Attributes:
        proxy_wallet: Who, an address.
        timestamp: When, Unix seconds. A row appears some 13 to 24 s later.
        type: ``TRADE``, ``SPLIT``, ``MERGE``, ``REDEEM``, ``REWARD`` ...; one we do not
            know is no error.
        side: ``BUY`` or ``SELL`` of a trade, otherwise ``""``.
        size: Shares.
        usdc_size: Dollars, None where the row has none.
        price: Of a share, None for what is no trade.
        outcome_index: None where no outcome is meant.
    """

    proxy_wallet: Id
    timestamp: Seconds
    type: str = "TRADE"
    condition_id: str = ""
    token_id: str = ""
    side: str = ""
    size: Decimal = Decimal(0)
    usdc_size: Decimal | None = None
    price: Decimal | None = None
    outcome: str = ""
    outcome_index: OutcomeIndex | None = None
    title: Shown = ""
    slug: Shown = ""
    event_slug: Shown = ""
    transaction_hash: str = ""
    name: Shown = ""
    pseudonym: Shown = ""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_size(self.usdc_size)
        check_number(self.price)
        if self.type == "TRADE":
            check_price(self.price)


class Trade(Struct, frozen=True, kw_only=True):
    """A row of the tape: one side of a trade.

    As `Activity`, it has no id, and rows may be alike in every field.
    """

    proxy_wallet: Id
    timestamp: Seconds
    condition_id: Id
    token_id: Id
    side: str
    size: Decimal
    price: Decimal
    outcome: str = ""
    outcome_index: OutcomeIndex | None = None
    title: Shown = ""
    slug: Shown = ""
    event_slug: Shown = ""
    transaction_hash: str = ""
    name: Shown = ""
    pseudonym: Shown = ""

    def __post_init__(self) -> None:
        check_size(self.size)
        check_price(self.price)

    @property
    def dollars(self) -> Decimal:
        """What was paid."""
        return self.size * self.price


class Stats(Struct, frozen=True, kw_only=True):
    """What a wallet has done so far.

    Attributes:
        trades: Markets in which it traded.
        biggest_win: Dollars.
        join_date: Unix seconds.
    """

    proxy_wallet: Id
    trades: int = 0
    biggest_win: Decimal | None = None
    join_date: Seconds | None = None

    def __post_init__(self) -> None:
        check_number(self.biggest_win)


class PnlPoint(Struct, frozen=True, kw_only=True):
    """A wallet's profit until a time, in dollars."""

    timestamp: Seconds
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None = None
    volume_usdc: Decimal | None = None

    def __post_init__(self) -> None:
        check_number(self.realized_pnl)
        check_number(self.unrealized_pnl)
        check_number(self.volume_usdc)


class Standing(Struct, frozen=True, kw_only=True):
    """A row of the leaderboard; `pnl` in dollars, `volume` in shares."""

    rank: int
    user_id: Id
    pnl: Decimal
    volume: Decimal | None = None
    user_name: Shown = ""

    def __post_init__(self) -> None:
        check_number(self.pnl)
        check_number(self.volume)


class Resolution(Struct, frozen=True, kw_only=True):
    """How the oracle stands about a market.

    Attributes:
        status: ``initialized``, ``posed``, ``proposed``, ``challenged``,
            ``reproposed``, ``disputed``, ``active``, ``arbitration`` or ``resolved``.
        proposed_price: What the first outcome is to pay; None while nothing is
            proposed.
        price: What it pays; None until it is known.
        payouts: Of the two outcomes, as the wire has it: in millionths.
        transaction_hash: Of the last change.
        last_update_timestamp: When it was.
    """

    condition_id: Id
    status: str
    proposed_price: Decimal | None = None
    reproposed_price: Decimal | None = None
    price: Decimal | None = None
    was_disputed: bool = False
    extended_review: bool = False
    payouts: tuple[Decimal, ...] = ()
    transaction_hash: str = ""
    last_update_timestamp: Seconds | None = None
    expected_settlement_time: Seconds | None = None
    resolved_at: Seconds | None = None

    def __post_init__(self) -> None:
        for price in (self.proposed_price, self.reproposed_price, self.price):
            check_number(price)
        for payout in self.payouts:
            check_number(payout)

    @property
    def proposal(self) -> Decimal | None:
        """What the first outcome is to pay by the last proposal."""
        for price in (self.reproposed_price, self.proposed_price):
            if price is not None and price != _UNSET:
                return price
        return None

    @property
    def shares(self) -> tuple[Decimal, ...]:
        """What a share of each outcome pays; empty until it is known."""
        return tuple(each / 1_000_000 for each in self.payouts)


class _Value(Struct):
    value: Decimal

    def __post_init__(self) -> None:
        check_number(self.value)


class _Series(Struct):
    points: Annotated[tuple[PnlPoint, ...], EACH] = ()


class Position(Struct, frozen=True, kw_only=True):
    """What a wallet holds of one token, in shares and dollars."""

    condition_id: Id
    token_id: str = ""
    current_size: Decimal = Decimal(0)
    avg_price: Decimal | None = None
    current_price: Decimal | None = None
    current_value: Decimal | None = None
    total_cost_usdc: Decimal | None = None
    realized_pnl: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    total_pnl: Decimal | None = None
    status: str = ""
    redeemable: bool = False
    mergeable: bool = False
    negative_risk: bool = False
    outcome: str = ""
    outcome_index: OutcomeIndex | None = None
    title: Shown = ""
    slug: Shown = ""
    event_slug: Shown = ""
    end_date: str = ""

    def __post_init__(self) -> None:
        check_size(self.current_size)
        check_price(self.avg_price)
        check_price(self.current_price)


class Page(Struct, Generic[_Row], frozen=True):
    """One page of a list.

    Attributes:
        rows: Those that could be read.
        next_cursor: For the next page, None on the last one.
        skipped: How many rows could not be read.
    """

    rows: tuple[_Row, ...]
    next_cursor: str | None
    skipped: int


class Data:
    """The Data API's read endpoints.

    Every method raises the errors of `PolymarketError` and none else. A wallet that
    nobody has heard of is an empty page, not `NotFound`: that is how it is answered.

    Args:
        session: Makes the calls; stays the caller's.
        base_url: Such as ``https://data-api.polymarket.com``.
        timeout: Seconds for one call.

    Attributes:
        left_out: Counts the rows that could not be read.
    """

    def __init__(
        self, session: ClientSession, base_url: str, *, timeout: float = 10.0
    ) -> None:
        self.left_out = LeftOut()
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout

    async def activity(
        self,
        wallet: str,
        *,
        start: int | None = None,
        end: int | None = None,
        types: Iterable[str] = (),
        oldest_first: bool = False,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Activity]:
        """Return one page of what a wallet did, newest first.

        Args:
            wallet: Its address.
            start: Not before, Unix seconds.
            end: Not after.
            types: Only these types.
            oldest_first: The other direction.
            cursor: ``next_cursor`` of the page before, with the same filters.
            limit: Rows a page, at most 1,000.
        """
        given: dict[str, Any] = {
            "user": wallet,
            "start": start,
            "end": end,
            "type": ",".join(types) or None,
            "sort_direction": "ASC" if oldest_first else None,
            "cursor": cursor,
        }
        return await self._page("/v2/activity", limit, given, Activity)

    async def positions(
        self,
        wallet: str,
        *,
        status: str = "OPEN",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Position]:
        """Return one page of what a wallet holds.

        Args:
            wallet: Its address.
            status: ``OPEN``, ``REDEEMABLE``, ``REDEEMABLE_LOST``, ``MERGEABLE`` or
                ``CLOSED``.
            cursor: ``next_cursor`` of the page before, with the same filters.
            limit: Rows a page, at most 1,000.
        """
        given: dict[str, Any] = {"user": wallet, "status": status, "cursor": cursor}
        return await self._page("/v2/positions", limit, given, Position)

    async def trades(
        self,
        *,
        user: str | None = None,
        condition_ids: Iterable[str] = (),
        takers_only: bool = False,
        least_dollars: Decimal | None = None,
        start: int | None = None,
        end: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Trade]:
        """Return one page of the tape, newest first.

        Args:
            user: Only this wallet's; None: everybody's.
            condition_ids: Only in these markets, at most 20.
            takers_only: Leave out those whose order rested. Polymarket does that unless
                it is asked not to.
            least_dollars: Only trades of that many; None: of 0.01 shares, Polymarket's
                default.
            start: Not before, Unix seconds; ignored on the bare feed, as `end` is.
            end: Not after; None: a day from now.
            cursor: ``next_cursor`` of the page before, with the same filters.
            limit: Rows a page, at most 1,000.
        """
        given: dict[str, Any] = {
            "user": user,
            "condition_id": ",".join(condition_ids) or None,
            "taker_only": str(takers_only).lower(),
            "filter_type": None if least_dollars is None else "CASH",
            "filter_amount": least_dollars,
            "start": start,
            "end": end,
            "cursor": cursor,
        }
        return await self._page("/v2/trades", limit, given, Trade)

    async def leaderboard(
        self,
        *,
        period: str = "day",
        by: str = "PNL",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Standing]:
        """Return one page of the leaderboard, the best first.

        Args:
            period: ``day``, ``week``, ``month`` or ``all``.
            by: ``PNL`` or ``VOLUME``.
            cursor: ``next_cursor`` of the page before.
            limit: Rows a page.
        """
        given = {"time_period": period, "sort_by": by, "cursor": cursor}
        return await self._page("/v2/leaderboard", limit, given, Standing)

    async def resolutions(self, *condition_ids: str) -> Found[Resolution]:
        """Return how the oracle stands about markets, by condition id.

        At most 20 go into one call. A market that the oracle does not know is absent;
        one whose row cannot be read is absent too, and named in ``unread``.
        """
        found: Found[Resolution] = Found()
        unread: set[str] = set()
        path = "/v2/resolutions"
        for at in range(0, len(condition_ids), RESOLUTIONS_MAX):
            wanted = condition_ids[at : at + RESOLUTIONS_MAX]
            answer = await self._get(path, {"condition_id": ",".join(wanted)})
            try:
                lines: list[str] = []
                page = await paced(
                    reading_page(f"GET {path}", answer, Resolution, lines)
                )
                for each in page.rows:
                    other = found.get(each.condition_id, each)
                    # Of two rows of a market the newer counts; no order is promised.
                    if each.condition_id in wanted and (
                        other.last_update_timestamp or 0
                    ) <= (each.last_update_timestamp or 0):
                        found[each.condition_id] = each
                if lines:
                    self.left_out.note(f"GET {path}", lines)
                    illegible = ids_of(answer["data"], "condition_id")
                    missing = set(wanted) - found.keys()
                    unread |= missing if "" in illegible else missing & illegible
            finally:
                await release(answer)
        found.unread = frozenset(unread)
        return found

    async def value(self, wallet: str) -> Decimal:
        """Return what a wallet's positions are worth, in dollars."""
        return (await self._one("/v2/value", {"user": wallet}, _Value)).value

    async def stats(self, wallet: str) -> Stats:
        """Return what a wallet has done.

        Raises:
            NotFound: Nobody has heard of it.
        """
        return await self._one("/v2/user-stats", {"user": wallet}, Stats)

    async def pnl(
        self, wallet: str, *, interval: str = "max", fidelity: str = "1d"
    ) -> tuple[PnlPoint, ...]:
        """Return a wallet's profit over time, oldest first.

        Args:
            wallet: Its address.
            interval: ``max``, ``1m``, ``1w``, ``1d``, ``12h`` or ``6h``.
            fidelity: Between two points: ``1d`` to ``1h``.
        """
        given = {"user": wallet, "interval": interval, "fidelity": fidelity}
        points = (await self._one("/v2/user-pnl", given, _Series)).points
        return tuple(sorted(points, key=lambda each: each.timestamp))

    async def _one(
        self, path: str, given: dict[str, Any], kind: type[_Answer]
    ) -> _Answer:
        answer = await self._get(path, given)
        try:
            if not isinstance(answer, dict) or "data" not in answer:
                raise bad_answer(f"GET {path}", ValueError("no data"))
            if answer["data"] is None:
                raise NotFound(f"GET {path}: there is none")
            lines: list[str] = []
            try:
                found = await paced(reading(answer["data"], kind, lines))
            except ValueError as error:
                raise bad_answer(f"GET {path}", error) from error
            if lines:
                self.left_out.note(f"GET {path}", lines)
            return found
        finally:
            await release(answer)

    async def _get(self, path: str, given: dict[str, Any]) -> Any:
        params = [
            (name, str(value)) for name, value in given.items() if value is not None
        ]
        return await call(
            self._session,
            "GET",
            self._base_url,
            path,
            timeout=self._timeout,
            params=params,
        )

    async def _page(
        self,
        path: str,
        limit: int,
        given: dict[str, Any],
        kind: type[_Row],
    ) -> Page[_Row]:
        answer = await self._get(path, given | {"limit": min(limit, PAGE_MAX)})
        try:
            lines: list[str] = []
            page = await paced(reading_page(f"GET {path}", answer, kind, lines))
            if lines:
                self.left_out.note(f"GET {path}", lines)
            return page
        finally:
            await release(answer)


def reading_page(
    where: str, answer: Any, kind: type[_Row], left_out: list[str]
) -> Steps[Page[_Row]]:
    """Read a decoded page, in steps.

    Args:
        where: The endpoint, for the error.
        answer: As decoded.
        kind: The model of a row.
        left_out: Gets a line for each row that cannot be read.

    Raises:
        BadAnswer: It is no page.
    """
    if not isinstance(answer, dict) or "data" not in answer:
        raise bad_answer(where, ValueError("no data"))
    data = answer["data"]
    if data is None:
        data = []  # the documented way to say that there is nothing
    if not isinstance(data, list):
        raise bad_answer(where, ValueError("data is no list"))
    rows = yield from reading_each(data, kind, left_out)
    pagination = answer.get("pagination")
    cursor = pagination.get("next_cursor") if isinstance(pagination, dict) else None
    return Page(rows, next_cursor(cursor), len(data) - len(rows))
