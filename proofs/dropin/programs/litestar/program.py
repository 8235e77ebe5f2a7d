"""Litestar: its Redis store and its channels over Redis."""

from __future__ import annotations

import asyncio
import datetime as dt

import redis.asyncio
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import (
    RedisChannelsPubSubBackend,
    RedisChannelsStreamBackend,
)
from litestar.stores.redis import RedisStore


async def through(backend, history=None):
    plugin = ChannelsPlugin(backend=backend, channels=["one", "two"])
    async with plugin:
        async with (
            plugin.start_subscription(["one"]) as one,
            plugin.start_subscription(["one", "two"]) as both,
        ):
            await asyncio.sleep(0.5)
            for n in range(20):
                await plugin.wait_published(f"m{n}", "one")
            await plugin.wait_published("other", "two")

            async def take(subscriber, count):
                got = []
                async for event in subscriber.iter_events():
                    got.append(event.decode())
                    if len(got) == count:
                        break
                return got

            seen = [
                await asyncio.wait_for(take(one, 20), 10),
                sorted(await asyncio.wait_for(take(both, 21), 10)),
            ]
        if history:
            seen.append([each.decode() for each in await history.get_history("one", 5)])
        return seen


async def run(url):
    store = RedisStore.with_client(url=url, namespace="ns")
    seen = {}
    await store.set("a", "text", expires_in=100)
    await store.set("b", b"bytes")
    await store.set("c", b"x", expires_in=dt.timedelta(seconds=50))
    seen["get"] = [(await store.get(key) or b"none").decode() for key in "abz"]
    seen["expires"] = [
        await store.expires_in(key) in range(40, 101) for key in ("a", "c")
    ]
    seen["no expiry"] = [await store.expires_in(key) for key in ("b", "z")]
    await store.get("c", renew_for=1000)
    seen["renewed"] = await store.expires_in("c") > 900
    seen["exists"] = [await store.exists(key) for key in ("a", "z")]
    inner = store.with_namespace("inner")
    await inner.set("a", "within")
    await inner.delete_all()
    seen["namespace"] = [await inner.get("a"), (await store.get("a")).decode()]
    await store.delete("a")
    await store.delete_all()
    seen["deleted"] = [await store.exists(key) for key in "abc"]
    async with store:
        pass
    client = redis.asyncio.Redis.from_url(url)
    seen["pub/sub"] = await through(RedisChannelsPubSubBackend(redis=client))
    stream = RedisChannelsStreamBackend(history=10, redis=client)
    seen["streams"] = await through(stream, stream)
    await client.aclose()
    return seen
