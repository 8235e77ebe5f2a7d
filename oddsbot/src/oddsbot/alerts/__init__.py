"""Who is to be told what, from quotes and resolutions alone: no I/O, no clock."""

from __future__ import annotations

from .crossing import Held, crossing, moving, since_when, size_of, swinging
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
    TIMES,
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
    "TIMES",
    "Alert",
    "Alerts",
    "Base",
    "Direction",
    "Disputed",
    "Held",
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
    "since_when",
    "size_of",
    "swinging",
]
