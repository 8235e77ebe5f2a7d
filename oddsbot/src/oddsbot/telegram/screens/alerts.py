"""Alerts that a person asked for: all of them, a new one, one that is gone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, MoveRule, Unit
from oddsbot.delivery import Action, Button
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import CANCEL, MY_ALERTS, pages, press
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from oddsbot.alerts import Rule
    from oddsbot.delivery import Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket

_IN_A_PAGE = 10
_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class Group:
    """A person's alerts of one market.

    Attributes:
        market: None: Polymarket does not have it any more.
        rules: The alerts.
        prices: The top of each book, by token.
    """

    market: GammaMarket | None
    rules: Sequence[Rule]
    prices: Mapping[str, Price]


def alerts_card(groups: Sequence[Group], page: int = 0) -> Card:
    """Return a page of a person's alerts, by market, each with how far it is."""
    lines = [(group, rule) for group in groups for rule in group.rules]
    if not lines:
        return (
            Text()
            .line("No alerts yet.", "bold")
            .line("Send a market's link and press a price under it. More: /help")
            .card([[press("Find a market", Action.FIND)]])
        )
    whole = ceil(len(lines) / _IN_A_PAGE)
    page = min(page, whole - 1)
    first = page * _IN_A_PAGE
    text = Text().add(f"{len(lines)} alert{'s' if len(lines) > 1 else ''}", "bold")
    paused = sum(rule.paused for _, rule in lines)
    text.line(f" · {paused} paused" if paused else "", "bold")
    last = None
    buttons: list[Button] = []
    shown = lines[first : first + _IN_A_PAGE]
    for number, (group, rule) in enumerate(shown, start=first + 1):
        if group is not last:
            text.foreign(_question(group.market, rule)).line()
            last = group
        text.line(f" {number}  {described(rule, group.market, group.prices)}")
        buttons.append(press(str(number), Action.RULE, int(rule.id, 16)))
    rows = [buttons[at : at + _IN_A_ROW] for at in range(0, len(buttons), _IN_A_ROW)]
    all_of_them = [press("Pause all", Action.PAUSE_ALL)]
    if paused:
        all_of_them = [press("Resume all", Action.RESUME_ALL)]
    return text.card([*rows, all_of_them, pages(Action.ALERTS, 0, page, whole)])


def rule_card(
    rule: Rule, market: GammaMarket | None, prices: Mapping[str, Price]
) -> Card:
    """Return one alert with what can be done about it."""
    return (
        Text()
        .line(described(rule, market, prices), "bold")
        .foreign(_question(market, rule))
        .card([_rule_row(rule, market, "Stop"), [_pause_button(rule), MY_ALERTS]])
    )


def set_card(rule: Rule, market: GammaMarket, prices: Mapping[str, Price]) -> Card:
    """Return what a new alert means, and how to take it back."""
    text = Text().add("✓ I tell you when ").add(meaning(rule, market), "bold").line()
    text.foreign(market.question).line().line(described(rule, market, prices))
    if not isinstance(rule, MoveRule) and _is_there(rule, prices):
        back = (
            rule.level - rule.hysteresis
            if rule.direction is Direction.ABOVE
            else rule.level + rule.hysteresis
        )
        text.line(
            f"It is there already: you hear of it when it comes back, after "
            f"{figures.cents(back)}."
        )
    return text.card([_rule_row(rule, market, "Undo"), [MY_ALERTS]])


def level_card() -> Card:
    """Return the question for a price."""
    return (
        Text()
        .line("Which price? Write it like 65, no < 40, 5c or 5%.")
        .card([[CANCEL]])
    )


def removed_card(*, was_there: bool) -> Card:
    """Return the answer to stopping an alert."""
    text = (
        "Stopped: that alert is gone." if was_there else "That alert was gone already."
    )
    return Text().line(text).card([[MY_ALERTS]])


def _rule_row(rule: Rule, market: GammaMarket | None, stop: str) -> list[Button]:
    number = int(rule.id, 16)
    row = [
        press(stop, Action.STOP_RULE, number, style="danger"),
        press("Change", Action.CHANGE_RULE, number),
    ]
    return [
        *row,
        *([] if market is None else [press("Market", Action.MARKET, market.id)]),
    ]


def _pause_button(rule: Rule) -> Button:
    number = int(rule.id, 16)
    if rule.paused:
        return press("Resume", Action.RESUME_RULE, number)
    return press("Pause", Action.PAUSE_RULE, number)


def _question(market: GammaMarket | None, rule: Rule) -> str:
    return rule.market if market is None else market.question


def meaning(rule: Rule, market: GammaMarket | None) -> str:
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
    text = _named(rule, market)
    if rule.paused:
        return f"{text}  paused"
    if isinstance(rule, MoveRule):
        return text
    left = _left(rule.direction, rule.level, prices.get(rule.asset_id))
    if left is None:
        return text
    return f"{text}  {figures.cents(left)} to go" if left > 0 else f"{text}  there now"


def _named(rule: Rule, market: GammaMarket | None) -> str:
    name = _outcome(rule, market)
    if isinstance(rule, MoveRule):
        return f"{name} ±{_size(rule)}"
    sign = "≥" if rule.direction is Direction.ABOVE else "≤"
    return f"{name} {sign} {figures.cents(rule.level)}"


def _is_there(rule: Rule, prices: Mapping[str, Price]) -> bool:
    if isinstance(rule, MoveRule):
        return False
    left = _left(rule.direction, rule.level, prices.get(rule.asset_id))
    return left is not None and left <= 0


def _left(direction: Direction, level: Decimal, price: Price | None) -> Decimal | None:
    if price is None:
        return None
    if direction is Direction.ABOVE:
        return None if price.bid is None else level - price.bid
    return None if price.ask is None else price.ask - level


def _size(rule: MoveRule) -> str:
    return f"{figures.short(rule.by)}{'¢' if rule.unit is Unit.CENTS else '%'}"


def _outcome(rule: Rule, market: GammaMarket | None) -> str:
    for token in () if market is None else market.tokens:
        if token.token_id == rule.asset_id:
            return quiet(token.outcome, 60)
    return "An outcome"
