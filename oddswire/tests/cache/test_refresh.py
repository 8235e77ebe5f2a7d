"""A refresh that is asked for: it loads whatever is there, fenced as any load. K4."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from oddswire import OddswireError
from oddswire.cache import Namespace
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


@pytest.mark.errors
@pytest.mark.requirement("K3")
@pytest.mark.parametrize("when", ["before it asks", "while it loads"])
async def test_who_joined_a_refresh_is_served_though_redis_went(own_fleet, when):
    """The refresher hears that nothing was stored; others have what was loaded."""
    server = own_fleet.server
    a = await own_fleet.cache(timeout=1.0)
    await a.get("m:1")
    load = Loader(held=True)
    if when == "before it asks":
        server.kill()
        await server.wait_exit()
        load.go.set()
    refreshing = asyncio.get_running_loop().create_task(a.refresh("m:1", load))
    if when == "while it loads":
        await load.started.wait()
    reading = asyncio.get_running_loop().create_task(a.get_or_set("m:1", load))
    if when == "while it loads":
        await eventually(lambda: a.stats().shared)
        server.kill()
        await server.wait_exit()
        load.go.set()

    assert await reading == 1
    with pytest.raises(OddswireError):
        await refreshing
    assert load.calls == 1


@pytest.mark.performance
@pytest.mark.requirement("K5")
async def test_a_large_batch_lets_others_go_between(fleet):
    """While a hundred values are stored, other tasks have their turns."""
    turn, packed = 0, []

    class Seen(msgspec.Struct):
        """Notes the turn of the loop in which it is read back while it is stored."""

        def __post_init__(self) -> None:
            packed.append(turn)

    async def load(keys):
        values = {key: Seen() for key in keys}
        packed.clear()
        return values

    async def others():
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    a = await fleet.cache(Namespace(name="m", type=Seen))
    beat = asyncio.get_running_loop().create_task(others())
    await a.refresh_many([f"m:{n}" for n in range(104)], load)
    beat.cancel()

    assert len(packed) >= 104
    assert max(Counter(packed).values()) <= 3 * 8


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
