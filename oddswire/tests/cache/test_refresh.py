"""A refresh that is asked for: it loads whatever is there, fenced as any load. K4."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import OddswireError
from support import eventually
from support.hooks import cache_steps, told

from .conftest import Loader

pytestmark = pytest.mark.requirement("K4")


def spawn(work):
    """Start it beside the test."""
    return asyncio.get_running_loop().create_task(work)


@pytest.mark.advanced
@pytest.mark.parametrize("how", ["key", "tag", "namespace", "set"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_refresh_never_brings_back_what_was_invalidated(fleet, how, where):
    """KG4: what is invalidated while the function runs is not stored by `refresh`."""
    a, b = await fleet.cache(), await fleet.cache()
    load = Loader("old", held=True)

    @a.cached(key="m:{number}", tags=("t",))
    async def fetch(number: int) -> str:
        del number
        return await load()

    refreshing = spawn(fetch.refresh(1))
    await load.started.wait()
    other = a if where == "here" else b
    await {
        "key": lambda: other.delete("m:1"),
        "tag": lambda: other.invalidate_tags("t"),
        "namespace": lambda: other.clear("m"),
        "set": lambda: other.set("m:1", "set", type=str),
    }[how]()
    load.go.set()
    assert await refreshing == "old"
    expected = "set" if how == "set" else None
    assert await a.get("m:1", type=str) == expected
    assert await b.get("m:1", type=str) == expected


@pytest.mark.advanced
async def test_a_refresh_replaces_a_fresh_value_everywhere(fleet):
    """The old value serves until then, and the new one after, in every process."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", "old", tags=("t",))
    await fleet.believed(a, b)
    load = Loader("new", held=True)
    refreshing = spawn(a.refresh("m:1", load, tags=("t",)))
    await load.started.wait()
    assert await a.get("m:1") == await b.get("m:1") == "old"
    load.go.set()
    assert await refreshing == "new"
    assert await a.get("m:1") == "new"
    await eventually(lambda: b.peek("m:1") != "old")
    assert await b.get("m:1") == "new"
    with pytest.raises(ZeroDivisionError):
        await b.refresh("m:1", lambda: 1 // 0)
    assert await b.get("m:1") == "new"


@pytest.mark.advanced
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_load_from_before_the_refresh_is_neither_joined_nor_stored(
    fleet, where
):
    """Who refreshes knows that the source has changed: older loads are void."""
    a, b = await fleet.cache(), await fleet.cache()
    old = Loader("old", held=True)
    loading = spawn((a if where == "here" else b).get_or_set("m:1", old))
    await old.started.wait()
    assert await a.refresh("m:1", Loader("new")) == "new"
    old.go.set()
    assert await loading == "old"
    assert await a.get("m:1") == await b.get("m:1") == "new"


@pytest.mark.advanced
async def test_a_refresh_that_was_replaced_does_not_void_the_later_one(
    fleet, monkeypatch
):
    """Of two refreshes the later one is stored, also if it claims before the other."""
    a = await fleet.cache()
    shared, _ = cache_steps(a)["look"]
    look, late, looks = shared.look, asyncio.Event(), []

    async def first_is_late(*args, **options):
        looks.append(args)
        if len(looks) == 1:
            await late.wait()
        return await look(*args, **options)

    monkeypatch.setattr(shared, "look", first_is_late)
    first = spawn(a.refresh("m:1", Loader("first")))
    await eventually(lambda: looks)
    slow = Loader("second", held=True)
    second = spawn(a.refresh("m:1", slow))
    await slow.started.wait()
    late.set()
    assert await first == "first"
    slow.go.set()
    assert await second == "second"
    assert await a.get("m:1") == "second"


@pytest.mark.errors
async def test_a_refresh_without_redis_says_so(own_fleet):
    """Nobody else could be told of the new value: the function is not even called."""
    a = await own_fleet.cache(timeout=0.2)
    load = Loader("new")
    own_fleet.server.kill()
    await own_fleet.server.wait_exit()
    with pytest.raises(OddswireError):
        await a.refresh("m:1", load)
    assert load.calls == 0


@pytest.mark.advanced
@pytest.mark.requirement("K5")
async def test_many_keys_are_refreshed_by_one_call(fleet):
    """Fresh, stale and absent ones alike; one that is left out has the value None."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", "old")
    await a.set("m:2", "old")
    await a.expire("m:2")
    calls = []

    async def load(keys):
        calls.append(sorted(keys))
        return {key: "new" for key in keys if key != "m:4"}

    names = ["m:1", "m:2", "m:3", "m:4"]
    got = await a.refresh_many(names, load, negative_ttl=60)
    assert got == {"m:1": "new", "m:2": "new", "m:3": "new", "m:4": None}
    assert calls == [names]
    await told(a, b)
    assert await b.get_many(names) == got


@pytest.mark.advanced
async def test_of_many_what_is_invalidated_meanwhile_is_not_stored(fleet):
    """KG4, for each key by itself: the others of the call are stored."""
    a, b = await fleet.cache(), await fleet.cache()
    slow = Loader(held=True)

    async def load(keys):
        await slow()
        return dict.fromkeys(keys, "old")

    def tags(key):
        return (f"t:{key}",)

    refreshing = spawn(a.refresh_many(["m:1", "m:2"], load, tags=tags))
    await slow.started.wait()
    await b.invalidate_tags("t:m:1")
    slow.go.set()
    assert await refreshing == {"m:1": "old", "m:2": "old"}
    await told(a, b)
    assert await b.get_many(["m:1", "m:2"]) == {"m:2": "old"}


@pytest.mark.errors
async def test_a_failed_refresh_of_many_leaves_what_is_there(fleet):
    """What the loader raised is raised, and the old values serve."""
    a = await fleet.cache()
    await a.set("m:1", "old")

    async def load(keys):
        raise ConnectionError(*keys)

    with pytest.raises(ConnectionError, match="m:1"):
        await a.refresh_many(["m:1"], load)
    assert await a.get("m:1") == "old"
