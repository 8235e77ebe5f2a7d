"""A refresh that is asked for: it loads whatever is there, fenced as any load. K4."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import OddswireError

from .conftest import Loader, until

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
    await until(lambda: b.peek("m:1") != "old")
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
