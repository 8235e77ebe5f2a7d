"""What a cluster costs: routing, beside the client of its node, and redis-py's client.

All nodes are on this machine, with client and servers on the same cores: the rates say
nothing of the throughput of a cluster.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from timing import Effort, figure, ratio, rounds

from oddswire import Client
from oddswire.embedded import EmbeddedCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.embedded import EmbeddedServer

_TASKS = 100
_VALUE = b"x" * 100


async def _get(client: Any, seconds: float, clock: Callable[[], float]) -> float:
    """Return seconds of a clock for each GET of 100 tasks, a key for each task."""
    until = perf_counter() + seconds
    done = 0

    async def work(number: int) -> None:
        nonlocal done
        key = f"cluster:{number}"
        while perf_counter() < until:
            for _ in range(10):
                if await client.get(key) != _VALUE:
                    raise AssertionError(key)
            done += 10

    began = clock()
    await asyncio.gather(*[work(number) for number in range(_TASKS)])
    return (clock() - began) / done


async def measure(
    server: EmbeddedServer,  # noqa: ARG001 - as every group
    effort: Effort,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return what routing adds to a get, and the ratio to redis-py's cluster client."""
    say("cluster: routing")
    async with (
        EmbeddedCluster(primaries=1) as one,
        Client.from_url(one.cluster_url) as whole,
    ):
        await _fill(whole)
        [node] = await whole.primaries()
        cpu = await rounds(
            {
                "direct": partial(_get, node, effort.seconds, process_time),
                "routed": partial(_get, whole, effort.seconds, process_time),
            },
            # The difference is a tenth of what is measured.
            Effort(3 * effort.rounds, effort.seconds),
        )
    say("cluster: three primaries")
    async with EmbeddedCluster(primaries=3) as three:
        theirs = RedisCluster.from_url(three.url, max_connections=_TASKS)
        async with Client.from_url(three.cluster_url) as ours, theirs:
            await _fill(ours)
            took = await rounds(
                {
                    "ours": partial(_get, ours, effort.seconds, perf_counter),
                    "theirs": partial(_get, theirs, effort.seconds, perf_counter),
                },
                effort,
            )
    return {
        "routing_percent": 100 * (ratio(cpu["routed"], cpu["direct"]) - 1),
        "direct_us": 1e6 * figure(cpu["direct"]).median,
        "routed_us": 1e6 * figure(cpu["routed"]).median,
        "ratio": ratio(took["theirs"], took["ours"]),
        "ours_us": 1e6 * figure(took["ours"]).median,
        "theirs_us": 1e6 * figure(took["theirs"]).median,
    }


async def _fill(client: Client) -> None:
    for number in range(_TASKS):
        await client.set(f"cluster:{number}", _VALUE)
