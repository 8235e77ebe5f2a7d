"""``make conformance``: redis-py's own asyncio tests, with our client in its place.

For each supported line of redis-py the tests run twice, once with redis-py's class and
once with `oddswire.Client`. What passes with the first must pass with the second; the
exceptions are in `exceptions.py`. Tests that are skipped because of the server's
version run in a second pass that claims the newest version; there too only what passes
with redis-py counts. Then the tests that also run on a cluster do so there. Then come
the repros, with the other clients beside ours. Exit status 1: there is a difference, or
ours is wrong in a repro. A whole run writes docs/results/conformance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import page
import repros
from exceptions import (
    REASONS,
    REASONS_OF_LINE,
    REASONS_ON_CLUSTER,
    REASONS_ON_CLUSTER_OF_LINE,
)
from suite import LINES, Line, fetch, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "conformance.md"

_PASSED = {"passed", "xpassed"}


class Progress:
    """One line on the terminal: which runs are how far."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._started = time.monotonic()

    def of(self, name: str) -> Any:
        """Return the function that is told the percentage of one run."""

        def told(percent: int) -> None:
            if self._done.get(name) != percent:
                self._done[name] = percent
                runs = ", ".join(f"{run} {done}%" for run, done in self._done.items())
                seconds = time.monotonic() - self._started
                end = "" if sys.stderr.isatty() else "\n"
                print(f"\r{seconds:4.0f} s  {runs} ", end=end, file=sys.stderr)

        return told


async def both(
    line: Line,
    progress: Progress,
    only: list[str] | None = None,
    topology: str = "one server",
) -> dict[str, dict[str, Any]]:
    """Run a line with redis-py's class and with ours, side by side."""
    about = "" if only is None else " as newest"
    about += " on a cluster" if topology == "cluster" else ""
    subjects = ("stock", "ours")
    reports = await asyncio.gather(
        *(
            run(
                line,
                subject,
                progress.of(f"{subject}{about}"),
                only=only,
                topology=topology,
            )
            for subject in subjects
        )
    )
    return dict(zip(subjects, reports, strict=True))


def compare(
    stock: dict[str, Any], ours: dict[str, Any], reasons: dict[str, str]
) -> dict[str, Any]:
    """Return what differs between two reports of the same tests.

    Args:
        stock: With redis-py's class.
        ours: With our class; tests in which it was given nothing to do do not count.
        reasons: Why a test fails with it on purpose.
    """
    differ, excepted, stale = {}, {}, []
    idle = set(ours["without_ours"]) if ours["on_cluster"] else set()
    for test, outcome in stock["outcomes"].items():
        if outcome not in _PASSED or test in idle:
            continue
        # On a cluster with its class: files of several kinds have tests of one name.
        name = test.partition("[")[0].partition("::")[2]
        if not ours["on_cluster"]:
            name = name.rpartition("::")[2]
        if ours["outcomes"].get(test) in _PASSED:
            if name in reasons:
                stale.append(test)
        elif name in reasons:
            excepted[test] = reasons[name]
        else:
            reason = ours["reasons"].get(test, "did not run")
            differ[test] = f"{ours['outcomes'].get(test)}: {reason}"
    return {"differ": differ, "excepted": excepted, "stale": stale}


def skipped_by_version(report: dict[str, Any]) -> list[str]:
    """Return the tests that were skipped because the server is too old."""
    return [
        test
        for test, reason in report["reasons"].items()
        if report["outcomes"][test] == "skipped" and "version required >=" in reason
    ]


async def check(line: Line) -> dict[str, Any]:
    """Run both passes of a line, print them, and return everything."""
    print(f"\nredis-py {line.version}", file=sys.stderr)
    fetch(line)
    progress = Progress()
    plain = await both(line, progress)
    claimed = await both(line, progress, skipped_by_version(plain["stock"]))
    cluster = await both(line, progress, topology="cluster")
    print(file=sys.stderr)
    reasons = REASONS | REASONS_OF_LINE.get(line.version, {})
    there = REASONS_ON_CLUSTER | REASONS_ON_CLUSTER_OF_LINE.get(line.version, {})
    return {
        "redis": line.version,
        "as_it_is": {**plain, **compare(plain["stock"], plain["ours"], reasons)},
        "newest_claimed": {
            **claimed,
            **compare(claimed["stock"], claimed["ours"], reasons),
        },
        "on_cluster": {
            **cluster,
            **compare(cluster["stock"], cluster["ours"], there),
        },
    }


async def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    versions = [line.version for line in LINES]
    parser.add_argument("--line", choices=versions, action="append")
    options = parser.parse_args()
    wanted = options.line or versions
    lines = [await check(line) for line in LINES if line.version in wanted]
    results = {"lines": lines, "repros": await repros.measure()}
    print(json.dumps(results, indent=1) if options.json else page.render(results))
    if wanted == versions:
        PAGE.write_text(page.render(results), encoding="utf-8")
    return int(not good(results))


def good(results: dict[str, Any]) -> bool:
    """Whether nothing differs and ours is right in every repro."""
    passes = [
        line[which]
        for line in results["lines"]
        for which in ("as_it_is", "newest_claimed", "on_cluster")
    ]
    return not any(each["differ"] or each["stale"] for each in passes) and all(
        row["results"]["oddswire"]["right"] for row in results["repros"]
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
