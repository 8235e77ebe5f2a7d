"""docs/results/conformance.md from a run's results."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from repros import table

if TYPE_CHECKING:
    from collections.abc import Iterator

_ON_CLUSTER = """\
On a cluster of three primaries with a replica each, the tests of redis-py's client of a
cluster and those of commands, scripts, locks, encodings and hashes run with
`RedisCluster`, and with a class in its place that gives our client its commands,
pipelines and multi-key calls. What names nodes (`target_nodes`) stays redis-py's.
{inner} tests that look into redis-py's own nodes, connections and map were left out,
and in {idle} that ran our client was given nothing to do: they are not compared.
"""
_HEAD = """\
# Conformance

This page is written by `make conformance`.

`oddswire.Client` is a `redis.asyncio.Redis`, so redis-py's own tests can say whether
it behaves like one. The source distributions of the newest release of each supported
line, pinned by hash, contain them. Their asyncio tests of commands, pipelines, scripts,
locks, encodings, hashes, cancellation (cwe_404) and pub/sub run twice on a real server:
as they are, and with our class in place of `redis.asyncio.Redis`. **What passes with
redis-py's class must pass with ours.**

The fixture of these tests makes clients of two variants. Only "pool" counts, the client
as programs make it. In "single", one connection for everything, all commands take
redis-py's code in our class too, and there is nothing to compare. Tests that fail with
redis-py's class as well need a cluster or a server on port 6379; in the second pass
they need commands that this server does not know.

Tests of what is newer than the server's version are skipped at first. They run a second
time with the newest version claimed, because a server may know a command that its
version does not promise (Valkey knows the TTLs of hash fields); again only what passes
with redis-py's class counts.
"""


def render(results: dict[str, Any]) -> str:
    """Return the page."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    yield _HEAD
    for line in results["lines"]:
        yield f"## redis-py {line['redis']}"
        yield ""
        yield "| | passed | failed | skipped |"
        yield "| --- | ---: | ---: | ---: |"
        titles = {"as_it_is": "", "newest_claimed": ", newest version claimed"}
        for which, title in titles.items():
            yield _counts(f"redis-py's class{title}", line[which]["stock"])
            yield _counts(f"`oddswire.Client`{title}", line[which]["ours"])
        yield ""
        yield from _differences(line["as_it_is"], line["newest_claimed"])
        yield from _skips(line)
        commands = line["as_it_is"]["ours"]["commands"]
        shared = commands["command_connection"]
        yield (
            f"By the server's own counters, {commands['all']:,} commands were run in "
            f"the first pass with our class, {shared:,} of them on the shared command "
            "connections; the others are those of pub/sub, WATCH and blocking "
            "commands, and of the tests' own connections."
        )
        yield ""
        yield from _cluster(line)
    yield "## Faults of other clients"
    yield ""
    yield (
        "Each of these was seen in another client first. The numbers are those of the "
        "list they come from: 5 is about caches, 4 and 7 are about clusters. The tests "
        "of ours are in oddswire/tests/client/test_repros.py."
    )
    yield ""
    yield table(results["repros"])


def _counts(name: str, report: dict[str, Any]) -> str:
    count = Counter(report["outcomes"].values())
    passed = count["passed"] + count["xpassed"]
    failed = count["failed"] + count["error"]
    return f"| {name} | {passed} | {failed} | {count['skipped']} |"


def _cluster(line: dict[str, Any]) -> Iterator[str]:
    found = line["on_cluster"]
    ours = found["ours"]
    yield f"### redis-py {line['redis']} on a cluster"
    yield ""
    ran = {test for test, how in ours["outcomes"].items() if how != "skipped"}
    idle = len(ran.intersection(ours["without_ours"]))
    yield _ON_CLUSTER.format(inner=ours["inner"], idle=idle)
    yield "| | passed | failed | skipped |"
    yield "| --- | ---: | ---: | ---: |"
    yield _counts("`RedisCluster`", found["stock"])
    yield _counts("`Client` of a cluster", ours)
    yield ""
    yield from _differences(found)
    shared = ours["commands"]["command_connection"]
    yield (
        f"By the servers' own counters {shared:,} commands came by the command "
        "connections of our client."
    )
    yield ""


def _differences(*passes: dict[str, Any]) -> Iterator[str]:
    differ = [item for each in passes for item in each["differ"].items()]
    stale = [test for each in passes for test in each["stale"]]
    if not differ and not stale:
        yield "Nothing differs except, on purpose:"
        yield ""
    for test, what in differ:
        yield f"- **differs**: `{test}`: {what}"
    for test in stale:
        yield f"- **passes**, so it is no exception any more: `{test}`"
    reasons: dict[str, dict[str, None]] = {}
    for each in passes:
        for test, reason in each["excepted"].items():
            name = test.rpartition("::")[2].partition("[")[0]
            reasons.setdefault(reason, {})[f"`{name}`"] = None
    for reason, tests in reasons.items():
        yield f"- {', '.join(tests)}: {reason}"
    yield ""


def _skips(line: dict[str, Any]) -> Iterator[str]:
    again = set(line["newest_claimed"]["ours"]["outcomes"])
    plain = line["as_it_is"]["ours"]
    skipped = {
        test: reason.removeprefix("Skipped: ")
        for test, reason in plain["reasons"].items()
        if plain["outcomes"][test] == "skipped"
    }
    for title, tests in (
        ("Skipped at first, run in the second pass", skipped.keys() & again),
        ("Skipped in both", skipped.keys() - again),
    ):
        reasons = Counter(skipped[test] for test in tests)
        listed = "; ".join(f"{n} x {why}" for why, n in reasons.most_common())
        yield f"{title}: {listed or 'none'}."
        yield ""
