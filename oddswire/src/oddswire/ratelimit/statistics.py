"""What a limiter counted, as one immutable value."""

from __future__ import annotations

import msgspec

from oddswire.counters import HistogramSnapshot


class RuleCounts(msgspec.Struct, frozen=True):
    """Decisions under one rule since the limiter was made.

    Attributes:
        admitted: Requests that were admitted.
        denied: Requests that this rule denied.
        remembered: Those of `denied` that Redis was not asked for.
        would_deny: Requests that this rule would have denied if it were no shadow.
        waited: Calls of `acquire` that waited.
        degraded: Requests that were decided while Redis was down.
    """

    admitted: int
    denied: int
    remembered: int
    would_deny: int
    waited: int
    degraded: int


class LimiterStats(msgspec.Struct, frozen=True):
    """What one limiter counted since it was made.

    Attributes:
        rules: Counts by the rule's name.
        asked: Decisions that Redis gave.
        failed: Questions that Redis did not answer in time.
        redis_down: Whether Redis did not answer the last question.
        waiting: Calls of `acquire` that wait now.
        waits: Seconds that admitted calls waited, of those that had to wait.
    """

    rules: dict[str, RuleCounts]
    asked: int
    failed: int
    redis_down: bool
    waiting: int
    waits: HistogramSnapshot
