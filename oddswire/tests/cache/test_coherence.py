"""What memory may be believed: K2, under every fault; KG2, KG3, KG6."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import AuthFailed, OddswireError, OutOfMemory
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import (
    beat,
    believed,
    believed_until,
    cache_steps,
    deafen,
    held,
    read_from_redis,
    told,
    tracking_id,
    void,
)

from .conftest import Loader

pytestmark = pytest.mark.requirement("K2")


@pytest.mark.advanced
@pytest.mark.parametrize("pressure", ["none", "tracking table", "memory"])
async def test_own_and_foreign_writes_under_pressure(pressure):
    """2.1: three caches, random writes: memory never has less than was acknowledged.

    With NOLOOP, evictions of the tracking table or of memory are silent and thousands
    of entries stay old for ever.
    """
    args = ["--tracking-table-max-keys", "100"] if pressure == "tracking table" else []
    async with EmbeddedServer(args=args) as server, Client.from_url(server.url) as base:
        clients = [Client.from_url(server.url) for _ in range(3)]
        caches = [await Cache(client, timeout=10.0).__aenter__() for client in clients]
        await believed(*caches)
        if pressure == "memory":
            used = (await base.info("memory"))["used_memory"]
            await base.config_set("maxmemory-policy", "allkeys-lfu")
            await base.config_set("maxmemory", used + 450_000)
        try:
            evicted = await stress(caches, random.Random(1))
        finally:
            for cache, client in zip(caches, clients, strict=True):
                await cache.__aexit__(None, None, None)
                await client.aclose()
        if pressure == "memory":
            assert (await base.info("stats"))["evicted_keys"] > 0
    assert evicted == 0


async def stress(caches, rng, keys=400, rounds=20):
    """Write, read, cancel at random; count what memory has older than acknowledged."""
    floor = dict.fromkeys(range(keys), -1)
    version = 0
    old = 0
    for _ in range(rounds):

        async def write(cache, number, value):
            padding = "x" * rng.choice([10, 800])
            task = asyncio.get_running_loop().create_task(
                cache.set(f"m:{number}", [value, padding])
                if rng.random() < 0.7
                else cache.delete(f"m:{number}")
            )
            if rng.random() < 0.2:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                return
            with suppress(OutOfMemory):  # a write that is too large for what is free
                await task
                floor[number] = value

        jobs = []
        for number in rng.sample(range(keys), 40):
            version += 1
            jobs.append(write(caches[number % 3], number, version))
        jobs += [
            cache.get(f"m:{rng.randrange(keys)}") for cache in caches for _ in range(60)
        ]
        for result in await asyncio.gather(*jobs, return_exceptions=True):
            assert result is None or isinstance(result, list | OutOfMemory), result
        # What was acknowledged above was told before this is answered.
        await told(*caches)
        for cache in caches:
            values = held(cache)
            for number, least in floor.items():
                value = values.get(f"m:{number}")
                old += value is not None and value[0] < least
    return old


@pytest.mark.advanced
async def test_flush_drops_everything_held(own_fleet):
    """FLUSHDB by anybody empties every memory: nothing deleted is served."""
    a, b = await own_fleet.cache(), await own_fleet.cache()
    await a.set("m:1", 1, tags=("t",))
    assert await b.get("m:1") == 1
    await own_fleet.believed(a, b)
    await a.client.flushdb()
    await eventually(lambda: a.peek("m:1") is None and b.peek("m:1") is None)
    assert await b.get("m:1") is None
    assert b.stats().generations == 1
    assert await b.get_or_set("m:1", Loader("again")) == "again"


@pytest.mark.errors
async def test_lost_wire_drops_everything_held(fleet):
    """A connection that ends, by whatever cause, ends the belief in memory at once."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set_many({"m:1": 1, "m:2": 1})
    await eventually(lambda: a.peek("m:1") == a.peek("m:2") == 1)
    number = await tracking_id(a)
    await b.client.client_kill_filter(_id=number)
    await eventually(lambda: a.stats().generations == 1)
    assert a.peek("m:1") is None
    await b.set_many({"m:1": 2, "m:2": 2})
    assert await a.get("m:1") == 2
    await fleet.believed(a)
    assert a.peek("m:1") == 2
    # The new wire never read this one, so nobody told us; the nonces are the same.
    assert a.peek("m:2") is None


@pytest.mark.errors
async def test_wire_lost_while_nonces_are_read_leaves_nothing_unwatched(
    fleet, monkeypatch
):
    """KG1: what is stored under nonces of two wires would hear of no invalidation."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:0", 1, tags=("t",))
    await eventually(lambda: a.peek("m:0") == 1)
    number = await tracking_id(a)
    connection, _ = cache_steps(a)["script"]
    script = connection.script

    async def lost_after(*args, **options):
        reply = await script(*args, **options)
        if not a.stats().generations:
            await b.client.client_kill_filter(_id=number)
            await eventually(lambda: a.stats().generations == 1)
        return reply

    monkeypatch.setattr(connection, "script", lost_after)
    # The nonce of "t" is known, that of "u" is asked for.
    await a.set("m:1", "old", tags=("t", "u"))
    await a.get("m:2")  # reads the nonce of the namespace
    await fleet.believed(a)
    await eventually(lambda: a.peek("m:1") == "old")
    await b.invalidate_tags("t")
    await told(a)
    assert a.peek("m:1") is None
    assert await a.get("m:1") is None


@pytest.mark.errors
@pytest.mark.parametrize("fault", ["both", "to us", "frozen server"])
async def test_half_open_link_ends_the_belief_in_time(own_fleet, fault):
    """KG3: cut off without knowing it, a process believes its memory 2 s at most."""
    server = own_fleet.server
    length = 0.6
    async with FaultProxy(server.url) as proxy:
        a = await own_fleet.cache(
            url=proxy.url, coherence=length, heartbeat=0.1, timeout=0.2
        )
        b = await own_fleet.cache()

        async def read():
            with suppress(OddswireError):  # 0.2 s are few on a busy machine
                return await a.get("m:1")

        await b.set("m:1", "old")
        assert await eventually(read) == "old"
        await own_fleet.believed(a)
        # By the lease itself: this machine may be slow to look.
        now = SystemClock().boottime
        if fault == "frozen server":
            with frozen(server):
                cut = now()
                await eventually(lambda: a.peek("m:1") is None)
                assert believed_until(a) <= cut + length
            return
        if fault == "both":
            proxy.blackhole()
        else:
            proxy.down.blackhole = True
        cut = now()
        await b.set("m:1", "new")
        await eventually(lambda: a.peek("m:1") is None)
        assert believed_until(a) <= cut + length
        with pytest.raises(OddswireError):
            await a.get("m:1")
        proxy.heal()
        proxy.reset()
        # It comes back by itself, and then reads what is there now.
        assert await eventually(read) == "new"


@pytest.mark.advanced
async def test_suspended_machine_does_not_believe_its_memory(fleet):
    """2.13: a lease ends by a clock that goes on while the machine is suspended."""
    clock = ManualClock()
    a = await fleet.cache(clock=clock)
    await a.set("m:1", 1)
    await beat(a)
    assert a.peek("m:1") == 1
    clock.suspend(1.9)
    assert a.peek("m:1") == 1
    clock.suspend(0.2)
    assert a.peek("m:1") is None
    await beat(a)
    assert a.peek("m:1") == 1  # the wire is whole, so nothing was missed


@pytest.mark.errors
async def test_a_primary_without_its_replica_acknowledges_nothing(own_fleet):
    """2.11: what is believed is proven by a write, which a deposed primary refuses."""
    a = await own_fleet.cache()
    await a.set("m:1", 1)
    await own_fleet.believed(a)
    await a.client.config_set("min-replicas-to-write", "1")
    await told(a)  # a heartbeat of before is answered
    with pytest.raises(OddswireError):
        await beat(a)
    assert a.peek("m:1") is None


@pytest.mark.errors
async def test_a_demoted_server_ends_the_belief(own_fleet):
    """A primary that became a replica is left, and memory with it."""
    a = await own_fleet.cache()
    await a.set("m:1", 1)
    await own_fleet.believed(a)
    async with EmbeddedServer() as other:
        await a.client.replicaof("127.0.0.1", other.port)
        with pytest.raises(OddswireError):
            await beat(a)
        assert a.peek("m:1") is None
        await a.client.replicaof("NO", "ONE")


@pytest.mark.advanced
@pytest.mark.requirement("C14")
async def test_idle_cache_sends_nothing(own_fleet):
    """Nothing read, nothing sent: the heartbeat stops when memory is not read."""
    a = await own_fleet.cache(heartbeat=0.05, coherence=0.2)
    await a.set("m:1", 1)
    await own_fleet.believed(a)

    async def commands():
        stats = await a.client.info("commandstats")
        return sum(each["calls"] for each in stats.values())

    # It has stopped once two looks, several heartbeats apart, see only themselves.
    async with asyncio.timeout(10):
        while True:
            before = await commands()
            await asyncio.sleep(0.3)
            if await commands() - before == 1:
                break
    assert a.peek("m:1") is None
    assert await a.get("m:1") == 1
    await own_fleet.believed(a)
    assert a.peek("m:1") == 1


@pytest.mark.errors
@pytest.mark.requirement("C14")
async def test_where_tracking_is_forbidden_memory_is_off(own_fleet):
    """A server that refuses CLIENT TRACKING and CONFIG: one tier, the rest as usual."""
    async with Client.from_url(own_fleet.url) as admin:
        await admin.execute_command(
            "ACL",
            "SETUSER",
            "hosted",
            "on",
            ">secret",
            "~*",
            "&*",
            "+@all",
            "-config",
            "-client|tracking",
        )
    url = f"redis://hosted:secret@127.0.0.1:{own_fleet.server.port}"
    a = await own_fleet.cache(url=url)
    b = await own_fleet.cache(url=url)
    load = Loader("value")
    got = await asyncio.gather(
        *(each.get_or_set("m:1", load, tags=("t",)) for each in (a, b) * 20)
    )
    assert got == ["value"] * 40
    assert load.calls == 1
    assert a.stats().coherence == "off"
    assert a.peek("m:1") is None
    await b.invalidate_tags("t")
    assert await a.get("m:1") is None
    await b.set("m:1", 2, tags=("t",))
    assert await a.get("m:1") == 2
    await a.invalidate_tags("t", soft=True)
    assert await b.get("m:1") is None
    assert (await b.get_entry("m:1")).stale
    await a.clear("m")
    assert await b.get_entry("m:1") is None


@pytest.mark.errors
async def test_wrong_credentials_are_no_outage(own_fleet):
    """A refused password is an error at once, not a cache that does without Redis."""
    url = f"redis://hosted:wrong@127.0.0.1:{own_fleet.server.port}"
    with pytest.raises(AuthFailed, match="password"):
        await own_fleet.cache(url=url)


@pytest.mark.errors
async def test_a_server_that_does_not_tell_is_not_believed(own_fleet):
    """The test at the start: where messages do not come, memory is off."""
    a_client = Client.from_url(own_fleet.url)
    a = Cache(a_client, prefix="own:", timeout=5.0)
    deafen(a)
    async with a_client, a:
        await a.set("m:1", 1)
        assert await a.get("m:1") == 1
        assert a.stats().coherence == "off"
        assert a.peek("m:1") is None


@pytest.mark.advanced
async def test_memory_of_the_wire_is_told_apart_from_late_replies(fleet):
    """A reply of a wire that was lost meanwhile is returned, and not held."""
    a = await fleet.cache()
    await a.set("m:1", 1)
    await beat(a)
    read = asyncio.get_running_loop().create_task(read_from_redis(a, "m:1"))
    await asyncio.sleep(0)
    void(a)
    assert (await read).value == 1
    assert held(a) == {}


@pytest.mark.errors
async def test_entering_that_is_cancelled_leaves_no_connection(own):
    """Who gives up while the server does not answer has opened nothing that stays."""
    async with Client.from_url(own.url) as admin:
        async with Client.from_url(own.url) as client:
            await client.ping()
            with frozen(own):
                entering = asyncio.get_running_loop().create_task(
                    Cache(client, prefix="own:").__aenter__()
                )
                # It has begun to connect, and waits for the server.
                await asyncio.wait([entering], timeout=0.1)
                entering.cancel()
                await asyncio.wait([entering])

        async def connections():
            return len(await admin.client_list())

        await eventually(connections, holds=lambda now: now == 1)
