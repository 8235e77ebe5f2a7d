"""Locks, limits and a queue on a cluster whose primary is killed under them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from redis.crc import key_slot

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.events import Failover
from oddswire.locks import Locks
from oddswire.queue import Queue
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from support import eventually
from support.hooks import ask

_NAMES = [f"l{number}" for number in range(8)]


async def _kill_owner(cluster, client, key):
    """Kill the primary that has a key, and wait for its replica."""
    slot = key_slot(key.encode())
    ranges = await ask(cluster.primaries[0].url, "CLUSTER", "SLOTS")
    port = next(each[2][1] for each in ranges if each[0] <= slot <= each[1])
    [(number, server)] = [
        each for each in enumerate(cluster.primaries) if each[1].port == port
    ]
    server.kill()
    await server.wait_exit()
    replica = cluster.replicas[number]

    async def took_over():
        return (await ask(replica.url, "ROLE"))[0] == "master"

    await eventually(took_over)
    assert await client.bounded(20.0).set(key, 1)
    return f"{server.host}:{server.port}", f"{replica.host}:{replica.port}"


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_the_queue_outlives_its_node():
    """A queue whose node is killed goes on with what the replica has.

    What was acknowledged and not yet copied to the replica may be lost with the node;
    here the queue is at rest when it is killed.
    """
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        Client.from_url(cluster.cluster_url, command_timeout=15.0) as client,
    ):
        queue = Queue(client, "messages", str)
        for number in range(50):
            await queue.enqueue(number, f"before {number}")
        for server in cluster.primaries:
            await ask(server.url, "WAIT", 1, 5000)
        seen = set()
        events = []
        client.events.subscribe(events.append, Failover)

        async def handle(message):
            seen.add(message.value)

        consumer = asyncio.get_running_loop().create_task(queue.consume(handle))
        await eventually(lambda: len(seen) == 50)
        old, new = await _kill_owner(cluster, client, "{messages}any")
        for number in range(50):
            await queue.enqueue(number, f"after {number}")
        await eventually(lambda: len(seen) == 100, 60)
        consumer.cancel()
        await asyncio.wait([consumer])
        # A node that is behind may answer between two others, and name the old one.
        assert events[0].old == old
        assert events[-1].new == new


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_locks_exclude_on_a_cluster():
    """Locks of many slots exclude each other's holders, of two clients alike."""
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        Client.from_url(cluster.cluster_url) as one,
        Client.from_url(cluster.cluster_url) as other,
    ):
        inside = dict.fromkeys(_NAMES, 0)
        turns = dict.fromkeys(_NAMES, 0)

        async def work(locks, name):
            for _ in range(4):
                async with locks.lock(name, 10.0):
                    inside[name] += 1
                    assert inside[name] == 1
                    await asyncio.sleep(0)
                    turns[name] += 1
                    inside[name] -= 1

        sides = [Locks(one), Locks(other)]
        await asyncio.gather(
            *[work(side, name) for side in sides for name in _NAMES for _ in range(3)]
        )
        assert set(turns.values()) == {24}


@pytest.mark.integration
@pytest.mark.requirement("C16")
async def test_limits_hold_on_a_cluster():
    """Rules of one request are decided together, also after their node was killed."""
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        Client.from_url(cluster.cluster_url, command_timeout=15.0) as client,
    ):
        rules = [
            Rule("user", SlidingWindow(3, 600.0), key="user"),
            Rule("chat", SlidingWindow(5, 600.0), key="chat"),
        ]
        async with RateLimiter(client, rules, deadline=5.0) as limiter:
            allowed = [
                bool(await limiter.hit("user", "chat", user=user, chat=1))
                for user in (1, 1, 1, 1, 2, 2, 3)
            ]
            assert allowed == [True, True, True, False, True, True, False]
            await _kill_owner(cluster, client, "{rl}any")

            turns = itertools.count(100)

            async def source():
                turn = next(turns)
                return (await limiter.hit("user", "chat", user=turn, chat=turn)).source

            await eventually(source, holds=lambda where: where == "redis")
            # The replica had these counts: the node was at rest when it died.
            assert not await limiter.hit("user", "chat", user=1, chat=7)
