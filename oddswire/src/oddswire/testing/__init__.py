"""For tests of programs that use oddswire: real faults, recorded calls, judges.

Nothing here is imported by the rest of the library. `oddswire.testing.fixtures` holds
pytest fixtures and is the only module that needs pytest.
"""

from oddswire.clock import LoopLag, ManualClock
from oddswire.testing.history import (
    Call,
    History,
    lost_counts,
    lost_members,
    not_linearizable,
    overtime,
    wrong_replies,
)
from oddswire.testing.processes import frozen
from oddswire.testing.proxy import Direction, FaultProxy
from oddswire.testing.resources import Resources

__all__ = [
    "Call",
    "Direction",
    "FaultProxy",
    "History",
    "LoopLag",
    "ManualClock",
    "Resources",
    "frozen",
    "lost_counts",
    "lost_members",
    "not_linearizable",
    "overtime",
    "wrong_replies",
]
