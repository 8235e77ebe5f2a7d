"""What a server says counts while it acknowledges writes: it may have been deposed."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.cache import Namespace
from oddswire.clock import ManualClock
from oddswire.errors import NoReplicas
from support import eventually
from support.hooks import beat, leased_connection, told, tracking_id

from .conftest import Fleet, Loader

pytestmark = pytest.mark.requirement("K2", "C12")


@pytest.fixture
async def fleet(pair):
    """Makes caches on a primary that can be deposed."""
    async with AsyncExitStack() as stack:
        yield Fleet(stack, pair.primary.url, "pair:")


async def _without_tracking(pair):
    async with Client.from_url(pair.primary.url) as admin:
        await admin.execute_command(
            *("ACL", "SETUSER", "hosted", "reset", "on", ">secret", "~*", "&*"),
            *("+@all", "-client|tracking"),
        )
    return f"redis://hosted:secret@{pair.primary.host}:{pair.primary.port}"


async def _is_refused(cache):
    try:
        await cache.get("m:1")
    except NoReplicas:
        return True
    return False


WAYS = ["tracked", "without l1", "untracked", "published"]


async def _cache(fleet, pair, way):
    options = {"heartbeat": 0.1}
    if way in ("untracked", "published"):
        options["url"] = await _without_tracking(pair)
    if way == "published":
        options["fallback"] = "pubsub"
    return await fleet.cache(
        Namespace(name="m", type=int, ttl=300, l1=way != "without l1"), **options
    )


@pytest.mark.errors
@pytest.mark.parametrize("way", WAYS)
async def test_a_deposed_primary_is_believed_by_no_call(fleet, pair, way):
    """KG3: from memory and from Redis nothing is served that it cannot vouch for."""
    cache = await _cache(fleet, pair, way)
    for key in ("m:1", "m:2"):
        assert await cache.get_or_set(key, Loader(1), tags=("t",)) == 1
    await pair.depose()
    # At most 2 s after the last acknowledged write; a heartbeat ends it before.
    await eventually(lambda: _is_refused(cache))
    assert cache.peek("m:1") is None
    for read in (
        lambda: cache.get("m:1"),
        lambda: cache.get_entry("m:1"),
        lambda: cache.get_many(["m:1", "m:2"]),
    ):
        with pytest.raises(NoReplicas):
            await read()
    assert await cache.get_or_set("m:1", Loader(2), tags=("t",)) == 2

    async def load_many(keys):
        return dict.fromkeys(keys, 2)

    found = await cache.get_or_set_many(["m:1", "m:2"], load_many)
    assert found == {"m:1": 2, "m:2": 2}

    @cache.cached(key="m:{number}", ttl=300)
    async def number_of(number: int) -> int:
        return 2 + 0 * number

    assert await number_of(2) == 2
    # It was the primary after all: its replica is back, and nothing was lost.
    await pair.restore()
    await eventually(lambda: _is_refused(cache), holds=lambda refused: not refused)
    assert await cache.get("m:2") == 1


@pytest.mark.errors
async def test_a_waiter_for_a_load_believes_no_deposed_primary(fleet, pair):
    """What another process stores there while one waits is not served either."""
    loads, waits = await fleet.cache(), await fleet.cache(heartbeat=0.1)
    slow = Loader(1, held=True)
    loop = asyncio.get_running_loop()
    loading = loop.create_task(loads.get_or_set("m:1", slow))
    await slow.started.wait()
    waiting = loop.create_task(waits.get_or_set("m:1", Loader(2)))
    await eventually(lambda: waits.stats().waits)
    await pair.depose()
    assert await waiting == 2
    slow.go.set()
    assert await loading == 1
    with pytest.raises(NoReplicas):
        await waits.get("m:1")


@pytest.mark.advanced
async def test_a_lease_costs_one_write_in_two_seconds(fleet):
    """A thousand reads send one small write, and none of their own to wait for."""
    cache = await fleet.cache(Namespace(name="m", type=int, l1=False))
    await cache.set("m:1", 1)

    async def writes():
        stats = await cache.client.info("commandstats")
        return stats["cmdstat_unlink"]["calls"]

    before, started = await writes(), time.monotonic()
    for _ in range(1_000):
        assert await cache.get("m:1") == 1
    passed = time.monotonic() - started
    assert await writes() - before <= 1 + passed / 2


@pytest.mark.errors
async def test_another_connection_begins_without_a_lease(own_fleet):
    """What one server acknowledged says nothing of another connection's server."""
    cache = await own_fleet.cache(Namespace(name="m", type=int, l1=False))
    await cache.set("m:1", 1)
    assert await cache.get("m:1") == 1
    first, _ = leased_connection(cache)
    await cache.client.client_kill_filter(_id=await tracking_id(cache))
    await eventually(
        lambda: leased_connection(cache)[1], holds=lambda it: it not in (first, None)
    )
    assert await cache.get("m:1") == 1
    leased, here = leased_connection(cache)
    assert leased is here


@pytest.mark.errors
async def test_a_full_server_is_believed(own_fleet):
    """OOM refuses what stores; what is stored is served all the same."""
    clock = ManualClock()
    cache = await own_fleet.cache(Namespace(name="m", type=int, ttl=300), clock=clock)
    await cache.set("m:1", 1)
    await cache.client.config_set("maxmemory", 1)
    clock.suspend(3.0)
    assert cache.peek("m:1") is None
    assert await cache.get("m:1") == 1
    await own_fleet.believed(cache)
    assert cache.peek("m:1") == 1


@pytest.mark.errors
async def test_a_server_that_cannot_save_is_believed(tmp_path):
    """MISCONF refuses every write; what is stored is served all the same."""
    args = ("--save", "3600 1000000", "--dbfilename", "taken.rdb")
    clock = ManualClock()
    async with (
        EmbeddedServer(args=args, data_dir=tmp_path) as server,
        AsyncExitStack() as stack,
    ):
        cache = await Fleet(stack, server.url, "disk:").cache(clock=clock)
        await cache.set("m:1", 1)
        (tmp_path / "taken.rdb").mkdir()
        await cache.client.bgsave()

        async def refused():
            info = await cache.client.info("persistence")
            return info["rdb_last_bgsave_status"] == "err"

        await eventually(refused)
        clock.suspend(3.0)
        assert cache.peek("m:1") is None
        assert await cache.get("m:1") == 1


@pytest.mark.errors
async def test_memory_ends_with_the_first_refusal(fleet, pair):
    """NOREPLICAS ends the belief at once; it does not wait for the two seconds."""
    clock = ManualClock()
    cache = await fleet.cache(clock=clock)
    await cache.set("m:1", 1)
    await fleet.believed(cache)
    assert cache.peek("m:1") == 1
    await pair.depose()
    with pytest.raises(NoReplicas):
        await beat(cache)
    await told(cache)
    assert cache.peek("m:1") is None
