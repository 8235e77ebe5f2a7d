"""What users of other caches met with and does not happen here, by whose fault it was.

Those that are tested elsewhere, as what they are: a slow loader against an invalidation
(cashews, FusionCache 535 and 628, Caffeine 193) in `test_fences`; a get that races an
invalidation, FLUSHDB, a reconnect (cashews, coredis, redis-py 4293) in
`test_coherence`; a leader that takes its followers along (cashews), a lock of one that
died (dogpile), the herd (aiocache 187) in `test_loads`; no bound (aiocache 429) in
`test_memory`; None that is no value (aiocache), `clear` that flushes all (cashews) in
`test_tiers`; a tag's version that was evicted (Symfony 44015) in `test_fences`.
"""

from __future__ import annotations

import asyncio

import pytest

from oddswire.clock import ManualClock
from oddswire.errors import OutOfMemory
from support import eventually
from support.hooks import held, told

from .conftest import Loader


async def calls(client, *commands):
    """Return how often the server ran these commands."""
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{each}", {"calls": 0})["calls"] for each in commands)


async def tag_keys(fleet, cache):
    """Return the keys of tags in Redis."""
    pattern = f"{fleet.prefix}cache-tag:*"
    return [name async for name in cache.client.scan_iter(pattern)]


@pytest.mark.errors
@pytest.mark.requirement("K3")
@pytest.mark.parametrize("value", [0, False, "", [], {}, 0.0, None])
async def test_what_is_false_is_a_value(fleet, value):
    """coredis: a stored value that is false in Python is a hit in both tiers."""
    a, b = await fleet.cache(), await fleet.cache()
    load = Loader(lambda: value)
    for cache in (a, a, b, b):
        assert await cache.get_or_set("m:1", load) == value
        assert await cache.get("m:1", "none") == value
    assert load.calls == 1


@pytest.mark.errors
@pytest.mark.requirement("K1")
async def test_a_tag_outlives_its_longest_entry(fleet):
    """cashews: a short entry under a tag leaves the long ones invalidable."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:long", 1, ttl=5000, tags=("t",))
    await b.set("m:short", 2, ttl=0.001, tags=("t",))
    (name,) = await tag_keys(fleet, a)
    assert await a.client.pttl(name) >= 5_000_000
    await b.invalidate_tags("t")
    await told(a)
    assert await a.get("m:long") is None


@pytest.mark.performance
@pytest.mark.requirement("K1")
async def test_a_tag_does_not_grow_with_its_entries(own_fleet):
    """Laravel 43850, cacheops 340: a tag is one small key, and ends with one command.

    Nor is anything scanned, for a tag or for a namespace (aiocache: KEYS).
    """
    a = await own_fleet.cache()
    await a.set("m:0", 0, tags=("t",))
    (name,) = await tag_keys(own_fleet, a)
    small = await a.client.memory_usage(name)
    await a.set_many({f"m:{n}": n for n in range(500)}, tags=("t",))
    assert await tag_keys(own_fleet, a) == [name]
    assert await a.client.memory_usage(name) == small < 200
    scans = await calls(a.client, "scan", "keys", "sscan", "smembers")
    before = await calls(a.client, "unlink")
    await a.invalidate_tags("t")
    await a.clear("m")
    assert await calls(a.client, "unlink") == before + 2
    assert await calls(a.client, "scan", "keys", "sscan", "smembers") == scans
    assert await a.get_many(["m:0", "m:499"]) == {}


@pytest.mark.errors
@pytest.mark.requirement("K2")
async def test_clocks_of_processes_need_not_agree(fleet):
    """FusionCache 319: a process 15 minutes off keeps and invalidates as the others."""
    clock = ManualClock()
    clock.jump(900)
    a, b = await fleet.cache(clock=clock), await fleet.cache()
    await a.set("m:1", 1, ttl=60, tags=("t",))
    assert await b.get("m:1") == 1
    assert 50 < (await b.get_entry("m:1")).ttl <= 60
    clock.jump(-1800)
    await b.set("m:2", 2, ttl=60, tags=("t",))
    assert await a.get("m:2") == 2
    await a.invalidate_tags("t")
    await told(b)
    assert await b.get_many(["m:1", "m:2"]) == {}
    await b.set("m:1", 3, tags=("t",))
    await told(a)
    assert await a.get("m:1") == 3


@pytest.mark.performance
@pytest.mark.requirement("K3")
async def test_a_thousand_callers_wait_for_one_load(fleet):
    """Cashews 127, 406: a thousand waiters hang nothing, and one load serves them."""
    a, b = await fleet.cache(), await fleet.cache()
    load = Loader("value")
    async with asyncio.timeout(20):
        got = await asyncio.gather(
            *(each.get_or_set("m:1", load) for each in (a, b) * 500)
        )
    assert got == ["value"] * 1000
    assert load.calls == 1


@pytest.mark.performance
@pytest.mark.requirement("K2")
async def test_a_write_makes_no_other_process_read(own_fleet):
    """FusionCache 442, 611: who is told of a change reads when it is asked, once."""
    a, b = await own_fleet.cache(), await own_fleet.cache()
    await a.set("m:1", 0)
    assert await b.get("m:1") == 0
    before = await calls(a.client, "get", "mget", "hmget")
    seen = b.stats().invalidated
    for number in range(1, 51):
        await a.set("m:1", number)
    await told(b)
    assert b.stats().invalidated == seen + 1
    assert await calls(a.client, "get", "mget", "hmget") == before
    assert await b.get("m:1") == 50


@pytest.mark.errors
@pytest.mark.requirement("K2")
async def test_a_lost_ordinary_connection_empties_nothing(fleet):
    """redis/docs 719: only the wire on which changes are told matters to memory."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", 1)
    await eventually(lambda: a.peek("m:1") == 1)
    number = await a.client.execute_command("CLIENT", "ID")
    await b.client.client_kill_filter(_id=number)
    await a.client.ping()
    assert await a.client.execute_command("CLIENT", "ID") != number
    assert a.stats().generations == 0
    assert held(a) == {"m:1": 1}


@pytest.mark.errors
@pytest.mark.requirement("K2")
@pytest.mark.parametrize("why", ["version", "memory"])
async def test_a_refused_write_leaves_memory_as_it_is_in_redis(own_fleet, why):
    """cashews: a `set` that the server refused is not what this process serves."""
    a = await own_fleet.cache()
    await a.set("m:1", "stored", version=2)
    if why == "version":
        assert not await a.set("m:1", "refused", version=1)
    else:
        await a.client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemory):
            await a.set("m:1", "refused", version=3)
        await a.client.config_set("maxmemory", 0)
    assert a.peek("m:1") in (None, "stored")
    assert await a.get("m:1") == "stored"
