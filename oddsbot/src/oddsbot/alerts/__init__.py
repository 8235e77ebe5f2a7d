"""Who is to be told what, from quotes and resolutions alone: no I/O, no clock."""

from __future__ import annotations

from .crossing import crossing, moving
from .engine import Alerts
from .events import Alert, Moved, PriceCrossed, Resolved
from .rules import (
    Base,
    Direction,
    MoveRule,
    PriceRule,
    Rule,
    RuleError,
    RuleState,
    Unit,
    check_new,
)

__all__ = [
    "Alert",
    "Alerts",
    "Base",
    "Direction",
    "MoveRule",
    "Moved",
    "PriceCrossed",
    "PriceRule",
    "Resolved",
    "Rule",
    "RuleError",
    "RuleState",
    "Unit",
    "check_new",
    "crossing",
    "moving",
]
