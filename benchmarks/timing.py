"""Measuring side by side: what is compared takes turns, round after round.

A machine's speed drifts by more than the differences that matter. Every round measures
everybody once, and a ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import asyncio
import gc
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Call = Callable[[], Awaitable[Any]]
    Measure = Callable[[], Awaitable[float]]


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
        rounds: How often everybody has a turn.
        seconds: Of one turn.
    """

    rounds: int
    seconds: float


class Figure(NamedTuple):
    """A median and what it was taken from."""

    median: float
    low: float
    high: float


def figure(values: Sequence[float]) -> Figure:
    """Return the median and the extremes."""
    return Figure(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of ours over theirs, round by round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


async def rounds(
    measures: Mapping[str, Measure], effort: Effort
) -> dict[str, list[float]]:
    """Return one value by round for each; who goes first changes with the round."""
    names = list(measures)
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(effort.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            values[name].append(await measures[name]())
    return values


async def rate(calls: Sequence[Call], seconds: float) -> float:
    """Return calls per second, one task for each of `calls`, for about that long."""
    started = perf_counter()
    await _each(calls, 20)
    fast = 20 * len(calls) / (perf_counter() - started)
    each = max(20, int(fast * seconds / len(calls)))
    started = perf_counter()
    await _each(calls, each)
    return each * len(calls) / (perf_counter() - started)


async def cpu(calls: Sequence[Call], seconds: float) -> float:
    """Return the CPU seconds of this process a call; as `rate` in all else."""
    started = perf_counter()
    await _each(calls, 20)
    fast = 20 * len(calls) / (perf_counter() - started)
    each = max(20, int(fast * seconds / len(calls)))
    started = process_time()
    await _each(calls, each)
    return (process_time() - started) / (each * len(calls))


async def _each(calls: Sequence[Call], times: int) -> None:
    async def task(call: Call) -> None:
        for _ in range(times):
            await call()

    await asyncio.gather(*map(task, calls))


async def latency(call: Call, seconds: float) -> float:
    """Return the median seconds of a call, one after the other, for about that long."""
    times = []
    end = perf_counter() + seconds
    now = perf_counter()
    while now < end:
        started = now
        await call()
        now = perf_counter()
        times.append(now - started)
    return median(times)
