"""Memory stays flat: nothing is kept of calls, cancellations, connections, pushes.

`benchmarks/memory.py --full` does the same a hundred times longer.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from itertools import pairwise

import pytest

from oddswire import Client
from support.hooks import drop_connection

pytestmark = pytest.mark.performance


async def _growth(work, rounds):
    """Return (bytes, objects) that `rounds` of work leave behind, after a warm-up.

    The round that grew most is left out: on a busy machine a buffer grows once to what
    comes at a time. What is kept of calls is kept in each round.
    """
    await work()
    gc.collect()
    tracemalloc.start()
    try:
        await work()
        gc.collect()
        sizes, objects = [tracemalloc.get_traced_memory()[0]], len(gc.get_objects())
        for _ in range(rounds):
            await work()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        grown = [after - before for before, after in pairwise(sizes)]
        return sum(grown) - max(grown), len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()


async def test_commands(client, prefix):
    """20,000 commands leave nothing behind."""

    async def work():
        for _ in range(4):
            await asyncio.gather(*(client.get(f"{prefix}k") for _ in range(500)))

    grown, objects = await _growth(work, 10)

    assert grown < 20_000
    assert objects < 100


async def test_cancelled_calls(client, prefix):
    """10,000 cancelled calls leave nothing behind, in flight or on the books."""
    loop = asyncio.get_running_loop()

    async def work():
        for _ in range(2):
            calls = [loop.create_task(client.get(f"{prefix}k")) for _ in range(500)]
            await asyncio.sleep(0)  # one turn of the loop: they are sent
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
        await client.ping()

    grown, objects = await _growth(work, 10)
    connections = client.stats().connections

    assert grown < 20_000
    assert objects < 100
    assert (
        connections.in_flight,
        connections.in_flight_bytes,
        connections.waiting,
    ) == (0, 0, 0)


async def test_reconnects(server):
    """100 reconnections leave nothing behind."""
    async with Client.from_url(
        server.url, reconnect_delay=0.001, reconnect_cap=0.001, retries=3
    ) as client:

        async def work():
            for _ in range(10):
                await client.ping()
                drop_connection(client)
            await client.ping()

        grown, objects = await _growth(work, 10)
        connects = client.stats().connects

    assert connects == 121
    assert grown < 40_000
    assert objects < 200


async def test_pushes(server, prefix):
    """20,000 push messages leave nothing behind."""
    async with Client.from_url(server.url) as client:
        seen = 0
        enough = asyncio.Event()

        def on_push(push):
            nonlocal seen
            seen += len(push[1])
            if seen % 2_000 == 0:
                enough.set()

        tracked = client.tracked(on_push, "BCAST", "PREFIX", prefix)
        await tracked.ping()

        async def work():
            enough.clear()
            for _ in range(2):
                pipe = client.pipeline(transaction=False)
                for n in range(1_000):
                    pipe.set(f"{prefix}{n}", "v", ex=60)
                await pipe.execute()
            async with asyncio.timeout(10):
                await enough.wait()

        grown, objects = await _growth(work, 9)
        await tracked.aclose()

    assert seen == 22_000
    assert grown < 40_000
    assert objects < 200
