"""Rate limits that hold in every window, over all processes."""

from oddswire.ratelimit.decision import Decision
from oddswire.ratelimit.limiter import RateLimiter
from oddswire.ratelimit.rules import (
    Concurrency,
    Priority,
    Rule,
    SlidingWindow,
    TokenBucket,
)
from oddswire.ratelimit.statistics import LimiterStats, RuleCounts

__all__ = [
    "Concurrency",
    "Decision",
    "LimiterStats",
    "Priority",
    "RateLimiter",
    "Rule",
    "RuleCounts",
    "SlidingWindow",
    "TokenBucket",
]
