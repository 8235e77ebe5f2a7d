"""The cache on a cluster: tags at other nodes, slots that move, nodes that die."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack

import msgspec
import pytest
import redis.asyncio as aredis
from redis.crc import key_slot

from oddswire import Client
from oddswire.cache import Cache, Namespace
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import ClosedError, NotOnCluster, OddswireError
from oddswire.testing.fixtures import on_its_own_thread
from support import eventually
from support.hooks import ask, believed, held
from support.keys import entry_key

_KEYS = [f"n:{number}" for number in range(40)]


class Value(msgspec.Struct, frozen=True):
    """What the tests keep."""

    number: int


@pytest.fixture(scope="module")
def three():
    """Three primaries, for the tests that leave them as they are."""
    with on_its_own_thread(lambda: EmbeddedCluster(primaries=3)) as started:
        yield started


class Processes:
    """Caches with a client each, as of processes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self._stack = AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._stack.aclose()

    async def __call__(self, **options):
        """Return an open cache."""
        client = Client.from_url(self.cluster.cluster_url, command_timeout=10.0)
        await self._stack.enter_async_context(client)
        options = {"timeout": 1.0, **options}
        cache = Cache(client, [Namespace(name="n", type=Value, ttl=60.0)], **options)
        return await self._stack.enter_async_context(cache)


@pytest.fixture
async def processes(three):
    """Caches on the empty cluster."""
    async with Client.from_url(three.cluster_url) as client:
        await client.flushall()
    async with Processes(three) as made:
        yield made


async def _none():
    return None


@pytest.mark.errors
@pytest.mark.requirement("C16")
async def test_closing_reaches_who_waits_for_the_owner_of_a_slot():
    """Closed while a call waits for a node to take its slot, a cache opens nothing."""
    args = ("--cluster-require-full-coverage", "no")
    async with EmbeddedCluster(primaries=2, args=args) as own:
        for server in own.primaries:
            await ask(server.url, "CLUSTER", "DELSLOTSRANGE", 8192, 16383)
        await eventually(lambda: _served(own), holds=lambda served: served < 8192)
        names = [Namespace(name=f"n{number}") for number in range(8)]
        async with Client.from_url(own.cluster_url, command_timeout=20.0) as client:
            async with Cache(client, names, timeout=20.0) as cache:
                keys = [f"{each.name}:1" for each in names]
                lost = [
                    asyncio.get_running_loop().create_task(cache.get(key))
                    for key in keys
                    if key_slot(entry_key("oddswire:", key).encode()) >= 8192
                ]
                await asyncio.sleep(0.3)
            await ask(own.primaries[1].url, "CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
            results = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(each) for each in results} == {ClosedError}


async def _served(cluster):
    """Return the last slot that any node names."""
    maps = [await ask(each.url, "CLUSTER", "SLOTS") for each in cluster.primaries]
    return max(each[1] for ranges in maps for each in ranges)


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_every_call_on_a_cluster(processes):
    """Values, tags, versions, batches, warming: as on one server, in two processes."""
    one, other = await processes(), await processes()
    assert await one.get("n:1") is None
    assert await one.set("n:1", Value(1), tags=("a", "b"))
    assert await other.get("n:1") == Value(1)
    loads = itertools.count()

    async def load():
        return Value(next(loads))

    for key in _KEYS:
        await one.get_or_set(key, load, tags=("a", f"of:{key}"))
    assert await other.get_many(_KEYS) == await one.get_many(_KEYS)
    assert len(await other.get_many(_KEYS)) == len(_KEYS)
    assert next(loads) == len(_KEYS) - 1  # one was there
    await believed(one, other)
    await other.invalidate_tags("of:n:7", "of:n:8")
    assert await other.get("n:7") is None
    await eventually(lambda: one.get("n:7"), holds=lambda it: it is None)
    await eventually(lambda: one.get("n:8"), holds=lambda it: it is None)
    assert await one.get("n:9") is not None
    await one.invalidate_tags("a")
    assert await one.get_many(_KEYS) == {}
    await eventually(lambda: other.get_many(_KEYS), holds=lambda it: it == {})
    assert await one.set("n:2", Value(5), version=5)
    assert not await other.set("n:2", Value(4), version=4)
    assert await one.delete("n:2", "n:absent") == 1
    assert await other.get("n:2") is None
    assert not await other.set("n:2", Value(4), version=4)
    await one.set_many({key: Value(0) for key in _KEYS}, tags=("user:4",))
    assert await one.expire("n:4") == 1
    assert await one.get("n:4") is None
    await other.invalidate_tags("user:4", soft=True)
    assert await other.get("n:5") is None
    assert (await other.get_entry("n:5")).stale
    await one.set_many({key: Value(0) for key in _KEYS}, tags=("user:4",))
    erased = await one.erase(4)
    assert erased.left == ()
    assert await one.get_many(_KEYS) == {}
    await one.set_many({key: Value(0) for key in _KEYS})
    await other.clear("n")
    assert await other.get_many(_KEYS) == {}
    await eventually(lambda: one.get_many(_KEYS), holds=lambda it: it == {})
    report = await one.warm([(key, load) for key in _KEYS])
    assert report.present == len(_KEYS)
    assert (await other.warm_hot("n")).failed == {}
    assert one.stats().coherence == "tracking"


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_one_load_in_all_processes(processes):
    """A cold key of any node is loaded once, whoever asks."""
    caches = [await processes() for _ in range(3)]
    loads = dict.fromkeys(_KEYS, 0)

    def load(key):
        async def loader():
            loads[key] += 1
            await asyncio.sleep(0.05)
            return Value(loads[key])

        return loader

    found = await asyncio.gather(
        *(
            cache.get_or_set(key, load(key), tags=("all",))
            for cache in caches
            for key in _KEYS
            for _ in range(3)
        )
    )
    assert set(loads.values()) == {1}
    assert set(found) == {Value(1)}


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_what_moves_with_its_slot_leaves_memory_and_the_rest_stays():
    """Memory of a slot that has another owner is dropped, of other slots it is not."""
    async with EmbeddedCluster(primaries=3) as cluster, Processes(cluster) as processes:
        one, other = await processes(), await processes()
        for key in _KEYS:
            await one.set(key, Value(1))
            await other.get(key)
        await believed(one, other)
        first, second, _ = cluster.primaries
        slots = {key: key_slot(f"oddswire:cache:{{{key}}}".encode()) for key in _KEYS}
        moving = [key for key in _KEYS if slots[key] <= 3000]
        staying = [key for key in _KEYS if slots[key] > 3000]
        # The namespace's version would make all of them void.
        assert key_slot(b"oddswire:cache-namespace:{n}") > 3000
        await eventually(lambda: held(other).keys(), holds=lambda it: len(it) == 40)
        await cluster.move_slots(0, 3000, first, second, atomic=True)
        await eventually(lambda: not held(other).keys() & set(moving))
        assert held(other).keys() >= set(staying)
        for key in moving:
            assert await one.get(key) is None
            assert await other.set(key, Value(2))
            assert await one.get(key) == Value(2)
        for key in staying:
            assert await one.get(key) == Value(1)


@pytest.mark.integration
@pytest.mark.requirement("C16")
@pytest.mark.parametrize("what", ["entry", "tag", "namespace"])
async def test_an_invalidation_that_the_replica_lacks(what):
    """What was invalidated is not served by a replica that never heard of it."""
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        Processes(cluster) as processes,
    ):
        one, other = await processes(), await processes()
        space = "oddswire:cache-namespace:{n}"
        # Of the three, each is at another node: none is void by another's death.
        entries = {each: f"oddswire:cache:{{{each}}}" for each in _KEYS}
        key = next(each for each in _KEYS if _node(entries[each]) != _node(space))
        entry = entries[key]
        await one.set(key, Value(1))
        for text in itertools.count():
            await one.set("n:other", Value(1), tags=(f"t{text}",))
            taken = {_node(entry), _node(space)}
            tags = await _keys(cluster, "cache-tag:*")
            free = [each for each in tags if _node(each) not in taken]
            if free:
                break
        tag, named = free[0], f"t{text}"
        await one.set(key, Value(1), tags=(named,))
        assert await other.get(key) == Value(1)
        name = {"entry": entry, "tag": tag, "namespace": space}[what]
        number = _node(name)
        victim, replica = cluster.primaries[number], cluster.replicas[number]
        async with aredis.Redis.from_url(victim.url) as admin:
            before = await admin.dump(name)
        if what == "entry":
            await one.delete(key)
        elif what == "tag":
            await one.invalidate_tags(named)
        else:
            await one.clear("n")
        victim.kill()
        await victim.wait_exit()
        await eventually(lambda: _is_primary(replica), 40)
        async with aredis.Redis.from_url(replica.url) as admin:
            # As a replica has it that the invalidation did not reach any more.
            await admin.restore(name, 0, before, replace=True)
        for cache in (one, other):
            # Once it answers, with what it has.
            assert (
                await eventually(
                    lambda cache=cache: _outcome(cache.get(key)),
                    40,
                    holds=lambda it: not isinstance(it, OddswireError),
                )
                is None
            )
        await one.set(key, Value(2), tags=(named,))
        assert await other.get(key) == Value(2)


def _node(name):
    return key_slot(name.encode()) * 3 // 16384


async def _keys(cluster, pattern):
    found = []
    for server in cluster.primaries:
        found += await ask(server.url, "KEYS", f"oddswire:{pattern}")
    return found


async def _outcome(call):
    try:
        return await call
    except OddswireError as error:
        return error


async def _is_primary(server):
    return (await ask(server.url, "ROLE"))[0] == "master"


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_what_a_cluster_cannot_do(three):
    """The second way of telling changes is refused, and the error says why."""
    async with Client.from_url(three.cluster_url) as client:
        with pytest.raises(NotOnCluster, match="no order"):
            Cache(client, fallback="pubsub")


@pytest.mark.errors
@pytest.mark.requirement("C16", "C7")
async def test_a_node_behind_redis_says_so_when_its_slots_move():
    """A cache that knows one server cannot follow a slot, and names the URL to give."""
    async with EmbeddedCluster(primaries=2) as cluster:
        node, other = cluster.primaries
        # All slots but one, so that the cache finds its keys there and nothing moves.
        await cluster.move_slots(8192, 16_382, other, node, atomic=True)
        async with (
            Client.from_url(node.url) as client,
            Cache(client, [Namespace(name="n", type=Value)], timeout=1.0) as cache,
        ):
            assert await cache.set("n:1", Value(1))
            slot = key_slot(b"n:1")
            old, new = [
                await ask(each.url, "CLUSTER", "MYID") for each in (node, other)
            ]
            await ask(other.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", old)
            await ask(node.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)
            for call in (cache.delete, cache.expire):
                with pytest.raises(OddswireError, match="give cluster://"):
                    await call("n:1")
