"""Compare two checkouts: `python benchmarks/compare_checkouts.py OLD NEW [--rows get]`.

Each checkout runs in a process of its own on a server of its own. They take turns of a
quarter of a second, row after row, and who goes first changes with the round. A figure
is the median of the rounds; the ratio is the median of the ratios within the rounds.
What is measured is CPU time of the process, so that a busy machine shifts both sides
alike; but for the lone task, whose time on one core is measured. About 4 minutes.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from machine import commit

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

WORKER = Path(__file__).with_name("checkout_worker.py")
SECONDS = 0.25
# A lone command's row against asyncio or a bare protocol hardly moves with the machine.
STRICT = {"get / asyncio's task switch", "one task, p50 / bare protocol"}
STRICT_LIMIT, LIMIT = 1.03, 1.05


class Side:
    """One checkout's process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def answer(self) -> dict[str, Any]:
        """Return the next line of the process.

        Raises:
            RuntimeError: The process ended; what it said is on stderr.
        """
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of a checkout ended; its error is above")
        return dict(json.loads(line))

    async def measure(self, row: str) -> float:
        """Return the value of one turn of a row."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        asked = json.dumps({"row": row, "seconds": SECONDS})
        self._process.stdin.write(asked.encode() + b"\n")
        return float((await self.answer())["value"])


@asynccontextmanager
async def _side(checkout: Path) -> AsyncIterator[tuple[Side, list[str]]]:
    source = checkout / "oddswire" / "src"
    if not (source / "oddswire").is_dir():
        raise SystemExit(f"{checkout} is no checkout: it has no oddswire/src/oddswire")
    async with EmbeddedServer() as server:
        known = {
            name: getattr(server, name)
            for name in ("url", "host", "port", "password", "pid")
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            stdin=PIPE,
            stdout=PIPE,
            env=os.environ  # noqa: TID251 - for a process of ours
            | {"PYTHONPATH": str(source), "BENCH_SERVER": json.dumps(known)},
        )
        try:
            side = Side(process)
            yield side, (await side.answer())["rows"]
        finally:
            assert process.stdin is not None  # noqa: S101 - a pipe
            process.stdin.close()
            await process.wait()


async def measure(
    old: Path, new: Path, rounds: int, only: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Return the values of each row, round by round, of both checkouts."""
    async with _side(old) as (before, rows), _side(new) as (after, _):
        sides = [("old", before), ("new", after)]
        found: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            if only and not any(word in row for word in only):
                continue
            print(f"... {row}", file=sys.stderr)
            values: dict[str, list[float]] = {"old": [], "new": []}
            for _, side in sides:
                await side.measure(row)  # warm
            for turn in range(rounds):
                for name, side in sides if turn % 2 else sides[::-1]:
                    values[name].append(await side.measure(row))
            found[row] = values
    return found


def render(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the table; the limits are those of the two strict rows and of all."""
    lines = [
        "| what | old | new | new / old | half of the rounds | at most | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row, values in found.items():
        pairs = zip(values["new"], values["old"], strict=True)
        ratios = [new / old for new, old in pairs]
        low, middle, high = quantiles(ratios, n=4)
        limit = STRICT_LIMIT if row in STRICT else LIMIT
        unit = "x" if row in STRICT else "us"
        old, new = median(values["old"]), median(values["new"])
        verdict = "**slower**" if middle > limit else "held"
        lines.append(
            f"| {row} | {old:.2f} {unit} | {new:.2f} {unit} | {middle:.3f} "
            f"| {low:.3f}-{high:.3f} | {limit:.2f} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, help="a checkout, without an environment")
    parser.add_argument("new", type=Path)
    parser.add_argument("--rows", nargs="+", default=[], help="words of their names")
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    options = parser.parse_args()
    old, new = options.old.resolve(), options.new.resolve()
    load = os.getloadavg()[0]
    found = asyncio.run(measure(old, new, max(2, options.rounds), options.rows))
    print(
        f"old {commit(old)}, new {commit(new)}; {max(2, options.rounds)} rounds, "
        f"load {load:.2f} before and {os.getloadavg()[0]:.2f} after\n"
    )
    print(render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
