"""The form of docs/results/performance.md and of the comparison of two checkouts.

The measuring itself needs the peers' environment: `make bench`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# What the design asks of each row: floor and goal as they are printed.
ROWS = [
    ("typed get, 100 tasks: its cost", "4.2x", "3x"),
    ("one task on one core, p50", "1.25x", "1.15x"),
    ("typed get, set ex, hget, incr, evalsha: 100 tasks", "9.5x", "12x"),
    ("the same", "4x", "6x"),
    ("explicit pipeline of 100", "3.2x", "5x"),
    ("cache L1 hit: get", "10x", "15x"),
    ("cache L1 hit: decorated", "30x", "45x"),
    ("cache hit in Redis, 100 tasks", "8x", "12x"),
    ("a cold load with one tag", "3", "2"),
    ("invalidate a tag of 100,000 keys", "2x", "1.2x"),
    ("4 processes x 100 tasks, one cold key", "1", "1"),
    ("limiter, allowed, 50 tasks", "5x", "8x"),
    ("limiter, denied", "200x", "300x"),
    ("worst admitted in any window", "1x", "1x"),
    ("LOG topic, 2,000 messages, 3 forced disconnects", "0", "0"),
    ("live messages decoded and dispatched", "2.7x", "4x"),
    ("50 concurrent updates of one session", "100x", "1,000x"),
    ("10,000 sealed sessions of a stated shape", "12 MB", "8 MB"),
    ("a tick among 100,000 rules on 1 / 50 / 5,000 assets", "20 us", "3 us"),
    (
        "tick to queue through the committed SQL transaction, 5,000 ticks/s",
        "50 ms",
        "15 ms",
    ),
    ("a cached command over HTTP, 200/s", "20 ms", "5 ms"),
    ("a watcher killed: until the next one judges", "1.5 s", "0.8 s"),
    ("import oddswire, Client", "25 ms more", "15 ms more"),
]
COMMANDS = ("get", "set ex", "hget", "incr", "evalsha")
MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "kernel": "Linux 6",
    "python": "3.11",
    "server": "valkey 9",
    "versions": {"redis": "8.1.0"},
    "commit": "1a2b3c4",
    "date": "2026-11-30",
    "load": 0.1,
    "load_after": 1.0,
}


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def rates(**ratios):
    """Return a row of the client: one figure of ours, and the ratios to the peers."""
    return {
        "unit": "calls/s",
        "figures": {"oddswire": [100_000.0, 90_000.0, 110_000.0]},
        "ratios": {"redis-py": 12.5, "valkey-glide": 6.0} | ratios,
    }


def client(**of_get):
    """Return the client's results."""
    return {
        "rows": [
            {"what": what, **(rates(**of_get) if what == "get" else rates())}
            for what in (*COMMANDS, "pipeline of 100")
        ],
        "redis_py_best": "BlockingConnectionPool(20)",
        "redis_py_pools": {"BlockingConnectionPool(20)": 7_000.0},
        "scale": {},
    }


def page(script, **groups):
    """Return the rows of the table of goals, cell by cell, and the page's text."""
    results = {
        "machine": MACHINE,
        "effort": {"rounds": 9, "seconds": 0.6, "tasks": 100},
        **groups,
    }
    text = script("page").render(results)
    lines = text.partition("## Against the goals")[2].split("\n\n")[1].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines], text


@pytest.mark.basic
def test_the_table_of_goals_is_that_of_the_design(script):
    """Rows, floors and goals are the design's; asyncio and bare protocol come first."""
    rows, _ = page(script)

    assert [(row[0], row[3], row[4]) for row in rows] == ROWS
    assert "asyncio" in rows[0][1]
    assert "bare asyncio protocol" in rows[1][1]


@pytest.mark.basic
def test_a_row_that_this_run_did_not_measure_has_no_figure(script):
    """It names the command that measures it, or that the run left it out."""
    rows, text = page(script, client=client())

    said = {row[0]: (row[2], row[5]) for row in rows}
    assert said["a watcher killed: until the next one judges"] == (
        "",
        "`make bench-watch`",
    )
    assert said["limiter, denied"] == ("", "left out of this run")
    assert said["explicit pipeline of 100"] == ("12.50x", "goal met")
    assert "## The client and its peers" in text
    assert "## Rate limits" not in text


@pytest.mark.errors
@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (12.0, "goal met"),
        (11.99, "floor met, short of the goal"),
        (9.49, "**below the floor**"),
    ],
)
def test_the_worst_of_several_figures_decides(script, ratio, verdict):
    """Four commands that meet the goal do not hide the fifth."""
    rows, text = page(script, client=client(**{"redis-py": ratio}))

    assert rows[2][2].startswith(f"get {ratio:.2f}".removesuffix(".00"))
    assert rows[2][5] == verdict
    assert ("Short of the goal: typed get" in text) == (verdict != "goal met")


@pytest.mark.basic
@pytest.mark.parametrize(
    ("figure", "verdict"),
    [(3.0, "goal met"), (4.2, "floor met, short of the goal"), (4.21, "**below")],
)
def test_less_is_better_where_a_cost_is_compared(script, figure, verdict):
    """A cost above its floor is below it in words."""
    goal = script("goals").GOALS[0]

    assert goal.verdict({"": figure}).startswith(verdict)


@pytest.mark.basic
def test_two_checkouts_are_compared_round_by_round(script):
    """The ratio is the median of the rounds; the two strict rows allow 3 %."""
    render = script("compare_checkouts").render

    found = {
        "get / asyncio's task switch": {"old": [4.0, 8.0, 4.0], "new": [4.16, 8.32, 4]},
        "get, 100 tasks": {"old": [2.0, 4.0, 2.0], "new": [2.08, 4.16, 2.0]},
    }
    strict, loose = render(found).splitlines()[2:]

    assert "| 1.040 |" in strict
    assert "**slower**" in strict
    assert "| 1.040 |" in loose
    assert "held" in loose
