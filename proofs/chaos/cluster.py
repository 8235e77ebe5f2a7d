"""Row 7: a cluster whose slots move and whose primaries die, under ours and redis-py.

Thirty tasks set, read and count 60 keys of all nodes. What was acknowledged is compared
with what the nodes have: exactly where slots move, for a server keeps what it moves; a
replica that takes over may lack the last writes, and there nothing but a counter above
what was asked for is wrong.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import RedisCluster
from redis.crc import key_slot

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.testing import History, frozen, wrong_replies
from support import eventually
from support.hooks import ask

FAULTS = ("slots move, classic", "slots move, atomic", "a primary is killed",
          "a primary is frozen")  # fmt: skip
_KEYS = [f"k{number}" for number in range(60)]
_TASKS = 30
_DEADLINE = 10.0


async def look_at_cluster(name: str, fault: str) -> dict[str, Any]:
    """Run one fault with one client; return its figures."""
    moves = fault.startswith("slots")
    history = History()
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        AsyncExitStack() as stack,
    ):
        url = cluster.cluster_url
        client: Any
        if name == "oddswire":
            client = Client.from_url(url, command_timeout=_DEADLINE)
        else:
            first = url.replace("cluster://", "redis://").partition(",")[0]
            client = RedisCluster.from_url(first, socket_timeout=1.0)
        stack.push_async_callback(client.aclose)
        await client.set("first", 1)
        over = False

        async def work(number: int) -> None:
            dice = random.Random(number)
            while not over:
                key = dice.choice(_KEYS)
                sets, gets = client.set(key, f"{key}=x"), client.get(key)
                await history.record("set", key, sets)
                await history.record("get", key, gets)
                await history.record("incr", key, client.incr(f"n{key}"))
                await asyncio.sleep(0.005)

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(work(number)) for number in range(_TASKS)]
        await asyncio.sleep(0.5)
        if moves:
            await _move(cluster, atomic=fault.endswith("atomic"))
        else:
            await _depose(cluster, freeze=fault.endswith("frozen"))
        await asyncio.sleep(1.0)
        over = True
        await asyncio.gather(*tasks)
        found = await _counters(cluster)
    return {"client": name, "fault": fault, **_judged(history, found, kept=moves)}


async def _move(cluster: EmbeddedCluster, *, atomic: bool) -> None:
    first, second, _ = cluster.primaries
    slots = sorted({key_slot(key.encode()) for key in _KEYS})
    for source, target in ((first, second), (second, first)):
        if atomic:
            await cluster.move_slots(0, 4000, source, target, atomic=True)
            continue
        for slot in [each for each in slots if each <= 4000]:
            await cluster.move_slots(slot, slot, source, target)


async def _depose(cluster: EmbeddedCluster, *, freeze: bool) -> None:
    victim, replica = cluster.primaries[0], cluster.replicas[0]

    async def took_over() -> bool:
        state = await ask(cluster.primaries[1].url, "CLUSTER", "INFO")
        role = await ask(replica.url, "ROLE")
        return bool("state:ok" in state and role[0] == "master")

    if freeze:
        with frozen(victim):
            await eventually(took_over, 40)
            await asyncio.sleep(1.0)
    else:
        victim.kill()
        await victim.wait_exit()
        await eventually(took_over, 40)


async def _counters(cluster: EmbeddedCluster) -> dict[str, int]:
    async with Client.from_url(cluster.cluster_url, command_timeout=20.0) as client:
        values = await client.mget([f"n{key}" for key in _KEYS])
    return {key: int(value or 0) for key, value in zip(_KEYS, values, strict=True)}


def _judged(history: History, found: dict[str, int], *, kept: bool) -> dict[str, Any]:
    wrong = wrong_replies(
        history.of("get"), lambda key, value: value == f"{key}=x".encode()
    )
    lost = 0
    for key, value in found.items():
        calls = [call for call in history.of("incr") if call.key == key]
        sure = sum(call.outcome == "ok" for call in calls)
        unknown = sum(call.outcome == "unknown" for call in calls)
        lost += max(0, sure - value) if kept else 0
        if value > sure + unknown:
            wrong.append(f"{key} counts {value}, of {sure} and {unknown} unknown")
    errors: dict[str, int] = {}
    for call in history.calls:
        if call.error is not None:
            errors[call.error] = errors.get(call.error, 0) + 1
    return {
        "acked": history.count("ok"),
        "refused": history.count("rejected") + history.count("not_sent"),
        "unknown": history.count("unknown"),
        "lost": lost if kept else None,
        "wrong": len(wrong),
        "longest": max(call.ended - call.began for call in history.calls),
        "errors": errors,
    }
