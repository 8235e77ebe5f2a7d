"""A load that began before an invalidation is never stored: K4, and KG1, KG4."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from oddswire.errors import OddswireError
from support import eventually
from support.hooks import deafen, held, read_from_redis, told
from support.keys import entry_key, tag_pattern

from .conftest import Loader

pytestmark = pytest.mark.requirement("K4")


def spawn(work):
    """Start it beside the test."""
    return asyncio.get_running_loop().create_task(work)


async def delete(cache):
    """By key."""
    await cache.delete("m:1")


async def tag(cache):
    """By tag."""
    await cache.invalidate_tags("t")


async def clear(cache):
    """By namespace."""
    await cache.clear("m")


async def overwrite(cache):
    """By another value."""
    await cache.set("m:1", "set")


@pytest.mark.advanced
@pytest.mark.parametrize("invalidate", [delete, tag, clear, overwrite])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_slow_loader_does_not_bring_back_what_was_invalidated(
    fleet, invalidate, where
):
    """By key, tag, namespace or another value, here or in another process."""
    a, b = await fleet.cache(), await fleet.cache()
    slow = Loader("old", held=True)
    loading = spawn(a.get_or_set("m:1", slow, tags=("t",)))
    await slow.started.wait()
    await invalidate(a if where == "here" else b)
    slow.go.set()
    assert await loading == "old"
    expected = "set" if invalidate is overwrite else None
    assert await a.get("m:1") == expected
    assert await b.get("m:1") == expected
    await fleet.believed(a, b)
    assert a.peek("m:1", expected) == expected


@pytest.mark.advanced
@pytest.mark.parametrize("invalidate", [delete, tag, clear])
async def test_who_comes_after_the_invalidation_gets_a_new_load(fleet, invalidate):
    """KG1: after `invalidate` returned nobody joins the load that began before."""
    a = await fleet.cache()
    old, new = Loader("old", held=True), Loader("new")
    first = spawn(a.get_or_set("m:1", old, tags=("t",)))
    await old.started.wait()
    await invalidate(a)
    # The old load is still under way, and does not hold this one up.
    assert await a.get_or_set("m:1", new, tags=("t",)) == "new"
    old.go.set()
    assert await first == "old"
    assert await a.get("m:1") == "new"


@pytest.mark.advanced
async def test_a_load_without_the_tag_is_not_joined_after_its_invalidation(fleet):
    """2.21: a flight that does not depend on my tags is older than I may see."""
    a = await fleet.cache()
    old, new = Loader("old", held=True), Loader("new")
    first = spawn(a.get_or_set("m:1", old))
    await old.started.wait()
    await a.invalidate_tags("t")
    assert await a.get_or_set("m:1", new, tags=("t",)) == "new"
    old.go.set()
    await first
    assert await a.get("m:1") == "new"


@pytest.mark.advanced
async def test_background_refresh_is_fenced_too(fleet):
    """A refresh behind the caller's back loses to an invalidation as well."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.get_or_set("m:1", Loader("first"), stale=100)
    await a.expire("m:1")
    refresh = Loader("refreshed", held=True)
    assert await a.get_or_set("m:1", refresh, stale=100) == "first"
    await refresh.started.wait()
    await b.delete("m:1")
    refresh.go.set()
    await eventually(lambda: a.stats("m").fenced == 1)
    assert await a.get("m:1") is None
    assert await b.get("m:1") is None


@pytest.mark.advanced
async def test_tag_invalidated_after_a_foreign_read_of_its_nonce(fleet):
    """2.3: an invalidation that is repeated late kills entries and revives none."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", "under Y", tags=("t",))
    await b.invalidate_tags("t")
    await told(a)
    assert await a.get("m:1") is None
    await a.set("m:2", "under Z", tags=("t",))
    # The retry of the first invalidation arrives now.
    await b.invalidate_tags("t")
    await told(a)
    assert await a.get("m:1") is None
    assert await a.get("m:2") is None


@pytest.mark.advanced
async def test_cancelled_invalidation_leaves_nothing_old_in_memory(fleet):
    """2.2: a delete or a tag's end, cancelled after it was sent, is in memory too."""
    a, judge = await fleet.cache(), await fleet.cache(l1_bytes=0)
    await fleet.believed(a)
    gone = 0
    for number in range(40):
        invalidate = (delete, tag)[number % 2]
        await a.set("m:1", number, tags=("t",))
        await eventually(lambda number=number: a.peek("m:1") == number)
        # In flight before it: its old reply comes first.
        read = spawn(read_from_redis(a, "m:1"))
        task = spawn(invalidate(a))
        for _ in range(2 + number % 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, read, return_exceptions=True)
        await told(a)  # what was sent before has been answered
        truth = await judge.get("m:1")
        gone += truth is None
        assert a.peek("m:1") in (None, truth)
    assert gone >= 10


@pytest.mark.advanced
async def test_an_entry_read_before_its_tag_was_known_is_not_stale(fleet):
    """2.19: written by another between the read of an entry and that of its tag."""
    a, b = await fleet.cache(), await fleet.cache()
    await fleet.believed(a)
    for number in range(20):
        await b.set("m:1", ("old", number), tags=(f"t{number}",), type=tuple)
        read = spawn(a.get("m:1", type=tuple))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        await b.set("m:1", ("new", number), tags=(f"t{number}",), type=tuple)
        await read
        await told(a)
        assert held(a).get("m:1", ("new", number)) == ("new", number)


@pytest.mark.advanced
async def test_an_evicted_nonce_revives_nothing(fleet):
    """A nonce that the server lost makes entries miss, and none valid again."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", 1, tags=("t",))
    assert await b.get("m:1") == 1
    pattern = tag_pattern(fleet.prefix)
    await a.client.unlink(*[name async for name in a.client.scan_iter(pattern)])
    await told(a, b)
    assert await b.get("m:1") is None
    await b.set("m:2", 2, tags=("t",))
    await told(a)
    assert await b.get("m:1") is None
    assert await a.get("m:2") == 2


@pytest.mark.integration
@pytest.mark.requirement("C3")
async def test_restart_from_disk_brings_nothing_old_back(own_fleet):
    """2.12: after a restart with an old data set, what was invalidated stays so."""
    server = own_fleet.server
    a = await own_fleet.cache()
    await a.set("m:1", "old", tags=("t",))
    async with a.client.client() as client:
        await client.save()
    await a.invalidate_tags("t")
    await a.delete("m:1")
    server.kill()
    await server.restart()
    await a.client.ping()

    async def connected():
        with suppress(OddswireError):
            await told(a)
            return True

    await eventually(connected)
    assert await a.client.exists(entry_key(own_fleet.prefix, "m:1")) == 1  # it is back
    assert await a.get("m:1") is None
    b = await own_fleet.cache()
    assert await b.get("m:1") is None


@pytest.mark.advanced
@pytest.mark.parametrize("invalidate", [delete, overwrite])
async def test_the_fence_is_in_the_server(fleet, invalidate):
    """A process that was told nothing is refused by its token all the same."""
    a, b = await fleet.cache(), await fleet.cache()
    deafen(a)
    slow = Loader("old", held=True)
    loading = spawn(a.get_or_set("m:1", slow))
    await slow.started.wait()
    await invalidate(b)
    slow.go.set()
    assert await loading == "old"
    assert a.stats().fenced == 1
    assert await b.get("m:1") == ("set" if invalidate is overwrite else None)
