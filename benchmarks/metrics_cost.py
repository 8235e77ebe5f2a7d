"""What a get costs with everything on that exports: `make metrics-cost`.

Three wires in one process: two plain ones, and one with the status application, a
collector of Prometheus and instruments of OpenTelemetry. They take turns, 4,000 gets of
100 tasks each, in changing order, some hundred times. The figure is the median of the
ratios of CPU time within a turn; the ratio of the two plain wires says how well that
resolves. Beside it, the CPU time of one look at Redis, one sample, one scrape and one
collection, and what they take of a core at the usual intervals.
"""

# ruff: noqa: T201 - a command talks

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from statistics import median, quantiles
from time import process_time
from typing import TYPE_CHECKING

import uvloop
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import oddswire
from oddswire.embedded import EmbeddedServer
from oddswire.metrics.otel import observe
from oddswire.metrics.prometheus import Collector, exposition
from oddswire.web.status import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.wire import Wire

TASKS = 100
GETS = 40  # of each task in a turn
TURNS = 900
NEVER = 3_600.0  # the exports are measured by themselves
INTERVALS = {"look": 5, "sample": 15, "scrape": 15, "collection": 60}


async def gets(wire: Wire) -> float:
    """Return the CPU seconds of this process for one get."""

    async def task() -> None:
        for _ in range(GETS):
            await wire.client.get("key")

    began = process_time()
    await asyncio.gather(*(task() for _ in range(TASKS)))
    return (process_time() - began) / (TASKS * GETS)


async def exports(
    wire: Wire, collector: Collector, reader: InMemoryMetricReader
) -> dict[str, float]:
    """Return the CPU seconds of each export, the median of thirty."""

    async def scrape() -> None:
        exposition(collector)

    async def collect() -> None:
        reader.get_metrics_data()

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "look": wire.health.check,
        "sample": wire.metrics.sample,
        "scrape": scrape,
        "collection": collect,
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(30):
            began = process_time()
            await call()
            times.append(process_time() - began)
            await asyncio.sleep(0.11)  # a collection takes a snapshot of its own
        found[name] = median(times)
    return found


async def measure() -> dict[str, object]:
    """Return the figures."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    names = ("plain", "again", "on")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer())
        wires = {
            name: await stack.enter_async_context(oddswire.connect(url=server.url))
            for name in names
        }
        wire = wires["on"]
        await wire.client.set("key", "x" * 100)
        collector = Collector(wire.metrics)
        observe(wire.metrics, provider)
        status = Status(wire.metrics, wire.health, interval=NEVER, sample=NEVER)
        await stack.enter_async_context(status)
        await stack.enter_async_context(status.listener())
        costs = await exports(wire, collector, reader)
        turns: list[dict[str, float]] = []
        for number in range(TURNS):
            first = number % 3
            order = names[first:] + names[:first]
            turns.append({name: await gets(wires[name]) for name in order})
    provider.shutdown()
    often = sum(costs[name] / seconds for name, seconds in INTERVALS.items())
    return {
        "plain_us": round(1e6 * median(turn["plain"] for turn in turns), 3),
        "on_percent": percent([turn["on"] / turn["plain"] for turn in turns]),
        "two_plain_percent": percent([t["again"] / t["plain"] for t in turns]),
        "export_ms": {name: round(1e3 * cost, 3) for name, cost in costs.items()},
        "exports_percent_of_a_core": round(100 * often, 3),
        "turns": TURNS,
        "load": round(os.getloadavg()[0], 2),
    }


def percent(ratios: list[float]) -> dict[str, float]:
    """Return by how much the median is above 1, and its standard error."""
    low, middle, high = quantiles(ratios, n=4)
    # Of a median, from the middle half.
    error = 1.253 * (high - low) / 1.349 / len(ratios) ** 0.5
    return {
        "median": round(100 * (middle - 1), 2),
        "standard_error": round(100 * error, 2),
    }


def main() -> int:
    """Print the figures; 1: a get costs 3 % more, or above."""
    found = uvloop.run(measure())
    print(json.dumps(found, indent=1))
    cost = found["on_percent"]["median"] + found["exports_percent_of_a_core"]  # type: ignore[index, operator]
    return 0 if cost <= 3.0 else 1


if __name__ == "__main__":
    sys.exit(main())
