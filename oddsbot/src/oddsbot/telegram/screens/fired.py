"""An alert as the person gets it: what happened, and how it stands now."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

from oddsbot.alerts import (
    Direction,
    Disputed,
    MarketAlert,
    Moved,
    Opened,
    PriceCrossed,
    PriceRule,
    Proposed,
    Resolved,
    Unit,
    VolumeReached,
)
from oddsbot.delivery import Action, Button
from oddsbot.telegram import figures
from oddsbot.telegram.screens.alerts import back_on
from oddsbot.telegram.screens.buttons import (
    numbered,
    open_button,
    press,
    text_number,
)
from oddsbot.telegram.text import Text, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oddsbot.alerts import Alert, Rule, RuleAlert
    from oddsbot.delivery import Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket
    from oddsbot.telegram.figures import Odds

_LATE = 60.0
_LINES = 12
_EVENTS = 10
_CLOCKS_APART, _CLOCKS_FAR = -5.0, 86_400.0


_HEADS = {
    Proposed: "⏳ Proposed: ",
    Disputed: "⚠ Disputed, was proposed: ",
    Resolved: "✔ Resolved: ",
}


def fired_card(
    alert: Alert,
    market: GammaMarket | None,
    now: Price | None,
    *,
    rule: Rule | None = None,
    sent_at: float,
    odds: Odds = "cents",
) -> Card:
    """Return an alert's card.

    Args:
        alert: What happened.
        market: Where; None: it could not be asked for.
        now: The quote at this moment, None where there is none.
        rule: What she asked for; None: it is not there any more.
        sent_at: Seconds since 1970: this moment.
        odds: How prices are shown.
    """
    if isinstance(alert, Opened):
        return opened_card(alert)
    question = alert.market if market is None else market.question
    text = Text()
    headline(text, alert, market, odds)
    text.line().foreign(question)
    if isinstance(alert, MarketAlert):
        if isinstance(alert, Proposed) and alert.final_at is not None:
            text.line().add("Final at ")
            at = figures.clock(alert.final_at * 1000) or "an unknown time"
            text.moment(alert.final_at, at, "T").add(", unless it is disputed")
        elif isinstance(alert, Disputed):
            text.line().add("A vote follows, or another proposal: 4 to 6 days")
        return text.card([_market_buttons(market)])
    number = int(alert.rule_id, 16)
    if isinstance(alert, VolumeReached):
        text.line().add(f"{figures.money(alert.volume)} now")
        stop = press("Stop", Action.STOP_RULE, number, style="danger")
        # Without a day the rule has ended.
        mine = [press("Mute 1 h", Action.MUTE, 0, 60), *([stop] if alert.daily else [])]
        return text.card([mine, _market_buttons(market)])
    above = alert.direction is Direction.ABOVE
    price = figures.price(alert.price, odds)
    text.line().add(f"{'bid' if above else 'ask'} {price} at ")
    at = figures.clock(alert.at)
    if at:
        text.moment(alert.at // 1000, at, "T")
    else:
        text.add("an unknown time")
    if now is not None:
        bid, ask = figures.price(now.bid, odds), figures.price(now.ask, odds)
        text.add(f" · now {bid} / {ask}")
    text.line().line(_times(alert, sent_at))
    if isinstance(rule, PriceRule):
        text.line(f"Back on at {figures.level(back_on(rule), odds)}")
    return text.card(
        [
            [
                press("Mute 1 h", Action.MUTE, 0, 60),
                press("Change", Action.CHANGE_RULE, number),
                press("Stop", Action.STOP_RULE, number, style="danger"),
            ],
            [*_market_buttons(market, press("Why", Action.WHY, number))],
        ]
    )


def opened_card(alert: Opened) -> Card:
    """Return what is new under a tag."""
    text = Text()
    headline(text, alert, None, "cents")
    text.line().foreign(alert.title)
    if alert.choice:
        text.line().add("+ ")
        _add_joined(text, alert)
    elif alert.markets > 1:
        text.line().add(f"{alert.markets} choices")
    return text.card([[press("Show", Action.EVENT, alert.event)], [_no_more(alert)]])


def _add_joined(text: Text, alert: Opened) -> None:
    """Add which markets joined an event: ``$150,000 and 2 others``."""
    text.foreign(alert.choice, limit=60)
    others = alert.joined - 1
    if others > 0:
        text.add(f" and {others} other{'s' if others > 1 else ''}")


def _no_more(alert: Opened) -> Button:
    label = f"No more of {quiet(alert.tag, 40)}"
    return press(label, Action.TAG_OFF, text_number(alert.tag))


def opened_digest_card(alerts: Sequence[Opened]) -> Card:
    """Return several new events of a tag as one message.

    Args:
        alerts: What is new, the oldest first; at least one.
    """
    first, shown = alerts[0], alerts[-_EVENTS:]
    text = Text().add(f"✦ {len(alerts):,} more new: ", "bold")
    text.foreign(first.tag, "bold", limit=60).line()
    for number, each in enumerate(shown, start=1):
        text.add(f"{number}  ").foreign(each.title)
        if each.choice:
            text.add(" + ")
            _add_joined(text, each)
        text.line()
    if len(alerts) > len(shown):
        text.line(f"and {len(alerts) - len(shown):,} before them")
    text.add("All that are open: /new ").foreign(first.tag, limit=64).line()
    row = numbered(Action.EVENT, [each.event for each in shown])
    rows = [row[at : at + 5] for at in range(0, len(row), 5)]
    return text.card([*rows, [_no_more(first), press("Limits", Action.LIMITS)]])


def headline(text: Text, alert: Alert, market: GammaMarket | None, odds: Odds) -> None:
    """Add what happened, in a few words: ``▲ Yes reached 65¢``."""
    if isinstance(alert, MarketAlert):
        text.add(_HEADS[type(alert)], "bold")
        text.foreign(alert.outcome or "no single outcome", "bold")
    elif isinstance(alert, Opened):
        text.add("✦ New: ", "bold").foreign(alert.tag, "bold", limit=60)
    else:
        text.add(_happened(alert, market, odds))


def digest_card(
    alerts: Sequence[RuleAlert],
    market: GammaMarket | None,
    prices: Mapping[str, Price],
    odds: Odds = "cents",
) -> Card:
    """Return several alerts of a market as one message.

    Args:
        alerts: What happened, in order; at least one.
        market: Where; None: it could not be asked for.
        prices: The quote at this moment of each outcome, by token.
        odds: How prices are shown.
    """
    text = Text().line(figures.count(len(alerts), "more alert"), "bold")
    text.foreign(alerts[0].market if market is None else market.question).line()
    counts = Counter(_happened(each, market, odds) for each in alerts)
    for happened, count in list(counts.items())[:_LINES]:
        text.line(f"{happened}{f'  {count}×' if count > 1 else ''}")
    if len(counts) > _LINES:
        text.line(f"and {len(counts) - _LINES} others")
    for token in () if market is None else market.tokens:
        now = prices.get(token.token_id)
        if now is not None:
            bid, ask = figures.price(now.bid, odds), figures.price(now.ask, odds)
            text.foreign(token.outcome, limit=60).line(f" is at {bid} / {ask} now")
    return text.card([_market_buttons(market, press("Limits", Action.LIMITS))])


def _happened(alert: RuleAlert, market: GammaMarket | None, odds: Odds) -> str:
    """Return what happened: ``▲ Yes reached 65¢``."""
    if isinstance(alert, VolumeReached):
        span = " in 24 h" if alert.daily else ""
        return f"$ {figures.money(Decimal(alert.level))} traded{span}"
    above = alert.direction is Direction.ABOVE
    said = f"{'▲' if above else '▼'} {quiet(_outcome(alert, market), 60)}"
    if isinstance(alert, Moved):
        size = figures.short(alert.by) + ("¢" if alert.unit is Unit.CENTS else "%")
        came = figures.price(alert.reference, odds), figures.price(alert.price, odds)
        way = "up" if above else "down"
        within = f" in {figures.lasting(alert.within // 60)}" if alert.within else ""
        return f"{said} went {size} {way}{within}: {' → '.join(came)}"
    way = "reached" if above else "fell to"
    return f"{said} {way} {figures.level(alert.level, odds)}"


def _times(alert: PriceCrossed | Moved, sent_at: float) -> str:
    """Return how long after it happened it was seen and is sent."""
    happened = alert.at / 1000
    seen, sent = alert.seen_at - happened, sent_at - happened
    if not _CLOCKS_APART <= seen <= _CLOCKS_FAR:
        # The market's clock is not ours, or it is a recording's.
        return f"sent {_seconds(sent_at - alert.seen_at)} after it was seen"
    if seen > _LATE:
        return (
            f"seen {figures.distance(seen)} after it happened: I had no link to "
            "Polymarket"
        )
    return f"seen {_seconds(seen)}, sent {_seconds(sent)} after it happened"


def _seconds(seconds: float) -> str:
    if seconds < _LATE:
        return f"{max(0.0, seconds):.1f} s"
    return figures.distance(seconds)


def _market_buttons(market: GammaMarket | None, *between: Button) -> list[Button]:
    if market is None:
        return list(between)
    return [
        press("Market", Action.MARKET, market.id), *between, open_button(market),
    ]  # fmt: skip


def _outcome(alert: PriceCrossed | Moved, market: GammaMarket | None) -> str:
    for token in () if market is None else market.tokens:
        if token.token_id == alert.asset_id:
            return token.outcome
    return "An outcome"
