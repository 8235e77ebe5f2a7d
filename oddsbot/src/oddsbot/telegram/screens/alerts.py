"""Alerts that a person asked for: all of them, a new one, one that is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, MoveRule, Unit
from oddsbot.delivery import Action, Button, Press
from oddsbot.telegram import figures
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from oddsbot.alerts import Rule
    from oddsbot.delivery import Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket

_SHOWN = 20
_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class Group:
    """A person's alerts of one market."""

    market: GammaMarket | None
    rules: Sequence[Rule]
    prices: Mapping[str, Price]


def alerts_card(groups: Sequence[Group]) -> Card:
    """Return all alerts of a person, by market."""
    count = sum(len(group.rules) for group in groups)
    if not count:
        return (
            Text()
            .line("No alerts yet.", "bold")
            .line("Send a market's link and press a price under it. More: /help")
            .card()
        )
    text = Text().line(f"{count} alert{'s' if count > 1 else ''}", "bold")
    stops: list[Button] = []
    for group in groups:
        if len(stops) == _SHOWN:
            break
        question = (
            group.rules[0].market if group.market is None else group.market.question
        )
        text.foreign(question).line()
        for rule in group.rules[: _SHOWN - len(stops)]:
            number = len(stops) + 1
            text.line(f" {number}  {described(rule, group.market, group.prices)}")
            stops.append(stop_button(rule, f"Stop {number}"))
    if count > len(stops):
        text.line(f"and {count - len(stops)} more")
    return text.card(
        stops[at : at + _IN_A_ROW] for at in range(0, len(stops), _IN_A_ROW)
    )


def set_card(rule: Rule, market: GammaMarket, prices: Mapping[str, Price]) -> Card:
    """Return what a new alert means, and how to take it back."""
    return (
        Text()
        .add("✓ I tell you when ")
        .add(meaning(rule, market), "bold")
        .line()
        .foreign(market.question)
        .line()
        .line(described(rule, market, prices))
        .card(
            [
                [
                    stop_button(rule, "Undo"),
                    Button(text="My alerts", data=Press(Action.ALERTS).data),
                ]
            ]
        )
    )


def removed_card(*, was_there: bool) -> Card:
    """Return the answer to stopping an alert."""
    text = (
        "Stopped: that alert is gone." if was_there else "That alert was gone already."
    )
    return (
        Text()
        .line(text)
        .card([[Button(text="My alerts", data=Press(Action.ALERTS).data)]])
    )


def stop_button(rule: Rule, text: str) -> Button:
    """Return the button that takes an alert back."""
    return Button(
        text=text, data=Press(Action.STOP_RULE, int(rule.id, 16)).data, style="danger"
    )


def meaning(rule: Rule, market: GammaMarket) -> str:
    """Return what a rule waits for: ``Yes reaches 65¢``."""
    name = _outcome(rule, market)
    if isinstance(rule, MoveRule):
        return f"{name} has gone {_size(rule)} from here, up or down"
    way = "reaches" if rule.direction is Direction.ABOVE else "falls to"
    return f"{name} {way} {figures.cents(rule.level)}"


def described(
    rule: Rule, market: GammaMarket | None, prices: Mapping[str, Price]
) -> str:
    """Return a rule and how far it is from firing: ``Yes ≥ 70¢  7¢ to go``."""
    name = _outcome(rule, market)
    if isinstance(rule, MoveRule):
        return f"{name} ±{_size(rule)}"
    sign = "≥" if rule.direction is Direction.ABOVE else "≤"
    text = f"{name} {sign} {figures.cents(rule.level)}"
    price = prices.get(rule.asset_id)
    left = None if price is None else _left(rule.direction, rule.level, price)
    return text if left is None else f"{text}  {left}"


def _left(direction: Direction, level: Decimal, price: Price) -> str | None:
    if direction is Direction.ABOVE:
        left = None if price.bid is None else level - price.bid
    else:
        left = None if price.ask is None else price.ask - level
    if left is None:
        return None
    return f"{figures.cents(left)} to go" if left > 0 else "there now"


def _size(rule: MoveRule) -> str:
    return f"{figures.short(rule.by)}{'¢' if rule.unit is Unit.CENTS else '%'}"


def _outcome(rule: Rule, market: GammaMarket | None) -> str:
    tokens = () if market is None else market.tokens
    for token in tokens:
        if token.token_id == rule.asset_id:
            return quiet(token.outcome, 60)
    return "An outcome"
