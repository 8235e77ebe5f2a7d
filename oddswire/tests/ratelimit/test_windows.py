"""The windows: never above the limit, whatever comes and whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oddswire.ratelimit import SlidingWindow, TokenBucket

START = 1_800_000_000_000_000  # microseconds since 1970

# The fixture is the same for all examples; each begins with nothing stored.
same_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Widths that 20 does not divide, too.
WINDOWS = st.builds(
    SlidingWindow,
    st.one_of(st.integers(1, 30), st.sampled_from([255, 256, 300, 70_000])),
    st.sampled_from([0.001, 0.1, 0.999_983, 1.0, 10.0, 60.0, 3600.0]),
)


@st.composite
def arrivals(draw, limit, most=80):
    """Draw (pause in us, cost): bunches, trickles, edges, pauses longer than all."""
    width, per = limit.width, int(limit.per * 1e6)
    pause = st.one_of(
        st.integers(0, 3),
        st.sampled_from([1, width - 1, width, width + 1, per - 1, per, per + 1]),
        st.integers(0, 3 * width),
        st.integers(0, 2 * per),
    )
    most_cost = max(1, min(limit.limit, limit.limit // 3))
    cost = st.one_of(st.just(1), st.integers(1, most_cost), st.just(limit.limit))
    return draw(st.lists(st.tuples(pause, cost), min_size=1, max_size=most))


def worst(admitted, window):
    """Return the most that was admitted in a closed interval of that length."""
    most, first, used = 0, 0, 0
    for at, cost in admitted:
        used += cost
        while admitted[first][0] < at - window:
            used -= admitted[first][1]
            first += 1
        most = max(most, used)
    return most


@pytest.mark.advanced
@pytest.mark.requirement("R1")
@same_server
@given(data=st.data(), limit=WINDOWS)
def test_never_above_the_limit_in_any_window(scripts, data, limit):
    """No interval of the window's length holds more than the limit."""
    scripts.forget()
    # Anywhere in a sub-window; its two edges are where a window can be too short.
    phase = data.draw(st.sampled_from([0, 1, limit.width - 1]) | st.integers(0, 10**6))
    at = START - START % limit.width + phase % limit.width
    admitted = []
    for pause, cost in data.draw(arrivals(limit)):
        at += pause
        answer = scripts.hit(at, ("w", limit, cost))
        if not answer.allowed:
            # Whoever comes again at the first moment gets the most.
            at += answer.retry
            assert scripts.hit(at, ("w", limit, cost)).allowed
        admitted.append((at, cost))
    assert worst(admitted, int(limit.per * 1e6)) <= limit.limit


@pytest.mark.advanced
@pytest.mark.requirement("R1")
@same_server
@given(data=st.data(), limit=WINDOWS)
def test_at_most_a_twentieth_of_the_window_is_late(scripts, data, limit):
    """What is denied would be above the limit in a window longer by a sub-window."""
    scripts.forget()
    at, admitted = START, []
    for pause, cost in data.draw(arrivals(limit)):
        at += pause
        if scripts.hit(at, ("w", limit, cost)).allowed:
            admitted.append((at, cost))
            continue
        longer = 21 * limit.width
        recent = sum(each for when, each in admitted if when > at - longer)
        assert recent + cost > limit.limit


@pytest.mark.advanced
@pytest.mark.requirement("R2")
@same_server
@given(data=st.data(), limit=WINDOWS)
def test_retry_after_is_sufficient_and_not_lax(scripts, data, limit):
    """After retry-after it is admitted; a microsecond before it is not."""
    scripts.forget()
    at, denied = START, 0
    for pause, cost in data.draw(arrivals(limit, most=40)):
        at += pause
        answer = scripts.hit(at, ("w", limit, cost))
        if answer.allowed:
            assert answer.retry == 0
            continue
        denied += 1
        assert answer.retry > 0
        look = ("w", limit, cost)
        assert not scripts.hit(at + answer.retry - 1, look, mode="look").allowed
        assert scripts.hit(at + answer.retry, look, mode="look").allowed
        if denied % 2:
            at += answer.retry
            assert scripts.hit(at, look).allowed


@pytest.mark.advanced
@pytest.mark.requirement("R1", "R2")
@same_server
@given(
    data=st.data(),
    rate=st.sampled_from([0.1, 1, 3, 7.5, 30, 1_000, 300_000]),
    burst=st.integers(1, 30),
)
def test_a_bucket_admits_its_burst_and_its_rate(scripts, data, rate, burst):
    """In any interval of t seconds at most burst + rate * t; retry-after is exact."""
    scripts.forget()
    limit = TokenBucket(rate, burst)
    step = limit.width
    pauses = st.one_of(
        st.integers(0, 3), st.integers(0, step), st.integers(0, 3 * step)
    )
    at, admitted = START, []
    for pause, cost in data.draw(
        st.lists(st.tuples(pauses, st.integers(1, burst)), max_size=60)
    ):
        at += pause
        answer = scripts.hit(at, ("b", limit, cost))
        if not answer.allowed:
            look = ("b", limit, cost)
            assert not scripts.hit(at + answer.retry - 1, look, mode="look").allowed
            at += answer.retry
            assert scripts.hit(at, look).allowed
        admitted.append((at, cost))
    for first, (begin, _) in enumerate(admitted):
        used = 0
        for end, cost in admitted[first:]:
            used += cost
            assert used <= burst + rate * (end - begin) / 1e6 + 1e-6


STEPS = st.lists(
    st.tuples(
        st.integers(0, 400_000),  # real time that passes, us
        st.sampled_from([0, 0, 0, -1, -40_000, -300_000, -5_000_000, -3_600_000_000]),
        st.integers(1, 3),
    ),
    max_size=80,
)


@pytest.mark.errors
@pytest.mark.requirement("R1")
@same_server
@given(steps=STEPS, limit=st.sampled_from([3, 20, 300]))
def test_a_clock_that_goes_back_admits_no_more(scripts, steps, limit):
    """Steps back of the server's clock: still exact, in real time."""
    scripts.forget()
    rule = SlidingWindow(limit, 1.0)
    cost_of = max(1, limit // 10)
    real, clock, admitted = 0, START, []
    for passes, jump, cost in steps:
        real += passes
        clock += passes + jump
        asked = ("w", rule, cost * cost_of)
        answer = scripts.hit(clock, asked)
        if not answer.allowed:
            real += answer.retry
            clock += answer.retry
            assert scripts.hit(clock, asked).allowed
        admitted.append((real, cost * cost_of))
    assert worst(admitted, 1_000_000) <= limit


@pytest.mark.errors
@pytest.mark.requirement("R1")
@pytest.mark.parametrize("per", [0.001, 0.000_999_9 + 0.001, 0.999_983, 1.0, 7.3])
def test_the_last_moment_of_a_sub_window_counts_for_a_whole_window(scripts, per):
    """What is used just before an edge is not free before the window is over."""
    limit = SlidingWindow(1, per)
    at = START - START % limit.width + limit.width - 1
    assert scripts.hit(at, ("w", limit, 1)).allowed
    assert scripts.hit(at, ("w", limit, 1)).retry > per * 1e6


@pytest.mark.errors
@pytest.mark.requirement("R1")
def test_a_clock_that_goes_back_at_an_edge_admits_no_more(scripts):
    """From the first moment of a sub-window to the last of another: still exact."""
    limit = SlidingWindow(10, 1.0)
    edge = START - START % limit.width
    assert scripts.hit(edge - 1, ("w", limit, 9)).allowed
    assert scripts.hit(edge, ("w", limit, 1)).allowed
    back = edge - 1_000 * limit.width - 1
    denied = scripts.hit(back, ("w", limit, 9))
    # A microsecond has passed since the nine were admitted.
    assert not denied.allowed
    assert denied.retry + 1 > 1_000_000


@pytest.mark.errors
@pytest.mark.requirement("R1")
def test_a_clock_that_goes_back_an_hour_freezes_nothing(scripts):
    """What was used an hour in the future is free again after one window."""
    limits = {
        "w": SlidingWindow(5, 1.0),
        "b": TokenBucket(5, 5),
    }
    for name, limit in limits.items():
        assert scripts.hit(START, (name, limit, 5)).allowed
        back = START - 3_600_000_000
        denied = scripts.hit(back, (name, limit, 1))
        assert not denied.allowed
        assert denied.retry <= 1_100_000
        assert scripts.hit(back + 1_050_000, (name, limit, 5)).allowed, name


@pytest.mark.errors
@pytest.mark.requirement("R1")
@same_server
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 300_000), st.booleans(), st.integers(1, 3)),
        max_size=80,
    ),
    step=st.integers(1, 900_000),
)
def test_a_forward_step_of_d_is_exact_in_windows_of_w_less_d(scripts, steps, step):
    """One step of d forward weakens windows of W to windows of W - d, and no more."""
    scripts.forget()
    rule = SlidingWindow(10, 1.0)
    real, offset, admitted = 0, 0, []
    for passes, jump, cost in steps:
        real += passes
        if jump and not offset:
            offset = step
        if scripts.hit(START + real + offset, ("w", rule, cost)).allowed:
            admitted.append((real, cost))
    assert worst(admitted, 1_000_000 - step) <= 10


@pytest.mark.advanced
@pytest.mark.requirement("R2")
@same_server
@given(data=st.data())
def test_a_changed_window_never_admits_too_much(scripts, data):
    """A limit that is changed counts what was used, from the change on exactly."""
    scripts.forget()
    kinds = st.sampled_from(
        [SlidingWindow(3, 1.0), SlidingWindow(5, 0.4), SlidingWindow(400, 2.0)]
    )
    at, admitted, limit = START, [], SlidingWindow(3, 1.0)
    for change, pause in data.draw(
        st.lists(st.tuples(st.none() | kinds, st.integers(0, 300_000)), max_size=60)
    ):
        at += pause
        if change is not None and change != limit:
            limit = change
        if scripts.hit(at, ("w", limit, 1)).allowed:
            admitted.append((at, 1))
            window = int(limit.per * 1e6)
            assert sum(1 for when, _ in admitted if when >= at - window) <= limit.limit


@pytest.mark.performance
@pytest.mark.requirement("R1")
def test_a_hot_key_takes_120_bytes(scripts):
    """9,000 in 10 s: one string, 19 bytes and 20 counters of two bytes each."""
    limit = SlidingWindow(9_000, 10.0)
    for tick in range(400):
        assert scripts.hit(START + tick * 10_000, ("w", limit, 20)).allowed
    state = scripts.keys("w")[0]
    assert scripts.redis.strlen(state) == 19 + 20 * 2
    # The name of a key of ours, such as oddswire:rate-limit:{rl}:trades:42
    short = "oddswire:rate-limit:{rl}:trades:42"
    scripts.redis.rename(state, short)
    size = scripts.redis.memory_usage(short)
    scripts.redis.delete(short)
    assert size <= 120
