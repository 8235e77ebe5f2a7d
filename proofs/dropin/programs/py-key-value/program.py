"""py-key-value: its Redis store."""

from __future__ import annotations

import asyncio

import redis.asyncio
from key_value.aio.stores.redis import RedisStore


async def through(store):
    seen = {}
    async with store:
        await store.put("a", {"b": [1, None]}, collection="one")
        await store.put("a", {"other": True}, collection="two", ttl=100)
        seen["get"] = [
            await store.get("a", collection=name) for name in ("one", "two", "three")
        ]
        value, ttl = await store.ttl("a", collection="two")
        seen["ttl"] = [value, 60 < ttl <= 100, await store.ttl("a", collection="one")]
        keys = [f"k{n}" for n in range(30)]
        await store.put_many(keys, [{"n": n} for n in range(30)], collection="many")
        seen["many"] = await store.get_many([*keys, "zz"], collection="many")
        seen["keys"] = sorted(await store.keys(collection="many"))
        seen["delete"] = [
            await store.delete("k0", collection="many"),
            await store.delete("k0", collection="many"),
            await store.delete_many(["k1", "k2", "zz"], collection="many"),
        ]
        await asyncio.gather(
            *(store.put("same", {"n": n}, collection="one") for n in range(20))
        )
        seen["one of them"] = "n" in await store.get("same", collection="one")
        await store.put("soon", {"x": 1}, collection="one", ttl=1)
        await asyncio.sleep(1.2)
        seen["expired"] = await store.get("soon", collection="one")
        seen["destroyed"] = [
            await store.destroy(),
            await store.get("a", collection="one"),
        ]
    return seen


async def run(url):
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    seen = {
        "by URL": await through(RedisStore(url=url)),
        "by client": await through(RedisStore(client=client)),
        "not closed": await client.ping(),
    }
    await client.aclose()
    return seen
