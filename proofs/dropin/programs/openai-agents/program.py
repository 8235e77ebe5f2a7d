"""openai-agents: a conversation's items in its Redis session."""

from __future__ import annotations

import asyncio

import redis.asyncio
from agents.extensions.memory import RedisSession


def item(text):
    return {"role": "user", "content": text}


async def through(session):
    seen = {"ping": await session.ping()}
    await session.add_items([item("one"), item("two"), item("three")])
    await session.add_items([])
    seen["all"] = await session.get_items()
    seen["limits"] = [await session.get_items(limit) for limit in (2, 0, 9)]
    seen["popped"] = [await session.pop_item(), await session.get_items()]
    await asyncio.gather(*(session.add_items([item(f"c{n}")]) for n in range(20)))
    items = [each["content"] for each in await session.get_items()]
    seen["together"] = [len(items), sorted(items)]
    popped = await asyncio.gather(*(session.pop_item() for _ in range(5)))
    seen["popped together"] = len({each["content"] for each in popped})
    await session.clear_session()
    seen["cleared"] = [await session.get_items(), await session.pop_item()]
    return seen


async def run(url):
    session = RedisSession.from_url("a", url=url, ttl=100)
    seen = {"by URL": await through(session)}
    await session.close()
    client = redis.asyncio.Redis.from_url(url)
    shared = [RedisSession("b", redis_client=client) for _ in range(4)]
    seen["by client"] = await through(shared[0])
    await asyncio.gather(
        *(
            each.add_items([item(f"{who}-{n}") for n in range(5)])
            for who, each in enumerate(shared)
        )
    )
    texts = [each["content"] for each in await shared[1].get_items()]
    seen["of four"] = [len(texts), [texts.count(f"{who}-0") for who in range(4)]]
    timed = RedisSession("c", redis_client=client, ttl=100)
    await timed.add_items([item("x")])
    keys = await client.keys("agents:session:c*")
    seen["ttl"] = [await client.ttl(key) in range(60, 101) for key in keys]
    for each in shared:
        await each.close()
    seen["not closed"] = await client.ping()
    await client.aclose()
    return seen
