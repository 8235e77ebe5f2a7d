"""docs/guides/operations.md says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oddswire import acl
from oddswire.cli import _checks, _grants
from oddswire.health import Thresholds

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "operations.md"


@pytest.mark.basic
def test_every_check_is_on_the_page():
    """The two tables have each check once, in its order."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    health = [
        *("reachable", "circuit", "heartbeat", "latency", "loop", "calls", "server"),
        *("role", "replication", "memory", "eviction", "persistence"),
        *("connections", "keys"),
    ]
    doctor = [*(name for name, _, _ in _checks.CHECKS), "features"]
    assert [row for row in rows if row in {*health, *doctor}] == [*health, *doctor]


@pytest.mark.basic
def test_levels_of_the_page_are_the_defaults():
    """The levels that the page names are those of `Thresholds`."""
    limits = Thresholds()
    assert (limits.latency.warn, limits.latency.fail) == (0.05, 1.0)
    assert (limits.loop_lag.warn, limits.loop_lag.fail) == (0.05, 1.0)
    assert (limits.failures.warn, limits.failures.fail) == (0.05, 0.5)
    assert (limits.memory.warn, limits.memory.fail) == (0.8, 0.95)
    assert (limits.clients.warn, limits.clients.fail) == (0.8, 0.95)
    assert (limits.failures_least, limits.replica_lag.warn) == (20, 10.0)


@pytest.mark.basic
def test_the_line_on_the_page_is_the_one_that_is_printed():
    """The example of `oddswire acl health` is its output."""
    found = _grants.grants([acl.HEALTH], None, "oddswire:", ())
    assert found.users[0].line in PAGE.read_text().splitlines()
