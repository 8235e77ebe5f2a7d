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
from oddswire.ratelimit.statistics import RuleCounts, Statistics

__all__ = [
    "Concurrency",
    "Decision",
    "Priority",
    "RateLimiter",
    "Rule",
    "RuleCounts",
    "SlidingWindow",
    "Statistics",
    "TokenBucket",
]
