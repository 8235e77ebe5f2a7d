"""`Namespace`: what the keys before one colon have in common."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from oddswire._numbers import check_duration, check_int, is_number, shown
from oddswire.errors import SettingsError

MAX_TTL = 365 * 86_400.0
"""Nothing disposable is kept for longer than a year."""

MAX_BYTES = 2**62
"""The largest number of bytes that is taken for one."""


class Adaptive(msgspec.Struct, frozen=True, kw_only=True):
    """A time to live that follows how often a value really changes.

    The rate of changes is estimated from the refreshes that found the value changed
    and those that did not (Cho and Garcia-Molina 2003, "Estimating frequency of
    change"); the time to live is then as long as the risk of serving an old value
    stays below `risk`. The counts are in the entry, so all processes share them.

    Attributes:
        low: Seconds, at least.
        high: Seconds, at most.
        risk: Tolerated probability that a served value has changed, 0 to 1.
    """

    low: float
    high: float
    risk: float = 0.05

    def __post_init__(self) -> None:
        check_ttl("adaptive.low", self.low)
        check_ttl("adaptive.high", self.high)
        if self.low > self.high or not (
            is_number(self.risk, 0.0, 1.0) and 0.0 < self.risk < 1.0
        ):
            raise SettingsError(
                f"adaptive: low {shown(self.low)} is at most high {shown(self.high)}, "
                f"and risk {shown(self.risk)} is between 0 and 1"
            )

    def ttl(self, refreshes: int, changes: int, interval: float) -> float:
        """Return seconds.

        Args:
            refreshes: How often the value was loaded again.
            changes: How often it had changed by then.
            interval: Mean seconds between the loads.
        """
        if refreshes == 0 or interval <= 0.0:
            return self.low
        rate = -math.log((refreshes - changes + 0.5) / (refreshes + 0.5)) / interval
        if rate <= 0.0:
            return self.high
        return min(max(-math.log(1.0 - self.risk) / rate, self.low), self.high)


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that begin with ``name:``, and what holds unless a call differs.

    Attributes:
        name: What stands before the first colon of a key.
        type: What the values are: a `msgspec.Struct`, or anything that msgspec decodes.
        ttl: Seconds for which a value is fresh; None: the cache's.
        stale: Seconds after that in which it may serve while, or because, it cannot be
            loaded.
        negative_ttl: Seconds for which a None is fresh; None: as any value; 0: it is
            not kept.
        l1: Keep values in this process too.
        early: How eagerly a value is refreshed before its time: 0 not at all, 1 so that
            the fleet nearly always has it refreshed just before (Vattani,
            Chierichetti, Lowenstein 2015).
        adaptive: Replaces `ttl` by what the changes of a value suggest.
        max_size: Bytes of one value, at most, before compression.
    """

    name: str
    type: Any = Any
    ttl: float | None = None
    stale: float = 0.0
    negative_ttl: float | None = None
    l1: bool = True
    early: float = 1.0
    adaptive: Adaptive | None = None
    max_size: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        check_ttl(f"namespace {shown(self.name)}: ttl", self.ttl, optional=True)
        check_ttl(f"namespace {shown(self.name)}: stale", self.stale, zero=True)
        check_ttl(
            f"namespace {shown(self.name)}: negative_ttl",
            self.negative_ttl,
            zero=True,
            optional=True,
        )
        name = f"namespace {shown(self.name)}"
        check_int(f"{name}: max_size", self.max_size, 1, MAX_BYTES, SettingsError)
        if not isinstance(self.l1, bool):
            raise SettingsError(f"{name}: l1 {shown(self.l1)} is True or False")
        if self.adaptive is not None and not isinstance(self.adaptive, Adaptive):
            raise SettingsError(
                f"{name}: adaptive {shown(self.adaptive)} is an Adaptive, such as "
                "Adaptive(low=10, high=300)"
            )
        if not is_number(self.early, 0.0, 100.0):
            raise SettingsError(
                f"{name}: early {shown(self.early)} is a number "
                "from 0 to 100; 1 is the usual one"
            )


def check_ttl(
    what: str, seconds: Any, *, zero: bool = False, optional: bool = False
) -> None:
    """Refuse what is no duration.

    Raises:
        SettingsError: Not a number, not finite, negative, 0, or above a year.
    """
    if optional and seconds is None:
        return
    # Redis counts milliseconds, so less than one would be none.
    check_duration(what, seconds, 0.0 if zero else 0.001, MAX_TTL, SettingsError)
