"""starsessions: sessions of a Starlette program in Redis."""

from __future__ import annotations

import httpx
import redis.asyncio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions import (
    SessionAutoloadMiddleware,
    SessionMiddleware,
    regenerate_session_id,
)
from starsessions.stores.redis import RedisStore


async def put(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return JSONResponse(dict(request.session))


async def look(request):
    return JSONResponse(dict(request.session))


async def renew(request):
    regenerate_session_id(request)
    return JSONResponse({})


async def drop(request):
    request.session.clear()
    return JSONResponse({})


async def run(url):
    client = redis.asyncio.Redis.from_url(url)
    seen = {}
    for lifetime in (0, 100):
        store = RedisStore(connection=client, prefix=f"s{lifetime}.", gc_ttl=500)
        app = Starlette(
            routes=[Route(f"/{f.__name__}", f) for f in (put, look, renew, drop)],
            middleware=[
                Middleware(
                    SessionMiddleware,
                    store=store,
                    lifetime=lifetime,
                    rolling=True,
                    cookie_https_only=False,
                ),
                Middleware(SessionAutoloadMiddleware),
            ],
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            got = [(await http.get(path)).json() for path in ("/put", "/put", "/look")]
            first = http.cookies["session"]
            await http.get("/renew")
            got += [first != http.cookies["session"], (await http.get("/look")).json()]
            keys = await client.keys(f"s{lifetime}.*")
            got += [len(keys), await client.ttl(keys[0]) in range(60, 501)]
            await http.get("/drop")
            got += [
                (await http.get("/look")).json(),
                len(await client.keys(f"s{lifetime}.*")),
            ]
        seen[f"lifetime {lifetime}"] = got
        seen[f"absent {lifetime}"] = repr(await store.read("zz", 1))
    await client.aclose()
    return seen
