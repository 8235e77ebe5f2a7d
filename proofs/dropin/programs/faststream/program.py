"""FastStream: its Redis broker, each kind of subscriber it has."""

from __future__ import annotations

import asyncio

from faststream.redis import ListSub, RedisBroker, StreamSub


async def until(what):
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.02)


async def run(url):
    broker = RedisBroker(url, logger=None)
    got = {
        name: [] for name in ("channel", "pattern", "list", "batch", "stream", "group")
    }

    @broker.subscriber("channel")
    async def on_channel(value: int):
        got["channel"].append(value)

    @broker.subscriber("logs.{level}")
    async def on_pattern(value: str):
        got["pattern"].append(value)

    @broker.subscriber(list=ListSub("list", polling_interval=0.02))
    async def on_list(value: dict):
        got["list"].append(value)

    @broker.subscriber(list=ListSub("batch", batch=True, polling_interval=0.02))
    async def on_batch(values: list[int]):
        got["batch"].extend(values)

    @broker.subscriber(stream=StreamSub("stream", last_id="0", polling_interval=50))
    async def on_stream(value: int):
        got["stream"].append(value)

    @broker.subscriber(
        stream=StreamSub("gs", group="g", consumer="c", polling_interval=50)
    )
    async def on_group(value: int):
        got["group"].append(value)

    @broker.subscriber("ask")
    @broker.publisher("answers")
    async def answer(value: int):
        return value + 1

    replies = []

    @broker.subscriber("answers")
    async def on_answer(value: int):
        replies.append(value)

    async with broker:
        await broker.start()
        await asyncio.sleep(0.5)
        for n in range(20):
            await broker.publish(n, "channel")
            await broker.publish({"n": n}, list="list")
            await broker.publish(n, stream="stream", maxlen=100)
            await broker.publish(n, stream="gs")
        await broker.publish_batch(*range(20), list="batch")
        await broker.publish("bad", "logs.error")
        await until(
            lambda: all(
                len(values) == (1 if name == "pattern" else 20)
                for name, values in got.items()
            )
        )
        seen = dict(got)
        reply = await broker.request(41, "ask", timeout=5)
        seen["request"] = await reply.decode()
        await until(lambda: replies)
        seen["published on"] = replies
        seen["ping"] = await broker.ping(timeout=5)
    return seen
