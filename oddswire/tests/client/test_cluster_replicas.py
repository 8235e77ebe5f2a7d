"""Reads from replicas: by choice, a little behind, and never without an answer."""

from __future__ import annotations

import asyncio

import pytest
from redis.crc import key_slot

from oddswire import Client, Settings
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import SettingsError
from oddswire.events import Degraded, Restored
from oddswire.testing import History, LoopLag, frozen, wrong_replies
from support import eventually
from support.hooks import ask, sent_to_replicas

_KEYS = [f"k{number}" for number in range(60)]


@pytest.fixture
async def cluster():
    """Three primaries with a replica each."""
    async with EmbeddedCluster(primaries=3, replicas=1) as started:
        yield started


async def _calls(server, command):
    """How often clients ran a command on this server."""
    lines = await ask(server.url, "INFO", "commandstats")
    for line in lines.splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


async def _counts(servers, command):
    return [await _calls(each, command) for each in servers]


async def _replicas_are_read(cluster, client):
    before = sum(await _counts(cluster.replicas, "get"))
    await asyncio.gather(*[client.get(key) for key in _KEYS])
    return sum(await _counts(cluster.replicas, "get")) - before == len(_KEYS)


async def _copied(cluster):
    for server in cluster.primaries:
        assert await ask(server.url, "WAIT", 1, 5000) == 1


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_reads_go_to_replicas_and_writes_to_primaries(cluster):
    """Commands that only read are answered by replicas, all others by primaries."""
    url = cluster.cluster_url
    async with Client.from_url(url, read_from="replica") as client:
        await client.mset_nonatomic({key: f"{key}=1" for key in _KEYS})
        await _copied(cluster)
        await eventually(lambda: _replicas_are_read(cluster, client))
        before = await _counts(cluster.primaries, "get")
        values = await asyncio.gather(*[client.bounded(3.0).get(key) for key in _KEYS])
        assert values == [f"{key}=1".encode() for key in _KEYS]
        assert await client.mget(_KEYS) == values
        assert await client.exists(*_KEYS) == len(_KEYS)
        assert await client.strlen("k1") == 4
        # A read that is no read of one key, and one that the server takes for a write.
        assert await client.sunion("{t}a", "{t}b") == set()
        assert (
            await client.eval("return redis.call('GET', KEYS[1])", 1, "k1") == b"k1=1"
        )
        assert await _counts(cluster.primaries, "get") == [
            each + (number == _owner("k1")) for number, each in enumerate(before)
        ]
        assert sum(await _counts(cluster.primaries, "mget")) == 0
        assert sum(await _counts(cluster.replicas, "incr")) == 0
        await client.incr("count")
        async with client.pipeline(transaction=False) as batch:
            batch.get("count").incr("count")
            assert await batch.execute() == [b"1", 2]
        primary = client.reading_from("primary")
        assert await primary.get("count") == b"2"
        assert await primary.reading_from("replica").get("k1") == b"k1=1"
        assert client.stats().connections.shared == 6


def _owner(key):
    return key_slot(key.encode()) * 3 // 16384


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_a_new_connection_to_a_replica_may_read(cluster):
    """READONLY is of the connection: one that was lost is opened with it again."""
    async with Client.from_url(cluster.cluster_url, read_from="replica") as client:
        await client.set("key", "value")
        await _copied(cluster)
        await eventually(lambda: _replicas_are_read(cluster, client))
        for server in cluster.replicas:
            await ask(server.url, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await client.get("key") == b"value"
        await eventually(lambda: _replicas_are_read(cluster, client))


@pytest.mark.integration
@pytest.mark.requirement("C16")
@pytest.mark.parametrize("fault", ["killed", "frozen", "without its primary"])
async def test_a_replica_that_does_not_answer_costs_no_read(cluster, fault):
    """Its primary answers in its place, within the deadline, until it is back."""
    url = cluster.cluster_url
    async with Client.from_url(url, read_from="replica", command_timeout=4.0) as client:
        events = []
        client.events.subscribe(events.append, Degraded, Restored)
        await client.mset_nonatomic({key: f"{key}=1" for key in _KEYS})
        await _copied(cluster)
        await eventually(lambda: _replicas_are_read(cluster, client))
        victim, history = cluster.replicas[0], History()
        events.clear()

        async def read():
            for key in _KEYS:
                await history.record("get", key, client.get(key), deadline=4.0)

        if fault == "frozen":
            with frozen(victim), LoopLag() as lag:
                await asyncio.gather(*[read() for _ in range(5)])
                took = [
                    each.ended - each.began - lag.between(each.began, each.ended)
                    for each in history.calls
                ]
                assert max(took) < 2.0
        elif fault == "killed":
            victim.kill()
            await victim.wait_exit()
            await asyncio.gather(*[read() for _ in range(5)])
            await victim.restart()
        else:
            await ask(victim.url, "CONFIG", "SET", "replica-serve-stale-data", "no")
            with frozen(cluster.primaries[0]):
                # A second is the shortest time after which a replica misses it.
                await ask(victim.url, "CONFIG", "SET", "repl-timeout", 1)
                await eventually(lambda: _has_lost_its_primary(victim))
                others = [key for key in _KEYS if _owner(key) != 0]
                values = await asyncio.gather(*map(client.get, others))
                assert values == [f"{key}=1".encode() for key in others]
            await asyncio.gather(*[read() for _ in range(5)])
        assert {each.error for each in history.calls} == {None}
        assert not wrong_replies(
            history.calls, lambda key, value: value == f"{key}=1".encode()
        )
        if fault != "without its primary":
            await eventually(lambda: _replicas_are_read(cluster, client))
            assert isinstance(events[0], Degraded)
            assert isinstance(events[-1], Restored)


async def _has_lost_its_primary(server):
    state = await ask(server.url, "INFO", "replication")
    return "master_link_status:down" in state or "role:master" in state


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_a_replica_is_promoted_under_reads(cluster):
    """Reads go on while a primary dies, and the one that took its place has none."""
    url = cluster.cluster_url
    async with Client.from_url(
        url, read_from="replica", command_timeout=15.0
    ) as client:
        await client.mset_nonatomic({key: f"{key}=1" for key in _KEYS})
        await _copied(cluster)
        await eventually(lambda: _replicas_are_read(cluster, client))
        history, over = History(), False

        async def read(number):
            while not over:
                key = _KEYS[number % len(_KEYS)]
                number += 7
                await history.record("get", key, client.get(key), deadline=15.0)
                await history.record(
                    "set", key, client.set(key, f"{key}=1"), deadline=15.0
                )

        tasks = [asyncio.get_running_loop().create_task(read(n)) for n in range(10)]
        cluster.primaries[0].kill()
        await cluster.primaries[0].wait_exit()
        promoted = cluster.replicas[0]

        async def took_over():
            return (await ask(promoted.url, "ROLE"))[0] == "master"

        await eventually(took_over)
        before = len(history.calls)
        await eventually(lambda: len(history.calls) > before + 400)
        await cluster.primaries[0].restart()
        await eventually(lambda: _reads(cluster.primaries[0]))
        over = True
        await asyncio.gather(*tasks)
        assert {each.error for each in history.of("get")} == {None}
        assert not wrong_replies(
            history.of("get"), lambda key, value: value == f"{key}=1".encode()
        )


async def _reads(server):
    try:
        return await _calls(server, "get") > 0
    except OSError:
        return False


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_a_replica_that_lost_the_slot_names_its_owner(cluster):
    """MOVED from a replica leads to the new owner, and no read is refused."""
    first, second, _ = cluster.primaries
    async with Client.from_url(cluster.cluster_url, read_from="replica") as client:
        await client.mset_nonatomic({key: f"{key}=1" for key in _KEYS})
        await _copied(cluster)
        await eventually(lambda: _replicas_are_read(cluster, client))
        over = False

        async def read():
            while not over:
                values = await asyncio.gather(*map(client.get, _KEYS))
                # A replica may be behind; it never answers with another key's value.
                for key, value in zip(_KEYS, values, strict=True):
                    assert value in (f"{key}=1".encode(), None)

        reading = asyncio.get_running_loop().create_task(read())
        await cluster.move_slots(0, 4000, first, second, atomic=True)
        for slot in sorted({key_slot(key.encode()) for key in _KEYS}):
            if 4000 < slot <= 5460:
                await cluster.move_slots(slot, slot, first, second)
        over = True
        await reading
        await eventually(lambda: _all_there(client))


async def _all_there(client):
    values = await asyncio.gather(*map(client.get, _KEYS))
    return values == [f"{key}=1".encode() for key in _KEYS]


@pytest.mark.errors
@pytest.mark.requirement("C16")
async def test_replicas_of_one_server_are_no_choice(own):
    """The setting names the scheme it is for; one server reads as it did."""
    with pytest.raises(SettingsError, match=r"read_from: .* is not cluster://"):
        Settings(url=own.url, read_from="replica")
    with pytest.raises(SettingsError, match="primary or replica"):
        Settings(read_from="nearest")
    async with Client.from_url(own.url) as client:
        await client.set("key", "value")
        assert await client.reading_from("replica").get("key") == b"value"


@pytest.mark.advanced
@pytest.mark.requirement("C16")
async def test_the_table_of_reads_is_the_servers(own):
    """What is sent to replicas is what the server says changes nothing."""
    async with Client.from_url(own.url) as client:
        table = await client.command()
    wrong = [
        name
        for name in sent_to_replicas()
        if name.lower() in table and "readonly" not in table[name.lower()]["flags"]
    ]
    assert not wrong
