"""What a limiter counted, as one immutable value."""

from __future__ import annotations

import msgspec

from oddswire.counters import HistogramSnapshot


class RuleCounts(msgspec.Struct, frozen=True):
    """Decisions under one rule, since the limiter was made.

    Attributes:
        admitted: Requests that were admitted.
        denied: Requests that this rule denied; of these:
        remembered: denied without asking Redis.
        would_deny: Requests that it would have denied, were it not a shadow.
        waited: Calls of `acquire` that had to wait.
        degraded: Requests decided while Redis could not be asked.
    """

    admitted: int
    denied: int
    remembered: int
    would_deny: int
    waited: int
    degraded: int


class Statistics(msgspec.Struct, frozen=True):
    """Counted by one limiter since it was made.

    Attributes:
        rules: By the rule's name.
        asked: Decisions that Redis was asked for and gave.
        failed: Those that it was asked for and did not give in time.
        away: Whether Redis could not be asked when it was last tried.
        waiting: Calls of `acquire` that wait now.
        waits: Seconds that admitted calls waited, of those that had to.
    """

    rules: dict[str, RuleCounts]
    asked: int
    failed: int
    away: bool
    waiting: int
    waits: HistogramSnapshot
