"""A loader that waits for itself fails at once and names the ring: K3."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.cache import Cache, Namespace
from oddswire.errors import CacheLoadCycle
from support import eventually

from .conftest import Loader

pytestmark = pytest.mark.requirement("K3")

# Far below `max_load`, far above what a load on a busy machine takes.
SOON = 20.0


async def ring(call):
    """Return the ring that a call is refused for."""
    async with asyncio.timeout(SOON):
        with pytest.raises(CacheLoadCycle) as caught:
            await call
    return str(caught.value).partition(": ")[2]


@pytest.mark.errors
async def test_a_loader_that_asks_for_its_own_key(fleet):
    """By any way to ask: one key, many, another type, anew, a decorated function."""
    cache = await fleet.cache()

    async def own():
        return await cache.get_or_set("a:own", own)

    async def many(keys):
        return await cache.get_or_set_many(keys, many)

    async def typed():
        return await cache.get_or_set("a:typed", typed, type=int)

    async def anew():
        return await cache.refresh("a:anew", anew)

    async def child():
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(cache.get_or_set("a:child", child))
        return task.result()

    @cache.cached(key="a:function:{number}")
    async def function(number: int) -> int:
        return await function(number)

    async def batch(numbers):
        return {number: await gathered(number) for number in numbers}

    gathered = cache.batched(batch, key="a:gathered:{number}")

    assert await ring(cache.get_or_set("a:own", own)) == "a:own -> a:own"
    many_keys = await ring(cache.get_or_set_many(["a:1", "a:2"], many))
    assert many_keys in ("a:1 -> a:1", "a:2 -> a:2")
    typed_ring = await ring(cache.get_or_set("a:typed", typed, type=str))
    assert typed_ring == "a:typed -> a:typed"
    assert await ring(cache.refresh("a:anew", anew)) == "a:anew -> a:anew"
    assert await ring(function(7)) == "a:function:7 -> a:function:7"
    assert await ring(gathered(7)) == "a:gathered:7 -> a:gathered:7"
    async with asyncio.timeout(SOON):
        with pytest.raises(ExceptionGroup) as caught:
            await cache.get_or_set("a:child", child)
    assert caught.group_contains(CacheLoadCycle)


@pytest.mark.errors
@pytest.mark.parametrize("length", [2, 3, 6])
@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_a_ring_of_loads(fleet, length, processes):
    """Over any number of keys and of caches it is found, and leaves nothing behind."""
    caches = [await fleet.cache() for _ in range(processes)]

    def load(at):
        async def loader():
            following = (at + 1) % length
            cache = caches[following % processes]
            return await cache.get_or_set(f"a:{following}", load(following))

        return loader

    first = caches[0].get_or_set("a:0", load(0))
    names = (await ring(first)).split(" -> ")
    assert names[0] == names[-1]
    assert set(names) <= {f"a:{number}" for number in range(length)}
    # Nothing of it is left: the leases were given back.
    value = await caches[-1].get_or_set("a:0", Loader("value"))
    assert value == "value"


@pytest.mark.errors
async def test_its_own_key_by_way_of_another_process(fleet):
    """The other one finds the lease held, by the load that waits for it."""
    one, two = await fleet.cache(), await fleet.cache()

    async def again():
        return await two.get_or_set("a:own", Loader("value"))

    assert await ring(one.get_or_set("a:own", again)) == "a:own -> a:own"


@pytest.mark.errors
async def test_a_ring_of_loads_that_were_begun_apart(fleet):
    """Two callers load two keys, and each loader joins the other's load."""
    cache = await fleet.cache()
    begun = asyncio.Barrier(2)

    def load(other):
        async def loader():
            await begun.wait()
            return await cache.get_or_set(other, Loader("value"))

        return loader

    async with asyncio.timeout(SOON):
        answers = await asyncio.gather(
            cache.get_or_set("a:1", load("a:2")),
            cache.get_or_set("a:2", load("a:1")),
            return_exceptions=True,
        )
    assert {type(each) for each in answers} == {CacheLoadCycle}


@pytest.mark.errors
async def test_gathered_loads_wait_for_all_of_their_batch(fleet):
    """Who did not begin the batch is part of the ring all the same."""
    cache = await fleet.cache()

    async def batch(numbers):
        return {number: await load_of(number) for number in numbers}

    async def load_of(number):
        return await cache.get_or_set("a:outer", outer) if number else 0

    gathered = cache.batched(batch, key="a:g:{number}")

    async def outer():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(gathered(0))
            task = tasks.create_task(gathered(1))
        return task.result()

    beginner = gathered(0)
    async with asyncio.timeout(SOON):
        with pytest.raises(ExceptionGroup) as caught:
            await cache.get_or_set("a:outer", outer)
    beginner.close()
    assert caught.group_contains(CacheLoadCycle)


@pytest.mark.basic
async def test_loads_of_other_keys_are_no_ring(fleet):
    """A chain, a diamond and a refresh behind the caller's back are loaded."""
    cache, other = await fleet.cache(Namespace(name="s", ttl=0.001, stale=60)), None
    other = await fleet.cache()

    async def leaf():
        return 1

    async def left():
        return await cache.get_or_set("a:leaf", leaf)

    async def right():
        return await other.get_or_set("a:leaf", leaf)

    async def top():
        return sum(
            await asyncio.gather(
                cache.get_or_set("a:left", left), other.get_or_set("a:right", right)
            )
        )

    async def stale():
        return await cache.get_or_set("a:whole", whole)

    async def whole():
        # Served stale at once: this load does not wait for the refresh, which waits
        # for this load.
        return 1 + await cache.get_or_set("s:part", stale)

    assert await cache.get_or_set("a:top", top) == 2
    await cache.set("s:part", 1)
    await eventually(lambda: cache.peek("s:part") is None)
    async with asyncio.timeout(SOON):
        assert await cache.get_or_set("a:whole", whole) == 2


@pytest.mark.advanced
async def test_a_task_that_outlives_its_loader_may_ask_for_the_key(fleet):
    """What a loader began is part of it until it is done, and no longer."""
    cache: Cache = await fleet.cache()
    done = asyncio.Event()
    tasks = []

    async def later():
        await done.wait()
        await cache.delete("a:own")
        return await cache.get_or_set("a:own", Loader("later"))

    async def own():
        tasks.append(asyncio.get_running_loop().create_task(later()))
        return "own"

    assert await cache.get_or_set("a:own", own) == "own"
    done.set()
    assert await tasks[0] == "later"
