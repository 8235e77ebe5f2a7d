"""broadcaster: its Redis pub/sub and its Redis streams."""

from __future__ import annotations

import asyncio

from broadcaster import Broadcast


async def through(url):
    broadcast = Broadcast(url)
    await broadcast.connect()
    try:
        got = {name: [] for name in ("a", "b", "other")}
        ready, ended = asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def listen(name, channel):
            async with broadcast.subscribe(channel=channel) as subscriber:
                ready.release()
                async for event in subscriber:
                    got[name].append(event.message)
                    if event.message == "end":
                        ended.release()

        # One after the other: of two at once on one channel it forgets one.
        tasks = []
        for each in (("a", "one"), ("b", "one"), ("other", "two")):
            tasks.append(asyncio.create_task(listen(*each)))
            await ready.acquire()
        await asyncio.sleep(0.7)
        for n in range(30):
            await broadcast.publish("one", str(n))
        await broadcast.publish("two", "hello")
        for channel in ("one", "two"):
            await broadcast.publish(channel, "end")
        async with asyncio.timeout(20):
            for _ in tasks:
                await ended.acquire()
        return got
    finally:
        # Before its subscribers leave: without any, its reading of streams fails.
        await broadcast.disconnect()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(url):
    return {
        "pub/sub": await through(url),
        "streams": await through(url.replace("redis://", "redis-stream://")),
    }
