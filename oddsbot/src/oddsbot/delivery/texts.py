"""What an alert says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, Resolved
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oddsbot.alerts import Alert


_MARKET, _OUTCOME, _NUMBER = 300, 100, 24
"""Characters of each; a message of Telegram has at most 4,096."""


def text_of(
    alert: Alert, questions: Mapping[str, str], outcomes: Mapping[str, str]
) -> str:
    """Return an alert as one line of English, whatever is in it.

    Names and times come from Polymarket: they are shown as plain text, cut where they
    are too long, and never raise.

    Args:
        alert: The alert.
        questions: The question of each market, by condition id; an unknown market is
            called by its id.
        outcomes: The name of each outcome, by token id; likewise.
    """
    market = plain(questions.get(alert.market, alert.market), _MARKET)
    when = _time(alert.at)
    if isinstance(alert, Resolved):
        winner = plain(alert.outcome, _OUTCOME)
        verdict = f"resolved: {winner}" if winner else "resolved, no winner"
        return f"{market} {verdict} ({when})"
    outcome = plain(outcomes.get(alert.asset_id, alert.asset_id), _OUTCOME)
    side = "bid" if alert.direction is Direction.ABOVE else "ask"
    return (
        f"{outcome} {alert.direction} {plain(alert.level, _NUMBER)}: "
        f"{side} {plain(alert.price, _NUMBER)}, {market} ({when})"
    )


def _time(milliseconds: float) -> str:
    """Return the time of day; of what is no time of this era, that it is none."""
    try:
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
    return at.strftime("%H:%M:%S UTC")
