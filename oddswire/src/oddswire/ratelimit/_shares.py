"""What one process may use of a limit while Redis cannot be asked.

Each share begins with what Redis said last, so that a process that is alone with a
limit stays within it through an outage; each is booked in Redis when that is over.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from oddswire.ratelimit.rules import SlidingWindow, TokenBucket

_SUBS = 21


class Share(Protocol):
    """The use of one subject under one rule; times are those of the limiter's clock."""

    def free(self, now: float) -> int:
        """Return what it would still admit."""

    def take(self, now: float, cost: int) -> None:
        """Count a cost; the caller has looked at `free`."""

    def give_back(self, at: float, cost: int) -> None:
        """Undo a cost that was counted at that time."""

    def retry(self, now: float, need: int) -> float:
        """Return seconds until `need` is free; inf: not while it is a share."""

    def used(self, now: float) -> int:
        """Return what to book in Redis."""


class WindowShare:
    """A sliding window of 21 sub-windows, as in ratelimit_hit.lua.

    Args:
        limit: Of all processes.
        processes: How many share it.
        known: What Redis last said was used, by everybody.
        known_until: When none of that counts any more.
    """

    def __init__(
        self, limit: SlidingWindow, processes: int, known: int, known_until: float
    ) -> None:
        self._limit = limit.limit
        self._processes = processes
        self._width = limit.width / 1e6
        self._known = known
        self._known_until = known_until
        self._counted: deque[tuple[int, int]] = deque()  # (sub-window, cost)

    def free(self, now: float) -> int:
        """See `Share`."""
        return self._allowance(now) - self.used(now)

    def _allowance(self, now: float) -> int:
        if self._known and now < self._known_until:
            return max(0, (self._limit - self._known) // self._processes)
        return max(1, self._limit // self._processes)

    def used(self, now: float) -> int:
        """See `Share`."""
        oldest = int(now / self._width) - _SUBS + 1
        return sum(cost for number, cost in self._counted if number >= oldest)

    def take(self, now: float, cost: int) -> None:
        """See `Share`."""
        number = int(now / self._width)
        while self._counted and self._counted[0][0] <= number - _SUBS:
            self._counted.popleft()
        if self._counted and self._counted[-1][0] == number:
            cost += self._counted.pop()[1]
        self._counted.append((number, cost))

    def give_back(self, at: float, cost: int) -> None:
        """See `Share`."""
        number = int(at / self._width)
        for place, (each, counted) in enumerate(self._counted):
            if each == number:
                self._counted[place] = (each, max(0, counted - cost))

    def retry(self, now: float, need: int) -> float:
        """See `Share`."""
        times = [(number + _SUBS) * self._width for number, _ in self._counted]
        for time in sorted([*times, self._known_until]):
            # A moment later: the product may have been rounded down.
            later = time + 1e-6
            if later > now and self.free(later) >= need:
                return later - now
        return inf


class BucketShare:
    """A token bucket with the share of the burst and of the rate.

    Args:
        limit: Of all processes.
        processes: How many share it.
        full_at: When Redis said that it will be full again.
        now: The time.
    """

    def __init__(
        self, limit: TokenBucket, processes: int, full_at: float, now: float
    ) -> None:
        self._step = limit.width * processes / 1e6
        self._full = max(1, limit.burst // processes) * self._step
        self._arrival = min(full_at, now + self._full)
        self._spent = 0

    def _debt(self, now: float) -> float:
        return max(0.0, self._arrival - now)

    def free(self, now: float) -> int:
        """See `Share`."""
        return int((self._full - self._debt(now)) / self._step + 1e-9)

    def take(self, now: float, cost: int) -> None:
        """See `Share`."""
        self._arrival = max(self._arrival, now) + cost * self._step
        self._spent += cost

    def give_back(self, at: float, cost: int) -> None:  # noqa: ARG002 - see `Share`
        """See `Share`."""
        self._arrival -= cost * self._step
        self._spent -= cost

    def retry(self, now: float, need: int) -> float:
        """See `Share`."""
        if need * self._step > self._full:
            return inf
        return max(0.0, need * self._step - (self._full - self._debt(now))) + 1e-6

    def used(self, now: float) -> int:
        """See `Share`."""
        return min(self._spent, ceil(self._debt(now) / self._step))


class SlotsShare:
    """Slots of this process, those from before the outage included.

    Args:
        limit: The share.
        leases: Of this process, and when they end; kept by its owner.
    """

    def __init__(self, limit: int, leases: dict[str, float]) -> None:
        self._limit = limit
        self._leases = leases

    def free(self, now: float) -> int:
        """See `Share`."""
        return self._limit - sum(end > now for end in self._leases.values())

    def take(self, now: float, cost: int) -> None:
        """See `Share`: the limiter notes the leases."""

    def give_back(self, at: float, cost: int) -> None:
        """See `Share`: the limiter drops the leases."""

    def retry(self, now: float, need: int) -> float:
        """See `Share`."""
        ends = sorted(end for end in self._leases.values() if end > now)
        over = need - self.free(now)
        return ends[over - 1] - now if 0 < over <= len(ends) else inf

    def used(self, now: float) -> int:  # noqa: ARG002 - see `Share`
        """See `Share`: the renewal books those that are held."""
        return 0
