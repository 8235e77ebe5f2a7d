"""An alert as the person gets it: what happened, and how it stands now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, Moved, PriceCrossed, Unit
from oddsbot.delivery import Action
from oddsbot.telegram import figures
from oddsbot.telegram.screens.buttons import open_button, press
from oddsbot.telegram.text import Text

if TYPE_CHECKING:
    from oddsbot.alerts import Alert
    from oddsbot.delivery import Button, Card
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket


def fired_card(alert: Alert, market: GammaMarket | None, now: Price | None) -> Card:
    """Return an alert's card.

    Args:
        alert: What happened.
        market: Where; None: it could not be asked for.
        now: The quote at this moment, None where there is none.
    """
    question = alert.market if market is None else market.question
    if not isinstance(alert, PriceCrossed | Moved):
        text = Text().add("✔ Resolved: ", "bold")
        return (
            text.foreign(alert.outcome or "no single outcome", "bold")
            .line()
            .foreign(question)
            .card([_market_buttons(market)])
        )
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
