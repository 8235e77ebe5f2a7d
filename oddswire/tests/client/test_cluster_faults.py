"""A cluster whose nodes die, freeze and hand over slots while calls are under way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import Outcome
from oddswire.events import Disconnected
from oddswire.testing import History, LoopLag, frozen, overtime, wrong_replies
from support import eventually
from support.hooks import ask

_KEYS = [f"k{number}" for number in range(60)]
_TASKS = 30


@asynccontextmanager
async def _load(client, history, keys=_KEYS):
    """Read, write and count with 30 tasks for as long as the block lasts."""
    over = False

    async def work(number):
        turn = number
        while not over:
            turn += 1
            key = keys[turn * 7 % len(keys)]
            seconds = client.timeout
            await history.record(
                "set",
                key,
                client.set(key, f"{key}={turn}"),
                deadline=seconds,
            )
            await history.record("get", key, client.get(key), deadline=seconds)
            await history.record(
                "incr", f"n{key}", client.incr(f"n{key}"), deadline=seconds
            )
            await history.record("mget", key, client.mget(keys[:5]), deadline=seconds)

    tasks = [
        asyncio.get_running_loop().create_task(work(number), name="load")
        for number in range(_TASKS)
    ]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*tasks)


def _belongs(key, value):
    if isinstance(value, list):
        return all(
            each is None or each.startswith(f"{of}=".encode())
            for of, each in zip(_KEYS, value, strict=False)
        )
    return value.startswith(f"{key}=".encode())


async def _counted(client, keys=_KEYS):
    names = [f"n{key}" for key in keys]
    found = await client.mget(names)
    return {name: int(value or 0) for name, value in zip(names, found, strict=True)}


def _judged(history, found, *, kept):
    """Wrong replies, and counters that say more than was asked, or less than was kept.

    `kept`: whether the server kept every write that it acknowledged. A replica that
    takes over may lack the last ones.
    """
    reads = history.of("get", "mget")
    wrong = wrong_replies(reads, _belongs)
    for name, value in found.items():
        calls = [call for call in history.of("incr") if call.key == name]
        sure = sum(call.outcome == "ok" for call in calls)
        most = sure + sum(call.outcome == "unknown" for call in calls)
        if value > most or (kept and value < sure):
            wrong.append(f"{name} is {value}, between {sure} and {most} expected")
    return wrong


@pytest.mark.integration
@pytest.mark.requirement("C16")
@pytest.mark.parametrize("atomic", [False, True], ids=["classic", "atomic"])
async def test_slots_move_under_load(atomic):
    """While slots move there and back, no call fails and each counts exactly once."""
    async with EmbeddedCluster(primaries=3) as cluster:
        first, second, _ = cluster.primaries
        mine = sorted({key_slot(key.encode()) for key in _KEYS if _in_first(key)})
        async with Client.from_url(cluster.cluster_url, command_timeout=10.0) as client:
            lost = []
            history = History()
            await client.ping()
            client.events.subscribe(lost.append, Disconnected)
            async with _load(client, history):
                for source, target in ((first, second), (second, first)) * 2:
                    if atomic:
                        # Not all: it would become a replica, which takes none back.
                        await cluster.move_slots(0, 4000, source, target, atomic=True)
                    else:
                        for slot in mine:
                            await cluster.move_slots(slot, slot, source, target)
            found = await _counted(client)
    assert {call.error for call in history.calls} == {None}
    assert _judged(history, found, kept=True) == []
    # A map that is read again leaves the connections of nodes that stay.
    assert [event for event in lost if not event.closed] == []


def _in_first(key):
    return key_slot(key.encode()) <= 5460


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_a_primary_is_killed_under_load():
    """A call waits for the replica that takes over; what was not known is unknown."""
    async with EmbeddedCluster(primaries=3, replicas=1) as cluster:
        victim = cluster.primaries[0]
        async with Client.from_url(cluster.cluster_url, command_timeout=15.0) as client:
            history = History()
            with LoopLag() as lag:
                async with _load(client, history):
                    await eventually(lambda: len(history.calls) > 20 * _TASKS)
                    victim.kill()
                    await victim.wait_exit()
                    before = len(history.calls)
                    await eventually(lambda: _has_taken_over(cluster))
                    await eventually(lambda: len(history.calls) > before + 20 * _TASKS)
                late = overtime(history.calls, lag=lag)
            found = await _counted(client)
            direct = await _from_the_nodes(client)
    assert late == []
    assert _judged(history, found, kept=False) == []
    # The client says of each counter what its owner has.
    assert {name: value for name, value in found.items() if value} == direct
    # At most one call of each task was on the connection that died.
    failed = [call for call in history.calls if call.outcome != "ok"]
    assert {call.outcome for call in failed} <= {Outcome.UNKNOWN.value}
    assert len(failed) <= _TASKS
    assert {call.op for call in failed} <= {"incr"}


async def _has_taken_over(cluster):
    state = await ask(cluster.primaries[1].url, "CLUSTER", "INFO")
    roles = await ask(cluster.replicas[0].url, "ROLE")
    return "state:ok" in state and roles[0] == "master"


async def _from_the_nodes(client):
    found = {}
    for node in await client.primaries():
        for key in await node.execute_command("KEYS", "nk*"):
            found[key.decode()] = int(await node.get(key))
    return found


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_a_primary_is_frozen_under_load():
    """Reads go to the replica that took over long before their deadline."""
    async with EmbeddedCluster(primaries=3, replicas=1) as cluster:
        victim = cluster.primaries[0]
        async with Client.from_url(cluster.cluster_url, command_timeout=15.0) as client:
            history = History()
            async with _load(client, history):
                await eventually(lambda: len(history.calls) > 20 * _TASKS)
                with frozen(victim):
                    await eventually(lambda: _has_taken_over(cluster))
                    before = len(history.calls)
                    await eventually(lambda: len(history.calls) > before + 20 * _TASKS)
                # It wakes up as a primary, and learns that it is one no more.
                await eventually(lambda: _is_replica(victim))
                before = len(history.calls)
                await eventually(lambda: len(history.calls) > before + 5 * _TASKS)
            found = await _counted(client)
            direct = await _from_the_nodes(client)
    assert _judged(history, found, kept=False) == []
    assert {name: value for name, value in found.items() if value} == direct
    assert {call.outcome for call in history.of("get", "mget")} == {"ok"}
    slowest = max(call.ended - call.began for call in history.of("get", "mget"))
    assert slowest < 15.0


async def _is_replica(server):
    try:
        return (await ask(server.url, "ROLE"))[0] == "slave"
    except OSError:
        return False


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_asking_stays_with_its_command():
    """Of 300 calls that ASK sends elsewhere none is answered as another's."""
    async with EmbeddedCluster(primaries=2) as cluster:
        source, target = cluster.primaries
        async with Client.from_url(cluster.cluster_url) as client:
            key = next(key for key in _KEYS if key_slot(key.encode()) < 8192)
            slot = key_slot(key.encode())
            old, new = [
                await ask(each.url, "CLUSTER", "MYID") for each in (source, target)
            ]
            others = [each for each in _KEYS if key_slot(each.encode()) >= 8192]
            await ask(target.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", old)
            await ask(source.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)
            asked = [client.incr(key) for _ in range(300)]
            noise = [client.set(other, f"{other}=1") for other in others * 10]
            replies = await asyncio.gather(*asked, *noise)
            assert sorted(replies[:300]) == list(range(1, 301))
            assert set(replies[300:]) == {True}
            async with client.pipeline(transaction=False) as batch:
                for other in others[:10]:
                    batch.get(other).incr(key)
                results = await batch.execute()
            assert results[1::2] == list(range(301, 311))
            assert results[::2] == [f"{other}=1".encode() for other in others[:10]]
            assert await client.blpop(f"{{{key}}}empty", 1) is None
            # Two keys, one of them there already: TRYAGAIN until the deadline.
            await client.set(f"{{{key}}}2", "x")
            for server in (target, source):
                await ask(server.url, "CLUSTER", "SETSLOT", slot, "NODE", new)
            assert await client.mget(key, f"{{{key}}}2") == [b"310", b"x"]


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_a_blocked_call_follows_its_slot():
    """A call that blocks where the slot was taken away waits on at the new owner."""
    async with EmbeddedCluster(primaries=2) as cluster:
        source, target = cluster.primaries
        async with Client.from_url(cluster.cluster_url) as client:
            key = next(key for key in _KEYS if key_slot(key.encode()) < 8192)
            slot = key_slot(key.encode())
            waiting = asyncio.get_running_loop().create_task(
                client.blpop(key, 20), name="blocked"
            )
            await eventually(lambda: _is_blocked(source))
            await cluster.move_slots(slot, slot, source, target)
            await eventually(lambda: _is_blocked(target))
            await client.rpush(key, "here")
            assert await waiting == (key.encode(), b"here")


async def _is_blocked(server):
    return "blocked_clients:0" not in await ask(server.url, "INFO", "clients")


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_closing_leaves_nothing_open():
    """After aclose no connection is left at any node, nodes that were left included."""
    async with EmbeddedCluster(primaries=2) as cluster:
        source, target = cluster.primaries
        client = Client.from_url(cluster.cluster_url)
        await client.mset_nonatomic(dict.fromkeys(_KEYS, 1))
        await cluster.move_slots(0, 8191, source, target, atomic=True)
        await client.mget(_KEYS)
        await eventually(lambda: client.stats().connections.shared == 1)
        await client.aclose()
        for server in cluster.primaries:
            await eventually(lambda server=server: _has_no_client(server))
        with pytest.raises(Exception, match="closed"):
            await client.get("k1")


async def _has_no_client(server):
    # The one that asks is there; so are the links of the other node.
    clients = await ask(server.url, "CLIENT", "LIST", "TYPE", "NORMAL")
    return len(clients.splitlines()) == 1
