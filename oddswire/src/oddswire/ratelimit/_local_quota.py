"""What one process may use of a limit while Redis is down.

A quota begins with the last reply of Redis. Therefore a process that is alone with a
limit stays within it during an outage. The usage is reported to Redis afterwards.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Protocol

from oddswire.ratelimit.decision import NO_RETRY
from oddswire.ratelimit.rules import SUB_WINDOWS

if TYPE_CHECKING:
    from oddswire.ratelimit.rules import SlidingWindow, TokenBucket


class LocalQuota(Protocol):
    """The usage of one subject by this process; times are of the limiter's clock.

    Attributes:
        since: When it began: what was counted before is none of its usage.
        taken: All that it admitted since then, without what was released.
    """

    since: float
    taken: int

    def free(self, now: float) -> int:
        """Return what the quota still admits."""

    def take(self, now: float, cost: int) -> None:
        """Count a cost that is `free`."""

    def release(self, at: float, cost: int) -> None:
        """Undo a cost that was counted at a time."""

    def retry(self, now: float, need: int) -> float:
        """Return the seconds until `need` is free, NO_RETRY if it never is."""

    def used(self, now: float) -> int:
        """Return the usage to report to Redis."""


class WindowQuota:
    """A sliding window of 21 sub-windows, as in ratelimit_hit.lua.

    Args:
        limit: The limit of all processes.
        processes: How many share it.
        known: The usage of all processes in the last reply of Redis.
        known_until: When none of that usage counts any more.
        now: The time.
    """

    def __init__(
        self,
        limit: SlidingWindow,
        processes: int,
        known: int,
        known_until: float,
        now: float,
    ) -> None:
        self.since, self.taken = now, 0
        self._share = max(1, limit.limit // processes)
        self._share_of_rest = max(0, (limit.limit - known) // processes)
        self._known_until = known_until if known else 0.0
        self._width = limit.width / 1e6
        self._counted: deque[tuple[int, int]] = deque()  # (sub-window, cost)

    def free(self, now: float) -> int:
        """See `LocalQuota`."""
        known = now < self._known_until
        return (self._share_of_rest if known else self._share) - self.used(now)

    def used(self, now: float) -> int:
        """See `LocalQuota`."""
        oldest = int(now / self._width) - SUB_WINDOWS + 1
        return sum(cost for number, cost in self._counted if number >= oldest)

    def take(self, now: float, cost: int) -> None:
        """See `LocalQuota`."""
        self.taken += cost
        number = int(now / self._width)
        while self._counted and self._counted[0][0] <= number - SUB_WINDOWS:
            self._counted.popleft()
        if self._counted and self._counted[-1][0] == number:
            cost += self._counted.pop()[1]
        self._counted.append((number, cost))

    def release(self, at: float, cost: int) -> None:
        """See `LocalQuota`."""
        number = int(at / self._width)
        for place, (each, counted) in enumerate(self._counted):
            if each == number:
                undone = min(cost, counted)
                self._counted[place] = (each, counted - undone)
                self.taken -= undone

    def retry(self, now: float, need: int) -> float:
        """See `LocalQuota`."""
        times = [(number + SUB_WINDOWS) * self._width for number, _ in self._counted]
        for time in sorted([*times, self._known_until]):
            # A microsecond later: the product may be rounded down.
            later = time + 1e-6
            if later > now and self.free(later) >= need:
                return later - now
        return NO_RETRY


class TokenQuota:
    """A token bucket with the process's share of the burst and of the rate.

    Args:
        limit: The limit of all processes.
        processes: How many share it.
        full_at: When the bucket is full, by the last reply of Redis.
        now: The time.
    """

    def __init__(
        self, limit: TokenBucket, processes: int, full_at: float, now: float
    ) -> None:
        self._step = limit.width * processes / 1e6
        self._full = max(1, limit.burst // processes) * self._step
        self._arrival = min(full_at, now + self._full)
        self.since, self.taken = now, 0

    def _debt(self, now: float) -> float:
        return max(0.0, self._arrival - now)

    def free(self, now: float) -> int:
        """See `LocalQuota`."""
        return int((self._full - self._debt(now)) / self._step + 1e-9)

    def take(self, now: float, cost: int) -> None:
        """See `LocalQuota`."""
        self._arrival = max(self._arrival, now) + cost * self._step
        self.taken += cost

    def release(self, at: float, cost: int) -> None:  # noqa: ARG002 - LocalQuota's
        """See `LocalQuota`."""
        self._arrival -= cost * self._step
        self.taken -= cost

    def retry(self, now: float, need: int) -> float:
        """See `LocalQuota`."""
        if need * self._step > self._full:
            return NO_RETRY
        return max(0.0, need * self._step - (self._full - self._debt(now))) + 1e-6

    def used(self, now: float) -> int:
        """See `LocalQuota`."""
        return min(self.taken, ceil(self._debt(now) / self._step))


class SlotQuota:
    """Slots of this process, those from before the outage included.

    Args:
        limit: The process's share.
        leases: The process's leases and their ends.
        now: The time.
    """

    def __init__(self, limit: int, leases: dict[str, float], now: float) -> None:
        self.since, self.taken = now, 0
        self._limit = limit
        self._leases = leases

    def free(self, now: float) -> int:
        """See `LocalQuota`."""
        return self._limit - sum(end > now for end in self._leases.values())

    def take(self, now: float, cost: int) -> None:
        """See `LocalQuota`: the evaluator adds the leases."""

    def release(self, at: float, cost: int) -> None:
        """See `LocalQuota`: the evaluator drops the leases."""

    def retry(self, now: float, need: int) -> float:
        """See `LocalQuota`."""
        ends = sorted(end for end in self._leases.values() if end > now)
        over = need - self.free(now)
        return ends[over - 1] - now if 0 < over <= len(ends) else NO_RETRY

    def used(self, now: float) -> int:  # noqa: ARG002 - LocalQuota's
        """See `LocalQuota`: a renewal reports the slots that are held."""
        return 0
