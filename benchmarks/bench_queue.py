"""The queue: a fan-out beside PUBLISH, and what one worker delivers."""

# ruff: noqa: S101 - what is timed is checked first

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

import redis.asyncio as aredis
from timing import Effort, figure, ratio, rounds

from oddswire.client import Client
from oddswire.queue import Message, Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.embedded import EmbeddedServer

USERS = 5_000
TEXT = "x" * 100
CONCURRENCY = 64

OURS = "enqueue_many: durable, deduplicated"
EACH = "redis-py, PUBLISH each, one after the other"
TASKS = "redis-py, PUBLISH each, from 100 tasks"
PIPELINE = "redis-py, PUBLISH in one pipeline"


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return seconds of a fan-out to 5,000 users, and messages a worker delivers."""
    say("queue")
    async with AsyncExitStack() as stack:
        plain = aredis.Redis.from_url(server.url)
        stack.push_async_callback(plain.aclose)
        client = Client.from_url(server.url)
        stack.push_async_callback(client.aclose)
        queue = Queue(client, "bench", str)
        fan_out = _FanOut(plain, queue)
        assert await fan_out.ours() > 0
        assert (await queue.stats()).waiting == USERS
        assert await queue.enqueue_many(fan_out.values, dedup_id="1") == 0
        times = await rounds(
            {
                OURS: fan_out.ours,
                EACH: fan_out.each,
                TASKS: fan_out.tasks,
                PIPELINE: fan_out.pipeline,
            },
            effort,
        )
        say("queue, one worker")
        delivered = await rounds({"messages/s": fan_out.worker}, effort)
    return {
        "users": USERS,
        "seconds": {name: figure(values) for name, values in times.items()},
        "ratios": {EACH: ratio(times[EACH], times[OURS])},
        "concurrency": CONCURRENCY,
        "delivered": figure(delivered["messages/s"]),
    }


class _FanOut:
    """One message for each of many users, in four ways."""

    def __init__(self, plain: aredis.Redis, queue: Queue[str]) -> None:
        self._plain = plain
        self._queue = queue
        self.values = dict.fromkeys(range(USERS), TEXT)

    async def ours(self) -> float:
        """Into the queue; it is emptied before, which is not timed."""
        await self._plain.flushall()
        started = perf_counter()
        added = await self._queue.enqueue_many(self.values, dedup_id="1", ttl=300)
        took = perf_counter() - started
        assert added == USERS
        return took

    async def each(self) -> float:
        """One call after the other."""
        started = perf_counter()
        for user in range(USERS):
            await self._plain.publish(f"user:{user}", TEXT)
        return perf_counter() - started

    async def tasks(self) -> float:
        """From 100 tasks."""

        async def some(first: int) -> None:
            for user in range(first, USERS, 100):
                await self._plain.publish(f"user:{user}", TEXT)

        started = perf_counter()
        await asyncio.gather(*map(some, range(100)))
        return perf_counter() - started

    async def pipeline(self) -> float:
        """In one batch."""
        started = perf_counter()
        async with self._plain.pipeline(transaction=False) as batch:
            for user in range(USERS):
                batch.publish(f"user:{user}", TEXT)
            await batch.execute()
        return perf_counter() - started

    async def worker(self) -> float:
        """Deliver them all with a handler that does nothing; per second."""
        await self.ours()
        stop = asyncio.Event()
        left = USERS

        async def deliver(_message: Message[str]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                stop.set()

        started = perf_counter()
        await self._queue.consume(deliver, concurrency=CONCURRENCY, stop=stop)
        took = perf_counter() - started
        assert (await self._queue.stats()).delivered == USERS
        return USERS / took
