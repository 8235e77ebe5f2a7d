"""pyrate-limiter: its Redis bucket, and a limiter that waits on it."""

from __future__ import annotations

import asyncio

import redis.asyncio
from pyrate_limiter import Duration, Limiter, Rate, RateItem, RedisBucket


async def run(url):
    client = redis.asyncio.Redis.from_url(url)
    hour = Duration.HOUR
    bucket = await RedisBucket.init([Rate(5, hour)], client, "bucket")
    now = await asyncio.to_thread(bucket.now)

    async def put(moment, weight=1):
        return await bucket.put(RateItem("item", moment, weight=weight))

    seen = {"puts": [await put(now + n) for n in range(7)]}
    seen["count"] = await bucket.count()
    peeked = await bucket.peek(0)
    seen["peek"] = [peeked.timestamp == now + 4, await bucket.peek(9)]
    seen["leaked"] = [await bucket.leak(now + hour + 3), await bucket.count()]
    await bucket.flush()
    seen["flushed"] = await bucket.count()
    seen["weight"] = [await put(now, 3), await put(now, 3), await put(now, 2)]
    other = await RedisBucket.init([Rate(10, hour)], client, "other")
    limiter = Limiter(other)
    asked = (limiter.try_acquire_async("k", blocking=False) for _ in range(30))
    seen["admitted of 30"] = sum(await asyncio.gather(*asked))
    quick = await RedisBucket.init([Rate(2, 200)], client, "quick")
    waiting = Limiter(quick)
    got = await asyncio.gather(*(waiting.try_acquire_async("k") for _ in range(6)))
    seen["waited"] = got
    limiter.close()
    waiting.close()
    await client.aclose()
    return seen
