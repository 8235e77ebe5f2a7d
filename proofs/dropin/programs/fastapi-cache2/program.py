"""fastapi-cache2: cached endpoints in Redis."""

from __future__ import annotations

import httpx
import redis.asyncio
from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache

calls = []


async def run(url):
    client = redis.asyncio.Redis.from_url(url)
    backend = RedisBackend(client)
    FastAPICache.init(backend, prefix="fc")
    app = FastAPI()

    @app.get("/item/{number}")
    @cache(expire=60, namespace="items")
    async def item(number: int):
        calls.append(number)
        return {"number": number}

    @cache(expire=60)
    async def plain(number):
        calls.append(number)
        return {"plain": number}

    seen = {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        got = [await http.get(f"/item/{n}") for n in (1, 1, 2)]
        seen["endpoint"] = [
            [each.json(), each.headers.get("x-fastapi-cache")] for each in got
        ]
        tag = got[1].headers["etag"]
        again = await http.get("/item/1", headers={"if-none-match": tag})
        seen["not modified"] = again.status_code
        await FastAPICache.clear(namespace="items")
        await http.get("/item/1")
    seen["function"] = [await plain(7), await plain(7)]
    seen["calls"] = calls
    await backend.set("k", b"v", expire=100)
    ttl, value = await backend.get_with_ttl("k")
    seen["backend"] = [ttl in range(60, 101), value.decode(), await backend.get("zz")]
    seen["clear"] = [await backend.clear(key="k"), await backend.clear(key="k")]
    await client.aclose()
    return seen
