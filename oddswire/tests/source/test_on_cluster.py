"""Sessions on a cluster: in one slot, which moves, and whose primary dies."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from redis.crc import key_slot

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import OddswireError, Outcome
from oddswire.sessions import Sessions
from support import eventually
from support.hooks import ask

from .conftest import desk

_SLOT = key_slot(b"{s:0}")


@asynccontextmanager
async def _processes(cluster, count=2, **options):
    """Sessions of some processes, each with a client of its own."""
    clients = [
        Client.from_url(cluster.cluster_url, command_timeout=15.0) for _ in range(count)
    ]
    parts = [Sessions(each, desk.Person, **options) for each in clients]
    try:
        for each in parts:
            await each.__aenter__()
        yield parts
    finally:
        for each in parts:
            await each.__aexit__(None, None, None)
        for each in clients:
            await each.aclose()


def _owner(cluster):
    return cluster.primaries[_SLOT * len(cluster.primaries) // 16384]


def _adds_one(person):
    person.count += 1


def _lives_in(city):
    def change(person):
        person.city = city

    return change


@asynccontextmanager
async def _load(parts, users, acknowledged, unknown):
    """Count up in each session from each process for as long as the block lasts."""
    over = False

    async def work(sessions, user):
        while not over:
            try:
                await sessions.update(user, _adds_one)
                acknowledged[user] += 1
            except OddswireError as error:
                if error.outcome is Outcome.UNKNOWN:
                    unknown[user] += 1

    tasks = [
        asyncio.get_running_loop().create_task(work(each, user), name="load")
        for each in parts
        for user in users
    ]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*tasks)


@pytest.mark.integration
@pytest.mark.requirement("C16")
@pytest.mark.parametrize("atomic", [False, True], ids=["classic", "atomic"])
async def test_sessions_move_to_another_node(atomic):
    """While their slot moves there and back no update is lost, and none fails."""
    users = range(1, 7)
    async with EmbeddedCluster(primaries=3) as cluster, _processes(cluster) as parts:
        one, other = parts
        for user in users:
            await one.update(user, _lives_in("Oslo"), create=True)
        source = _owner(cluster)
        target = next(each for each in cluster.primaries if each is not source)
        sure, unknown = dict.fromkeys(users, 0), dict.fromkeys(users, 0)
        async with _load(parts, users, sure, unknown):
            for old, new in ((source, target), (target, source)):
                await cluster.move_slots(_SLOT, _SLOT, old, new, atomic=atomic)
                before = sum(sure.values())
                await eventually(lambda b=before: sum(sure.values()) > b + 30)
        assert sum(unknown.values()) == 0
        for user in users:
            found = await other.get(user, fresh=True)
            assert found.count == sure[user]
        await one.update(1, _lives_in("Rome"))
        assert await other.users_for("city", "Rome", fresh=True) == {1}
        # What the other process keeps in memory follows, by the feed.
        await eventually(lambda: other.get(1), holds=lambda it: it.city == "Rome")
        assert await one.delete(2)
        assert await other.get(2, fresh=True) is None


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_the_primary_of_the_sessions_is_killed():
    """The replica goes on with every session; of an update that was not known, one."""
    users = range(1, 5)
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        _processes(cluster) as parts,
    ):
        one, other = parts
        for user in users:
            await one.update(user, _lives_in("Oslo"), create=True)
        victim = _owner(cluster)
        assert await ask(victim.url, "WAIT", 1, 5000) == 1
        replica = cluster.replicas[cluster.primaries.index(victim)]
        sure, unknown = dict.fromkeys(users, 0), dict.fromkeys(users, 0)
        async with _load(parts, users, sure, unknown):
            await eventually(lambda: min(sure.values()) > 2)
            victim.kill()
            await victim.wait_exit()
            await eventually(lambda: _is_primary(replica))
            before = sum(sure.values())
            await eventually(lambda: sum(sure.values()) > before + 30, 40)
        for user in users:
            # The replica may lack the last ones; none ran that was not asked for.
            found = await other.get(user, fresh=True)
            assert found.city == "Oslo"
            assert found.count <= sure[user] + unknown[user]
        await one.update(3, _lives_in("Rome"))
        await eventually(lambda: other.get(3), holds=lambda it: it.city == "Rome")
        assert await other.users_for("city", "Rome", fresh=True) == {3}


async def _is_primary(server):
    return (await ask(server.url, "ROLE"))[0] == "master"


@pytest.mark.integration
@pytest.mark.requirement("C16", "S8")
async def test_a_source_restores_what_the_replica_lacks(source):
    """With a source of record nothing acknowledged is lost with the node."""
    users = range(1, 5)
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        _processes(cluster, source=source) as parts,
    ):
        one, other = parts
        for user in users:
            await one.update(user, _lives_in("Oslo"), create=True)
        victim = _owner(cluster)
        replica = cluster.replicas[cluster.primaries.index(victim)]
        sure, unknown = dict.fromkeys(users, 0), dict.fromkeys(users, 0)
        async with _load(parts, users, sure, unknown):
            await eventually(lambda: min(sure.values()) > 2)
            victim.kill()
            await victim.wait_exit()
            await eventually(lambda: _is_primary(replica))
            before = sum(sure.values())
            await eventually(lambda: sum(sure.values()) > before + 30, 40)
        for user in users:
            found = await other.get(user, fresh=True)
            assert sure[user] <= found.count <= sure[user] + unknown[user]
        await one.update(1, _lives_in("Rome"))
        erased = await one.erase(2)
        assert erased.left == ()
        assert await other.users_for("city", "Oslo", fresh=True) == {3, 4}
