"""Counters: histograms against the values themselves, windows against a list."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import reduce
from operator import add

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oddswire.counters import COMMAND_BUCKETS, Histogram, Window
from support.hooks import slots_of

SECONDS = st.one_of(
    st.floats(0, 10), st.sampled_from(COMMAND_BUCKETS), st.floats(0, 0.002)
)
VALUES = st.lists(SECONDS, max_size=60)


def _histogram(values) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram


@pytest.mark.basic
@pytest.mark.requirement("C10")
@given(VALUES)
def test_totals_are_exact(values) -> None:
    """Count, sum, mean, smallest and largest are those of the values."""
    snapshot = _histogram(values).snapshot()

    assert snapshot.count == len(values)
    # One after the other, as they came: from 3.12 on `sum` corrects what is rounded.
    total = reduce(add, values, 0)
    assert snapshot.sum == total
    assert snapshot.min == min(values, default=None)
    assert snapshot.max == max(values, default=None)
    assert snapshot.mean == (total / len(values) if values else None)


@pytest.mark.advanced
@pytest.mark.requirement("C10")
@given(VALUES.filter(bool), st.floats(0, 1))
@example([0.0005, 0.0006], 0.5)
@example([9.0], 1.0)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, q) -> None:
    """The estimate is in the bucket of the true quantile, within min and max."""
    histogram = _histogram(values)
    estimate = histogram.quantile(q)
    true = sorted(values)[max(math.ceil(q * len(values)), 1) - 1]
    bucket = bisect_left(COMMAND_BUCKETS, true)
    low = COMMAND_BUCKETS[bucket - 1] if bucket else 0.0
    high = COMMAND_BUCKETS[bucket] if bucket < len(COMMAND_BUCKETS) else math.inf

    assert low <= estimate <= high
    assert histogram.min <= estimate <= histogram.max


@pytest.mark.advanced
@given(VALUES, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise(values, one, other) -> None:
    """A higher quantile is never below a lower one; of nothing there is none."""
    histogram = _histogram(values)
    low, high = sorted((one, other))
    if values:
        assert histogram.quantile(low) <= histogram.quantile(high)
    else:
        assert histogram.quantile(low) is histogram.quantile(high) is None


@pytest.mark.basic
def test_the_middle_of_evenly_spread_values() -> None:
    """Inside a bucket values are taken as evenly spread."""
    histogram = Histogram([1.0, 2.0, 3.0])
    for value in (0.5, 1.2, 1.4, 1.6, 1.8, 2.5):
        histogram.observe(value)

    assert histogram.quantile(0.5) == pytest.approx(1.5)


@pytest.mark.advanced
@given(VALUES, VALUES)
def test_merging_is_counting_together(one, other) -> None:
    """Two merged snapshots equal the snapshot of all values, whichever comes first."""
    a, b = _histogram(one).snapshot(), _histogram(other).snapshot()
    together = _histogram(one + other).snapshot()

    for merged in (a.merge(b), b.merge(a)):
        assert merged.counts == together.counts
        assert (merged.min, merged.max) == (together.min, together.max)
        assert merged.sum == pytest.approx(together.sum)


@pytest.mark.advanced
@given(VALUES, VALUES)
def test_since_a_snapshot_only_later_values_count(before, after) -> None:
    """The rest counts what came later, and bounds it; its quantiles are within."""
    histogram = _histogram(before)
    earlier = histogram.snapshot()
    histogram.observe_all(after)
    rest, alone = histogram.snapshot().since(earlier), _histogram(after).snapshot()

    assert rest.counts == alone.counts
    assert rest.sum == pytest.approx(alone.sum, abs=1e-6)
    assert (rest.min is None) == (not after)
    if after:
        assert rest.min <= alone.min <= alone.max <= rest.max
        assert rest.min <= rest.quantile(0.99) <= rest.max


@pytest.mark.basic
def test_a_snapshot_does_not_change() -> None:
    """What was taken stays as it was while counting goes on."""
    histogram = _histogram([0.001])
    snapshot = histogram.snapshot()
    histogram.observe(0.5)

    assert (snapshot.count, snapshot.max) == (1, 0.001)
    with pytest.raises(AttributeError):
        snapshot.sum = 0.0


@pytest.mark.errors
@given(VALUES, st.sampled_from([float("nan"), -1.0, -math.inf]))
def test_a_senseless_duration_spoils_nothing(values, bad) -> None:
    """NaN and negative durations count as 0, and the sum stays a number."""
    histogram = _histogram([*values, bad])

    assert (histogram.min, histogram.count) == (0.0, len(values) + 1)
    assert histogram.sum == pytest.approx(sum(values))


@pytest.mark.basic
@given(VALUES, st.lists(st.one_of(SECONDS, st.sampled_from([math.nan, -1.0]))))
def test_many_at_once_are_counted_like_one_by_one(before, values) -> None:
    """The same buckets, count, smallest and largest; the sum but for its rounding."""
    together = _histogram(before)
    together.observe_all(values)
    many, single = together.snapshot(), _histogram([*before, *values]).snapshot()

    assert many.counts == single.counts
    assert (many.min, many.max) == (single.min, single.max)
    assert many.sum == pytest.approx(single.sum)
    assert together.count == single.count


REFUSED = {
    "no buckets": lambda: Histogram([]),
    "equal bounds": lambda: Histogram([1.0, 1.0]),
    "falling bounds": lambda: Histogram([2.0, 1.0]),
    "NaN bound": lambda: Histogram([1.0, math.nan]),
    "endless bound": lambda: Histogram([math.inf]),
    "quantile above 1": lambda: _histogram([1.0]).quantile(1.1),
    "NaN quantile": lambda: _histogram([1.0]).quantile(math.nan),
    "other buckets": lambda: Histogram().snapshot().merge(Histogram([1]).snapshot()),
    "since other buckets": lambda: (
        Histogram().snapshot().since(Histogram([1]).snapshot())
    ),
    "since a later one": lambda: (
        Histogram().snapshot().since(_histogram([1.0]).snapshot())
    ),
    "no window": lambda: Window(0.0),
    "endless window": lambda: Window(math.inf),
    "no slots": lambda: Window(1.0, slots=0),
}


@pytest.mark.errors
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_senseless_questions_are_refused(make) -> None:
    """Buckets out of order, other buckets, no window: ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        make()


@pytest.mark.advanced
@pytest.mark.requirement("C10")
@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60), st.floats(0, 100)
)
def test_a_window_forgets_what_is_older(steps, later) -> None:
    """Counted: all of the last 9/10 of the window, nothing older than the window."""
    window, calls, now = Window(10.0, slots=10), [], 0.0
    for step, failed in steps:
        now += step
        window.record(now, failed=failed)
        calls.append((now, failed))
    now += later
    total, failed = window.counts(now)
    # The slot of a time is rounded: a call exactly on an edge may fall either way.
    at_most = [call for call in calls if call[0] >= now - 10.0 - 1e-9]
    at_least = [call for call in calls if call[0] > now - 9.0 + 1e-9]

    assert len(at_least) <= total <= len(at_most)
    assert sum(f for _, f in at_least) <= failed <= sum(f for _, f in at_most)
    assert window.failure_rate(now) == (failed / total if total else None)


@pytest.mark.performance
def test_a_window_stays_small() -> None:
    """Calls over a whole day take no more memory than its slots."""
    window = Window(60.0, slots=6)
    for second in range(0, 86_400, 30):
        window.record(float(second), failed=second % 60 == 0)

    assert slots_of(window) == 6
    assert window.counts(86_399.0) == (2, 1)
