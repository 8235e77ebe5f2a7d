"""The cache beside its peers; and what tags, cold loads and entries cost."""

# ruff: noqa: S101 - what is timed is checked first

from __future__ import annotations

import asyncio
import random
import sys
import tracemalloc
from collections import OrderedDict
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from timing import Effort, figure, latency, rate, ratio, rounds

from oddswire import Client
from oddswire.cache import Cache
from oddswire.cache._l1 import L1, Item
from oddswire.clock import SystemClock
from oddswire.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.embedded import EmbeddedServer

boottime = SystemClock().boottime

TASKS = 100
VALUE = "x" * 100

_PROCESS = """
import asyncio, sys
from oddswire import Client
from oddswire.cache import Cache

async def main(url):
    async with Client.from_url(url) as client:
        async with Cache(client, prefix="bench:", timeout=30.0) as cache:
            async def load():
                await client.incr("bench-loads")
                await asyncio.sleep(0.3)
                return "value"
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            got = await asyncio.gather(
                *(cache.get_or_set("m:cold", load) for _ in range(100))
            )
            assert got == ["value"] * 100

asyncio.run(main(*sys.argv[1:]))
"""


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the rows and the lines of scale, all measured on `server`."""
    async with AsyncExitStack() as stack:
        client = Client.from_url(server.url)
        stack.push_async_callback(client.aclose)
        cache = await stack.enter_async_context(
            Cache(client, prefix="bench:", timeout=5.0)
        )
        far = await stack.enter_async_context(
            Cache(client, prefix="bench:", timeout=5.0, l1_bytes=0)
        )
        peers = _cashews(server.url)
        near_peer, far_peer = peers
        for each in peers:
            await each.init()
            stack.push_async_callback(each.close)
        say("cache: hits")
        rows = [
            await _near(cache, near_peer, effort),
            await _decorated(cache, near_peer, effort),
            await _far(far, far_peer, effort),
        ]
        say("cache: tags")
        tags = await _tags(cache, client, effort)
        say("cache: one cold key, four processes")
        loads = await _cold(server, client)
        return {
            "rows": rows,
            "tags": tags,
            "loads": loads,
            "round_trips": await _round_trips(server),
            "hit_ratio": hit_ratios(),
            "entry_bytes": await _entry_bytes(client),
        }


def _cashews(url: str) -> tuple[Any, Any]:
    """Cashews in memory, and on Redis with its best settings."""
    from cashews import Cache as Cashews  # noqa: PLC0415 - a peer

    near, far = Cashews(), Cashews()
    near.setup("mem://?size=100000&check_interval=10")
    # One connection for each task, and no client side cache: a hit in Redis.
    far.setup(f"{url}?max_connections={TASKS}")
    return near, far


async def _near(cache: Cache, peer: Any, effort: Effort) -> dict[str, Any]:
    await cache.set("m:near", VALUE, ttl=3600)
    await peer.set("m:near", VALUE, expire=3600)

    ours, theirs = partial(cache.get, "m:near"), partial(peer.get, "m:near")
    assert await ours() == await theirs() == VALUE
    return await _times("L1 hit, get", ours, theirs, cache, effort)


async def _decorated(cache: Cache, peer: Any, effort: Effort) -> dict[str, Any]:
    @cache.cached(ttl=3600, key="d:{number}")
    async def mine(number: int) -> str:
        return VALUE if number else ""

    @peer(ttl=3600, key="d:{number}")
    async def its(number: int) -> str:
        return VALUE if number else ""

    assert await mine(1) == await its(1) == VALUE

    ours, theirs = partial(mine, 1), partial(its, 1)
    return await _times("L1 hit, decorated", ours, theirs, cache, effort)


async def _times(
    what: str, ours: Any, theirs: Any, cache: Cache, effort: Effort
) -> dict[str, Any]:
    async def believed() -> float:
        # The heartbeat needs the loop, which a row of hits does not give back.
        lease = cache._servers.all[0].coherence  # noqa: SLF001 - not part of what is timed
        while boottime() >= lease.until:
            lease.want()
            await asyncio.sleep(0.005)
        before = cache.stats().l1_hits
        took = await _tight(ours, 2_000, effort.seconds)
        assert cache.stats().l1_hits > before
        return took

    async def peer() -> float:
        return await _tight(theirs, 500, effort.seconds)

    values = await rounds({"oddswire": believed, "cashews": peer}, effort)
    return {
        "what": what,
        "unit": "us",
        "figures": {
            name: figure([each * 1e6 for each in measured])
            for name, measured in values.items()
        },
        "ratios": {"cashews": ratio(values["cashews"], values["oddswire"])},
    }


async def _tight(call: Any, times: int, seconds: float) -> float:
    """Return seconds a call, the best of many short runs.

    No task gives way between calls: a hit in memory waits for nothing.
    """
    best = float("inf")
    end = perf_counter() + seconds
    while perf_counter() < end:
        started = perf_counter()
        for _ in range(times):
            await call()
        best = min(best, (perf_counter() - started) / times)
        await asyncio.sleep(0)
    return best


async def _far(cache: Cache, peer: Any, effort: Effort) -> dict[str, Any]:
    for task in range(TASKS):
        await cache.set(f"m:far{task}", VALUE, ttl=3600)
        await peer.set(f"m:far{task}", VALUE, expire=3600)

    def ours(task: int) -> Any:
        return lambda: cache.get(f"m:far{task}")

    def theirs(task: int) -> Any:
        return lambda: peer.get(f"m:far{task}")

    for task in (0, TASKS - 1):
        assert await ours(task)() == await theirs(task)() == VALUE
    values = await rounds(
        {
            name: lambda make=make: rate(
                [make(task) for task in range(TASKS)], effort.seconds
            )
            for name, make in (("oddswire", ours), ("cashews", theirs))
        },
        effort,
    )
    return {
        "what": "hit in Redis, 100 tasks",
        "unit": "calls/s",
        "figures": {name: figure(measured) for name, measured in values.items()},
        "ratios": {"cashews": ratio(values["oddswire"], values["cashews"])},
    }


async def _tags(cache: Cache, client: Client, effort: Effort) -> dict[str, Any]:
    """Invalidating a tag of 10 keys and of 100,000, in seconds; ratio of the two."""
    figures: dict[str, list[float]] = {"10": [], "100,000": []}
    many = 100_000 if effort.rounds > 3 else 10_000
    for start in range(0, many, 1_000):
        await cache.set_many(
            {f"t:{n}": 1 for n in range(start, start + 1_000)}, tags=("many",)
        )
    for _ in range(max(5, effort.rounds)):
        for name, tag, count in (("10", "few", 10), ("100,000", "many", 1_000)):
            await cache.set_many({f"t:{n}": 1 for n in range(count)}, tags=(tag,))
            figures[name].append(
                await latency(lambda tag=tag: cache.invalidate_tags(tag), 0.02)
            )
    await client.ping()
    return {
        "keys": many,
        "us": {name: figure([s * 1e6 for s in each]) for name, each in figures.items()},
        "ratio": ratio(figures["100,000"], figures["10"]),
    }


async def _round_trips(server: EmbeddedServer) -> float:
    """Return how many PINGs a cold load with a tag takes, over a link 20 ms late."""
    async with (
        FaultProxy(server.url) as proxy,
        Client.from_url(proxy.url) as client,
        Cache(client, prefix="bench-link:", timeout=5.0) as cache,
    ):
        numbers = iter(range(10**6))

        async def load() -> str:
            return VALUE

        async def cold() -> None:
            await cache.get_or_set(f"m:{next(numbers)}", load, tags=("tag",))

        await cold()  # connects both connections, and learns the tag
        proxy.up.latency = 0.02
        took = await latency(cold, 0.8)
        return round(took / await latency(client.ping, 0.8), 1)


async def _cold(server: EmbeddedServer, client: Client) -> int:
    """Four processes of a hundred tasks want one cold key; loads of the origin."""
    await client.delete("bench-loads")
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _PROCESS,
            server.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for each in processes:
        assert each.stdout is not None
        assert await each.stdout.readline() == b"ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write(b"go\n")
    for each in processes:
        assert await each.wait() == 0
    return int(await client.get("bench-loads") or 0)


def hit_ratios() -> dict[str, dict[str, float]]:
    """Return hit ratios by room, of ours and of plain LRU.

    Zipf 0.9 over 10,000 keys, and every 4,000 lookups a scan of 1,000 that come once.
    """
    rng = random.Random(7)  # noqa: S311 - the same trace each time
    weights = [1 / (rank + 1) ** 0.9 for rank in range(10_000)]
    trace: list[int] = []
    for number in range(25):
        trace += rng.choices(range(10_000), weights, k=4_000)
        trace += range(10_000 + number * 1_000, 11_000 + number * 1_000)
    return {
        f"{room:,}": {
            "oddswire": _replay(trace, room),
            "LRU": _replay_lru(trace, room),
        }
        for room in (500, 2_500)
    }


def _replay(trace: list[int], room: int) -> float:
    memory, hits = L1(room), 0
    for key in trace:
        held = memory.items.get(str(key))
        if held is not None:
            hits += 1
            held.use()
        else:
            memory.put(Item(key=str(key), size=1))
    return hits / len(trace)


def _replay_lru(trace: list[int], room: int) -> float:
    order: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in order:
            hits += 1
            order.move_to_end(key)
            continue
        order[key] = None
        if len(order) > room:
            order.popitem(last=False)
    return hits / len(trace)


async def _entry_bytes(client: Client) -> dict[str, float]:
    """Return bytes of one entry of 100 bytes: measured in this process, and counted."""
    many = 5_000
    async with Cache(client, prefix="bench-memory:", timeout=5.0) as cache:
        await cache.set("m:first", VALUE)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, many, 500):
            await cache.set_many(
                {f"m:{n}": f"{n:0100}" for n in range(start, start + 500)}
            )
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stats = cache.stats()
        return {
            "measured": (after - before) / many,
            "counted": stats.l1_bytes / stats.l1_entries,
        }
