"""asgi-ratelimit: its Redis backend in front of an ASGI program."""

from __future__ import annotations

import asyncio

import httpx
from ratelimit import RateLimitMiddleware, Rule
from ratelimit.backends.redis import RedisBackend
from redis.asyncio import StrictRedis


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def who(scope):
    headers = dict(scope["headers"])
    return headers[b"user"].decode(), headers.get(b"group", b"default").decode()


async def run(url):
    client = StrictRedis.from_url(url)
    app = RateLimitMiddleware(
        hello,
        who,
        RedisBackend(client),
        {
            "/hour": [Rule(hour=3), Rule(group="admin")],
            "/block": [Rule(day=2, block_time=100)],
            "/post": [Rule(method="post", day=1)],
        },
    )
    seen = {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:

        async def ask(path, user="u", method="GET", **headers):
            headers["user"] = user
            return (await http.request(method, path, headers=headers)).status_code

        seen["hour"] = [await ask("/hour") for _ in range(5)]
        seen["another user"] = await ask("/hour", "v")
        seen["admin"] = [await ask("/hour", "w", group="admin") for _ in range(5)]
        seen["block"] = [await ask("/block") for _ in range(4)]
        answer = await http.get("/block", headers={"user": "u"})
        seen["retry after"] = int(answer.headers["retry-after"]) in range(60, 101)
        seen["post"] = [
            await ask("/post", "p", method) for method in ("POST", "POST", "GET")
        ]
        together = await asyncio.gather(*(ask("/hour", "many") for _ in range(20)))
        seen["together"] = together.count(200)
        seen["free"] = await ask("/other")
    await client.aclose()
    return seen
