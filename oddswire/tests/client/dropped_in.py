"""What others built on redis-py, in a process where its class is ours from the start.

Prints a JSON object with what each of them did; `test_dropin.py` judges it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio

from oddswire import Client

redis.asyncio.Redis = redis.asyncio.client.Redis = Client  # type: ignore[misc]

# After that, as they keep the class.
import cashews  # noqa: E402
import limits  # noqa: E402
from aiogram.fsm.storage.base import StorageKey  # noqa: E402
from aiogram.fsm.storage.redis import RedisStorage  # noqa: E402
from limits.aio import storage, strategies  # noqa: E402


async def conversation(url: str) -> Any:
    """Keep a conversation with aiogram's storage."""
    kept = RedisStorage.from_url(url)
    key = StorageKey(bot_id=1, chat_id=2, user_id=3)
    await kept.set_state(key, "asked")
    await kept.set_data(key, {"market": "btc"})
    async with kept.create_isolation().lock(key):
        found = [await kept.get_state(key), await kept.get_data(key)]
    await kept.close()
    return [isinstance(kept.redis, Client), *found]


async def limited(url: str) -> Any:
    """Ask limits three times where two are allowed."""
    kept = storage.RedisStorage(f"async+{url}", implementation="redispy")
    window = strategies.MovingWindowRateLimiter(kept)
    rule = limits.RateLimitItemPerMinute(2)
    hits = [await window.hit(rule, "user") for _ in range(3)]
    client = kept.bridge.get_connection()
    await client.aclose()
    return [isinstance(client, Client), *hits]


async def cached(url: str) -> Any:
    """Cache a function with cashews."""
    cache = cashews.Cache()
    backend = cache.setup(url)
    await cache.init()
    calls = []

    @cache(ttl="1m", key="{number}", prefix="")
    async def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    results = [await double(21) for _ in range(3)]
    ours = isinstance(backend._client, Client)
    await cache.close()
    return [ours, results, len(calls)]


class Derived(redis.asyncio.Redis):
    """What arq makes: a class of its own, with redis-py's arguments one by one."""


async def derived(url: str) -> Any:
    """Use a class derived from what stands in redis-py's place."""
    at = urlsplit(url)
    async with Derived(
        host=at.hostname,
        port=at.port,
        password=at.password,
        unix_socket_path=None,
        ssl=False,
        ssl_cert_reqs="required",
        ssl_check_hostname=False,
        max_connections=5,
        decode_responses=True,
    ) as client:
        await client.set("derived", "value")
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch("derived")
            return [isinstance(client, Client), await pipe.get("derived")]


async def main(url: str) -> None:
    """Run all of them."""
    print(
        json.dumps(
            {
                "aiogram": await conversation(url),
                "limits": await limited(url),
                "cashews": await cached(url),
                "derived": await derived(url),
            }
        )
    )


asyncio.run(main(sys.argv[1]))
