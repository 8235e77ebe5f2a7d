"""The spacing of attempts to connect, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.connection.backoff import ReconnectBackoff, ReconnectPolicy

pytestmark = pytest.mark.advanced

POLICIES = st.builds(
    ReconnectPolicy,
    base=st.floats(0.001, 10),
    cap=st.floats(0.001, 100),
    attempts=st.integers(1, 50),
    probe=st.floats(0.1, 100),
    steady=st.floats(0, 100),
)
DICE = st.floats(0, 1, exclude_max=True)


@given(POLICIES, DICE, st.integers(0, 5_000))
def test_delay_is_between_half_and_all_of_the_doubled_base(policy, rng, failures):
    """A delay is at most the cap, or the probe's, and at least half of it."""
    backoff = ReconnectBackoff(policy, lambda: rng)
    for _ in range(failures):
        backoff.failed()
    delay = backoff.delay()

    assert backoff.circuit_open == (failures >= policy.attempts)
    if failures == 0:
        assert delay == 0.0
    elif backoff.circuit_open:
        assert policy.probe / 2 <= delay <= policy.probe
    else:
        whole = min(policy.cap, policy.base * 2.0 ** min(failures - 1, 64))
        assert whole / 2 <= delay <= whole


@given(
    POLICIES,
    st.lists(
        st.tuples(st.sampled_from(["fail", "succeed", "lose"]), st.floats(0, 200)),
        max_size=60,
    ),
)
def test_any_history_keeps_the_count_in_bounds(policy, history):
    """A success closes the circuit; only a steady connection starts over."""
    backoff = ReconnectBackoff(policy, lambda: 0.5)
    now, ready_at = 0.0, None
    for what, later in history:
        now += later
        before = backoff.failures
        if what == "fail":
            backoff.failed()
            assert backoff.failures == before + 1
        elif what == "succeed":
            backoff.succeeded(now)
            ready_at = now
            assert not backoff.circuit_open
        elif ready_at is not None:
            backoff.lost(now)
            assert not backoff.circuit_open
            if now - ready_at >= policy.steady:
                assert backoff.failures == 0
            else:
                assert backoff.failures == min(before + 1, policy.attempts - 1)
            ready_at = None
        assert backoff.delay() >= 0.0


def test_a_server_that_accepts_and_drops_is_not_hammered():
    """Connections that end at once are spaced like failures, and open no circuit."""
    backoff = ReconnectBackoff(ReconnectPolicy(), lambda: 0.999)
    delays = []
    for _ in range(20):
        backoff.succeeded(0.0)
        backoff.lost(0.01)
        delays.append(round(backoff.delay(), 2))

    assert delays[:4] == [0.05, 0.1, 0.2, 0.4]
    assert delays[-1] == 5.0
    assert not backoff.circuit_open
