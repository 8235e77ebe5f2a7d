"""Where a warning begins, and where a failure."""

from __future__ import annotations

from math import inf

import msgspec

from oddswire._numbers import is_number, shown
from oddswire.errors import SettingsError
from oddswire.health.report import Status


class Bound(msgspec.Struct, frozen=True):
    """Two levels of one number; a greater number is worse.

    Attributes:
        warn: From here on a warning.
        fail: From here on a failure; infinite: never one.

    Raises:
        SettingsError: Not numbers, or `fail` is below `warn`.
    """

    warn: float
    fail: float = float("inf")

    def __post_init__(self) -> None:
        if not (
            is_number(self.warn, 0.0, inf) and is_number(self.fail, self.warn, inf)
        ):
            raise SettingsError(
                f"a bound has 0 <= warn <= fail, not {shown(self.warn)} and "
                f"{shown(self.fail)}"
            )

    def judge(self, value: float) -> Status:
        """Return the status of a value."""
        if value >= self.fail:
            return Status.FAIL
        return Status.WARN if value >= self.warn else Status.PASS


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The levels at which the status of a check changes.

    Attributes:
        latency: Seconds of a PING, the median of a few.
        loop_lag: Seconds by which our own event loop is late.
        silence: Seconds without anything from the server; keep it above
            `Settings.heartbeat` and `heartbeat_answer` together.
        failures: Share of failed calls in the last minute.
        failures_least: Fewer calls than that in a minute are not judged.
        memory: Share of the limit that is used, where nothing may be evicted.
        clients: Share of `maxclients` that is connected.
        replica_lag: Seconds since a replica was last heard of.
    """

    latency: Bound = Bound(0.05, 1.0)
    loop_lag: Bound = Bound(0.05, 1.0)
    silence: Bound = Bound(64.0)
    failures: Bound = Bound(0.05, 0.5)
    failures_least: int = 20
    memory: Bound = Bound(0.8, 0.95)
    clients: Bound = Bound(0.8, 0.95)
    replica_lag: Bound = Bound(10.0)
