"""The Data API, version 2: **generated** rows of the ledger, in Polymarket's shapes."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ._answers import Refused, answer, iso, page_cursor, read_cursor, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._exchange import Exchange
    from ._ledger import Holding, Row
    from .faults import Faults

TYPES = frozenset(
    [
        "TRADE",
        "SPLIT",
        "MERGE",
        "REDEEM",
        "REWARD",
        "CONVERSION",
        "MIGRATION",
        "DEPOSIT",
        "WITHDRAWAL",
        "YIELD",
        "MAKER_REBATE",
        "TAKER_REBATE",
        "REFERRAL_REWARD",
        "TIP",
    ]
)
_STATUSES = ("OPEN", "REDEEMABLE", "REDEEMABLE_LOST", "MERGEABLE", "CLOSED")
_MOST = 1_000
_DAY = 86_400
_TWO_MONTHS = 62 * _DAY
_DUST = Decimal("0.01")
_PERIODS = {"day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY, "all": None}


class DataApi:
    """Answers of the Data API at a moment.

    Args:
        exchange: What there is.
        now: Unix seconds.
        faults: The switches.
    """

    def __init__(
        self, exchange: Exchange, now: Callable[[], int], faults: Faults
    ) -> None:
        self._exchange = exchange
        self._ledger = exchange.ledger
        self._now = now
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """Return its routes."""
        return [
            web.get("/v2/trades", self._trades),
            web.get("/v2/activity", self._activity),
            web.get("/v2/positions", self._positions),
            web.get("/v2/value", self._value),
            web.get("/v2/user-stats", self._stats),
            web.get("/v2/user-pnl", self._pnl),
            web.get("/v2/leaderboard", self._leaderboard),
            web.get("/v2/resolutions", self._resolutions),
        ]

    # --- rows

    async def _trades(self, request: web.Request) -> web.Response:
        query = request.query
        rows = [row for row in self._listed() if row.type == "TRADE"]
        user = query.get("user", "").lower()
        conditions = _several(query.get("condition_id", ""), 20)
        if user:
            rows = [row for row in rows if row.wallet == user]
        if conditions:
            rows = [row for row in rows if row.market_id in conditions]
        # Only what takers did, unless it is asked for all: makers' fills are absent.
        if query.get("taker_only", "true") != "false":
            rows = [row for row in rows if row.taker]
        least = _decimal(query.get("filter_amount", "0.01"), "filter_amount")
        in_cash = query.get("filter_type", "TOKENS").upper() == "CASH"
        rows = [row for row in rows if (row.amount if in_cash else row.size) >= least]
        if user or conditions:
            rows = self._between(request, rows)
        else:  # the bare feed keeps two months, and start and end say nothing
            rows = [row for row in rows if row.at >= self._now() - _TWO_MONTHS]
        return self._page(request, rows, self._trade_row, newest_first=True)

    async def _activity(self, request: web.Request) -> web.Response:
        user = _user(request)
        types = _several(request.query.get("type", ""), len(TYPES))
        if unknown := types - TYPES:
            raise Refused(400, f"unknown type {min(unknown)[:40]}")
        hidden = {"TIP"} - types
        if request.query.get("exclude_deposits_withdrawals", "true") != "false":
            hidden |= {"DEPOSIT", "WITHDRAWAL"}
        rows = [
            row
            for row in self._listed()
            if row.wallet == user
            and row.type not in hidden
            and (not types or row.type in types)
        ]
        oldest_first = request.query.get("sort_direction", "DESC").upper() == "ASC"
        rows = self._between(request, rows)
        return self._page(
            request, rows, self._activity_row, newest_first=not oldest_first
        )

    def _listed(self) -> list[Row]:
        """Return the rows that are listed by now: the API is late."""
        until = self._now() - self._faults.late
        return [row for row in self._ledger.rows if row.at <= until]

    def _between(self, request: web.Request, rows: list[Row]) -> list[Row]:
        start = whole(request, "start", 0)
        end = whole(request, "end", self._now() + _DAY)
        if start > end:
            raise Refused(400, "start is after end")
        return [row for row in rows if start <= row.at <= end]

    def _page(
        self,
        request: web.Request,
        rows: list[Row],
        shape: Callable[[Row], dict[str, Any]],
        *,
        newest_first: bool,
    ) -> web.Response:
        limit = max(1, min(whole(request, "limit", 100), _MOST))
        bound = _filters(request, limit)
        after = read_cursor(request.query.get("cursor", ""), bound)
        # A cursor stands behind a row: what is listed meanwhile moves no page.
        if newest_first:
            rows = [row for row in reversed(rows) if not after or row.number < after]
        else:
            rows = [row for row in rows if row.number > after]
        page, more = rows[:limit], len(rows) > limit
        cursor = page_cursor(page[-1].number, bound) if more else None
        faults = self._faults
        if faults.same_cursor and cursor:
            cursor = request.query.get("cursor") or cursor
        if faults.partial:
            page = page[::2]
        if faults.backwards:
            page = page[::-1]
        if faults.twice:
            page = [row for row in page for _ in range(2)]
        return _listing([shape(row) for row in page], limit, cursor)

    def _trade_row(self, row: Row) -> dict[str, Any]:
        market = self._exchange.markets[row.market_id]
        wallet = self._ledger.wallets[row.wallet]
        rewritten = self._faults.rewritten and row.at > self._now() - 60
        return {
            "proxy_wallet": row.wallet,
            "token_id": row.token,
            "condition_id": row.market_id,
            "side": row.side,
            "size": row.size,
            "price": row.price,
            "timestamp": row.at + (self._now() % 7 if rewritten else 0),
            "transaction_hash": row.transaction,
            "title": market.question,
            "slug": market.slug,
            "icon": "",
            "event_slug": market.slug,
            "outcome": market.outcomes[row.outcome],
            "outcome_index": row.outcome,
            "name": wallet.name,
            "pseudonym": wallet.pseudonym,
            "bio": "",
            "profile_image": "",
        }

    def _activity_row(self, row: Row) -> dict[str, Any]:
        body = self._trade_row(row)
        body |= {"type": row.type, "usdc_size": row.amount, "is_combo": False}
        if row.type != "TRADE":  # how the wire writes "none is meant"
            body |= {"side": "", "price": 0, "outcome_index": 999, "outcome": ""}
        return body

    # --- sums of rows

    async def _positions(self, request: web.Request) -> web.Response:
        status = request.query.get("status", "OPEN").upper()
        if status not in _STATUSES:
            raise Refused(400, f"status must be one of {', '.join(_STATUSES)}")
        held = [
            each
            for each in self._ledger.of(_user(request))
            if self._status(each) == status
        ]
        held.sort(key=lambda each: (-self._worth(each), each.token, each.wallet))
        limit = max(1, min(whole(request, "limit", 100), _MOST))
        bound = _filters(request, limit)
        begin = read_cursor(request.query.get("cursor", ""), bound)
        page, end = held[begin : begin + limit], begin + limit
        cursor = page_cursor(end, bound) if end < len(held) else None
        return _listing([self._position(each) for each in page], limit, cursor)

    def _status(self, held: Holding) -> str:
        if not held.size:
            return "CLOSED"
        if held.market_id not in self._exchange.resolved:
            return "OPEN"
        paid = self._exchange.markets[held.market_id].payouts[held.outcome]
        return "REDEEMABLE" if paid else "REDEEMABLE_LOST"

    def _price(self, held: Holding) -> Decimal:
        return self._exchange.price(held.market_id, held.outcome)

    def _worth(self, held: Holding) -> Decimal:
        return held.size * self._price(held)

    def _position(self, held: Holding) -> dict[str, Any]:
        market = self._exchange.markets[held.market_id]
        wallet = self._ledger.wallets[held.wallet]
        price, left = self._price(held), held.size * held.average
        unrealized = held.size * price - left
        total = unrealized + held.realized
        percent = 100 * total / held.cost if held.cost else Decimal(0)
        return _rounded(
            {
                "proxy_wallet": held.wallet,
                "token_id": held.token,
                "condition_id": held.market_id,
                "current_size": held.size,
                "avg_price": held.average,
                "entry_cost_usdc": held.cost,
                "entry_fees_usdc": Decimal(0),
                "total_cost_usdc": held.cost,
                "current_price": price,
                "current_value": held.size * price,
                "total_size": held.bought,
                "realized_pnl": held.realized,
                "unrealized_pnl": unrealized,
                "total_pnl": total,
                "percent_pnl": percent,
                "percent_realized_pnl": (
                    100 * held.realized / held.cost if held.cost else Decimal(0)
                ),
                # REDEEMABLE_LOST is a filter, and no status of a row.
                "status": self._status(held).removesuffix("_LOST"),
                "redeemable": self._status(held).startswith("REDEEMABLE"),
                "mergeable": False,
                "negative_risk": False,
                "archived": False,
                "verified": False,
                "title": market.question,
                "slug": market.slug,
                "icon": "",
                "event_slug": market.slug,
                "event_id": market.gamma_id,
                "outcome": market.outcomes[held.outcome],
                "outcome_index": held.outcome,
                "opposite_outcome": market.outcomes[1 - held.outcome],
                "opposite_token_id": market.tokens[1 - held.outcome],
                "name": wallet.name,
                "profile_image": "",
                "end_date": iso(market.end_ts)[:10],
                "last_event_at": held.last,
                "first_entry_at": held.first,
            }
        )

    async def _value(self, request: web.Request) -> web.Response:
        user = _user(request)
        value = sum(map(self._worth, self._ledger.of(user)), Decimal(0))
        return answer({"data": _rounded({"proxy_wallet": user, "value": value})})

    async def _stats(self, request: web.Request) -> web.Response:
        user = _user(request)
        held = self._ledger.of(user)
        if not held:
            return answer({"data": None})
        return answer(
            {
                "data": _rounded(
                    {
                        "proxy_wallet": user,
                        "trades": len({each.market_id for each in held}),
                        "biggest_win": max(each.realized for each in held),
                        "views": 0,
                        "join_date": min(each.first for each in held),
                    }
                )
            }
        )

    async def _pnl(self, request: web.Request) -> web.Response:
        user = _user(request)
        interval = request.query.get("interval", "max")
        fidelity = request.query.get("fidelity", "1d")
        if interval not in {"max", "all", "1m", "1w", "1d", "12h", "6h"}:
            raise Refused(400, "interval is unknown")
        held = self._ledger.of(user)
        rows = [row for row in self._listed() if row.wallet == user]
        realized = sum((each.realized for each in held), Decimal(0))
        point = {
            "timestamp": self._now(),
            "source_block": 0,
            "trade_count": sum(row.type == "TRADE" for row in rows),
            "realized_market_pnl": realized,
            "realized_lp_pnl": Decimal(0),
            "realized_combo_pnl": Decimal(0),
            "realized_pnl": realized,
            "unrealized_pnl": self._profit(held) - realized,
            "volume": sum((row.size for row in rows), Decimal(0)),
            "volume_usdc": sum((row.amount for row in rows), Decimal(0)),
        }
        points = [_rounded(point)] if rows else []
        return answer(
            {
                "data": {
                    "proxy_wallet": user,
                    "interval": interval,
                    "fidelity": fidelity,
                    "source_fidelity": fidelity,
                    "points": points,
                }
            }
        )

    def _profit(self, held: Iterable[Holding]) -> Decimal:
        parts = (
            each.realized + self._worth(each) - each.size * each.average
            for each in held
        )
        return sum(parts, Decimal(0))

    async def _leaderboard(self, request: web.Request) -> web.Response:
        period = request.query.get("time_period", "day").lower()
        by = request.query.get("sort_by", "PNL").upper()
        if period not in _PERIODS or by not in {"PNL", "VOLUME"}:
            raise Refused(400, "time_period or sort_by is unknown")
        length = _PERIODS[period]
        since = 0 if length is None else self._now() - length
        rows: list[dict[str, Any]] = []
        for wallet in self._ledger.wallets.values():
            held = [
                each for each in self._ledger.of(wallet.address) if each.last >= since
            ]
            rows.append(
                {
                    "user_id": wallet.address,
                    "pnl": self._profit(held),
                    "volume": sum((each.bought for each in held), Decimal(0)),
                    "user_name": wallet.name,
                    "profile_image": "",
                    "x_username": "",
                    "verified": False,
                }
            )
        rows.sort(key=lambda row: (-row[by.lower()], row["user_id"]))
        limit = max(1, min(whole(request, "limit", 100), _MOST))
        bound = _filters(request, limit)
        begin = read_cursor(request.query.get("cursor", ""), bound)
        page = [
            _rounded({"rank": begin + place, **row})
            for place, row in enumerate(rows[begin : begin + limit], start=1)
        ]
        more = begin + limit < len(rows)
        return _listing(
            page, limit, page_cursor(begin + limit, bound) if more else None
        )

    async def _resolutions(self, request: web.Request) -> web.Response:
        conditions = _several(request.query.get("condition_id", ""), 20)
        if not conditions:
            raise Refused(400, "one of question_id, condition_id, event_id is required")
        known = self._exchange.markets
        return answer(
            {
                "data": [
                    self._exchange.resolution(each)
                    for each in sorted(conditions)
                    if each in known
                ]
            }
        )


def _listing(
    rows: list[dict[str, Any]], limit: int, cursor: str | None
) -> web.Response:
    pagination = {
        "limit": limit,
        "offset": 0,
        "has_more": cursor is not None,
        "next_cursor": cursor,
    }
    return answer({"data": rows, "pagination": pagination})


def _filters(request: web.Request, limit: int) -> str:
    """Return what a cursor is bound to: the path, the filters and the limit."""
    given = sorted(
        (name, value)
        for name, value in request.query.items()
        if name not in {"cursor", "limit"}
    )
    text = f"{request.path} {given} {limit}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user(request: web.Request) -> str:
    user = request.query.get("user", "").lower()
    if len(user) != 42 or not user.startswith("0x"):
        raise Refused(400, "user must be an address")
    return user


def _several(text: str, most: int) -> set[str]:
    values = {each for each in text.split(",") if each}
    if len(values) > most:
        raise Refused(400, f"at most {most} values")
    return values


def _decimal(text: str, name: str) -> Decimal:
    try:
        value = Decimal(text)
    except ArithmeticError:
        raise Refused(400, f"{name} must be a number") from None
    if not value.is_finite() or value < 0:
        raise Refused(400, f"{name} must be a number")
    return value


def _rounded(body: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 6) if isinstance(value, Decimal) else value
        for key, value in body.items()
    }
