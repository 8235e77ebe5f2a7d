"""The audit in short, and its judge: K2."""

from __future__ import annotations

import pytest

from audit.judge import judge
from audit.run import audit

BOUND = 2.5


@pytest.mark.integration
@pytest.mark.requirement("K2", "K4")
async def test_no_stale_read_under_faults():
    """Three processes, five seconds, random faults: nothing is older than promised."""
    verdict, _ = await audit("oddswire", 5.0, seed=3)
    assert verdict.reads > 100
    assert verdict.writes > 20
    assert (verdict.own, verdict.others, verdict.first) == (0, 0, [])


@pytest.mark.integration
@pytest.mark.requirement("K2")
async def test_no_stale_read_over_failovers():
    """A replica that may be behind is promoted again and again: nothing is older."""
    verdict, run = await audit("oddswire", 5.0, seed=4, faults=("promote",))
    assert run.faults["promote"] >= 2
    assert verdict.reads > 100
    assert verdict.writes > 20
    assert (verdict.own, verdict.others, verdict.first) == (0, 0, [])


@pytest.mark.integration
@pytest.mark.requirement("K2", "C16")
async def test_no_stale_read_on_a_cluster():
    """Slots move and primaries change under three processes: nothing is older."""
    verdict, run = await audit("oddswire", 12.0, seed=5, topology="cluster")
    assert sum(run.faults.values()) >= 2
    assert verdict.reads > 100
    assert verdict.writes > 20
    assert (verdict.own, verdict.others, verdict.first) == (0, 0, [])


@pytest.mark.basic
def test_judge_finds_what_is_too_old():
    """The judge tells a read that is too old from one that may be so."""

    def read(process, value, began):
        return process, ["read", "1", value, began, began + 0.1]

    written = [
        ("a", ["write", "1", 1, 0.0, 10.0]),
        ("b", ["write", "1", 3, 0.0, 20.0]),
        ("b", ["write", "1", 2, 0.0, 20.5]),
        ("b", ["lost", "1", 9, "Timeout", 30.0]),
    ]
    right = [read("a", 0, 9.0), read("a", 1, 21.0), read("a", 3, 40.0)]
    assert judge(written + right, BOUND)[3:5] == (0, 0)
    own = judge([*written, read("b", 2, 20.1)], BOUND)
    assert (own.own, own.others) == (1, 0)
    others = judge([*written, read("a", 2, 22.6)], BOUND)
    assert (others.own, others.others) == (0, 1)
    assert others.worst == pytest.approx(2.6)
    assert judge([*written, ("a", ["error", "1", "X", 1, 2])], BOUND).errors == {"X": 1}
