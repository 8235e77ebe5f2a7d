"""The bound of the second tier on a server that it shares: K6."""

from __future__ import annotations

import asyncio

import pytest

from support import eventually
from support.hooks import look_at_size, weigh
from support.keys import entry_key

pytestmark = pytest.mark.requirement("K6")

KIB = 1024
MIB = 1024 * KIB


async def bytes_of(client, pattern):
    """Return what the entries weigh, by the server."""
    return sum(
        [await client.memory_usage(name) async for name in client.scan_iter(pattern)]
    )


@pytest.mark.advanced
async def test_the_cache_stays_below_its_cap_and_sessions_stay(own_fleet):
    """Entries are bounded by bytes; what else is on the server is not touched."""
    a = await own_fleet.cache(max_size=2 * MIB, compress_above=MIB)
    others = {f"own:session:{{s:{number}}}": "s" * 10 * KIB for number in range(300)}
    await a.client.mset(others)
    for number in range(400):
        await a.set(f"m:{number}", f"{number:04d}" * 4 * KIB)
    await eventually(lambda: a.stats().l2_evicted > 100)
    # Looks after each hundredth: here, each second entry.
    await weigh(a, a.client)
    assert 0.5 * MIB < await bytes_of(a.client, "own:cache:*") <= 2 * MIB
    assert await a.client.mget(list(others)) == [b"s" * 10 * KIB] * 300

    async def left():
        return len([name async for name in a.client.scan_iter("own:cache:*")])

    # A look of its own may have removed some, and not counted them yet.
    await eventually(left, holds=lambda now: now == 400 - a.stats().l2_evicted)


@pytest.mark.advanced
async def test_what_is_removed_at_the_same_time_is_counted_once_each(own_fleet):
    """Two removals that wait for Redis side by side add up."""
    a = await own_fleet.cache(compress_above=MIB)
    await a.set_many({f"m:{number}": "x" * KIB for number in range(2_000)})
    await asyncio.gather(*(weigh(a, a.client, MIB) for _ in range(4)))
    left = len([name async for name in a.client.scan_iter("own:cache:*")])
    assert 0 < a.stats().l2_evicted == 2_000 - left


@pytest.mark.advanced
async def test_what_was_used_lately_stays(own_fleet):
    """The entries that were not used for longest go first."""
    a = await own_fleet.cache(max_size=MIB, compress_above=MIB)
    for number in range(100):
        await a.set(f"m:{number}", "x" * 16 * KIB)
    # As a server that has run for a while: `OBJECT IDLETIME` cannot be set otherwise.
    for number in range(100):
        name = entry_key(own_fleet.prefix, f"m:{number}")
        value = await a.client.dump(name)
        if value is not None:
            idle = 10 if number % 4 == 0 else 5000
            await a.client.restore(name, 60_000, value, replace=True, idletime=idle)
    used = [f"m:{number}" for number in range(0, 100, 4)]
    before = set(await a.get_many(used))
    await a.client.config_set("maxmemory", "0")
    await weigh(a, a.client, limit=600 * KIB)
    assert await bytes_of(a.client, "own:cache:*") <= 600 * KIB
    assert set(await a.get_many(used)) == before


@pytest.mark.advanced
async def test_a_server_that_evicts_by_itself_is_left_to_it(own_fleet):
    """An instance of the cache's own, with a bound and an allkeys policy, is enough."""
    a = await own_fleet.cache(max_size=MIB)
    await a.client.config_set("maxmemory-policy", "allkeys-lfu")
    await a.client.config_set("maxmemory", MIB)
    assert (await a.client.info("memory"))["used_memory"] > MIB  # so it would look
    await look_at_size(a, a.client)
    calls = await a.client.info("commandstats")
    assert "cmdstat_scan" not in calls


@pytest.mark.errors
async def test_a_server_that_refuses_to_weigh_is_said(own_fleet, caplog):
    """Where the ACL forbids it, the cache works on and says that it is not bounded."""
    admin = await own_fleet.cache()
    await admin.client.execute_command(
        *("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-scan")
    )
    url = f"redis://u:p@127.0.0.1:{own_fleet.server.port}"
    a = await own_fleet.cache(url=url, max_size=1)
    await a.set("m:1", 1)

    def said():
        return [each.event for each in caplog.records if hasattr(each, "event")]

    await eventually(lambda: "cache_size_unbounded" in said())
    assert await a.get("m:1") == 1


@pytest.mark.performance
async def test_a_fast_writer_waits_for_the_check(own_fleet):
    """However fast one process writes, the server has at most 1.3 times the limit."""
    limit = 4 * MIB
    a = await own_fleet.cache(max_size=limit)

    async def used():
        return (await a.client.info("memory"))["used_memory"]

    before, most = await used(), 0
    for start in range(0, 20_000, 500):
        await a.set_many({f"m:{n}": "x" * 200 for n in range(start, start + 500)})
        most = max(most, await used() - before)
    assert a.stats().l2_evicted > 5_000
    assert limit / 2 < most <= 1.3 * limit


@pytest.mark.performance
async def test_two_fast_writers_wait_for_one_check(own_fleet):
    """While one process evicts, the writes of the other wait too."""
    limit = 4 * MIB
    caches = [await own_fleet.cache(max_size=limit) for _ in range(2)]
    before = (await caches[0].client.info("memory"))["used_memory"]
    most = 0

    async def write(name, cache):
        nonlocal most
        for start in range(0, 10_000, 250):
            keys = [f"m:{name}-{n}" for n in range(start, start + 250)]
            await cache.set_many(dict.fromkeys(keys, "x" * 200))
            now = (await cache.client.info("memory"))["used_memory"]
            most = max(most, now - before)

    await asyncio.gather(*(write(name, each) for name, each in enumerate(caches)))
    assert sum(each.stats().l2_evicted for each in caches) > 5_000
    assert most <= 1.6 * limit


@pytest.mark.performance
async def test_the_server_tracks_what_is_stored_and_nothing_else(own_fleet):
    """The server's table of tracked keys has the entries, and not a lease for each."""
    a = await own_fleet.cache()
    await a.set_many({f"m:{n}": n for n in range(500)})
    await a.get_or_set_many([f"m:{n}" for n in range(500, 600)], _load)
    await a.expire(*(f"m:{n}" for n in range(100)))
    await a.delete(*(f"m:{n}" for n in range(100, 200)))
    tracked = (await a.client.info("stats"))["tracking_total_keys"]
    assert 400 <= tracked <= 520


async def _load(keys):
    return dict.fromkeys(keys, "value")
