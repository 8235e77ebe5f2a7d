"""The Data API, version 2: what a wallet did, and what it holds.

Every answer is ``{"data": ..., "pagination": {...}}``.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from ._http import LeftOut, bad_answer, call, next_cursor
from ._reading import Id, OutcomeIndex, Seconds, Shown, check_number, reading_each
from .events import check_price, check_size
from .slices import Steps, paced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientSession

PAGE_MAX = 1_000
_Row = TypeVar("_Row", bound=Struct)


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
        given = {
            "start": start,
            "end": end,
            "type": ",".join(types) or None,
            "sort_direction": "ASC" if oldest_first else None,
            "cursor": cursor,
        }
        return await self._page("/v2/activity", wallet, limit, given, Activity)

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
        given = {"status": status, "cursor": cursor}
        return await self._page("/v2/positions", wallet, limit, given, Position)

    async def _page(
        self,
        path: str,
        wallet: str,
        limit: int,
        given: dict[str, Any],
        kind: type[_Row],
    ) -> Page[_Row]:
        params = [("user", wallet), ("limit", str(min(limit, PAGE_MAX)))]
        params += [
            (name, str(value)) for name, value in given.items() if value is not None
        ]
        answer = await call(
            self._session,
            "GET",
            self._base_url,
            path,
            timeout=self._timeout,
            params=params,
        )
        lines: list[str] = []
        page = await paced(reading_page(f"GET {path}", answer, kind, lines))
        if lines:
            self.left_out.note(f"GET {path}", lines)
        return page


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
