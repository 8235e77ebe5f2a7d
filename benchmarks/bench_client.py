"""The client beside its peers, command by command."""

# ruff: noqa: S101 - what is timed is checked first

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import machine
import peers
import redis.asyncio as aredis
from peers import COMMANDS, TASKS, VALUE, RedisPy, key
from timing import Effort, figure, latency, rate, ratio, rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from peers import Peer

    from oddswire.embedded import EmbeddedServer


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the rows and the scale lines, all measured on `server`."""
    async with AsyncExitStack() as stack:
        plain = aredis.Redis.from_url(server.url)
        stack.push_async_callback(plain.aclose)
        sha = await peers.fill(plain)
        say("redis-py: looking for its best pool")
        tried, best = await best_redis_py(stack, server, sha, effort)
        everybody: list[Peer] = [
            await peers.ours(stack, server, sha),
            best,
            await peers.open_coredis(stack, server, sha),
            await peers.open_glide(stack, server),
        ]
        for peer in everybody:
            await check(peer, plain)
        rows = []
        for command in COMMANDS:
            say(f"{command}, {TASKS} tasks")
            values = await rounds(
                {
                    peer.name: partial(
                        rate,
                        [peer.call(command, task) for task in range(TASKS)],
                        effort.seconds,
                    )
                    for peer in everybody
                },
                effort,
            )
            rows.append(_row(command, "calls/s", values))
        alone = {
            peer.name: partial(latency, peer.call("get", 0), effort.seconds)
            for peer in everybody
        }
        say("one task")
        values = await rounds(alone, effort)
        rows.append(_row("one task, p50", "us", values, scale=1e6))
        with machine.one_core(server.pid):
            values = await rounds(alone, effort)
        rows.append(_row("one task on one core, p50", "us", values, scale=1e6))
        say("pipeline of 100")
        values = await rounds(
            {
                peer.name: partial(latency, peer.batch, effort.seconds)
                for peer in everybody
            },
            effort,
        )
        rows.append(_row("pipeline of 100", "us", values, scale=1e6))
        say("scale lines")
        return {
            "rows": rows,
            "redis_py_pools": tried,
            "redis_py_best": best.label,
            "scale": await _scale(best, effort),
        }


class _Best(RedisPy):
    label = ""


async def best_redis_py(
    stack: AsyncExitStack,
    server: EmbeddedServer,
    sha: str,
    effort: Effort,
    only: Container[str] | None = None,
) -> tuple[dict[str, float], _Best]:
    """Return GETs per second by pool setting, and the client that had most.

    With `only`, pool settings of other names are left out.
    """
    clients = {
        name: RedisPy(name, client, sha)
        for name, client in peers.redis_py_settings(server.url).items()
        if only is None or name in only
    }
    for peer in clients.values():
        stack.push_async_callback(peer.client.aclose)
        stack.push_async_callback(peer.client.connection_pool.disconnect)
    values = await rounds(
        {
            name: partial(
                rate,
                [peer.call("get", task) for task in range(TASKS)],
                effort.seconds / 2,
            )
            for name, peer in clients.items()
        },
        Effort(3, effort.seconds),
    )
    tried = {name: figure(rates).median for name, rates in values.items()}
    label = max(tried, key=tried.__getitem__)
    best = _Best("redis-py", clients[label].client, sha)
    best.label = label
    return tried, best


async def check(peer: Peer, plain: aredis.Redis) -> None:
    """Make sure that a peer does what it is measured for.

    Raises:
        AssertionError: It returned or wrote something else.
    """
    for command in ("get", "hget", "evalsha"):
        calls = [peer.call(command, task)() for task in range(TASKS)]
        assert await asyncio.gather(*calls) == [VALUE] * TASKS, (peer.name, command)
    keys = [key("set", task) for task in range(TASKS)]
    await plain.delete(*keys)
    await asyncio.gather(*(peer.call("set ex", task)() for task in range(TASKS)))
    assert await plain.mget(keys) == [VALUE] * TASKS, peer.name
    assert 90 <= await plain.ttl(keys[0]) <= 100, peer.name
    keys = [key("incr", task) for task in range(TASKS)]
    await plain.delete(*keys)
    for count in (1, 2, 3):
        calls = [peer.call("incr", task)() for task in range(TASKS)]
        assert await asyncio.gather(*calls) == [count] * TASKS, peer.name
    assert await plain.mget(keys) == [b"3"] * TASKS, peer.name
    assert await peer.batch() == [VALUE] * 100, peer.name


def _row(
    what: str, unit: str, values: dict[str, list[float]], scale: float = 1.0
) -> dict[str, Any]:
    mine = values["oddswire"]
    row: dict[str, Any] = {"what": what, "unit": unit, "figures": {}, "ratios": {}}
    for name, measured in values.items():
        row["figures"][name] = figure([value * scale for value in measured])
        if name == "oddswire":
            continue
        if what == "pipeline of 100":  # how many times faster
            row["ratios"][name] = ratio(measured, mine)
        else:
            row["ratios"][name] = ratio(mine, measured)
    return row


async def _scale(best: _Best, effort: Effort) -> dict[str, float]:
    """What batching by hand gives redis-py."""
    keys = [key("get", task) for task in range(100)]
    values = await rounds(
        {
            "redis-py, pipelines of 100 by hand, GETs/s": partial(
                latency, best.batch, effort.seconds
            ),
            "redis-py, MGET of 100, keys/s": partial(
                latency, partial(best.client.mget, keys), effort.seconds
            ),
        },
        effort,
    )
    return {name: 100 / figure(times).median for name, times in values.items()}
