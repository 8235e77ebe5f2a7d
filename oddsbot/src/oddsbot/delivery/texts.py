"""What an alert says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from oddsbot.alerts import (
    Direction,
    Disputed,
    Moved,
    Opened,
    Proposed,
    Resolved,
    Unit,
    VolumeReached,
)
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
    if isinstance(alert, Opened):
        title = plain(alert.title, _MARKET)
        if alert.choice:
            title = f"{title} + {plain(alert.choice, _OUTCOME)}"
            title += f" and {alert.joined - 1} more" if alert.joined > 1 else ""
        return f"new under {plain(alert.tag, _OUTCOME)}: {title} ({_time(alert.at)})"
    market = plain(questions.get(alert.market, alert.market), _MARKET)
    when = _time(alert.at)
    if isinstance(alert, Proposed | Disputed | Resolved):
        name = plain(alert.outcome, _OUTCOME)
        verb = alert.__struct_config__.tag
        return f"{market} {verb}{f': {name}' if name else ', no winner'} ({when})"
    if isinstance(alert, VolumeReached):
        span = " in 24 h" if alert.daily else ""
        return f"{market} reached ${alert.level:,} traded{span} ({when})"
    outcome = plain(outcomes.get(alert.asset_id, alert.asset_id), _OUTCOME)
    above = alert.direction is Direction.ABOVE
    side = "bid" if above else "ask"
    if isinstance(alert, Moved):
        size = plain(alert.by, _NUMBER) + ("¢" if alert.unit is Unit.CENTS else "%")
        what = (
            f"{'up' if above else 'down'} {size} from {plain(alert.reference, _NUMBER)}"
        )
        if alert.within is not None:
            what += f" within {plain(alert.within // 60, _NUMBER)} min"
    else:
        what = f"{alert.direction} {plain(alert.level, _NUMBER)}"
    return f"{outcome} {what}: {side} {plain(alert.price, _NUMBER)}, {market} ({when})"


def _time(milliseconds: float) -> str:
    """Return the time of day; of what is no time of this era, that it is none."""
    try:
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
    return at.strftime("%H:%M:%S UTC")
