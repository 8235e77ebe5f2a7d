"""channels_redis: its core layer (lists and sorted sets) and its pub/sub layer."""

from __future__ import annotations

import asyncio

from channels.exceptions import ChannelFull
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer


async def receive(layer, channel, count=1):
    return [
        (await asyncio.wait_for(layer.receive(channel), 10))["text"]
        for _ in range(count)
    ]


async def nothing(layer, channel):
    try:
        return await asyncio.wait_for(layer.receive(channel), 0.4)
    except TimeoutError:
        return "nothing"


async def groups(layer):
    names = [await layer.new_channel() for _ in range(3)]
    for name in names:
        await layer.group_add("room", name)
    await layer.group_discard("room", names[2])
    # The pub/sub layer subscribes in the background.
    await asyncio.sleep(0.3)
    for n in range(10):
        await layer.group_send("room", {"type": "m", "text": str(n)})
    seen = [await receive(layer, name, 10) for name in names[:2]]
    return [*seen, await nothing(layer, names[2])]


async def run(url):
    layer = RedisChannelLayer(hosts=[url], capacity=5, group_expiry=60)
    seen = {}
    for n in range(5):
        await layer.send("plain", {"type": "m", "text": str(n)})
    try:
        await layer.send("plain", {"type": "m", "text": "too many"})
    except ChannelFull:
        seen["full"] = True
    seen["plain"] = await receive(layer, "plain", 5)
    seen["empty"] = await nothing(layer, "plain")
    name = await layer.new_channel()
    waiting = asyncio.create_task(receive(layer, name))
    await asyncio.sleep(0.1)
    await layer.send(name, {"type": "m", "text": "to a waiting one"})
    seen["waiting"] = await waiting
    many = [await layer.new_channel() for _ in range(10)]
    tasks = [asyncio.create_task(receive(layer, each)) for each in many]
    for n, each in enumerate(many):
        await layer.send(each, {"type": "m", "text": str(n)})
    seen["many"] = await asyncio.gather(*tasks)
    roomy = RedisChannelLayer(
        hosts=[url], capacity=50, prefix="roomy", symmetric_encryption_keys=["key"]
    )
    seen["groups"] = await groups(roomy)
    await layer.flush()
    seen["flushed"] = await nothing(layer, "plain")
    for each in (layer, roomy):
        await each.close_pools()
    pubsub = RedisPubSubChannelLayer(hosts=[url], prefix="ps")
    seen["pub/sub groups"] = await groups(pubsub)
    await pubsub.flush()
    return seen
