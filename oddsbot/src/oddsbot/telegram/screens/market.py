"""A market with its prices, and what of it a person is told."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction
from oddsbot.delivery import Action, Button
from oddsbot.telegram import figures
from oddsbot.telegram.screens.alerts import describe
from oddsbot.telegram.screens.buttons import open_button, press, share_buttons
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from oddsbot.delivery import Card
    from oddsbot.markets import Price, Span
    from oddsbot.polymarket import GammaMarket, Level, OrderBook, Token
    from oddsbot.store import StoredRule
    from oddsbot.telegram.figures import Odds

SPANS: tuple[Span, ...] = ("1d", "1w", "max")
"""Of a chart, by the argument of its press."""

_SPAN_NAMES = ("1d", "1w", "All")
_OUTCOMES = 8
_LEVELS = 8
_NAME = 60
_FIVE = Decimal(5)
_TENTHS = 1_000
_OLD = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketView:
    """What is known of a market, and of a person in it.

    Attributes:
        market: As Gamma describes it.
        prices: The top of each book, by token.
        rules: The person's alerts of this market.
        watched: Whether she is told its result.
        chart: A PNG; None: there is no history, or nothing to draw with.
        span: Which chart it is, an index of `SPANS`.
        now: An aware time.
        age: Seconds that the prices are old, where that is worth saying.
        odds: How prices are shown.
    """

    market: GammaMarket
    prices: Mapping[str, Price]
    rules: Sequence[StoredRule] = ()
    watched: bool = False
    chart: bytes | None = None
    span: int = 0
    now: datetime
    age: float = 0.0
    odds: Odds = "cents"


def market_card(view: MarketView) -> Card:
    """Return a market's card: a photo where there is a chart."""
    market = view.market
    text = Text()
    if view.age > _OLD:
        text.line(
            f"Polymarket does not answer; this is {figures.distance(view.age)} old.",
            "italic",
        )
    text.foreign(market.question, "bold").line()
    _result(text, market)
    open_ones = () if market.resolved else market.tokens[:_OUTCOMES]
    for index, token in enumerate(open_ones):
        change = market.one_day_price_change if index == 0 else None
        price = view.prices.get(token.token_id)
        _outcome(text, token, price, change, view.odds)
    _facts(text, market)
    _ends(text, market, view.now)
    for rule in view.rules:
        text.add("You: ")
        describe(text, rule, market, view.prices, view.odds)
    return text.card(_buttons(view), photo=view.chart)


def _buttons(view: MarketView) -> list[list[Button]]:
    market, span = view.market, view.span
    number = market.id
    watch = (
        press("Unwatch", Action.UNWATCH, number)
        if view.watched
        else press("Watch", Action.WATCH, number)
    )
    charts = [
        press(f"• {name}" if index == span else name, Action.MARKET, number, index)
        for index, name in enumerate(_SPAN_NAMES)
    ]
    rows = []
    if not (market.resolved or market.closed):
        rows = [
            presets(market, view.prices, view.odds),
            [watch, press("Book", Action.BOOK, number)],
        ]
    rows.append(charts if view.chart is not None else [])
    again = press("↻", Action.MARKET, number, span)
    rows.append([again, *share_buttons(market), open_button(market)])
    return rows


def price_card(view: MarketView) -> Card:
    """Return the prices alone, as text."""
    text = Text().foreign(view.market.question, "bold").line()
    _result(text, view.market)
    open_ones = () if view.market.resolved else view.market.tokens[:_OUTCOMES]
    for token in open_ones:
        _outcome(text, token, view.prices.get(token.token_id), None, view.odds)
    number = view.market.id
    return text.card(
        [[press("Market", Action.MARKET, number), press("Book", Action.BOOK, number)]]
    )


def book_card(
    market: GammaMarket, index: int, book: OrderBook | None, odds: Odds = "cents"
) -> Card:
    """Return the best levels of an outcome's book.

    Args:
        market: Whose.
        index: Of the outcome.
        book: None: there is none.
        odds: How prices are shown.
    """
    token = market.tokens[index]
    text = Text().foreign(market.question, "bold").line()
    text.foreign(token.outcome, limit=_NAME)
    if book is None or not (book.bids or book.asks):
        text.line(": nobody quotes a price.")
    else:
        text.line(": shares at each price, the best in the middle")
        asks = sorted(book.asks, key=lambda level: level.price)[:_LEVELS]
        bids = sorted(book.bids, key=lambda level: -level.price)[:_LEVELS]
        rows = [f"{_level(each, odds)}  ask" for each in reversed(asks)]
        rows += [f"{_level(each, odds)}  bid" for each in bids]
        text.line("\n".join(rows), "pre")
    others = [
        press(quiet(each.outcome, 20), Action.BOOK, market.id, at)
        for at, each in enumerate(market.tokens[:_OUTCOMES])
        if at != index
    ]
    return text.card(
        [
            others[:4],
            [press("↻", Action.BOOK, market.id, index), open_button(market)],
        ]
    )


def _level(level: Level, odds: Odds) -> str:
    return f"{figures.price(level.price, odds):>7} {level.size:>12,.0f}"


def _result(text: Text, market: GammaMarket) -> None:
    if market.resolved:
        text.add("✔ Resolved: ").foreign(market.winner or "no single outcome", "bold")
        text.line()


def _outcome(
    text: Text, token: Token, price: Price | None, change: Decimal | None, odds: Odds
) -> None:
    text.foreign(token.outcome, limit=_NAME)
    if price is None:
        text.line("  no book")
        return
    middle = price.middle
    if middle is not None:
        text.add(" ").add(figures.price(middle, odds), "bold")
    bid = "no bids" if price.bid is None else f"{figures.price(price.bid, odds)} bid"
    ask = "no asks" if price.ask is None else f"{figures.price(price.ask, odds)} ask"
    text.add(f"  {bid} · {ask}")
    if change:
        arrow = "▲" if change > 0 else "▼"
        text.add(f"  {arrow} {figures.cents(abs(change))} in 24 h")
    text.line()


def _facts(text: Text, market: GammaMarket) -> None:
    facts = [
        f"{figures.money(amount)} {what}"
        for amount, what in (
            (market.volume, "traded"),
            (market.volume24hr, "today"),
            (market.liquidity, "liquidity"),
        )
        if amount is not None
    ]
    if market.spread is not None and not market.closed:
        facts.append(f"spread {figures.cents(market.spread)}")
    if facts:
        text.line(" · ".join(facts))


def _ends(text: Text, market: GammaMarket, now: datetime) -> None:
    short = f"{market.condition_id[:5]}…{market.condition_id[-3:]}"
    closed_at = figures.moment(market.closed_time) if market.closed else None
    at = closed_at or figures.moment(market.end_date)
    if at is None:
        text.foreign(short, "code").line()
        return
    seconds = (at - now).total_seconds()
    over = "Ended " if closed_at or seconds <= 0 else "Was to end "
    text.add(over if market.closed else "Ends ")
    text.moment(int(at.timestamp()), figures.day(at, now))
    if not market.closed:
        left = f"in {figures.distance(seconds)}" if seconds > 0 else "not decided yet"
        text.add(f" ({left})")
    text.add(" · ").foreign(short, "code").line()


def presets(
    market: GammaMarket, prices: Mapping[str, Price], odds: Odds = "cents"
) -> list[Button]:
    """Return a level above and one below: the next round fives beyond the quote."""
    buttons: list[Button] = []
    if not market.tokens:
        return buttons
    token = market.tokens[0]
    price = prices.get(token.token_id)
    name = quiet(token.outcome, 16)
    if price is not None and price.ask is not None:
        above = (price.ask * 100 // _FIVE + 1) * _FIVE
        if above < 100:
            data = level_argument(0, above / 100)
            label = f"{name} ≥ {figures.level(above / 100, odds)}"
            buttons.append(
                press(label, Action.SET_ABOVE, market.id, data, style="success")
            )
    if price is not None and price.bid is not None:
        below = price.bid * 100 // _FIVE * _FIVE
        below -= _FIVE if below == price.bid * 100 else 0
        if below > 0:
            data = level_argument(0, below / 100)
            label = f"{name} ≤ {figures.level(below / 100, odds)}"
            buttons.append(
                press(label, Action.SET_BELOW, market.id, data, style="danger")
            )
    buttons.append(press("Other…", Action.SET_OTHER, market.id))
    return buttons


def level_argument(outcome: int, level: Decimal) -> int:
    """Return an outcome's index and a level in 0.1¢ as the argument of a press."""
    return outcome * _TENTHS + int(level * _TENTHS)


def level_of(argument: int) -> tuple[int, Decimal]:
    """Return the outcome's index and the level of `level_argument`."""
    outcome, tenths = divmod(argument, _TENTHS)
    return outcome, Decimal(tenths) / _TENTHS


def direction_of(action: Action) -> Direction:
    """Return the way that a preset means."""
    return Direction.ABOVE if action is Action.SET_ABOVE else Direction.BELOW
