"""Counting: plain integers, histograms of fixed buckets, rates over a window.

A frequent event is counted by an `int` attribute of its object; histograms and windows
are here. Nothing locks (one event loop, one thread), nothing is exported from here:
`metrics` reads these when it is asked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND_BUCKETS = (
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Upper bounds in seconds for commands, 100 us to 2.5 s; redis-py's own metrics
have the same, so that the two can be compared."""


class HistogramSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram at one moment.

    Attributes:
        bounds: Upper bounds of the buckets, ascending; a value on a bound belongs to
            the bucket it ends.
        counts: Values by bucket, one more than `bounds`: the last is above them all.
        sum: Of all values.
        min: The smallest value, None when there is none.
        max: The largest value, None when there is none.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    min: float | None
    max: float | None

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The mean, exact; None when there is no value."""
        return self.sum / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile; None when there is no value.

        The true one lies in the same bucket; inside it values are taken as evenly
        spread. Never below `min` or above `max`.

        Args:
            q: From 0 to 1: 0.5 is the median, 0.99 is p99.

        Raises:
            ValueError: `q` is outside that range.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile is a number from 0 to 1, not {q!r}")
        if self.min is None or self.max is None:
            return None
        rank = q * self.count
        edges = (self.min, *self.bounds, self.max)
        below = 0
        for (low, high), here in zip(pairwise(edges), self.counts, strict=True):
            if here and below + here >= rank:
                # Bounds say where values could be, min and max where they are.
                low, high = max(low, self.min), min(high, self.max)  # noqa: PLW2901 - the bucket, narrowed
                return min(low + (high - low) * (rank - below) / here, high)
            below += here
        return self.max

    def merge(self, other: HistogramSnapshot) -> HistogramSnapshot:
        """Return the histogram of both sets of values.

        Raises:
            ValueError: The buckets differ.
        """
        if self.bounds != other.bounds:
            raise ValueError("only histograms of the same buckets can be merged")
        smallest = [each.min for each in (self, other) if each.min is not None]
        largest = [each.max for each in (self, other) if each.max is not None]
        return HistogramSnapshot(
            bounds=self.bounds,
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            sum=self.sum + other.sum,
            min=min(smallest, default=None),
            max=max(largest, default=None),
        )

    def since(self, earlier: HistogramSnapshot) -> HistogramSnapshot:
        """Return the histogram of the values that came after an earlier snapshot.

        Its `min` and `max` are the narrowest bounds that are known of those values.

        Args:
            earlier: Of the same histogram.

        Raises:
            ValueError: The buckets differ, or the other snapshot is not the earlier.
        """
        if self.bounds != earlier.bounds:
            raise ValueError("only histograms of the same buckets can be compared")
        pairs = zip(self.counts, earlier.counts, strict=True)
        counts = tuple(later - before for later, before in pairs)
        if any(count < 0 for count in counts):
            raise ValueError("the other snapshot is not an earlier one of the same")
        filled = [index for index, count in enumerate(counts) if count]
        smallest = largest = None
        if filled and self.min is not None and self.max is not None:
            smallest = max(self.min, (self.min, *self.bounds)[filled[0]])
            largest = min(self.max, (*self.bounds, self.max)[filled[-1]])
        return HistogramSnapshot(
            bounds=self.bounds,
            counts=counts,
            sum=self.sum - earlier.sum,
            min=smallest,
            max=largest,
        )


class Histogram:
    """Durations counted by bucket: one bisection and four additions each.

    Args:
        bounds: Upper bounds of the buckets in seconds, ascending.

    Attributes:
        count: How many values.
        sum: Of all values, seconds.
        min: The smallest value, None when there is none.
        max: The largest value, None when there is none.

    Raises:
        ValueError: The bounds are empty, not finite or not ascending.
    """

    __slots__ = ("_bounds", "_counts", "count", "max", "min", "sum")

    def __init__(self, bounds: Sequence[float] = COMMAND_BUCKETS) -> None:
        self._bounds = tuple(float(bound) for bound in bounds)
        finite = all(abs(bound) < float("inf") for bound in self._bounds)
        ascending = all(low < high for low, high in pairwise(self._bounds))
        if not (self._bounds and finite and ascending):
            raise ValueError("buckets need finite, ascending upper bounds")
        self._counts = [0] * (len(self._bounds) + 1)
        self.count = 0
        self.sum = 0.0
        self.min: float | None = None
        self.max: float | None = None

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, `times` over; a negative one or NaN counts as 0."""
        # One NaN would make the sum NaN for the rest of the process.
        if not seconds >= 0.0:
            seconds = 0.0
        self._counts[bisect_left(self._bounds, seconds)] += times
        self.count += times
        self.sum += seconds * times
        if self.min is None or seconds < self.min:
            self.min = seconds
        if self.max is None or seconds > self.max:
            self.max = seconds

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Count many durations as `observe` would one by one, at less cost.

        Worth it from some dozens on: it sorts them and looks for the bounds.
        """
        # In this order, so that NaN is 0 as well.
        values = sorted([max(0.0, each) for each in seconds])
        if not values:
            return
        low = 0
        for bucket, bound in enumerate(self._bounds):
            high = bisect_right(values, bound, low)
            self._counts[bucket] += high - low
            low = high
        self._counts[-1] += len(values) - low
        self.count += len(values)
        self.sum += sum(values)
        if self.min is None or values[0] < self.min:
            self.min = values[0]
        if self.max is None or values[-1] > self.max:
            self.max = values[-1]

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile: `HistogramSnapshot.quantile` of this moment."""
        return self.snapshot().quantile(q)

    def snapshot(self) -> HistogramSnapshot:
        """Return the state of this moment; it does not change any more."""
        return HistogramSnapshot(
            bounds=self._bounds,
            counts=tuple(self._counts),
            sum=self.sum,
            min=self.min,
            max=self.max,
        )


class Window:
    """How much failed lately, in a ring of equal slots.

    Args:
        seconds: Length of the window.
        slots: Slots in it. What is asked covers between ``seconds - seconds / slots``
            and `seconds`: the slot of this moment is only partly over.

    Raises:
        ValueError: Not above 0.
    """

    __slots__ = ("_failed", "_slots", "_stamps", "_total", "_width")

    def __init__(self, seconds: float = 60.0, slots: int = 30) -> None:
        if not 0.0 < seconds < float("inf") or slots < 1:
            raise ValueError("a window needs a length above 0 and at least one slot")
        self._width = seconds / slots
        self._slots = slots
        self._stamps = [-1] * slots
        self._total = [0] * slots
        self._failed = [0] * slots

    def record(self, now: float, *, calls: int = 1, failed: int = 0) -> None:
        """Count calls.

        Args:
            now: Seconds of a clock that does not go back (`Clock.monotonic`).
            calls: How many ended; 0 for one that is counted already and turns out to
                have failed.
            failed: How many of them failed.
        """
        stamp = int(now / self._width)
        slot = stamp % self._slots
        if self._stamps[slot] != stamp:
            self._stamps[slot] = stamp
            self._total[slot] = self._failed[slot] = 0
        self._total[slot] += calls
        self._failed[slot] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Return (calls, failed calls) of the window that ends at `now`."""
        newest = int(now / self._width)
        live = [
            slot
            for slot, stamp in enumerate(self._stamps)
            if newest - self._slots < stamp <= newest
        ]
        return (
            sum(self._total[slot] for slot in live),
            sum(self._failed[slot] for slot in live),
        )

    def failure_rate(self, now: float) -> float | None:
        """Return the share of calls that failed, 0 to 1; None when there was none."""
        total, failed = self.counts(now)
        return failed / total if total else None
