"""A market with its prices, and what of it a person is told."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction
from oddsbot.delivery import Action, Button, Press
from oddsbot.telegram import figures
from oddsbot.telegram.screens.alerts import described
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from oddsbot.alerts import Rule
    from oddsbot.delivery import Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket, Token

_FIVE = Decimal(5)
_TENTHS = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketView:
    """What is known of a market, and of a person in it.

    Attributes:
        market: As Gamma describes it.
        prices: The top of each book, by token.
        rules: The person's, of this market.
        now: An aware time.
    """

    market: GammaMarket
    prices: Mapping[str, Price]
    rules: Sequence[Rule] = ()
    now: datetime


def market_card(view: MarketView) -> Card:
    """Return a market's card."""
    market = view.market
    text = Text().foreign(market.question, "bold").line()
    if market.resolved:
        winner = market.winner
        text.add("✔ Resolved: ").foreign(winner or "no single outcome", "bold").line()
    for token in market.tokens:
        _outcome(text, token, view.prices.get(token.token_id))
    _facts(text, market)
    _ends(text, market, view.now)
    for rule in view.rules:
        text.add("You: ").line(described(rule, market, view.prices))
    rows = [] if market.resolved else [_presets(market, view.prices)]
    rows.append(
        [
            Button(text="↻", data=_press(Action.MARKET, market)),
            Button(text="Open", url=f"https://polymarket.com/market/{market.slug}"),
        ]
    )
    return text.card(rows)


def _press(action: Action, market: GammaMarket, argument: int = 0) -> str:
    return Press(action, int(market.id), argument).data


def _outcome(text: Text, token: Token, price: Price | None) -> None:
    text.foreign(token.outcome, limit=60)
    if price is None:
        text.line("  no book")
        return
    middle = price.middle
    if middle is not None:
        text.add(" ").add(figures.cents(middle), "bold")
    bid = "no bids" if price.bid is None else f"{figures.cents(price.bid)} bid"
    ask = "no asks" if price.ask is None else f"{figures.cents(price.ask)} ask"
    text.line(f"  {bid} · {ask}")


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
    if facts:
        text.line(" · ".join(facts))


def _ends(text: Text, market: GammaMarket, now: datetime) -> None:
    at = figures.moment(market.end_date)
    if at is None:
        return
    seconds = (at - now).total_seconds()
    text.add("Ended " if market.closed else "Ends ")
    text.moment(int(at.timestamp()), figures.day(at))
    if not market.closed:
        left = f"in {figures.distance(seconds)}" if seconds > 0 else "not decided yet"
        text.add(f" ({left})")
    text.line()


def _presets(market: GammaMarket, prices: Mapping[str, Price]) -> list[Button]:
    """Return a level above and one below: the next round fives beyond the quote."""
    buttons: list[Button] = []
    if not market.tokens:
        return buttons
    token = market.tokens[0]
    price = prices.get(token.token_id)
    name = token.outcome[:20]
    if price is not None and price.ask is not None:
        above = (price.ask * 100 // _FIVE + 1) * _FIVE
        if above < 100:
            data = _press(Action.SET_ABOVE, market, level_argument(0, above / 100))
            buttons.append(
                Button(text=f"{name} ≥ {above}¢", data=data, style="success")
            )
    if price is not None and price.bid is not None:
        below = -(-price.bid * 100 // _FIVE + 1) * _FIVE
        if below > 0:
            data = _press(Action.SET_BELOW, market, level_argument(0, below / 100))
            buttons.append(Button(text=f"{name} ≤ {below}¢", data=data, style="danger"))
    buttons.append(Button(text="Other…", data=_press(Action.SET_OTHER, market)))
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
