"""The rows of one checkout, for `compare_checkouts.py`: asked for by lines on stdin.

It imports oddswire from PYTHONPATH and uses the public surface only, so that it runs
with checkouts whose private names differ.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import machine
import uvloop
from hiredis import pack_command
from timing import cpu, latency
from yardsticks import AsyncioAlone, open_bare

from oddswire import Client
from oddswire.cache import Cache
from oddswire.pubsub import PubSub, Topic
from oddswire.queue import Message, Queue
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.sessions import Session, Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache import Entry

    Row = Callable[[float], Awaitable[float]]

TASKS = 100
VALUE = "x" * 100
MESSAGES = 1_000
SCRIPT = "return redis.call('GET', KEYS[1])"
TICKS = Topic("bench-ticks", str)


async def rows(stack: AsyncExitStack, server: dict[str, Any]) -> dict[str, Row]:
    """Open every part on the server; return the rows by name.

    A row takes the seconds it may last and returns microseconds of CPU time a call, or
    a ratio, or the median microseconds of a lone call.
    """
    client = await stack.enter_async_context(Client.from_url(server["url"]))
    return (
        await _client_rows(stack, client, server)
        | await _cache_rows(stack, client)
        | await _limiter_rows(stack, client)
        | await _session_rows(stack, client)
        | _queue_rows(client)
        | await _topic_rows(stack, client)
    )


def _cpu(*calls: Callable[[], Awaitable[Any]]) -> Row:
    async def row(seconds: float) -> float:
        return 1e6 * await cpu(calls, seconds)

    return row


async def _client_rows(
    stack: AsyncExitStack, client: Client, server: dict[str, Any]
) -> dict[str, Row]:
    sha = await client.script_load(SCRIPT)
    keys = [f"bench:{task}" for task in range(TASKS)]
    for key in keys:
        await client.set(key, VALUE)
        await client.hset(f"{key}:hash", "field", VALUE)
    gets = [partial(client.get, key) for key in keys]
    switches = [AsyncioAlone()] * TASKS
    bare = await open_bare(stack, server["host"], server["port"], server["password"])
    packed = pack_command(("GET", keys[0]))

    async def against_asyncio(seconds: float) -> float:
        return await cpu(gets, seconds / 2) / await cpu(switches, seconds / 2)

    async def alone(seconds: float) -> float:
        with machine.one_core(server["pid"]):
            return 1e6 * await latency(gets[0], seconds)

    async def against_bare(seconds: float) -> float:
        with machine.one_core(server["pid"]):
            ours = await latency(gets[0], seconds / 2)
            return ours / await latency(partial(bare.call, packed), seconds / 2)

    async def batch() -> None:
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.get(key)
        await pipe.execute()

    return {
        "get / asyncio's task switch": against_asyncio,
        "one task, p50 / bare protocol": against_bare,
        "get, 100 tasks": _cpu(*gets),
        "set ex, 100 tasks": _cpu(
            *(partial(client.set, f"{key}:set", VALUE, ex=100) for key in keys)
        ),
        "hget, 100 tasks": _cpu(
            *(partial(client.hget, f"{key}:hash", "field") for key in keys)
        ),
        "incr, 100 tasks": _cpu(*(partial(client.incr, f"{key}:n") for key in keys)),
        "evalsha, 100 tasks": _cpu(
            *(partial(client.evalsha, sha, 1, key) for key in keys)
        ),
        "one task on one core, p50": alone,
        "pipeline of 100": _cpu(batch),
    }


async def _cache_rows(stack: AsyncExitStack, client: Client) -> dict[str, Row]:
    cache = await stack.enter_async_context(
        Cache(client, prefix="bench-cache:", timeout=5.0)
    )
    far = await stack.enter_async_context(
        Cache(client, prefix="bench-cache:", timeout=5.0, l1_bytes=0)
    )

    @cache.cached(ttl=3600, key="d:{number}")
    async def decorated(number: int) -> str:
        return VALUE if number else ""

    await cache.set("m:near", VALUE, ttl=3600)
    for task in range(TASKS):
        await far.set(f"m:far{task}", VALUE, ttl=3600)

    async def near(call: Callable[[], Awaitable[Any]], seconds: float) -> float:
        async with asyncio.timeout(10):
            # The heartbeat needs the loop, which a row of hits does not give back.
            while not _is_near(await cache.get_entry("m:near")):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await call()
        before = cache.stats().l1_hits
        took = await _burst(call, seconds)
        if cache.stats().l1_hits == before:
            raise AssertionError("the calls were no hits in memory")
        return took

    return {
        "L1 hit": partial(near, partial(cache.get, "m:near")),
        "decorated hit": partial(near, partial(decorated, 1)),
        "hit in Redis, 100 tasks": _cpu(
            *(partial(far.get, f"m:far{task}") for task in range(TASKS))
        ),
    }


def _is_near(entry: Entry | None) -> bool:
    return entry is not None and entry.tier == "l1"


async def _burst(call: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Return the CPU microseconds of a call that waits for nothing."""
    count, took = 0, 0.0
    ends = perf_counter() + seconds
    while perf_counter() < ends:
        started = process_time()
        for _ in range(500):
            await call()
        took += process_time() - started
        count += 500
        await asyncio.sleep(0)
    return 1e6 * took / count


async def _limiter_rows(stack: AsyncExitStack, client: Client) -> dict[str, Row]:
    limiter = await stack.enter_async_context(
        RateLimiter(
            client,
            [
                Rule("bench-plenty", SlidingWindow(1_000_000_000, 1.0), key="user"),
                Rule("bench-one", SlidingWindow(1, 3600.0), key="user"),
            ],
            deadline=1.0,
        )
    )

    def allowed(task: int) -> Callable[[], Awaitable[Any]]:
        return lambda: limiter.hit("bench-plenty", user=f"user{task}")

    async def denied(seconds: float) -> float:
        call = partial(limiter.hit, "bench-one", user="flood")
        if await call() and await call():
            raise AssertionError("the second of one was admitted")
        return await _burst(call, seconds)

    return {
        "limiter allowed, 50 tasks": _cpu(*map(allowed, range(50))),
        "limiter denied": denied,
    }


async def _session_rows(stack: AsyncExitStack, client: Client) -> dict[str, Row]:
    sessions = await stack.enter_async_context(
        Sessions(client, Session, prefix="bench-sessions:")
    )

    def change(number: int, session: Session) -> None:
        session.preferences[f"n{number % 50}"] = number

    turns = iter(range(10**9))
    await sessions.update(1, partial(change, 0), create=True)
    await sessions.update(2, partial(change, 0), create=True)

    async def near(seconds: float) -> float:
        call = partial(sessions.get, 2)
        async with asyncio.timeout(10):
            # Read from memory: faster than any answer of a server.
            while await _burst(call, 0.01) > 20.0:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        return await _burst(call, seconds)

    async def update() -> None:
        await sessions.update(1, partial(change, next(turns)))

    async def fifty() -> None:
        await asyncio.gather(*(update() for _ in range(50)))

    return {
        "near session read": near,
        "session update": _cpu(update),
        "50 updates of one session": _cpu(fifty),
    }


def _queue_rows(client: Client) -> dict[str, Row]:
    queue = Queue(client, "bench", str)

    async def fill() -> float:
        async def some(first: int) -> None:
            for user in range(first, MESSAGES, TASKS):
                await queue.enqueue(user, VALUE)

        started = process_time()
        await asyncio.gather(*map(some, range(TASKS)))
        return (process_time() - started) / MESSAGES * 1e6

    async def drain() -> float:
        stop, left = asyncio.Event(), MESSAGES

        async def deliver(_message: Message[str]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                stop.set()

        started = process_time()
        await queue.consume(deliver, concurrency=64, stop=stop)
        return (process_time() - started) / MESSAGES * 1e6

    async def enqueue(_seconds: float) -> float:
        took = await fill()
        await drain()
        return took

    async def consume(_seconds: float) -> float:
        await fill()
        return await drain()

    return {"enqueue, 100 tasks": enqueue, "consume, 64 handlers": consume}


async def _topic_rows(stack: AsyncExitStack, client: Client) -> dict[str, Row]:
    pubsub = await stack.enter_async_context(PubSub(client))

    async def publish(_seconds: float) -> float:
        async def some() -> None:
            for _ in range(MESSAGES // TASKS):
                await pubsub.publish(TICKS, VALUE)

        async with pubsub.subscribe(TICKS, queue=MESSAGES + 10) as subscription:
            started = process_time()
            sending = asyncio.gather(*(some() for _ in range(TASKS)))
            for _ in range(MESSAGES):
                event = await anext(subscription)
                if event.value != VALUE:
                    raise AssertionError(f"not what was published: {event}")
            await sending
            return (process_time() - started) / MESSAGES * 1e6

    return {"publish and dispatch": publish}


async def main() -> None:
    """Answer each line ``{"row": name, "seconds": s}`` with the row's value."""
    server = json.loads(os.environ["BENCH_SERVER"])  # noqa: TID251 - from our parent
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        found = await rows(stack, server)
        print(json.dumps({"rows": list(found)}), flush=True)  # noqa: T201
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            gc.collect()
            value = await found[asked["row"]](asked["seconds"])
            print(json.dumps({"value": value}), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
