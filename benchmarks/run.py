"""``make bench``: every figure of docs/results/performance.md, measured side by side.

Writes build/bench.json, and results/performance.md unless ``--quick`` or ``--rows``.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import bench_cache
import bench_client
import bench_cluster
import bench_imports
import bench_limits
import bench_pubsub
import bench_queue
import bench_sessions
import layers
import machine
import page
import uvloop
from peers import TASKS
from timing import Effort

from oddswire.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent
QUICK = Effort(rounds=3, seconds=0.15)
FULL = Effort(rounds=9, seconds=0.6)


GROUPS = {
    "client": bench_client.measure,
    "layers": layers.measure,
    "cache": bench_cache.measure,
    "limits": bench_limits.measure,
    "sessions": bench_sessions.measure,
    "queue": bench_queue.measure,
    "pubsub": bench_pubsub.measure,
    "cluster": bench_cluster.measure,
    "imports": bench_imports.measure,
}


async def measure(effort: Effort, groups: list[str]) -> dict[str, Any]:
    """Run these groups, all on one server."""
    async with EmbeddedServer() as server:
        results: dict[str, Any] = {"machine": await machine.describe(server)}
        results["effort"] = {**effort._asdict(), "tasks": TASKS}
        for group in groups:
            results[group] = await GROUPS[group](server, effort, _say)
        if len(groups) == len(GROUPS):
            _say("redis-benchmark")
            results["redis_benchmark"] = await machine.redis_benchmark(server)
        results["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    return results


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--quick", action="store_true", help="rough, in half a minute")
    parser.add_argument(
        "--rows", nargs="+", choices=GROUPS, help="only these groups of rows"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if load > machine.QUIET:
        _say(f"the machine is not quiet (load {load:.2f}): the ratios will suffer")
    results = uvloop.run(
        measure(QUICK if options.quick else FULL, options.rows or list(GROUPS))
    )
    # Through JSON, so that the page is made of what the file says.
    text = json.dumps(results, indent=1)
    results = json.loads(text)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(text + "\n", encoding="utf-8")
    print(text if options.json else page.render(results))
    if not (options.quick or options.rows):
        (ROOT / "docs" / "results" / "performance.md").write_text(
            page.render(results), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
