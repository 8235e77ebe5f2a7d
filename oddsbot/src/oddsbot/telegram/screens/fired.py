"""An alert as the person gets it: what happened, and how it stands now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.alerts import (
    Direction,
    Disputed,
    MarketAlert,
    Moved,
    PriceCrossed,
    Proposed,
    Resolved,
    Unit,
)
from oddsbot.delivery import Action
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import open_button, press
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from oddsbot.alerts import Alert
    from oddsbot.delivery import Button, Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket


_HEADS = {
    Proposed: "⏳ Proposed: ",
    Disputed: "⚠ Disputed, was proposed: ",
    Resolved: "✔ Resolved: ",
}


def fired_card(alert: Alert, market: GammaMarket | None, now: Price | None) -> Card:
    """Return an alert's card.

    Args:
        alert: What happened.
        market: Where; None: it could not be asked for.
        now: The quote at this moment, None where there is none.
    """
    question = alert.market if market is None else market.question
    if isinstance(alert, MarketAlert):
        text = Text().add(_HEADS[type(alert)], "bold")
        text.foreign(alert.outcome or "no single outcome", "bold")
        text.line().foreign(question)
        if isinstance(alert, Proposed) and alert.final_at is not None:
            text.line().add("Final at ").add(_clock(alert.final_at * 1000))
            text.add(", unless it is disputed")
        elif isinstance(alert, Disputed):
            text.line().add("A vote follows, or another proposal: 4 to 6 days")
        return text.card([_market_buttons(market)])
    above = alert.direction is Direction.ABOVE
    text = (
        Text().add("▲ " if above else "▼ ").foreign(_outcome(alert, market), limit=60)
    )
    if isinstance(alert, Moved):
        size = figures.short(alert.by) + ("¢" if alert.unit is Unit.CENTS else "%")
        came = f"{figures.cents(alert.reference)} → {figures.cents(alert.price)}"
        text.line(f" went {size} {'up' if above else 'down'}: {came}")
    else:
        way = "reached" if above else "fell to"
        text.line(f" {way} {figures.cents(alert.level)}")
    text.foreign(question).line()
    text.add(f"{'bid' if above else 'ask'} {figures.cents(alert.price)} at ")
    text.add(_clock(alert.at))
    if now is not None:
        text.add(f" · now {figures.cents(now.bid)} / {figures.cents(now.ask)}")
    rule = int(alert.rule_id, 16)
    return text.card(
        [
            [
                press("Mute 1 h", Action.MUTE, 0, 60),
                press("Change", Action.CHANGE_RULE, rule),
                press("Stop", Action.STOP_RULE, rule, style="danger"),
            ],
            _market_buttons(market),
        ]
    )


def _market_buttons(market: GammaMarket | None) -> list[Button]:
    if market is None:
        return []
    return [press("Market", Action.MARKET, market.id), open_button(market)]


def _outcome(alert: PriceCrossed | Moved, market: GammaMarket | None) -> str:
    for token in () if market is None else market.tokens:
        if token.token_id == alert.asset_id:
            return token.outcome
    return "An outcome"


def _clock(milliseconds: int) -> str:
    try:
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
    return f"{at:%H:%M:%S} UTC"
