"""The Data API, version 2: **generated** rows of the ledger, in Polymarket's shapes."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ._answers import (
    Api,
    Refused,
    answer,
    iso,
    page_cursor,
    page_of,
    read_cursor,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._ledger import Holding, Row

TYPES = frozenset(
    [
        *("TRADE", "SPLIT", "MERGE", "REDEEM", "REWARD", "CONVERSION", "MIGRATION"),
        *("DEPOSIT", "WITHDRAWAL", "YIELD", "MAKER_REBATE", "TAKER_REBATE"),
        *("REFERRAL_REWARD", "TIP"),
    ]
)
_STATUSES = ("OPEN", "REDEEMABLE", "REDEEMABLE_LOST", "MERGEABLE", "CLOSED")
_MOST = 1_000
_DAY = 86_400
_PERIODS = {"day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY, "all": inf}


class DataApi(Api):
    """Answers of the Data API at a moment."""

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
        user = query.get("user", "").lower()
        conditions = _several(request, "condition_id", 20)
        # Only what takers did, unless it is asked for all: makers' fills are absent.
        takers_only = query.get("taker_only", "true") != "false"
        in_cash = query.get("filter_type") == "CASH"
        least = _amount(query.get("filter_amount", "0.01"))
        rows = [
            row
            for row in self._listed()
            if row.type == "TRADE"
            and (not user or row.wallet == user)
            and (not conditions or row.market_id in conditions)
            and (row.taker or not takers_only)
            and (row.amount if in_cash else row.size) >= least
        ]
        if user or conditions:  # on the bare feed start and end say nothing
            rows = self._between(request, rows)
        return self._page(request, rows, self._trade_row)

    async def _activity(self, request: web.Request) -> web.Response:
        user = _user(request)
        types = _several(request, "type", len(TYPES))
        if unknown := types - TYPES:
            raise Refused(400, f"unknown type {min(unknown)[:40]}")
        rows = [
            row
            for row in self._listed()
            if row.wallet == user and (not types or row.type in types)
        ]
        return self._page(request, self._between(request, rows), self._activity_row)

    def _listed(self) -> list[Row]:
        """Return the rows that are listed by now: the API is late."""
        until = self._now() - self._faults.late
        return [row for row in self._exchange.ledger.rows if row.at <= until]

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
    ) -> web.Response:
        given, limit, bound = _asked(request)
        after = read_cursor(given, bound)
        # A cursor stands behind a row: what is listed meanwhile moves no page.
        if request.query.get("sort_direction") == "ASC":
            rows = [row for row in rows if row.number > after]
        else:
            rows = [row for row in reversed(rows) if not after or row.number < after]
        page, more = rows[:limit], len(rows) > limit
        cursor = page_cursor(page[-1].number, bound) if more else None
        faults = self._faults
        if faults.same_cursor and cursor:
            cursor = given or cursor
        if faults.partial:
            page = page[::2]
        if faults.backwards:
            page = page[::-1]
        if faults.twice:
            page = [row for row in page for _ in range(2)]
        return _listing([shape(row) for row in page], limit, cursor)

    def _outcome(self, of: Row | Holding) -> dict[str, Any]:
        """Return whose something is, and of which outcome of which market."""
        market = self._exchange.markets[of.market_id]
        return {
            "proxy_wallet": of.wallet,
            "token_id": of.token,
            "condition_id": of.market_id,
            "title": market.question,
            "slug": market.slug,
            "event_slug": market.slug,
            "outcome": market.outcomes[of.outcome],
            "outcome_index": of.outcome,
        }

    def _trade_row(self, row: Row) -> dict[str, Any]:
        wallet = self._exchange.ledger.wallets[row.wallet]
        rewritten = self._faults.rewritten and row.at > self._now() - 60
        return self._outcome(row) | {
            "side": row.side,
            "size": row.size,
            "price": row.price,
            "timestamp": row.at + (self._now() % 7 if rewritten else 0),
            "transaction_hash": row.transaction,
            "name": wallet.name,
            "pseudonym": wallet.pseudonym,
        }

    def _activity_row(self, row: Row) -> dict[str, Any]:
        body = self._trade_row(row)
        body |= {"type": row.type, "usdc_size": row.amount}
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
            for each in self._exchange.ledger.of(_user(request))
            if self._status(each) == status
        ]
        held.sort(key=lambda each: (-self._worth(each), each.token, each.wallet))
        given, limit, bound = _asked(request)
        _, page, cursor = page_of(held, given, limit, bound)
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
        price, left = self._price(held), held.size * held.average
        unrealized = held.size * price - left
        total = unrealized + held.realized
        percent = 100 / (held.cost or Decimal(1))
        return self._outcome(held) | {
            "current_size": held.size,
            "avg_price": held.average,
            "entry_cost_usdc": held.cost,
            "entry_fees_usdc": 0,
            "total_cost_usdc": held.cost,
            "current_price": price,
            "current_value": held.size * price,
            "total_size": held.bought,
            "realized_pnl": held.realized,
            "unrealized_pnl": unrealized,
            "total_pnl": total,
            "percent_pnl": round(total * percent, 6),
            "percent_realized_pnl": round(held.realized * percent, 6),
            # REDEEMABLE_LOST is a filter, and no status of a row.
            "status": self._status(held).removesuffix("_LOST"),
            "redeemable": self._status(held).startswith("REDEEMABLE"),
            "mergeable": False,
            "negative_risk": False,
            "archived": False,
            "verified": False,
            "end_date": iso(self._exchange.markets[held.market_id].end_ts)[:10],
        }

    async def _value(self, request: web.Request) -> web.Response:
        user = _user(request)
        value = sum(map(self._worth, self._exchange.ledger.of(user)), Decimal(0))
        return answer({"data": {"proxy_wallet": user, "value": value}})

    async def _stats(self, request: web.Request) -> web.Response:
        user = _user(request)
        held = self._exchange.ledger.of(user)
        if not held:
            return answer({"data": None})
        stats = {
            "proxy_wallet": user,
            "trades": len({each.market_id for each in held}),
            "biggest_win": max(each.realized for each in held),
            "views": 0,
            "join_date": min(each.first for each in held),
        }
        return answer({"data": stats})

    async def _pnl(self, request: web.Request) -> web.Response:
        user = _user(request)
        interval = request.query.get("interval", "max")
        fidelity = request.query.get("fidelity", "1d")
        if interval not in {"max", "all", "1m", "1w", "1d", "12h", "6h"}:
            raise Refused(400, "interval is unknown")
        held = self._exchange.ledger.of(user)
        rows = [row for row in self._listed() if row.wallet == user]
        realized = sum((each.realized for each in held), Decimal(0))
        point = {
            "timestamp": self._now(),
            "source_block": 0,
            "trade_count": sum(row.type == "TRADE" for row in rows),
            "realized_market_pnl": realized,
            "realized_lp_pnl": 0,
            "realized_combo_pnl": 0,
            "realized_pnl": realized,
            "unrealized_pnl": self._profit(held) - realized,
            "volume": sum((row.size for row in rows), Decimal(0)),
            "volume_usdc": sum((row.amount for row in rows), Decimal(0)),
        }
        series = {
            "proxy_wallet": user,
            "interval": interval,
            "fidelity": fidelity,
            "source_fidelity": fidelity,
            "points": [point] if rows else [],
        }
        return answer({"data": series})

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
        since = self._now() - _PERIODS[period]
        rows: list[dict[str, Any]] = []
        ledger = self._exchange.ledger
        for wallet in ledger.wallets.values():
            held = [each for each in ledger.of(wallet.address) if each.last >= since]
            rows.append(
                {
                    "user_id": wallet.address,
                    "pnl": self._profit(held),
                    "volume": sum((each.bought for each in held), Decimal(0)),
                    "user_name": wallet.name,
                    "verified": False,
                }
            )
        rows.sort(key=lambda row: (-row[by.lower()], row["user_id"]))
        given, limit, bound = _asked(request)
        begin, page, cursor = page_of(rows, given, limit, bound)
        ranked = [
            {"rank": begin + place, **row} for place, row in enumerate(page, start=1)
        ]
        return _listing(ranked, limit, cursor)

    async def _resolutions(self, request: web.Request) -> web.Response:
        conditions = _several(request, "condition_id", 20)
        if not conditions:
            raise Refused(400, "one of question_id, condition_id, event_id is required")
        known = sorted(conditions & self._exchange.markets.keys())
        return answer({"data": [self._exchange.resolution(each) for each in known]})


def _listing(
    rows: list[dict[str, Any]], limit: int, cursor: str | None
) -> web.Response:
    pagination = {
        "limit": limit,
        "has_more": cursor is not None,
        "next_cursor": cursor,
    }
    return answer({"data": rows, "pagination": pagination})


def _asked(request: web.Request) -> tuple[str, int, str]:
    """Return the cursor of a request, its limit, and what its cursors are bound to."""
    limit = max(1, min(whole(request, "limit", 100), _MOST))
    filters = {**request.query, "limit": limit}
    cursor = filters.pop("cursor", "")
    text = f"{request.path} {sorted(filters.items())}"
    return str(cursor), limit, hashlib.sha256(text.encode()).hexdigest()[:16]


def _user(request: web.Request) -> str:
    user = request.query.get("user", "").lower()
    if len(user) != 42 or not user.startswith("0x"):
        raise Refused(400, "user must be an address")
    return user


def _several(request: web.Request, name: str, most: int) -> set[str]:
    values = {each for each in request.query.get(name, "").split(",") if each}
    if len(values) > most:
        raise Refused(400, f"at most {most} values")
    return values


def _amount(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise Refused(400, "filter_amount must be a number")
    return value
