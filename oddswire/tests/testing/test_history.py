"""The judges accept what can be and name what cannot."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.errors import CommandTimeout, ConnectionLost, Outcome
from oddswire.testing import (
    Call,
    History,
    LoopLag,
    lost_counts,
    lost_members,
    not_linearizable,
    overtime,
    wrong_replies,
)


def _call(op, began, ended, *, sent=None, value=None, outcome="ok", key="k"):
    return Call(op, key, began, ended, outcome, sent=sent, value=value)


@st.composite
def _histories(draw):
    """A register that was really used: each call took effect at a moment within it."""
    value, calls, now = None, [], 0.0
    for number in range(draw(st.integers(1, 12))):
        now += 1.0
        before, after = draw(st.floats(0, 3)), draw(st.floats(0, 3))
        if draw(st.booleans()):
            ran = draw(st.sampled_from(["ok", "ran", "never"]))
            if ran != "never":
                value = number
            outcome = "ok" if ran == "ok" else "unknown"
            # One that ran and was not answered may have ended for its caller earlier.
            ended = now + after if ran == "ok" else now - before + 0.001
            calls.append(
                _call("set", now - before, ended, sent=number, outcome=outcome)
            )
        else:
            calls.append(_call("get", now - before, now + after, value=value))
    return calls


@pytest.mark.advanced
@given(_histories())
def test_what_really_happened_is_accepted(calls):
    """No history of a real register is called impossible, unknown writes included."""
    assert not_linearizable(calls) == []


@pytest.mark.errors
@pytest.mark.parametrize(
    "calls",
    [
        [_call("set", 0, 1, sent=1), _call("get", 2, 3, value=None)],
        [_call("set", 0, 1, sent=1), _call("get", 2, 3, value=2)],
        [
            _call("set", 0, 1, sent=1),
            _call("set", 2, 3, sent=2),
            _call("get", 4, 5, value=1),
        ],
        [
            _call("set", 0, 9, sent=1, outcome="unknown"),
            _call("get", 2, 3, value=1),
            _call("get", 4, 5, value=None),
        ],
        [_call("get", 0, 1, value=1), _call("set", 2, 3, sent=1)],
    ],
    ids=["lost", "never written", "stale", "back in time", "before it was written"],
)
def test_impossible_reads_are_named(calls):
    """A lost, stale or invented value is found."""
    assert not_linearizable(calls) == [
        f"k: no order of its {len(calls)} calls explains what was read"
    ]


@pytest.mark.errors
def test_counters_are_between_acknowledged_and_unknown():
    """A doubled and a lost increment are both found; an unknown one may be either."""
    calls = [
        *(_call("incr", 0, 1) for _ in range(3)),
        _call("incr", 0, 1, outcome="unknown"),
        _call("incr", 0, 1, outcome="not_sent"),
    ]
    assert lost_counts(calls, {"k": 3}) == lost_counts(calls, {"k": 4}) == []
    assert lost_counts(calls, {"k": 5}) == ["k is 5, between 3 and 4 expected"]
    assert lost_counts(calls, {}) == ["k is 0, between 3 and 4 expected"]


@pytest.mark.errors
def test_lost_members_and_wrong_replies_are_named():
    """An acknowledged member that is gone and a reply of another key are found."""
    added = [_call("add", 0, 1, sent="a"), _call("add", 0, 1, sent="b")]
    assert lost_members(added, {"k": {"a", "b"}}) == []
    assert lost_members(added, {"k": {"a"}}) == [
        "add k 'b': acknowledged and not there"
    ]
    read = [_call("get", 0, 1, value="k:1"), _call("get", 0, 1, value="other:1")]
    assert wrong_replies(read, lambda key, value: value.startswith(key)) == [
        "get k returned 'other:1'"
    ]


@pytest.mark.basic
async def test_recorder_writes_down_what_came_of_a_call():
    """Values, outcomes, classes and times are recorded, a cancellation as unknown."""

    async def fail(error):
        raise error

    history = History()
    assert await history.record("get", "k", asyncio.sleep(0, "v")) == "v"
    refused = ConnectionLost("x", outcome=Outcome.NOT_SENT)
    await history.record("get", "k", fail(refused), deadline=1.0)
    await history.record("get", "k", fail(CommandTimeout("x")), deadline=1e-9)
    await history.record("get", "k", fail(ValueError("x")))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await history.record("get", "k", asyncio.Event().wait())

    assert [call.outcome for call in history.calls] == [
        *("ok", "not_sent", "unknown", "unknown", "unknown")
    ]
    assert [call.error for call in history.calls][1:4] == [
        *("ConnectionLost", "CommandTimeout", "ValueError")
    ]
    assert history.count("unknown", "get") == 3
    assert len(overtime(history.calls)) == 1


@pytest.mark.errors
async def test_a_late_loop_does_not_make_a_call_late():
    """Beyond the deadline only time in which the loop ran free is the call's fault."""
    history, loop = History(), asyncio.get_running_loop()

    def hold_up():
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass

    with LoopLag() as lag:
        for op, takes, stall_at in (
            ("held up", 0.15, 0.05),  # through its deadline, ends behind it
            ("truly late", 0.6, None),
            ("held up and late", 0.9, 0.0),  # by then the loop had run for long
        ):
            if stall_at is not None:
                loop.call_later(stall_at, hold_up)
            await history.record(op, "k", asyncio.sleep(takes), deadline=0.2)

    assert len(overtime(history.calls)) == 3
    assert [line.partition(" k ")[0] for line in overtime(history.calls, lag=lag)] == [
        *("truly late", "held up and late")
    ]
    assert lag.worst > 0.3
    assert lag.between(0.0, time.monotonic()) > 0.6
