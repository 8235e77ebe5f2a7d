"""The page of the stand-in: what it has, what is recorded, which switches are on."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
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
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color-scheme: light dark }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent) }
td { overflow-wrap: anywhere }
"""


def page(exchange: Exchange, faults: Faults, calls: Counter[str], position: int) -> str:
    """Return the page; every text is escaped."""
    at = datetime.fromtimestamp(position / 1000, UTC)
    markets = []
    for market in exchange.markets.values():
        prices = [exchange.price(market.market_id, each) for each in (0, 1)]
        state = "resolved" if market.market_id in exchange.resolved else "open"
        markets.append((market.question, *map(_derive.number, prices), state))
    switches = msgspec.to_builtins(faults).items()
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A local Polymarket</title><style>{_STYLE}</style>"
        "<h1>A local Polymarket</h1>"
        f"<p>It is {at:%Y-%m-%d %H:%M:%S} UTC, simulated. "
        f"{len(exchange.ledger.rows)} generated rows so far.</p>"
        + _table("Markets", ("Question", "First", "Second", "State"), markets)
        + _table("Routes", ("Path", "Where it comes from"), ROUTES.items())
        + _table("Switches", ("Name", "Value"), switches)
        + _table("Asked", ("Path", "Times"), calls.most_common(40))
    )


def _table(
    title: str, heads: tuple[str, ...], rows: Iterable[tuple[object, ...]]
) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(each))}</td>' for each in row)}</tr>"
        for row in rows
    )
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"
