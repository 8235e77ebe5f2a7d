"""What is limited: a `Rule` and the three kinds of limit it can have."""

from __future__ import annotations

import re
from enum import IntEnum
from math import ceil
from typing import ClassVar, Literal

import msgspec

from oddswire._numbers import check_duration, check_int, is_number, shown
from oddswire.errors import RuleError

MOST = 1_000_000_000
"""The largest limit."""

LONGEST = 31 * 86_400.0
"""Seconds of the longest window, lease, penalty or changed limit: 31 days."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Of the limiter's methods: no subject can be given under these names.
_ARGUMENTS = frozenset(
    ("self", "cost", "timeout", "priority", "rule", "rules", "retry_after")
)
AGES = 20
"""Sub-windows of a window, as in ratelimit_hit.lua."""

SUB_WINDOWS = AGES + 1
"""Those that are kept: any interval as long as a window lies in them."""


class Priority(IntEnum):
    """The order of the calls that wait for the same rule."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class SlidingWindow(msgspec.Struct, frozen=True):
    """At most `limit` in every interval of `per` seconds: exactly, not per calendar.

    The window is kept as 21 sub-windows of `per` / 20, so what was used comes back up
    to a twentieth of the window late, never early.

    Args:
        limit: Cost admitted per window, 1 to 1,000,000,000.
        per: Seconds, 0.001 to 31 days.

    Raises:
        RuleError: Out of range.
    """

    limit: int
    per: float

    kind: ClassVar[bytes] = b"w"

    def __post_init__(self) -> None:
        check_int("SlidingWindow.limit", self.limit, 1, MOST, RuleError)
        check_duration("SlidingWindow.per", self.per, 0.001, LONGEST, RuleError)

    @property
    def most(self) -> int:
        """The largest cost that can ever be admitted at once."""
        return self.limit

    @property
    def window(self) -> float:
        """Seconds after which everything that is used now is free again."""
        return self.per

    @property
    def width(self) -> int:
        """Microseconds of a sub-window, rounded up so that 20 cover the window."""
        return ceil(ceil(self.per * 1e6) / AGES)


class TokenBucket(msgspec.Struct, frozen=True):
    """Up to `burst` at once, then `rate` a second (GCRA, ITU-T I.371).

    In an interval of W seconds it admits up to ``burst + rate * W``; for "at most so
    many in every window" use `SlidingWindow`. The time between two tokens is a whole
    number of microseconds, rounded up.

    Args:
        rate: Tokens a second, up to 1,000,000; below 1 is fine.
        burst: Tokens a full bucket holds, 1 to 1,000,000,000.

    Raises:
        RuleError: Out of range, or the bucket needs more than a year to fill.
    """

    rate: float
    burst: int

    kind: ClassVar[bytes] = b"b"

    def __post_init__(self) -> None:
        check_int("TokenBucket.burst", self.burst, 1, MOST, RuleError)
        if not is_number(self.rate, 0.0, 1_000_000.0) or not self.rate:
            raise RuleError(
                f"TokenBucket.rate {shown(self.rate)}: accepted is a number of tokens "
                "a second above 0, at most 1000000"
            )
        if self.burst / self.rate > 366 * 86_400:
            raise RuleError(
                f"TokenBucket({self.rate:g}, {self.burst}): it would need more than a "
                "year to fill; raise the rate or lower the burst"
            )

    @property
    def most(self) -> int:
        """The largest cost that can ever be admitted at once."""
        return self.burst

    @property
    def window(self) -> float:
        """Seconds after which everything that is used now is free again."""
        return self.burst / self.rate

    @property
    def width(self) -> int:
        """Microseconds between two tokens, rounded up."""
        return ceil(1e6 / self.rate)


class Concurrency(msgspec.Struct, frozen=True):
    """At most `limit` at the same time; a slot of a holder that died comes back.

    Args:
        limit: Slots, 1 to 1,000,000,000.
        ttl: Seconds after which a slot that is not renewed is free, 0.01 to 31 days.
            `RateLimiter.slot` renews its own.

    Raises:
        RuleError: Out of range.
    """

    limit: int
    ttl: float

    kind: ClassVar[bytes] = b"s"

    def __post_init__(self) -> None:
        check_int("Concurrency.limit", self.limit, 1, MOST, RuleError)
        check_duration("Concurrency.ttl", self.ttl, 0.01, LONGEST, RuleError)

    @property
    def most(self) -> int:
        """The largest cost that can ever be admitted at once."""
        return self.limit

    @property
    def window(self) -> float:
        """Seconds after which everything that is used now is free again."""
        return self.ttl

    @property
    def width(self) -> int:
        """Microseconds of a lease."""
        return ceil(self.ttl * 1e6)


Limit = SlidingWindow | TokenBucket | Concurrency


class _Named(msgspec.Struct, frozen=True):
    name: str
    limit: Limit


class Rule(_Named, frozen=True, kw_only=True):
    """A limit with a name, and the subject it counts by.

    Args:
        name: ``[A-Za-z0-9_.-]``, up to 64 characters; it is part of the keys.
        limit: `SlidingWindow`, `TokenBucket` or `Concurrency`.
        key: The subject it counts by: with ``key="user"`` each value of ``user=`` has a
            limit of its own. None: one limit for all.
        cost: What one hit costs it.
        on_error: The decision while Redis is down: ``"open"`` admits, ``"closed"``
            denies, ``"local"`` keeps this process within its share of the limit.
        reserve: The share of the limit that `Priority.LOW` leaves to the others, 0 to
            below 1, rounded down to a whole cost.
        shadow: The rule denies nothing; it counts what it would have denied.

    Raises:
        RuleError: One of them is not as above.
    """

    key: str | None = None
    cost: int = 1
    on_error: Literal["open", "closed", "local"] = "local"
    reserve: float = 0.1
    shadow: bool = False

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise RuleError(
                f"rule {shown(self.name)}: a name is 1 to 64 of [A-Za-z0-9_.-]; put "
                "what varies into a subject"
            )
        if not isinstance(self.limit, Limit):
            raise RuleError(
                f"rule {self.name!r}: its limit is a SlidingWindow, a TokenBucket or a "
                f"Concurrency, not {self.limit!r}"
            )
        if self.key is not None and not (
            type(self.key) is str
            and self.key.isidentifier()
            and self.key not in _ARGUMENTS
        ):
            raise RuleError(
                f"rule {self.name!r}: key {self.key!r} is not the name of a subject, "
                'such as "user"'
            )
        check_int(f"cost of rule {self.name!r}", self.cost, 1, MOST, RuleError)
        check_cost(self, self.cost)
        if self.on_error not in ("open", "closed", "local"):
            raise RuleError(
                f"rule {self.name!r}: on_error {self.on_error!r}: accepted is 'open', "
                "'closed' or 'local'"
            )
        if not isinstance(self.shadow, bool):
            raise RuleError(
                f"rule {self.name!r}: shadow {shown(self.shadow)}: accepted is True or "
                "False"
            )
        if not (type(self.reserve) in (int, float) and 0.0 <= self.reserve < 1.0):
            raise RuleError(
                f"rule {self.name!r}: reserve {shown(self.reserve)}: accepted is a "
                "share from 0 to below 1"
            )


def check_cost(rule: Rule, cost: int) -> None:
    """Refuse a cost that no waiting admits.

    Raises:
        RuleError: The cost is above the rule's limit.
    """
    if cost > rule.limit.most:
        raise RuleError(
            f"rule {rule.name!r}: a cost of {shown(cost)} is above its limit of "
            f"{rule.limit.most}, so it would never be admitted; split the work or "
            "raise the limit"
        )
