"""One process of the audit: readers and a writer, writing down what they saw.

The truth is a counter per key on a server of its own, which no fault touches. A
writer counts up and then invalidates; a reader's loader reads the counter, some of
them slowly.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).parent))

import redis.asyncio as aredis
from adapters import ADAPTERS, ON_CLUSTER, Adapter

KEYS = 24
READERS = 6


class Worker:
    """Reads and writes until it is ended."""

    def __init__(
        self, cache: Adapter, truth: aredis.Redis, log: IO[str], seed: int
    ) -> None:
        self._cache = cache
        self._truth = truth
        self._log = log
        self._rng = random.Random(seed)

    def _note(self, *what: Any) -> None:
        # A line at a time: what was noted before a kill can be read.
        self._log.write(json.dumps(what) + "\n")

    async def run(self) -> None:
        """Go on for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(self._read())
            group.create_task(self._write())

    async def _read(self) -> None:
        while True:
            key = str(self._rng.randrange(KEYS))
            slow = self._rng.choices([0.0, 0.02, 0.5, 4.0], [0.55, 0.34, 0.1, 0.01])[0]

            async def load(key: str = key, slow: float = slow) -> int:
                value = int(await self._truth.get(f"truth:{key}") or 0)
                await asyncio.sleep(slow)
                return value

            started = monotonic()
            try:
                async with asyncio.timeout(10):
                    value = await self._cache.read(key, load)
            except Exception as error:  # noqa: BLE001 - peers raise anything; it is counted
                self._note("error", key, type(error).__name__, started, monotonic())
            else:
                self._note("read", key, value, started, monotonic())
            await asyncio.sleep(self._rng.random() * 0.01)

    async def _write(self) -> None:
        while True:
            key = str(self._rng.randrange(KEYS))
            value = int(await self._truth.incr(f"truth:{key}"))
            try:
                async with asyncio.timeout(10):
                    await self._cache.invalidate(key)
            except Exception as error:  # noqa: BLE001 - not confirmed: nothing is asked of it
                self._note("lost", key, value, type(error).__name__, monotonic())
            else:
                self._note("write", key, value, 0.0, monotonic())
            await asyncio.sleep(self._rng.random() * 0.1)


async def main(
    name: str, url: str, truth_url: str, log: str, seed: str, *sentinels: str
) -> None:
    """Run one worker; by sentinels, if their addresses and password are given."""
    async with AsyncExitStack() as stack:
        truth = aredis.Redis.from_url(truth_url)
        stack.push_async_callback(truth.aclose)
        cache = await (ADAPTERS | ON_CLUSTER)[name].open(stack, url, *sentinels)
        with open(log, "a", buffering=1, encoding="utf-8") as lines:  # noqa: ASYNC230, PTH123 - before the work
            await Worker(cache, truth, lines, int(seed)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
