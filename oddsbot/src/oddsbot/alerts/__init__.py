"""Who is to be told what, from quotes and resolutions alone: no I/O, no clock."""

from __future__ import annotations

from .crossing import crossing, moving
from .engine import Alerts
from .events import (
    Alert,
    Disputed,
    MarketAlert,
    Moved,
    PriceCrossed,
    Proposed,
    Resolved,
    RuleAlert,
)
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
    "Disputed",
    "MarketAlert",
    "MoveRule",
    "Moved",
    "PriceCrossed",
    "PriceRule",
    "Proposed",
    "Resolved",
    "Rule",
    "RuleAlert",
    "RuleError",
    "RuleState",
    "Unit",
    "check_new",
    "crossing",
    "moving",
]
