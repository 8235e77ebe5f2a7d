"""docs/results/performance.md from a run's results, without groups that did not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import goals

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
{server}; {versions}.
Commit {commit}, {date}, load {load} before and {load_after} after{quiet}.
"""


def render(results: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    busy = max(machine["load"] - 0.5, 0) > 0
    yield _HEAD.format(
        **{**machine, "versions": versions, **results["effort"]},
        quiet=": **the machine was not quiet**" if busy else "",
    )
    yield "## Against the goals"
    yield ""
    yield from goals.table(results)
    yield ""
    yield (
        "The first two rows hardly move with the machine; a ratio to a peer does. Of "
        "several figures the worst decides. A row without a figure is measured by the "
        "command that it names."
    )
    yield ""
    sections = {
        "client": _client,
        "layers": _profile,
        "cache": _cache,
        "limits": _limits,
        "sessions": _sessions,
        "queue": _queue,
        "pubsub": _topics,
        "cluster": _cluster,
        "imports": _imports,
    }
    for group, section in sections.items():
        if group in results:
            yield from section(results[group])
    if "redis_benchmark" in results:
        yield from _scale(results)
    if missed := goals.short(results):
        yield f"Short of the goal: {'; '.join(missed)}."


def _client(client: dict[str, Any]) -> Iterator[str]:
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


def _each(times: dict[str, float], word: str = "by") -> str:
    return ", ".join(f"{us:.2f} us {word} {name}" for name, us in times.items())


def _figure(figure: list[float]) -> str:
    median, low, high = figure
    return f"{median:,.0f} ({low:,.0f}-{high:,.0f})"


def _table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _limits(limits: dict[str, Any]) -> Iterator[str]:
    yield "## Rate limits"
    yield ""
    yield (
        f"What each admits first. Bunches of twice the limit ({limits['limit']} a "
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
    fastest = ", ".join(limits["fastest"])
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
    ratios = (
        f"{ratio:.1f} times as fast as {peer}"
        for peer, ratio in queue["ratios"].items()
    )
    yield f"`enqueue_many` is {', '.join(ratios)}."
    yield (
        f"One worker with {queue['concurrency']} handlers that do nothing takes, "
        f"handles and settles {_figure(queue['delivered'])} messages a second."
    )
    yield ""


def _topics(pubsub: dict[str, Any]) -> Iterator[str]:
    yield "## Topics"
    yield ""
    yield (
        f"{pubsub['messages']:,} messages about 1 ms apart, every link cut "
        f"{pubsub['disconnects']} times. Ours is a LOG topic; the others "
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
        f"A burst of {pubsub['burst']:,} messages of a Struct that waits in the "
        "server, read, decoded by the same codec and handed to the program one by one:"
    )
    yield ""
    live = pubsub["live"]
    yield _table_row("", *live)
    yield _table_row("---", *("---:" for _ in live))
    yield _table_row("messages/s", *(_figure(each) for each in live.values()))
    yield ""
    steady = pubsub["steady"]
    yield (
        f"At {steady['per_second']:,.0f} generated ticks a second, published and read "
        f"by one process, a tick is with its subscriber after "
        f"{steady['p50'] * 1e3:.1f} ms (p50) and {steady['p99'] * 1e3:.1f} ms (p99)."
    )
    yield ""


def _spread(figure: list[float]) -> str:
    digits = 2 if figure[0] < 100 else 0
    median, low, high = (f"{each:,.{digits}f}" for each in figure)
    return f"{median} ({low}-{high})"


def _cache(cache: dict[str, Any]) -> Iterator[str]:
    yield "## The cache and its peers"
    yield ""
    yield _table_row("", "oddswire", "cashews", "ratio")
    yield _table_row("---", "---:", "---:", "---:")
    for row in cache["rows"]:
        yield _table_row(
            f"{row['what']}, {row['unit']}",
            *(_spread(row["figures"][name]) for name in ("oddswire", "cashews")),
            f"{row['ratios']['cashews']:.1f}",
        )
    yield ""
    tags, size = cache["tags"], cache["entry_bytes"]
    yield (
        f"Invalidating a tag of {tags['keys']:,} keys took {tags['ratio']:.2f} times "
        f"as long as one of 10. Four processes of 100 tasks that "
        f"want one cold key loaded it {cache['loads']} time(s). A cold load with one "
        f"tag takes {cache['round_trips']:.1f} times as long as a PING over a link "
        "that is 20 ms late, which is how its round trips are counted. An entry of 100 "
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
    yield "## For scale"
    yield ""
    yield _table_row("what", "per second")
    yield _table_row("---", "---:")
    benchmark = results["redis_benchmark"]
    rates = results.get("client", {}).get("scale", {}) | (benchmark or {})
    if "layers" in results:
        rates |= results["layers"]["per_second"]
    for name, rate in rates.items():
        yield _table_row(name, f"{rate:,.0f}")
    if benchmark is None:
        yield _table_row("redis-benchmark", "not on PATH")
    yield ""


def _cluster(cluster: dict[str, Any]) -> Iterator[str]:
    yield "## A cluster"
    yield ""
    yield (
        f"A GET of 100 tasks on a cluster of one primary takes "
        f"{cluster['routed_us']:.2f} us of processor, and {cluster['direct_us']:.2f} "
        f"by the client of its node: routing adds {cluster['routing_percent']:.0f} %. "
        f"On three primaries it takes {cluster['ours_us']:.1f} us, and "
        f"{cluster['theirs_us']:.1f} with redis-py's cluster client."
    )
    yield ""
    yield from goals.table({"cluster": cluster}, goals.CLUSTER)
    yield ""


def _imports(imports: dict[str, Any]) -> Iterator[str]:
    yield "## Imports"
    yield ""
    yield (
        f"A new interpreter imports `redis.asyncio` in {imports['theirs_ms']:.0f} ms, "
        f"and `Client` of oddswire, which imports it too, in {imports['ours_ms']:.0f}."
    )
    yield ""


def _profile(layers: dict[str, Any]) -> Iterator[str]:
    yield "## Where the time goes"
    yield ""
    yield (
        "Microseconds per command with many tasks. Each line contains those above that "
        "it is built on."
    )
    yield ""
    yield _table_row("layer", "us", "adds")
    yield _table_row("---", "---:", "---:")
    us = layers["us"]
    for name, base in layers["built_on"].items():
        adds = f"{us[name] - us[base]:+.2f}" if base else ""
        yield _table_row(name, f"{us[name]:.2f}", adds)
    yield ""
    counting, low, high = layers["counting"]
    yield (
        f"Statistics cost {counting:.1%} of a get ({low:.1%} to {high:.1%} by round; "
        "below zero is noise): beside it ran the same code with the statements that "
        "count taken out of it."
    )
    yield ""
    alone = layers["alone_us"]
    yield (
        "One task alone waits for the kernel and the server. A GET takes "
        + _each(alone["usual"])
        + "; with client and server on one core, where no idle core has to be woken, "
        + _each(alone["one core"])
        + "."
    )
    yield ""
    yield (
        "redis-py's own methods, which we inherit and which only build a command, take "
        + _each(layers["wrappers_us"], "for")
        + " (alone, sending nothing)."
    )
    yield ""


def _sessions(found: dict[str, Any]) -> Iterator[str]:
    updates = found["updates"]
    yield "## Sessions"
    yield ""
    yield (
        "50 concurrent changes of one session, all of them kept, in ms: oddswire "
        f"{_figure(updates['figures']['oddswire'])}; aiogram's RedisStorage with its "
        f"RedisEventIsolation {_figure(updates['figures']['aiogram'])}. Ratio "
        f"{updates['ratio']:,.0f}."
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
        "The lookup finds 20 users. Besides the goals above: at most 3 us for a near "
        "read, 100 us for the lookup among 100,000."
    )
    yield ""
