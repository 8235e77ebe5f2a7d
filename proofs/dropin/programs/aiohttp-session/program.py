"""aiohttp-session: sessions of an aiohttp program in Redis."""

from __future__ import annotations

import redis.asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session import get_session, new_session, setup
from aiohttp_session.redis_storage import RedisStorage


async def put(request):
    session = await get_session(request)
    session["count"] = session.get("count", 0) + 1
    return web.json_response(dict(session))


async def look(request):
    session = await get_session(request)
    return web.json_response([session.new, dict(session)])


async def anew(request):
    session = await new_session(request)
    session["fresh"] = True
    return web.json_response(dict(session))


async def drop(request):
    (await get_session(request)).invalidate()
    return web.json_response({})


async def run(url):
    client = redis.asyncio.Redis.from_url(url)
    seen = {}
    for age in (None, 100):
        app = web.Application()
        name = f"S{age}"
        setup(app, RedisStorage(client, cookie_name=name, max_age=age))
        for handler in (put, look, anew, drop):
            app.router.add_get(f"/{handler.__name__}", handler)
        async with TestClient(TestServer(app)) as http:
            got = []
            for path in ("put", "put", "look", "anew", "look"):
                got.append(await (await http.get(f"/{path}")).json())
            keys = await client.keys(f"{name}_*")
            ttls = [await client.ttl(key) for key in keys]
            got += [
                len(keys),
                [ttl if ttl < 0 else ttl in range(60, 101) for ttl in ttls],
            ]
            await http.get("/drop")
            got.append(await (await http.get("/look")).json())
        seen[f"max_age {age}"] = got
    await client.aclose()
    return seen
