"""throttled-py: each of its algorithms on its asynchronous Redis store."""

from __future__ import annotations

import asyncio

from throttled.asyncio import RateLimiterType, Throttled, exceptions, rate_limiter
from throttled.asyncio import store as stores


async def run(url):
    store = stores.RedisStore(server=url)
    seen = {}
    for kind in RateLimiterType.choice():
        # Long, so that no part of it passes while the program runs.
        quota = rate_limiter.per_day(5, burst=5)
        throttle = Throttled(using=kind, quota=quota, store=store)
        results = await asyncio.gather(*(throttle.limit("k") for _ in range(12)))
        state = await throttle.peek("k")
        heavy = await throttle.limit("heavy", cost=3)
        again = await throttle.limit("heavy", cost=3)
        seen[kind] = [
            sum(each.limited for each in results),
            state.limit,
            state.remaining,
            heavy.limited,
            again.limited,
        ]

    @Throttled(key="f", quota=rate_limiter.per_day(2, burst=2), store=store)
    async def limited():
        return "ran"

    seen["decorated"] = [await limited()]
    try:
        for _ in range(2):
            seen["decorated"].append(await limited())
    except exceptions.LimitedError:
        seen["decorated"].append("limited")
    waiting = Throttled(quota=rate_limiter.per_sec(10, burst=1), store=store, timeout=5)
    seen["waited"] = [(await waiting.limit("w")).limited for _ in range(5)]
    await store.set("n", 5, 100)
    seen["store"] = [
        await store.exists("n"),
        await store.ttl("n") in range(60, 101),
        await store.get("n"),
        await store.get("zz"),
    ]
    await store.hset("h", mapping={"a": 1, "b": 2})
    seen["hash"] = await store.hgetall("h")
    return seen
