"""docs/results/performance.md from a run's results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bench_cache
import bench_limits
import bench_pubsub
import bench_queue
import layers
from bench_client import GOALS
from peers import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Performance

This page is written by `make bench`; no figure in it was entered by hand. Everybody is
measured in the same process on the same server, in turns: each of the {rounds} rounds
measures each client once, in changing order. A figure is the median of the rounds, in
brackets its lowest and highest; a ratio is the median of the ratios within the rounds.

All over TCP, on uvloop, with values of 100 bytes, everything on by default (deadlines,
retries, statistics), {tasks} tasks that each wait for a reply before they send the next
command, unless a row says otherwise. What each client returned and wrote was checked
before it was timed.

{cpu}, {cores} cores (client and server share them), {kernel}, Python {python},
{server}; {versions}. {date}, load {load} before and {load_after} after{quiet}.
"""


def render(results: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    machine, client = results["machine"], results["client"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    busy = max(machine["load"] - 0.5, 0) > 0
    yield _HEAD.format(
        **{**machine, "versions": versions, **results["effort"]},
        tasks=TASKS,
        quiet=": **the machine was not quiet**" if busy else "",
    )
    yield "## The client and its peers"
    yield ""
    names = list(client["rows"][0]["figures"])
    yield _table_row("", *names)
    yield _table_row("---", *("---:" for _ in names))
    for row in client["rows"]:
        unit = row["unit"]
        figures = (_figure(row["figures"][name]) for name in names)
        yield _table_row(f"{row['what']}, {unit}", *figures)
    yield ""
    yield (
        f"redis-py ran with the fastest of the pools that were tried for it, "
        f"{client['redis_py_best']} (GETs/s: "
        + "; ".join(
            f"{name} {rate:,.0f}" for name, rate in client["redis_py_pools"].items()
        )
        + "). The others ran with their defaults; each has one connection that all "
        "tasks share."
    )
    yield ""
    yield from _goals(client["rows"], GOALS)
    yield "For times (p50) a smaller ratio is better, and the floor is a ceiling."
    yield ""
    yield from _limits(results["limits"])
    yield from _queue(results["queue"])
    yield from _topics(results["pubsub"])
    yield from _cache(results["cache"])
    yield from _scale(results)
    yield from _profile(results)
    yield from _sessions(results["sessions"])


def _each(times: dict[str, float]) -> str:
    return ", ".join(f"{us:.1f} us by {name}" for name, us in times.items())


def _figure(figure: list[float]) -> str:
    median, low, high = figure
    return f"{median:,.0f} ({low:,.0f}-{high:,.0f})"


def _table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _goals(
    rows: list[dict[str, Any]], goals: dict[tuple[str, str], tuple[float, float]]
) -> Iterator[str]:
    yield "## Against the goals"
    yield ""
    yield _table_row("what", "against", "ratio", "floor", "goal", "")
    yield _table_row("---", "---", "---:", "---:", "---:", "---")
    by_name = {row["what"]: row for row in rows}
    for (what, peer), (floor, goal) in goals.items():
        ratio = by_name[what]["ratios"][peer]
        yield _table_row(
            *(what, peer, f"{ratio:.2f}", f"{floor:g}", f"{goal:g}"),
            verdict(ratio, floor, goal),
        )
    yield ""


def _limits(limits: dict[str, Any]) -> Iterator[str]:
    yield "## Rate limits"
    yield ""
    yield (
        f"What each admits first. Bunches of twice the limit ({bench_limits.LIMIT} a "
        "second), around the edges of whole seconds; counted is what was admitted "
        "within one second for certain, in units of the limit. Above 1.00 a limit is "
        "not kept."
    )
    yield ""
    yield _table_row("limiter", "worst window")
    yield _table_row("---", "---:")
    for name, worst in limits["admitted"].items():
        yield _table_row(name, f"{worst:.2f}")
    yield ""
    fastest = ", ".join(bench_limits.FASTEST.values())
    yield (
        f"Speed against the fastest algorithm of each peer ({fastest}), though it "
        "admits more. Ours remembers a denial until it is over, or for a second."
    )
    yield ""
    names = list(limits["rows"][0]["figures"])
    yield _table_row("", *names)
    yield _table_row("---", *("---:" for _ in names))
    for row in limits["rows"]:
        # A remembered denial takes less than a microsecond.
        digits = 2 if row["unit"] == "us" else 0
        figures = (
            f"{median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"
            for median, low, high in (row["figures"][name] for name in names)
        )
        yield _table_row(f"{row['what']}, {row['unit']}", *figures)
    yield ""
    for line in _goals(limits["rows"], bench_limits.GOALS):
        yield line.replace("## Against", "### Limits against")


def _queue(queue: dict[str, Any]) -> Iterator[str]:
    yield "## The queue"
    yield ""
    yield f"One message for each of {queue['users']:,} users, in milliseconds."
    yield ""
    yield _table_row("how", "ms")
    yield _table_row("---", "---:")
    for name, (median, low, high) in queue["seconds"].items():
        ms = _figure([1000 * median, 1000 * low, 1000 * high])
        yield _table_row(name, ms)
    yield ""
    for peer, (floor, goal) in bench_queue.GOALS.items():
        ratio = queue["ratios"][peer]
        yield (
            f"Against {peer}: {ratio:.1f} times as fast (floor {floor:g}, goal "
            f"{goal:g}: {verdict(ratio, floor, goal)})."
        )
    yield (
        f"One worker with {queue['concurrency']} handlers that do nothing takes, "
        f"handles and settles {_figure(queue['delivered'])} messages a second."
    )
    yield ""


def verdict(ratio: float, floor: float, goal: float) -> str:
    """Say where a ratio stands between its floor and its goal."""
    sign = 1 if goal > floor else -1
    if sign * ratio >= sign * goal:
        return "goal met"
    if sign * ratio >= sign * floor:
        return "floor met, short of the goal"
    return "**below the floor**"


def _topics(pubsub: dict[str, Any]) -> Iterator[str]:
    yield "## Topics"
    yield ""
    yield (
        f"{bench_pubsub.MESSAGES:,} messages about 1 ms apart, every link cut "
        f"{len(bench_pubsub.DISCONNECTS)} times. Ours is a LOG topic; the others "
        "subscribe to a channel, as they come. Unannounced is what a program is not "
        "told of."
    )
    yield ""
    yield _table_row("", "received", "lost", "lost unannounced", "in order, none twice")
    yield _table_row("---", "---:", "---:", "---:", "---")
    for name, row in pubsub["lost"].items():
        order = "yes" if row["in_order"] else "no"
        yield _table_row(
            name,
            *(f"{row[each]:,}" for each in ("received", "lost", "unannounced")),
            order,
        )
    yield ""
    yield (
        f"A burst of {bench_pubsub.BURST:,} messages of a Struct that waits in the "
        "server, read, decoded by the same codec and handed to the program one by one:"
    )
    yield ""
    live = pubsub["live"]
    yield _table_row("", *live)
    yield _table_row("---", *("---:" for _ in live))
    yield _table_row("messages/s", *(_figure(each) for each in live.values()))
    yield ""
    said = verdict(pubsub["ratio"], *bench_pubsub.GOAL)
    yield (
        f"The ratio to redis-py's `listen()` is {pubsub['ratio']:.2f} (floor "
        f"{bench_pubsub.GOAL[0]:g}, goal {bench_pubsub.GOAL[1]:g}): {said}."
    )
    yield ""
    steady = pubsub["steady"]
    yield (
        f"At {steady['per_second']:,.0f} generated ticks a second, published and read "
        f"by one process, a tick is with its subscriber after "
        f"{steady['p50'] * 1e3:.1f} ms (p50) and {steady['p99'] * 1e3:.1f} ms (p99)."
    )


def _spread(figure: list[float]) -> str:
    digits = 2 if figure[0] < 100 else 0
    median, low, high = (f"{each:,.{digits}f}" for each in figure)
    return f"{median} ({low}-{high})"


def _cache(cache: dict[str, Any]) -> Iterator[str]:
    yield "## The cache and its peers"
    yield ""
    yield _table_row("", "oddswire", "cashews", "ratio", "floor", "goal", "")
    yield _table_row("---", "---:", "---:", "---:", "---:", "---:", "---")
    for row in cache["rows"]:
        (floor, goal), ratio = (
            bench_cache.GOALS[row["what"], "cashews"],
            row["ratios"]["cashews"],
        )
        yield _table_row(
            f"{row['what']}, {row['unit']}",
            *(_spread(row["figures"][name]) for name in ("oddswire", "cashews")),
            *(f"{ratio:.1f}", f"{floor:g}", f"{goal:g}"),
            verdict(ratio, floor, goal),
        )
    yield ""
    tags, size = cache["tags"], cache["entry_bytes"]
    yield (
        f"Invalidating a tag of {tags['keys']:,} keys took {tags['ratio']:.2f} times "
        f"as long as one of 10 (floor 2, goal 1.2). Four processes of 100 tasks that "
        f"want one cold key loaded it {cache['loads']} time(s). An entry of 100 "
        "bytes takes "
        f"{size['measured']:,.0f} bytes of this process and counts for "
        f"{size['counted']:,.0f}."
    )
    yield ""
    yield "Hit ratio on a Zipf trace (0.9, 10,000 keys) with scans, by entries of room:"
    yield ""
    yield _table_row("room", "oddswire", "LRU")
    yield _table_row("---:", "---:", "---:")
    for room, ratios in cache["hit_ratio"].items():
        yield _table_row(room, *(f"{ratio:.3f}" for ratio in ratios.values()))
    yield ""


def _scale(results: dict[str, Any]) -> Iterator[str]:
    per_second = results["layers"]["per_second"]
    yield "## For scale"
    yield ""
    yield _table_row("what", "per second")
    yield _table_row("---", "---:")
    for name, rate in results["client"]["scale"].items():
        yield _table_row(name, f"{rate:,.0f}")
    benchmark = results["redis_benchmark"]
    if benchmark is None:
        yield _table_row("redis-benchmark", "not on PATH")
    else:
        for name, rate in benchmark.items():
            yield _table_row(name, f"{rate:,.0f}")
    yield _table_row(
        f"the bare multiplexer, untyped ({layers.WIRE})",
        f"{per_second[layers.WIRE]:,.0f}",
    )
    yield _table_row(
        f"asyncio alone: {TASKS} tasks, futures resolved together",
        f"{per_second[layers.ASYNCIO]:,.0f}",
    )
    yield ""


def _profile(results: dict[str, Any]) -> Iterator[str]:
    us, wrappers = results["layers"]["us"], results["layers"]["wrappers_us"]
    yield "## Where the time goes"
    yield ""
    yield (
        f"Microseconds per command with {TASKS} tasks. Each line contains those above "
        "that it is built on."
    )
    yield ""
    yield _table_row("layer", "us", "adds")
    yield _table_row("---", "---:", "---:")
    below = {
        layers.WIRE: layers.ASYNCIO,
        layers.EXECUTE: layers.WIRE,
        layers.GET: layers.EXECUTE,
        layers.EXECUTE_SET: layers.WIRE,
        layers.SET: layers.EXECUTE_SET,
    }
    for name in (layers.ASYNCIO, *below):
        base = below.get(name)
        adds = "" if base is None else f"{us[name] - us[base]:+.2f}"
        yield _table_row(f"`{name}`" if base else name, f"{us[name]:.2f}", adds)
    yield ""
    counting, low, high = results["layers"]["counting"]
    yield (
        f"Statistics cost {counting:.1%} of a get ({low:.1%} to {high:.1%} by round; "
        "below zero is noise): the same code, with the statements that count taken out "
        f"of it, needs {us[layers.UNCOUNTED]:.2f} us instead of {us[layers.GET]:.2f}."
    )
    yield ""
    alone = results["layers"]["alone_us"]
    yield (
        "One task alone waits for the kernel and the server. A GET takes "
        + _each(alone["usual"])
        + "; with client and server on one core, where no idle core has to be woken, "
        + _each(alone["one core"])
        + "."
    )
    yield ""
    by_name = {row["what"]: row["figures"] for row in results["client"]["rows"]}
    theirs = by_name["one task on one core, p50"]["redis-py"][0]
    bare = alone["one core"]["a bare asyncio protocol"]
    usual = by_name["one task, p50"]["redis-py"][0]
    socket = alone["usual"]["a blocking socket"]
    ours = alone["one core"][layers.GET]
    yield (
        f"Over two cores a blocking socket alone is at {socket / usual:.2f} of "
        "redis-py: most of the time is the waking of idle cores, which is the same "
        "for everybody. On one core a bare protocol, which does nothing but write the "
        f"command and read the reply, is at {bare / theirs:.2f}; on top of it ours "
        f"takes {ours - bare:.1f} us and redis-py {theirs - bare:.1f}. That row is for "
        "explanation: no floor or goal was set for it."
    )
    yield ""
    yield (
        "redis-py's own methods, which we inherit and which only build a command, take "
        + ", ".join(f"{each:.2f} us for {name}" for name, each in wrappers.items())
        + " (alone, sending nothing)."
    )
    yield ""
    short = [
        f"{what} against {peer}"
        for (what, peer), (floor, goal) in GOALS.items()
        if verdict(
            {r["what"]: r for r in results["client"]["rows"]}[what]["ratios"][peer],
            floor,
            goal,
        )
        != "goal met"
    ]
    if short:
        yield (
            f"Short of the goal: {'; '.join(short)}. What is left is in the table "
            "above: asyncio's own task switches and futures, the socket calls, the "
            "parser and redis-py's methods are a fixed price per awaited command; an "
            "explicit pipeline or a batch method pays it once for many."
        )


def _sessions(found: dict[str, Any]) -> Iterator[str]:
    updates = found["updates"]
    yield ""
    yield "## Sessions"
    yield ""
    yield (
        "50 concurrent changes of one session, all of them kept, in ms: oddswire "
        f"{_figure(updates['figures']['oddswire'])}; aiogram's RedisStorage with its "
        f"RedisEventIsolation {_figure(updates['figures']['aiogram'])}. Ratio "
        f"{updates['ratio']:,.0f}; the floor is 100."
    )
    yield ""
    yield f"Sessions of {found['shape']}:"
    yield ""
    kinds = list(found["growth"][0]["server_us"])
    yield _table_row(
        "sessions", "MB in Redis", "bytes each", "near read, us",
        *(f"{kind}, us of server time per script" for kind in kinds),
    )  # fmt: skip
    yield _table_row(*("---:" for _ in range(4 + len(kinds))))
    for row in found["growth"]:
        near = f"{row['near_us']:.1f}" if "near_us" in row else ""
        yield _table_row(
            f"{row['sessions']:,}", f"{row['megabytes']:.1f}",
            f"{row['bytes_each']:,.0f}", near,
            *(f"{row['server_us'][kind]:.1f}" for kind in kinds),
        )  # fmt: skip
    yield ""
    yield (
        "The floors: 12 MB for 10,000, growing linearly; 3 us for a near read; 100 us "
        "for finding 20 watchers among 100,000. The lookup returns 20 users."
    )
