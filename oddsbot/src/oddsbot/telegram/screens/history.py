"""What became of a person's alerts, and why a market gave none."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

from oddsbot.delivery import Action
from oddsbot.telegram import figures
from oddsbot.telegram.screens.alerts import FATES, add_fates, describe, quotes
from oddsbot.telegram.screens.buttons import MY_ALERTS, pages, press
from oddsbot.telegram.screens.fired import headline
from oddsbot.telegram.screens.person import held_up
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oddsbot.delivery import Card
    from oddsbot.polymarket import GammaMarket
    from oddsbot.store import AlertRow, Fate, UserSession
    from oddsbot.telegram.figures import Odds
    from oddsbot.telegram.screens.alerts import Group

HISTORY_PAGE = 10
"""Alerts of a page of the history."""

_MY_HISTORY = press("History", Action.HISTORY)


def history_card(
    rows: Sequence[AlertRow],
    markets: Mapping[str, GammaMarket],
    fates: Mapping[Fate | None, int],
    page: int = 0,
    odds: Odds = "cents",
) -> Card:
    """Return a page of what was due in 30 days, the newest first, each with its fate.

    Args:
        rows: Of this page.
        markets: By condition id; one that is not known is named by it.
        fates: How many of all 30 days have which fate.
        page: From 0.
        odds: How prices are shown.
    """
    count = sum(fates.values())
    if not count:
        text = Text().line("Nothing in 30 days.", "bold")
        text.line("What I have for you, and what becomes of it, is kept that long.")
        return text.card([[MY_ALERTS]])
    text = Text().line(f"{count:,} in 30 days", "bold")
    add_fates(text, fates)
    last = None
    for row in rows:
        market = markets.get(row.market)
        if row.market != last:
            last = row.market
            text.line().foreign(last if market is None else market.question).line()
        _moment(text, row.due_at)
        text.add("  ")
        try:
            headline(text, row.alert(), market, odds)
        except ValueError:
            text.add("damaged: I cannot read it any more")
        text.line(f"  {FATES[row.fate]}")
    turn = pages(Action.HISTORY, 0, page, ceil(count / HISTORY_PAGE))
    return text.card([turn, [MY_ALERTS]])


def _moment(text: Text, milliseconds: int) -> None:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    text.moment(milliseconds // 1000, figures.day(at))


def why_nothing_card(
    group: Group,
    fates: Mapping[Fate | None, int],
    session: UserSession,
    now: float,
) -> Card:
    """Return why a market gave nothing, or what it gave.

    Args:
        group: The market, the person's alerts of it, and its prices.
        fates: How many of its alerts of 30 days have which fate.
        session: The person's.
        now: Unix seconds.
    """
    market, odds = group.market, session.display.odds
    assert market is not None  # noqa: S101 - it was asked about
    text = Text().foreign(market.question, "bold").line(quotes(group, odds))
    for each in group.rules:
        text.add(" ")
        describe(text, each, market, group.prices, odds)
    watched = market.condition_id in session.markets
    if watched:
        text.line(" its result")
    if not (group.rules or watched):
        text.line("You have no alert of it and do not watch it: I say nothing of it.")
    for why in held_up(session, now):
        text.line(why)
    text.line().line("In 30 days:" if fates else "Nothing was due in 30 days.")
    add_fates(text, fates)
    return text.card(
        [[press("Market", Action.MARKET, market.id), _MY_HISTORY, MY_ALERTS]]
    )
