"""The page of the stand-in: what it has, what is recorded, which switches are on."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from string import Template
from typing import TYPE_CHECKING

import msgspec

from oddsbot.standin._http import page_headers

from . import _derive

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from ._exchange import Exchange
    from .faults import Faults

HEADERS = page_headers("style-src 'unsafe-inline'", "no-referrer")
ROUTES = {
    "/markets/keyset, /markets/{id}, /markets/slug/{slug}": (
        "recorded; volume and liquidity generated"
    ),
    "/events/keyset, /events/{id}, /events/slug/{slug}": "generated, one a market",
    "/tags/slug/{slug}, /public-search, /public-profile": "generated",
    "/book, POST /books, /price, /midpoint, /prices-history": "recorded",
    "/clob-markets/{condition}": "recorded; sizes and fees are constants",
    "/v2/trades, /v2/activity, /v2/positions, /v2/value": "generated, one ledger",
    "/v2/user-stats, /v2/user-pnl, /v2/leaderboard": "generated, one ledger",
    "/v2/resolutions": "recorded payouts; proposals by switch",
    "/ws/market": "recorded books; trades generated; the rest derived",
    "/ws/live": "generated, one ledger",
}
"""Which data is recorded, derived from it, or generated."""


def page(
    skeleton: str,
    exchange: Exchange,
    faults: Faults,
    calls: Counter[str],
    position: int,
) -> str:
    """Return the page, made from ``page.html``; every text is escaped."""
    markets = []
    for market in exchange.markets.values():
        prices = [exchange.price(market.market_id, each) for each in (0, 1)]
        state = "resolved" if market.market_id in exchange.resolved else "open"
        markets.append((market.question, *map(_derive.number, prices), state))
    return Template(skeleton).substitute(
        now=f"{datetime.fromtimestamp(position / 1000, UTC):%Y-%m-%d %H:%M:%S}",
        rows=len(exchange.ledger.rows),
        markets=_rows(markets),
        routes=_rows(ROUTES.items()),
        switches=_rows(msgspec.to_builtins(faults).items()),
        asked=_rows(calls.most_common(40)),
    )


def _rows(rows: Iterable[tuple[object, ...]]) -> str:
    return "".join(
        f"<tr>{''.join(f'<td>{escape(str(each))}</td>' for each in row)}</tr>"
        for row in rows
    )
