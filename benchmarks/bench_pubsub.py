"""Topics beside their peers: what a broken link costs, and how fast messages come."""

# ruff: noqa: S101 - what is timed is checked first

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import broadcaster
import msgspec
import redis
import redis.asyncio as aredis
from faststream.redis import RedisBroker
from timing import Effort, figure, ratio, rounds

from oddswire.client import Client
from oddswire.codec import Codec
from oddswire.counters import Histogram
from oddswire.pubsub import Delivery, PubSub, Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from oddswire.embedded import EmbeddedServer


class Tick(msgspec.Struct, frozen=True):
    """What is published: about 100 bytes."""

    n: int
    market: str
    bid: float
    ask: float
    note: str


LOG = Topic("bench-log", int, delivery=Delivery.LOG, history=10_000)
LIVE = Topic("bench-live", Tick)
MESSAGES = 2_000
DISCONNECTS = (500, 1_000, 1_500)
# FastStream waits for 5 s before it connects again.
PATIENCE = 8.0
BURST = 40_000
TICKS_PER_SECOND = 5_000


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what was lost, the rates, and the lag at a steady rate."""
    say(f"{MESSAGES} messages, {len(DISCONNECTS)} disconnects")
    lost = await disconnects(server)
    async with aredis.Redis.from_url(server.url) as admin:
        # A burst waits in the server; no subscriber is to be dropped for that.
        await admin.config_set("client-output-buffer-limit", "pubsub 0 0 0")
    say("live messages")
    values = await rounds(
        {
            "oddswire": partial(_ours_live, server),
            "redis-py": partial(_redis_py_live, server),
        },
        effort,
    )
    say(f"{TICKS_PER_SECOND} ticks a second")
    lag = await steady(server, max(2.0, effort.seconds * 10))
    return {
        "messages": MESSAGES,
        "disconnects": len(DISCONNECTS),
        "burst": BURST,
        "lost": lost,
        "live": {name: figure(rates) for name, rates in values.items()},
        "ratio": ratio(values["oddswire"], values["redis-py"]),
        "steady": lag,
    }


# --- disconnects


async def disconnects(server: EmbeddedServer) -> dict[str, dict[str, Any]]:
    """Publish to everybody, break every subscriber's link, count what came.

    Returns:
        By name: messages received, lost, lost unannounced; None where one is told of
        no loss at all.
    """
    got: dict[str, list[int]] = {
        name: [] for name in ("oddswire", "redis-py", "FastStream", "broadcaster")
    }
    told = [0]
    logging.disable(logging.CRITICAL)
    try:
        async with contextlib.AsyncExitStack() as stack:
            admin = await stack.enter_async_context(aredis.Redis.from_url(server.url))
            client = await stack.enter_async_context(Client.from_url(server.url))
            pubsub = await stack.enter_async_context(PubSub(client))
            sub = await stack.enter_async_context(pubsub.subscribe(LOG))

            async def ours() -> None:
                async for event in sub:
                    if hasattr(event, "value"):
                        got["oddswire"].append(event.value)
                    else:
                        told[0] += event.lost or 0

            broker = RedisBroker(server.url)

            @broker.subscriber("bench-peers")
            async def faststream(message: int) -> None:
                got["FastStream"].append(message)

            await broker.start()
            stack.push_async_callback(broker.stop)
            tasks = [
                asyncio.get_running_loop().create_task(each)
                for each in (
                    ours(),
                    _redis_py(server, got["redis-py"]),
                    _broadcaster(server, got["broadcaster"]),
                )
            ]
            async with asyncio.timeout(10):
                while (await admin.pubsub_numsub("bench-peers"))[0][1] < 3:  # noqa: ASYNC110 - the server's state
                    await asyncio.sleep(0.01)
            for n in range(MESSAGES):
                await admin.publish("bench-peers", n)
                await pubsub.publish(LOG, n)
                if n in DISCONNECTS:
                    await admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await asyncio.sleep(0.001)
            await _quiet(got)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    finally:
        logging.disable(logging.NOTSET)
    result: dict[str, dict[str, Any]] = {}
    for name, values in got.items():
        lost = MESSAGES - len(set(values))
        announced = told[0] if name == "oddswire" else 0
        result[name] = {
            "received": len(values),
            "lost": lost,
            "unannounced": max(0, lost - announced),
            "in_order": values == sorted(values) and len(values) == len(set(values)),
        }
    return result


async def _redis_py(server: EmbeddedServer, got: list[int]) -> None:
    # Not from_url: its clients do not connect again by default.
    client = aredis.Redis(host=server.host, port=server.port, password=server.password)
    async with client, client.pubsub() as sub:
        await sub.subscribe("bench-peers")
        async for message in sub.listen():
            if message["type"] == "message":
                got.append(int(message["data"]))  # noqa: PERF401 - as it comes


async def _broadcaster(server: EmbeddedServer, got: list[int]) -> None:
    # It hangs when its link is cut, also on leaving its block.
    hub = broadcaster.Broadcast(server.url)
    await hub.connect()
    async with hub.subscribe("bench-peers") as sub:
        async for event in sub:
            got.append(int(event.message))  # noqa: PERF401 - as it comes


async def _quiet(got: dict[str, list[int]]) -> None:
    """Wait until everybody has the last message, or nothing came for a while."""
    loop = asyncio.get_running_loop()
    before, since = -1, loop.time()
    while loop.time() - since < PATIENCE:
        total = sum(map(len, got.values()))
        if total != before:
            before, since = total, loop.time()
        await asyncio.sleep(0.1)


# --- live messages


def _ticks() -> list[bytes]:
    codec = Codec(Tick)
    return [
        codec.encode(Tick(n, f"0x{n % 1000:040x}", n / 7, n / 7 + 0.01, "generated"))
        for n in range(1000)
    ]


def _burst(server: EmbeddedServer, channel: bytes, frames: list[bytes]) -> None:
    """Publish while the loop stands still: what is timed is the reading alone."""
    with redis.Redis.from_url(server.url) as client:
        for start in range(0, len(frames), 1000):
            with client.pipeline(transaction=False) as pipe:
                for frame in frames[start : start + 1000]:
                    pipe.publish(channel, frame)
                pipe.execute()


async def _ours_live(server: EmbeddedServer) -> float:
    """Messages a second that a subscription yields, checked and decoded."""
    values = _ticks()
    async with Client.from_url(server.url) as client, PubSub(client) as pubsub:
        first = await pubsub.publish(LIVE, Tick(0, "", 0.0, 0.0, ""))
        async with pubsub.subscribe(LIVE, queue=BURST + 10) as sub:
            prev, frames = first.id.encode(), []
            for n in range(BURST):
                link = b"%d-%d-%016x" % (1_700_000_000_000 + n // 50, n, n)
                number = first.sequence + 1 + n
                value = values[n % 1000]
                frames.append(b"%d %b %b  %b" % (number, link, prev, value))
                prev = link
            _burst(server, b"oddswire:topic:{bench-live:%}", frames)
            return await _timed(sub, Tick)


async def _redis_py_live(server: EmbeddedServer) -> float:
    """Messages a second of redis-py's `listen()`, decoded alike."""
    codec = Codec(Tick)
    values = _ticks()

    async def messages() -> AsyncIterator[Any]:
        async for message in sub.listen():
            if message["type"] == "message":
                yield codec.decode(message["data"])

    async with aredis.Redis.from_url(server.url) as client, client.pubsub() as sub:
        await sub.subscribe("bench-raw")
        await sub.get_message(timeout=1)
        _burst(server, b"bench-raw", [values[n % 1000] for n in range(BURST)])
        return await _timed(messages(), Tick)


async def _timed(source: AsyncIterator[Any], kind: type) -> float:
    began = perf_counter()
    for _ in range(BURST):
        each = await anext(source)
    took = perf_counter() - began
    assert isinstance(getattr(each, "value", each), kind)
    return BURST / took


async def steady(server: EmbeddedServer, seconds: float) -> dict[str, float]:
    """Publish generated ticks at a steady rate; return the lag to a subscriber."""
    lags = Histogram([0.000_25 * 1.2**step for step in range(50)])
    async with Client.from_url(server.url) as client, PubSub(client) as pubsub:
        stamped = Topic("bench-steady", float)
        sends = round(seconds * TICKS_PER_SECOND)
        async with pubsub.subscribe(stamped, queue=TICKS_PER_SECOND) as sub:

            async def read() -> None:
                for _ in range(sends):
                    event = await anext(sub)
                    lags.observe(perf_counter() - event.value)

            began = perf_counter()
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                sent = 0
                while sent < sends:
                    due = round((perf_counter() - began) * TICKS_PER_SECOND)
                    for _ in range(min(due, sends) - sent):
                        group.create_task(pubsub.publish(stamped, perf_counter()))
                        sent += 1
                    await asyncio.sleep(0.001)
            took = perf_counter() - began
    return {
        "per_second": sends / took,
        "p50": lags.quantile(0.5) or 0.0,
        "p99": lags.quantile(0.99) or 0.0,
    }


async def _alone() -> None:
    from oddswire.embedded import EmbeddedServer  # noqa: PLC0415 - only when run alone

    async with EmbeddedServer() as server:
        results = await measure(server, Effort(3, 0.15), print)
    print(json.dumps(results, indent=1))  # noqa: T201 - a command talks


if __name__ == "__main__":
    import uvloop

    uvloop.run(_alone())
