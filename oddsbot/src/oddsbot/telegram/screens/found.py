"""Lists of events, markets and people; and an event of many outcomes."""

from __future__ import annotations

from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING

from oddsbot.delivery import Action, Button
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import numbered, pages, press, site, text_number
from oddsbot.telegram.screens.errors import NO_MARKET, NO_TAG
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from oddsbot.delivery import Card
    from oddsbot.polymarket import GammaEvent, GammaMarket, Profile, SearchPage
    from oddsbot.telegram.figures import Odds

IN_A_PAGE = 5
_OUTCOMES_IN_A_PAGE = 8
_NAME = 60
_NEAREST = 3
CLOSED = 1 << 16
"""Added to the page in a press, when closed events count too."""


def search_card(
    words: str, found: SearchPage, page: int, odds: Odds = "cents", *, closed: bool
) -> Card:
    """Return a page of what some words fit.

    Args:
        words: Of the person.
        found: What there is.
        page: From 0.
        odds: How prices are shown.
        closed: Whether closed events are among them.
    """
    flag = CLOSED if closed else 0
    text = Text().foreign(f"“{words}”", "bold", limit=100)
    include = press("Include closed", Action.FOUND, text_number(words), CLOSED)
    if not found.events and not found.profiles:
        text.line("  nothing")
        text.line(
            "Fewer or other words may help; /top has the most traded markets, /help "
            "what I can do."
        )
        return text.card([[] if closed else [include]])
    count = max(found.total, len(found.events))
    text.line(f"  {figures.count(count, 'event')}")
    row = _events(text, found.events, odds)
    _profiles(text, found.profiles)
    whole = ceil(count / IN_A_PAGE) if found.more or page else 1
    turn = [
        press(name, Action.FOUND, text_number(words), other + flag)
        for name, other, there in (
            ("‹", page - 1, page > 0),
            (f"{page + 1}/{max(whole, page + 1)}", page, found.more or page > 0),
            ("›", page + 1, found.more),
        )
        if there
    ]
    return text.card([row, turn, [] if closed else [include]])


def list_card(
    title: str,
    events: Sequence[GammaEvent],
    turn: Action,
    page: int = 0,
    odds: Odds = "cents",
    *,
    tag: str = "",
    followed: bool = False,
) -> Card:
    """Return a page of a list of events.

    Args:
        title: Ours.
        events: In their order.
        turn: What its buttons to other pages ask for.
        page: From 0; one that is not there is the last one.
        odds: How prices are shown.
        tag: Whose new events she can be told of; empty: none.
        followed: Whether she is.
    """
    text = Text().line(title, "bold")
    if not events:
        return text.line(NO_TAG).card()
    whole = ceil(len(events) / IN_A_PAGE)
    page = min(page, whole - 1)
    first = page * IN_A_PAGE
    shown = events[first : first + IN_A_PAGE]
    row = _events(text, shown, odds, first)
    follow: list[Button] = []
    if tag:
        follow = [
            press("No more of these", Action.TAG_OFF, text_number(tag), page)
            if followed
            else press("Tell me of new ones", Action.TAG_ON, text_number(tag), page)
        ]
    return text.card([row, pages(turn, text_number(title), page, whole), follow])


def nearest_card(events: Sequence[GammaEvent], odds: Odds = "cents") -> Card:
    """Return what may have been meant by the link of a market that is not there.

    Args:
        events: The nearest ones, three at most.
        odds: How prices are shown.
    """
    text = Text().line(NO_MARKET).line().line("Near to it:", "bold")
    return text.card([_events(text, events[:_NEAREST], odds)])


def _events(
    text: Text, events: Sequence[GammaEvent], odds: Odds, first: int = 0
) -> list[Button]:
    """Add a line for each event; return a button for each."""
    for number, event in enumerate(events, start=first + 1):
        text.add(f"{number}  ").foreign(event.title or event.slug)
        open_ones = [market for market in event.markets if not market.closed]
        if len(event.markets) > 1:
            text.add(f"  ({len(event.markets)})")
        elif open_ones and (price := _price(open_ones[0])) is not None:
            text.add(f"  {figures.price(price, odds)}")
        if event.volume is not None:
            text.add(f"  {figures.money(event.volume)}")
        text.line("  closed" if event.closed else "")
    return numbered(Action.EVENT, [event.id for event in events], first)


def _profiles(text: Text, profiles: Sequence[Profile]) -> None:
    for profile in profiles[:3]:
        name = profile.name or profile.pseudonym or profile.proxy_wallet
        text.add("Person: ").foreign(name, limit=_NAME).add("  ")
        text.foreign(profile.proxy_wallet, "code", limit=42).line()


def event_card(
    event: GammaEvent, page: int, now: datetime, odds: Odds = "cents"
) -> Card:
    """Return an event of several markets, the likeliest first.

    Args:
        event: With its markets.
        page: From 0; one that is not there is the last one.
        now: An aware time.
        odds: How prices are shown.
    """
    markets = sorted(event.markets, key=_likely)
    whole = max(1, ceil(len(markets) / _OUTCOMES_IN_A_PAGE))
    page = min(page, whole - 1)
    first = page * _OUTCOMES_IN_A_PAGE
    shown = markets[first : first + _OUTCOMES_IN_A_PAGE]
    text = Text().foreign(event.title or event.slug, "bold").line()
    facts = [f"{len(markets)} choices"]
    if event.volume is not None:
        facts.append(f"{figures.money(event.volume)} traded")
    at = figures.moment(event.end_date)
    text.add(" · ".join(facts))
    if at is not None:
        over = " · ended " if at <= now else " · closed, was to end "
        text.add(over if event.closed else " · ends ").moment(
            int(at.timestamp()), figures.day(at, now)
        )
    text.line()
    if event.skipped:
        text.line(f"{event.skipped} more that I cannot read", "italic")
    for number, market in enumerate(shown, start=1):
        text.add(f"{first + number}  ")
        text.foreign(market.group_item_title or market.question, limit=_NAME)
        if market.resolved:
            text.add("  ✔ ").foreign(market.winner or "no single outcome", limit=_NAME)
            text.line()
        elif market.closed:
            text.line("  closed")
        else:
            text.add("  ").add(figures.price(_price(market), odds), "bold")
            text.line(_change(market))
    row = [
        press(str(first + number), Action.MARKET, market.id)
        for number, market in enumerate(shown, start=1)
    ]
    half = _OUTCOMES_IN_A_PAGE // 2
    return text.card(
        [
            row[:half],
            row[half:],
            pages(Action.EVENT, event.id, page, whole),
            [
                press("Alert on any ±5¢", Action.ALERT_ALL, event.id),
                press("Watch all", Action.WATCH_ALL, event.id),
            ]
            if any(not market.closed for market in markets)
            else [],
            [Button(text="Open", url=site("event", event.slug))],
        ]
    )


def _change(market: GammaMarket) -> str:
    """Return what a price changed by in a day, in cents: ``▲2``."""
    change = market.one_day_price_change
    if change is None:
        return ""
    cents = round(change * 100)
    return f"  {'▲' if cents > 0 else '▼'}{abs(cents)}" if cents else "  –"


def _price(market: GammaMarket) -> Decimal | None:
    """Return about where the first outcome stands: Gamma's price, no quote."""
    return market.outcome_prices[0] if market.outcome_prices else None


def _likely(market: GammaMarket) -> tuple[bool, Decimal, str]:
    return market.closed, -(_price(market) or Decimal(0)), market.id
