"""The table of goals: what is compared with what, its floor, its goal, and the verdict.

The rows are those of the design, in its order; but first the two that hardly move with
the machine. It imports no peer, so that the page's form is tested without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Found = dict[str, Any]
    # What was measured, each figure with the name it is shown under; "": alone.
    Measured = Callable[[Found], dict[str, float]]

MET = "goal met"
COMMANDS = ("get", "set ex", "hget", "incr", "evalsha")


class Goal(NamedTuple):
    """One row.

    Attributes:
        what: What is measured.
        against: Whom or what it is compared with.
        floor: What may not be worse.
        goal: What is aimed at; below the floor where less is better.
        unit: What follows a figure; ``x``: times as fast, as long or as much.
        group: The group of rows that measures it (``make bench ROWS=client``), or the
            command that does.
        measured: Takes the figures out of that group's results.
    """

    what: str
    against: str
    floor: float
    goal: float
    unit: str
    group: str
    measured: Measured | None = None

    def figures(self, results: dict[str, Any]) -> dict[str, float] | None:
        """Return the figures; None: this run did not measure them."""
        if self.measured is None or self.group not in results:
            return None
        return self.measured(results[self.group])

    def verdict(self, figures: dict[str, float]) -> str:
        """Say where the worst of the figures stands between floor and goal."""
        sign = 1 if self.goal > self.floor else -1
        worst = min(sign * figure for figure in figures.values())
        if worst >= sign * self.goal:
            return MET
        if worst >= sign * self.floor:
            return "floor met, short of the goal"
        return "**below the floor**"

    def shown(self, figure: float) -> str:
        """Write a figure with its unit."""
        digits = 2 if figure < 100 and figure != int(figure) else 0
        return f"{figure:,.{digits}f}{self.unit}"


def _ratios(row: str, *peers: str) -> Measured:
    def take(found: Found) -> dict[str, float]:
        ratios = next(each for each in found["rows"] if each["what"] == row)["ratios"]
        return {peer if len(peers) > 1 else "": ratios[peer] for peer in peers}

    return take


def _commands(peer: str) -> Measured:
    def take(found: Found) -> dict[str, float]:
        rows = {row["what"]: row["ratios"] for row in found["rows"]}
        return {command: rows[command][peer] for command in COMMANDS}

    return take


def _at(*path: str) -> Measured:
    def take(found: Found) -> dict[str, float]:
        value: Any = found
        for name in path:
            value = value[name]
        return {"": value}

    return take


def _ten_thousand(found: Found) -> dict[str, float]:
    row = next(each for each in found["growth"] if each["sessions"] == 10_000)
    return {"": row["megabytes"]}


# Instead of a group: the command that measures the row.
_ALERTS, _WATCH = "`make bench-alerts`", "`make bench-watch`"
_BOT = "`make bench-bot`"

GOALS = (
    Goal("typed get, 100 tasks: its cost", "asyncio's own task switch and future",
         4.2, 3.0, "x", "layers", _at("get_per_switch")),
    Goal("one task on one core, p50", "a bare asyncio protocol",
         1.25, 1.15, "x", "layers", _at("get_per_bare")),
    Goal("typed get, set ex, hget, incr, evalsha: 100 tasks", "redis-py",
         9.5, 12.0, "x", "client", _commands("redis-py")),
    Goal("the same", "valkey-glide", 4.0, 6.0, "x", "client",
         _commands("valkey-glide")),
    Goal("explicit pipeline of 100", "redis-py", 3.2, 5.0, "x", "client",
         _ratios("pipeline of 100", "redis-py")),
    Goal("cache L1 hit: get", "cashews memory get", 10.0, 15.0, "x", "cache",
         _ratios("L1 hit, get", "cashews")),
    Goal("cache L1 hit: decorated", "cashews decorated", 30.0, 45.0, "x", "cache",
         _ratios("L1 hit, decorated", "cashews")),
    Goal("cache hit in Redis, 100 tasks", "cashews redis get", 8.0, 12.0, "x",
         "cache", _ratios("hit in Redis, 100 tasks", "cashews")),
    Goal("a cold load with one tag", "round trips", 3.0, 2.0, "", "cache",
         _at("round_trips")),
    Goal("invalidate a tag of 100,000 keys", "its own cost at 10 keys", 2.0, 1.2,
         "x", "cache", _at("tags", "ratio")),
    Goal("4 processes x 100 tasks, one cold key", "loads of the origin", 1.0, 1.0,
         "", "cache", _at("loads")),
    Goal("limiter, allowed, 50 tasks", "limits, throttled-py", 5.0, 8.0, "x",
         "limits", _ratios("limiter, allowed, 50 tasks", "limits", "throttled-py")),
    Goal("limiter, denied", "throttled-py", 200.0, 300.0, "x", "limits",
         _ratios("limiter, denied", "throttled-py")),
    Goal("worst admitted in any window", "the limit itself", 1.0, 1.0, "x", "limits",
         _at("admitted", "oddswire, sliding window")),
    Goal("LOG topic, 2,000 messages, 3 forced disconnects", "lost unannounced",
         0.0, 0.0, "", "pubsub", _at("lost", "oddswire", "unannounced")),
    Goal("live messages decoded and dispatched", "redis-py `listen()`", 2.7, 4.0,
         "x", "pubsub", _at("ratio")),
    Goal("50 concurrent updates of one session",
         "aiogram RedisStorage + RedisEventIsolation", 100.0, 1_000.0, "x",
         "sessions", _at("updates", "ratio")),
    Goal("10,000 sealed sessions of a stated shape", "memory in Redis", 12.0, 8.0,
         " MB", "sessions", _ten_thousand),
    Goal("a tick among 100,000 rules on 1 / 50 / 5,000 assets", "mean", 20.0, 3.0,
         " us", _ALERTS),
    Goal("tick to queue through the committed SQL transaction, 5,000 ticks/s", "p99",
         50.0, 15.0, " ms", _WATCH),
    Goal("a cached command over HTTP, 200/s", "p99", 20.0, 5.0, " ms", _BOT),
    Goal("a watcher killed: until the next one judges", "p99", 1.5, 0.8, " s",
         _WATCH),
    Goal("import oddswire, Client", "redis.asyncio", 25.0, 15.0, " ms more",
         "imports", _at("more_ms")),
)  # fmt: skip


# Of what came after the table of the design: beside the figures of its section.
CLUSTER = (
    Goal("get of 100 tasks, three primaries", "redis-py's cluster client", 8.0, 10.0,
         "x", "cluster", _at("ratio")),
    Goal("routing of a get in a cluster", "the client of its node", 15.0, 10.0,
         " % more", "cluster", _at("routing_percent")),
)  # fmt: skip


def table(results: dict[str, Any], rows: tuple[Goal, ...] = GOALS) -> Iterator[str]:
    """Yield the lines of a table; a row that was not measured says so."""
    yield "| what | against | measured | floor | goal |  |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for goal in rows:
        measured, said = "", "left out of this run" if goal.measured else goal.group
        if figures := goal.figures(results):
            said = goal.verdict(figures)
            measured = ", ".join(
                f"{name} {goal.shown(figure)}".strip()
                for name, figure in figures.items()
            )
        limits = (f"{each:,g}{goal.unit}" for each in (goal.floor, goal.goal))
        yield f"| {' | '.join((goal.what, goal.against, measured, *limits, said))} |"


def short(results: dict[str, Any]) -> list[str]:
    """Return the rows that were measured and are short of their goal."""
    return [
        f"{goal.what} against {goal.against}"
        for goal in (*GOALS, *CLUSTER)
        if (figures := goal.figures(results)) and goal.verdict(figures) != MET
    ]
