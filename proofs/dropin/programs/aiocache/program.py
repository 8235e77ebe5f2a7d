"""aiocache: its Redis cache, its lock and its decorators."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from aiocache import Cache, cached
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
from aiocache.serializers import JsonSerializer, PickleSerializer

loads = []


async def run(url):
    at = urlsplit(url)
    where = {"endpoint": at.hostname, "port": at.port}
    cache = Cache(Cache.REDIS, **where, namespace="n:", serializer=JsonSerializer())
    seen = {}
    seen["set"] = [await cache.set("a", {"b": 1}, ttl=60), await cache.get("a")]
    seen["add"] = await cache.add("c", 1)
    try:
        await cache.add("c", 2)
    except ValueError as error:
        seen["added twice"] = str(error)
    await cache.multi_set([(f"m{n}", n) for n in range(50)], ttl=60)
    seen["many"] = await cache.multi_get([f"m{n}" for n in range(52)])
    seen["increment"] = [await cache.increment("i", 5), await cache.increment("i", -2)]
    await cache.set("word", "x")
    try:
        await cache.increment("word")
    except TypeError as error:
        seen["not a number"] = str(error)
    seen["exists"] = [await cache.exists("a"), await cache.exists("zz")]
    seen["expire"] = [await cache.expire("a", 0), await cache.expire("zz", 3)]
    seen["raw"] = await cache.raw("ttl", "n:m1") > 50
    seen["deleted"] = [await cache.delete("a"), await cache.delete("a")]
    await cache.set("quick", 1, ttl=0.05)
    await asyncio.sleep(0.2)
    seen["short"] = await cache.get("quick")

    async def locked():
        async with RedLock(cache, "heavy", lease=5):
            if await cache.get("heavy") is None:
                loads.append("heavy")
                await asyncio.sleep(0.05)
                await cache.set("heavy", 1)

    await asyncio.gather(*(locked() for _ in range(10)))
    seen["loads under a lock"] = len(loads)
    await cache.set("seen", 1)
    try:
        async with OptimisticLock(cache, "seen") as lock:
            await cache.set("seen", 2)
            await lock.cas(3)
    except OptimisticLockError:
        seen["optimistic"] = "refused"

    calls = []

    @cached(
        cache=Cache.REDIS,
        key_builder=lambda f, n: f"f{n}",
        serializer=PickleSerializer(),
        **where,
    )
    async def costly(number):
        calls.append(number)
        return {"number": number}

    seen["decorated"] = [await costly(1), await costly(1), await costly(2)]
    await asyncio.sleep(0.1)
    seen["calls"] = calls
    await costly.cache.close()
    seen["cleared"] = [await cache.clear(namespace="n:"), await cache.get("m1")]
    await cache.close()
    return seen
