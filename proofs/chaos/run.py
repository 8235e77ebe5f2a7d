"""``make chaos``: every fault a client alone can pass, for ours and its peers.

Writes build/chaos.json and, after a whole run, results/chaos.md. Exit status 1: ours
missed a criterion.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(HERE.parent / "conformance"), str(ROOT / "tests")]

import cluster  # noqa: E402
import load  # noqa: E402
import page  # noqa: E402
from clients import OPEN, NotOffered, Target  # noqa: E402
from elsewhere import Elsewhere  # noqa: E402
from redis.asyncio.sentinel import Sentinel  # noqa: E402
from rows import ROWS, Row  # noqa: E402

from oddswire import Client, EmbeddedServer  # noqa: E402
from oddswire.testing import FaultProxy  # noqa: E402
from support import failover  # noqa: E402
from support.topple import Toppled  # noqa: E402

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

OURS = "oddswire"

PEERS = [name for name in OPEN if name != OURS]


async def look_at(row: Row, name: str, tasks: int, seconds: float) -> dict[str, Any]:
    """Run one row with one client; return its figures."""
    password = {"password": ""}

    async def credentials() -> tuple[str, str]:
        return "default", password["password"]

    async def open_subject(stack: AsyncExitStack, proxy: FaultProxy) -> load.Subject:
        rotates = row.number == 18
        subject = await OPEN[name](
            stack,
            Target(
                proxy.host,
                proxy.port,
                password=password["password"],
                timeout=load.DEADLINE,
                credentials=credentials if rotates else None,
            ),
        )
        subject.credentials = password
        return subject

    async with EmbeddedServer(aof=row.aof, args=row.args) as server:
        password["password"] = server.password
        result = await load.run(
            server, open_subject, row.fault, tasks=tasks, seconds=seconds,
            keeps=row.keeps, link=Elsewhere if name == "valkey-glide" else FaultProxy,
        )  # fmt: skip
    figures = {
        "row": row.number,
        "fault": row.name,
        "client": name,
        "tasks": tasks,
        "seconds": seconds,
        **msgspec.to_builtins(result),
    }
    figures["missed"] = [text for text, holds in row.criteria if not holds(result)]
    return figures


async def fail_over(name: str, how: failover.How, *, safe: bool) -> dict[str, Any]:
    """Run a failover by Sentinel with ours or redis-py."""
    async with Toppled(safe=safe) as toppled:
        group = toppled.group
        manager = Sentinel(
            [(each.host, each.port) for each in group.sentinels],
            sentinel_kwargs={"password": group.password},
            password=group.password,
        )
        options: dict[str, Any] = {"socket_timeout": 1.0}
        if name == OURS:
            options |= {"redis_class": Client}
        client = manager.master_for(group.name, **options)
        if name == OURS:
            client.timeout = 1.0
        found = await failover.fail_over(
            group,
            lambda key: client.set(key, "v"),
            how,
            cut_off=toppled.cut_off if how == "partition" else None,
        )
        await client.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()
    return {"client": name, "how": how, "safe": safe, **msgspec.to_builtins(found)}


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Run what is asked for."""
    wanted = {int(number) for number in options.rows.split()} if options.rows else None
    plan = []
    for row in ROWS:
        if wanted is None or row.number in wanted:
            plan += [(row, OURS, tasks) for tasks in (1, 200)]
            plan += [(row, name, 1) for name in PEERS if row.peers]
    switches = [
        (name, how, safe)
        for how, safe in (
            ("command", False), ("command", True), ("kill", False), ("kill", True),
            ("freeze", False), ("freeze", True),
            ("partition", False), ("partition", True),
        )
        for name in (OURS, "redis-py")
        if wanted is None or wanted & {5, 6}
    ]  # fmt: skip
    results, failovers, skipped = [], [], []
    clusters = [
        (name, fault)
        for fault in cluster.FAULTS
        for name in (OURS, "redis-py")
        if wanted is None or 7 in wanted
    ]
    total = len(plan) + len(switches) + len(clusters)
    for done, (row, name, tasks) in enumerate(plan):
        _progress(done, total, f"{row.number} {row.name}: {name}, {tasks}")
        try:
            results.append(
                await look_at(row, name, tasks, options.seconds or row.seconds)
            )
        except NotOffered as why:
            skipped.append({"row": row.number, "client": name, "why": str(why)})
        except Exception as error:
            if name == OURS:
                raise
            skipped.append(
                {
                    "row": row.number,
                    "client": name,
                    "why": f"it did not end: {type(error).__name__}: {error}"[:120],
                }
            )
    for done, (name, how, safe) in enumerate(switches, len(plan)):
        _progress(done, total, f"failover by {how}: {name}")
        failovers.append(await fail_over(name, how, safe=safe))
    moved = []
    for done, (name, fault) in enumerate(clusters, len(plan) + len(switches)):
        _progress(done, total, f"a cluster: {fault}: {name}")
        moved.append(await cluster.look_at_cluster(name, fault))
    _progress(total, total, "")
    print(file=sys.stderr)
    return {
        "rows": results,
        "failovers": failovers,
        "clusters": moved,
        "skipped": skipped,
    }


def _progress(done: int, total: int, what: str) -> None:
    bar = "#" * round(20 * done / total)
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r[{bar:20}] {done}/{total} {what:60.60}", end=end, file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", help="numbers, with spaces between")
    parser.add_argument("--seconds", type=float, help="how long each fault lasts")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    asked = parser.parse_args()
    found = asyncio.run(main(asked))
    text = json.dumps(found, indent=1)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "chaos.json").write_text(text + "\n", encoding="utf-8")
    rendered = page.render(found)
    print(text if asked.json else rendered)
    if not asked.rows and not asked.seconds:
        (ROOT / "docs" / "results" / "chaos.md").write_text(rendered, encoding="utf-8")
    elif asked.rows == "7":
        there = ROOT / "docs" / "results" / "chaos.md"
        before = "## What our client has to make of them"
        text = page.with_section(
            there.read_text(encoding="utf-8"),
            page.cluster_section(found["clusters"]),
            before,
        )
        there.write_text(text, encoding="utf-8")
    missed = any(each["missed"] for each in found["rows"] if each["client"] == OURS)
    off = any(
        each["wrong"] or each["lost"]
        for each in found["clusters"]
        if each["client"] == OURS
    )
    sys.exit(missed or off)
