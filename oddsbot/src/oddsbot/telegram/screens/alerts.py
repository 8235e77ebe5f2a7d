"""Alerts that a person asked for: all of them, a new one, one that is gone."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, MoveRule, PriceRule, Unit, VolumeRule
from oddsbot.delivery import Action, Button
from oddsbot.store import Fate
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import CANCEL, MY_ALERTS, pages, press
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oddsbot.alerts import QuoteRule, Rule
    from oddsbot.delivery import Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket
    from oddsbot.store import StoredRule
    from oddsbot.telegram.figures import Odds

IN_A_PAGE = 10
"""Alerts of a page."""
_IN_A_ROW = 5
_STEPS = (-50, -20, 20, 50)
_WHOLE = 1_000
# Cents or percent; hardly anybody waits for so large a move.
_LIKE_A_PRICE, _WHOLE_PRICE = 20, 100

FATES: dict[Fate | None, str] = {
    None: "on its way",
    Fate.SENT: "sent",
    Fate.COOLDOWN: "too soon after the last one",
    Fate.HELD: "sent with others as one message",
    Fate.MUTED: "not sent, you were muted",
    Fate.FILTERED: "not sent, your settings leave it out",
    Fate.EXPIRED: "too old to be sent",
    Fate.STOPPED: "not sent, you had stopped me",
    Fate.WITHDRAWN: "not sent, the alert was stopped or paused",
    Fate.FAILED: "Telegram did not take it",
}
"""What became of an alert, in words; None: it has no fate yet."""


@dataclass(frozen=True, slots=True)
class Group:
    """A person's alerts of one market.

    Attributes:
        market: None: Polymarket does not have it any more, or does not answer.
        rules: The alerts, each with where it stands.
        prices: The top of each book, by token.
    """

    market: GammaMarket | None
    rules: Sequence[StoredRule]
    prices: Mapping[str, Price]


def alerts_card(groups: Sequence[Group], page: int = 0, odds: Odds = "cents") -> Card:
    """Return a page of a person's alerts, by market, each with how far it is."""
    lines = [(group, each) for group in groups for each in group.rules]
    if not lines:
        return (
            Text()
            .line("No alerts yet.", "bold")
            .line("Send a market's link and press a price under it. More: /help")
            .card([[press("Find a market", Action.FIND)]])
        )
    whole = ceil(len(lines) / IN_A_PAGE)
    page = min(page, whole - 1)
    first = page * IN_A_PAGE
    text = Text().add(figures.count(len(lines), "alert"), "bold")
    paused = sum(each.rule.paused for _, each in lines)
    text.line(f" · {paused} paused" if paused else "", "bold")
    last = None
    buttons: list[Button] = []
    shown = lines[first : first + IN_A_PAGE]
    for number, (group, each) in enumerate(shown, start=first + 1):
        if group is not last:
            text.foreign(_question(group.market, each.rule))
            text.line(quotes(group, odds))
            last = group
        text.add(f" {number}  ")
        describe(text, each, group.market, group.prices, odds)
        buttons.append(press(str(number), Action.RULE, int(each.rule.id, 16)))
    rows = [buttons[at : at + _IN_A_ROW] for at in range(0, len(buttons), _IN_A_ROW)]
    all_of_them = [press("Pause all", Action.PAUSE_ALL)]
    if paused:
        all_of_them = [press("Resume all", Action.RESUME_ALL)]
    return text.card([*rows, all_of_them, pages(Action.ALERTS, 0, page, whole)])


def in_order(stored: StoredRule) -> tuple[int, str, Decimal]:
    """Return what alerts of a market are sorted by: an outcome's prices in a row."""
    match stored.rule:
        case PriceRule(asset_id=asset, level=level):
            return 0, asset, level
        case MoveRule(asset_id=asset, by=by):
            return 1, asset, by
        case VolumeRule(level=dollars):
            return 2, "", Decimal(dollars)


def quotes(group: Group, odds: Odds) -> str:
    """Return bid and ask of the outcomes that a group has alerts of."""
    shown = ""
    for token in () if group.market is None else group.market.tokens:
        price = group.prices.get(token.token_id)
        if price is not None:
            bid, ask = figures.price(price.bid, odds), figures.price(price.ask, odds)
            shown += f"  {quiet(token.outcome, 20)} {bid} / {ask}"
    return shown


def rule_card(
    stored: StoredRule,
    market: GammaMarket | None,
    prices: Mapping[str, Price],
    odds: Odds = "cents",
) -> Card:
    """Return one alert with what can be done about it."""
    rule = stored.rule
    text = Text()
    describe(text, stored, market, prices, odds, "bold")
    text.foreign(_question(market, rule))
    number = int(rule.id, 16)
    second = [_pause_button(rule), press("Why", Action.WHY, number), MY_ALERTS]
    return text.card([_rule_row(rule, market, "Stop"), second])


def set_card(
    rule: Rule,
    market: GammaMarket,
    prices: Mapping[str, Price],
    odds: Odds = "cents",
    held_up: Sequence[str] = (),
    *,
    changed: bool = False,
) -> Card:
    """Return what a new alert means, and how to take it back.

    Args:
        rule: The alert.
        market: Its market.
        prices: The top of each book, by token.
        odds: How prices are shown.
        held_up: Sentences: what keeps it from her now.
        changed: Whether it stands for an earlier one, which does not come back.
    """
    said = meaning(rule, market, odds)
    text = Text().add("✓ I tell you when ").add(said, "bold").line()
    text.foreign(market.question).line().add(_named(rule, market, odds))
    text.line(_distance(rule, prices))
    if isinstance(rule, PriceRule) and _is_there(rule, prices):
        text.line(
            f"It is there already: you hear of it when it comes back, after "
            f"{figures.level(back_on(rule), odds)}."
        )
    if (
        isinstance(rule, MoveRule)
        and not rule.within
        and _LIKE_A_PRICE <= rule.by < _WHOLE_PRICE
    ):
        at = figures.short(rule.by)
        text.line(
            f"If you mean the price of {at}¢: /alert {_outcome(rule, market)} {at}"
        )
    for why in held_up:
        text.line(why)
    stop = "Stop" if changed else "Undo"
    return text.card([_rule_row(rule, market, stop), [MY_ALERTS]])


def set_many_card(
    title: str, count: int, left_out: int, by: int, held_up: Sequence[str] = ()
) -> Card:
    """Return the answer to alerts on all outcomes of an event.

    Args:
        title: Of the event.
        count: How many alerts there are now.
        left_out: How many outcomes have none: it would be too many.
        by: Cents of the move.
        held_up: As of `set_card`.
    """
    any_of = figures.count(count, "outcome")
    text = Text().add("✓ I tell you when any of ").add(any_of, "bold")
    text.line(f" has gone {by}¢ from here, up or down.").foreign(title).line()
    if left_out:
        text.line(f"{left_out} more would be above the alerts that you may have.")
    for why in held_up:
        text.line(why)
    return text.card([[MY_ALERTS]])


def back_on(rule: PriceRule) -> Decimal:
    """Return the price after which a rule that has fired can fire again."""
    if rule.direction is Direction.ABOVE:
        return rule.level - rule.hysteresis
    return rule.level + rule.hysteresis


def level_card(*, volume: bool = False) -> Card:
    """Return the question for a price, or for a volume."""
    asked = "Which price? Write it like 65, no < 40, 5%, or 5c in 15m."
    if volume:
        asked = "How much? Write it like volume 2m, or 100k in 24h."
    return Text().line(asked).card([[CANCEL]])


def change_card(rule: Rule, market: GammaMarket | None, odds: Odds = "cents") -> Card:
    """Return the question for what an alert changes to, with prices around its own."""
    what = "how much" if isinstance(rule, VolumeRule) else "which price"
    text = Text().line(f"{_named(rule, market, odds)}: to {what}?")
    number = int(rule.id, 16)
    near: list[Button] = []
    if isinstance(rule, PriceRule):
        level = round(rule.level, 2) * _WHOLE
        near = [
            press(
                figures.level((level + step) / _WHOLE, odds),
                Action.CHANGE_TO,
                number,
                int(level + step),
            )
            for step in _STEPS
            if 0 < level + step < _WHOLE
        ]
    return text.card([near, [press("Other…", Action.CHANGE_OTHER, number), CANCEL]])


def removed_card(*, was_there: bool) -> Card:
    """Return the answer to stopping an alert."""
    text = (
        "Stopped: that alert is gone." if was_there else "That alert was gone already."
    )
    return Text().line(text).card([[MY_ALERTS]])


def why_card(
    stored: StoredRule,
    market: GammaMarket | None,
    prices: Mapping[str, Price],
    fates: Mapping[Fate | None, int],
    odds: Odds = "cents",
) -> Card:
    """Return why an alert fired or did not: the rule, its start, what became of it.

    Args:
        stored: The alert.
        market: Its market.
        prices: The top of each book, by token.
        fates: How many firings of the last 30 days had which fate; None: on its way.
        odds: How prices are shown.
    """
    rule, state = stored.rule, stored.state
    text = Text()
    describe(text, stored, market, prices, odds, "bold")
    text.foreign(_question(market, rule)).line()
    if isinstance(rule, VolumeRule):
        text.line("Polymarket is asked each minute how much was traded.")
    elif rule.base is not None:
        bid, ask = rule.base.bid, rule.base.ask
        text.line(
            f"You set it at {figures.price(bid, odds)} bid, "
            f"{figures.price(ask, odds)} ask."
        )
    if isinstance(rule, MoveRule) and rule.within is not None:
        text.line(
            f"The lowest bid and the highest ask of the last {_lasting(rule.within)} "
            "count. It fires once each way, and again after the move was below half."
        )
    elif isinstance(rule, MoveRule):
        text.line("Each firing measures the next one from its own price.")
    elif isinstance(rule, PriceRule):
        side = "bid" if rule.direction is Direction.ABOVE else "ask"
        text.line(
            f"The best {side} counts. It fires once, and again after it was back at "
            f"{figures.level(back_on(rule), odds)}."
        )
    text.line("It fired once." if state.n == 1 else f"It fired {state.n} times.")
    add_fates(text, fates)
    return text.card([_rule_row(rule, market, "Stop"), [MY_ALERTS]])


def add_fates(text: Text, fates: Mapping[Fate | None, int]) -> None:
    """Add a line for each fate, the most frequent first: ``3: sent``."""
    for fate, count in sorted(
        fates.items(), key=lambda each: (-each[1], FATES[each[0]])
    ):
        text.line(f"{count:,}: {FATES[fate]}")


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
    if market is not None:
        return market.question
    return f"A market that Polymarket does not name now, {rule.market}"


def meaning(rule: Rule, market: GammaMarket | None, odds: Odds = "cents") -> str:
    """Return what a rule waits for: ``Yes reaches 65¢``."""
    name = "" if isinstance(rule, VolumeRule) else _outcome(rule, market)
    if isinstance(rule, MoveRule):
        if rule.within is not None:
            time = _lasting(rule.within)
            return f"{name} goes {_size(rule)} within {time}, up or down"
        return f"{name} has gone {_size(rule)} from here, up or down"
    if isinstance(rule, VolumeRule):
        sum_ = figures.money(Decimal(rule.level))
        return f"{sum_} are traded in 24 h" if rule.daily else f"{sum_} are traded"
    way = "reaches" if rule.direction is Direction.ABOVE else "falls to"
    return f"{name} {way} {figures.level(rule.level, odds)}"


def describe(
    text: Text,
    stored: StoredRule,
    market: GammaMarket | None,
    prices: Mapping[str, Price],
    odds: Odds,
    kind: str = "",
) -> None:
    """Add a line: a rule and how far it is from firing, ``Yes ≥ 70¢  7¢ to go``."""
    rule, state = stored.rule, stored.state
    text.add(_named(rule, market, odds), kind)
    if rule.paused:
        text.line("  paused")
    elif isinstance(rule, MoveRule) and rule.within is not None:
        resting = [
            way
            for way, armed in (("rise", state.armed), ("fall", state.armed_fall))
            if armed is False
        ]
        text.line(f"  rests after a {' and a '.join(resting)}" if resting else "")
    elif isinstance(rule, MoveRule):
        reference = state.reference or rule.base
        side = None if reference is None else reference.bid or reference.ask
        text.line("" if side is None else f"  from {figures.price(side, odds)}")
    elif isinstance(rule, VolumeRule):
        now = _volume(rule, market)
        text.line("" if now is None else f"  {figures.money(now)} now")
    elif state.armed is False and state.n:
        text.add(f"  rests until {figures.level(back_on(rule), odds)}")
        at = figures.clock(state.fired_at)
        if state.fired_at is not None and at:
            text.add(" (fired ").moment(state.fired_at // 1000, at, "T").add(")")
        text.line()
    else:
        text.line(_distance(rule, prices))


def _distance(rule: Rule, prices: Mapping[str, Price]) -> str:
    if not isinstance(rule, PriceRule):
        return ""
    left = _left(rule.direction, rule.level, prices.get(rule.asset_id))
    if left is None:
        return ""
    return f"  {figures.cents(left)} to go" if left > 0 else "  there now"


def _named(rule: Rule, market: GammaMarket | None, odds: Odds) -> str:
    if isinstance(rule, VolumeRule):
        span = " in 24 h" if rule.daily else ""
        return f"Volume{span} ≥ {figures.money(Decimal(rule.level))}"
    name = _outcome(rule, market)
    if isinstance(rule, MoveRule):
        time = "" if rule.within is None else f" in {_lasting(rule.within)}"
        return f"{name} ±{_size(rule)}{time}"
    sign = "≥" if rule.direction is Direction.ABOVE else "≤"
    return f"{name} {sign} {figures.level(rule.level, odds)}"


def _is_there(rule: Rule, prices: Mapping[str, Price]) -> bool:
    if not isinstance(rule, PriceRule):
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


def _lasting(seconds: int) -> str:
    return figures.lasting(seconds // 60)


def _volume(rule: VolumeRule, market: GammaMarket | None) -> Decimal | None:
    if market is None:
        return None
    return market.volume24hr if rule.daily else market.volume


def _outcome(rule: QuoteRule, market: GammaMarket | None) -> str:
    for token in () if market is None else market.tokens:
        if token.token_id == rule.asset_id:
            return quiet(token.outcome, 60)
    return "An outcome"
