"""What an alert says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.alerts import Direction, Resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oddsbot.alerts import Alert


def text_of(
    alert: Alert, questions: Mapping[str, str], outcomes: Mapping[str, str]
) -> str:
    """Return an alert as one line of English.

    Args:
        alert: The alert.
        questions: The question of each market, by condition id; an unknown market is
            called by its id.
        outcomes: The name of each outcome, by token id; likewise.
    """
    market = questions.get(alert.market, alert.market)
    when = datetime.fromtimestamp(alert.at / 1000, UTC).strftime("%H:%M:%S UTC")
    if isinstance(alert, Resolved):
        verdict = (
            f"resolved: {alert.outcome}" if alert.outcome else "resolved, no winner"
        )
        return f"{market} {verdict} ({when})"
    outcome = outcomes.get(alert.asset_id, alert.asset_id)
    side = "bid" if alert.direction is Direction.ABOVE else "ask"
    return (
        f"{outcome} {alert.direction} {alert.level}: {side} {alert.price}, "
        f"{market} ({when})"
    )
