"""``make growth``: what more sessions cost, to docs/results/growth.md and .svg.

Each number of sessions has a server of its own. A million take about ten minutes, and
two gigabytes of memory.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench_sessions
import machine

from oddswire.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1_000, 10_000, 100_000, 1_000_000)
_HEAD = """\
# Growth

This page and its picture are written by `make growth`; no figure in it was entered by
hand. Sessions of {shape}.

{cpu}, {cores} cores, {kernel}, Python {python}, {server}. {date}, load {load} before.

![Memory and server time by the number of sessions](growth.svg)

Memory is that of everything: sessions, indexes, the order of activity. Server time is
that of one script, the median of five times 300 calls: a lookup returns 20 users, a
change is two scripts, a read and a save. Near reads are not timed at a million.
"""
_COLOURS = ("#1f6feb", "#bf5b00", "#1a7f37", "#8250df")
_WIDTH, _HEIGHT, _LEFT, _TOP = 300, 220, 56, 34


async def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """Fill one server after the other."""
    async with EmbeddedServer() as server:
        found = {"machine": await machine.describe(server)}
    rows = []
    for size in sizes:
        rows.append(await bench_sessions.grow(size, print))
        print(json.dumps(rows[-1]), flush=True)
    return {**found, "growth": rows}


def render(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield _HEAD.format(shape=bench_sessions.SHAPE, **found["machine"])
    rows = found["growth"]
    kinds = list(rows[0]["server_us"])
    heads = ["sessions", "MB", "bytes each", *(f"{each}, us" for each in kinds)]
    heads += ["created, per second", "near read, us"]
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---:' for _ in heads)} |"
    for row in rows:
        cells = [f"{row['sessions']:,}", f"{row['megabytes']:,.1f}"]
        cells += [f"{row['bytes_each']:,.0f}"]
        cells += [f"{row['server_us'][kind]:.1f}" for kind in kinds]
        cells += [f"{row['created_per_s']:,.0f}"]
        cells += [f"{row['near_us']:.1f}" if "near_us" in row else ""]
        yield f"| {' | '.join(cells)} |"


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Return the picture: two panels, everything on logarithmic scales."""
    kinds = list(rows[0]["server_us"])
    sizes = [row["sessions"] for row in rows]
    memory = {"all of it": [row["megabytes"] for row in rows]}
    times = {kind: [row["server_us"][kind] for row in rows] for kind in kinds}
    panels = [
        *_panel(0, "Memory in Redis, MB", sizes, memory),
        *_panel(1, "Server time of one script, us", sizes, times),
    ]
    width, height = 2 * (_WIDTH + _LEFT + 20) + 16, _HEIGHT + 2 * _TOP + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" font-size="11">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, *panels, "</svg>\n"])


def _panel(
    number: int, title: str, sizes: Sequence[int], lines: dict[str, list[float]]
) -> Iterator[str]:
    values = [value for line in lines.values() for value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    first, last = math.log10(sizes[0]), max(math.log10(sizes[-1]), 4)
    left = _LEFT + number * (_WIDTH + _LEFT + 20)

    def x(size: float) -> float:
        return left + (math.log10(size) - first) / (last - first) * _WIDTH

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - (math.log10(value) - low) / (high - low))

    yield f'<text x="{left}" y="20" font-size="13" fill="#1f2328">{title}</text>'
    for power in range(low, high + 1):
        at = y(10**power)
        yield (
            f'<path d="M{left} {at:.1f}h{_WIDTH}" stroke="#d0d7de"/><text '
            f'x="{left - 6}" y="{at + 4:.1f}" text-anchor="end" fill="#59636e">'
            f"{10.0**power:,.7g}</text>"
        )
    for size in sizes:
        yield (
            f'<text x="{x(size):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle" '
            f'fill="#59636e">{size:,}</text>'
        )
    for at, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[at]
        points = [(x(s), y(value)) for s, value in zip(sizes, line, strict=True)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        style = f'fill="none" stroke="{colour}" stroke-width="2"'
        yield f'<polyline points="{path}" {style}/>'
        for across, down in points:
            yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>'
        # The lines rise to the right, so the left has room for their names.
        down = _TOP + 16 + 15 * at
        yield f'<text x="{left + 10}" y="{down}" fill="{colour}">{name}</text>'


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", type=int, nargs="*", help="numbers of sessions")
    sizes = parser.parse_args().sizes or SIZES
    if os.getloadavg()[0] > machine.QUIET:
        print("the machine is not quiet: the times will suffer", file=sys.stderr)
    found = asyncio.run(measure(sizes))
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    (ROOT / "docs" / "results" / "growth.md").write_text(
        "\n".join(render(found)) + "\n"
    )
    (ROOT / "docs" / "results" / "growth.svg").write_text(draw(found["growth"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
