"""Real clusters and sentinels: ready on entry, and one of them killed."""

from __future__ import annotations

import asyncio
import signal

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from oddswire.embedded import EmbeddedCluster, EmbeddedSentinels
from oddswire.errors import ClosedError, EmbeddedFailed
from support import eventually
from support.hooks import ask, limit

pytestmark = pytest.mark.usefixtures("root")


async def _role(server):
    return (await ask(server.url, "ROLE"))[0]


@pytest.mark.integration
async def test_cluster_routes_keys():
    """On entry every primary owns a third of the slots and takes its keys at once."""
    async with EmbeddedCluster(primaries=3) as cluster:
        assert len(cluster.servers) == 3
        async with RedisCluster.from_url(cluster.url) as client:
            for number in range(60):
                assert await client.set(f"key:{number}", number)
            for number in range(60):
                assert await client.get(f"key:{number}") == str(number).encode()
        sizes = [await ask(server.url, "DBSIZE") for server in cluster.primaries]
        assert sum(sizes) == 60
        assert all(sizes)

        # A killed node takes its slots down; started again, it takes them back.
        cluster.primaries[0].kill()
        await cluster.primaries[0].wait_exit()
        other = cluster.primaries[1].url
        await eventually(lambda: _cluster_is(other, "fail"))
        with pytest.raises(ResponseError, match="CLUSTERDOWN"):
            await ask(other, "GET", "key")
        await cluster.primaries[0].restart()
        await eventually(lambda: _cluster_is(other, "ok"))


async def _cluster_is(url, state):
    return f"cluster_state:{state}" in await ask(url, "CLUSTER", "INFO")


@pytest.mark.integration
async def test_cluster_survives_a_kill():
    """The replica of a killed primary takes over; restarted, that one follows it."""
    async with EmbeddedCluster(primaries=3, replicas=1) as cluster:
        assert [await _role(server) for server in cluster.primaries] == ["master"] * 3
        assert [await _role(server) for server in cluster.replicas] == ["slave"] * 3
        primary, replica = cluster.primaries[0], cluster.replicas[0]
        assert (await ask(replica.url, "ROLE"))[2] == primary.port
        primary.kill()
        await eventually(lambda: _is(replica, "master"))
        await primary.restart()
        await eventually(lambda: _is(primary, "slave"))


async def _is(server, role):
    try:
        return await _role(server) == role
    except OSError:  # a server closes its connections when its role changes
        return False


@pytest.mark.integration
async def test_sentinels_fail_over_on_command():
    """On entry every sentinel has its votes and its replica: a failover just works."""
    async with EmbeddedSentinels(replicas=1, sentinels=3) as group:
        for sentinel in group.sentinels:
            answer = await ask(sentinel.url, "SENTINEL", "CKQUORUM", group.name)
            assert "3 usable Sentinels" in answer
        where = await _switched(group, lambda: _order_failover(group))
        assert where == group.replicas[0].port
        assert await _role(group.replicas[0]) == "master"


async def _order_failover(group):
    assert await ask(group.sentinels[0].url, "SENTINEL", "FAILOVER", group.name)


@pytest.mark.integration
async def test_sentinels_replace_a_killed_primary():
    """A killed primary is replaced; restarted, it becomes a replica of the new one."""
    async with EmbeddedSentinels(replicas=2, sentinels=3) as group:
        assert len(group.servers) == 3

        async def kill():
            group.primary.kill(signal.SIGKILL)

        port = await _switched(group, kill)
        (new,) = (server for server in group.replicas if server.port == port)
        await eventually(lambda: _is(new, "master"))
        await group.primary.restart()
        await eventually(lambda: _is(group.primary, "slave"))


async def _switched(group, act):
    """Act, and return the port of the primary that a sentinel then announces."""
    client = Redis.from_url(group.sentinels[0].url, decode_responses=True)
    async with client, client.pubsub() as heard, asyncio.timeout(20):
        await heard.subscribe("+switch-master")
        assert (await heard.get_message(timeout=None))["type"] == "subscribe"
        await act()
        message = await heard.get_message(timeout=None)
        name, _, _, _, port = message["data"].split(" ")
        assert name == group.name
        return int(port)


@pytest.mark.errors
async def test_failing_node_takes_the_others_along(root):
    """When one node cannot start, those that did are gone with the error."""
    with pytest.raises(EmbeddedFailed, match="Bad directive"):
        await EmbeddedCluster(args=("--no-such-option", "1")).__aenter__()


@pytest.mark.errors
async def test_no_agreement(monkeypatch, root):
    """Nodes that do not agree in time are an error that says on what, and gone."""
    limit(monkeypatch, "cluster settles", 0.2)
    with pytest.raises(EmbeddedFailed, match=r"waited .* for the cluster state"):
        await EmbeddedCluster(primaries=1).__aenter__()


@pytest.mark.advanced
async def test_cancelled_while_agreeing(root):
    """A cluster cancelled while it forms leaves no process and no directory."""
    start = asyncio.get_running_loop().create_task(EmbeddedCluster().__aenter__())
    asyncio.get_running_loop().call_later(0.5, start.cancel)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert list(root.iterdir()) == []


@pytest.mark.errors
async def test_impossible_sizes():
    """A topology without its first member is refused, and each is single use."""
    with pytest.raises(EmbeddedFailed, match="at least 1 primary"):
        EmbeddedCluster(primaries=0)
    with pytest.raises(EmbeddedFailed, match="at least 1 sentinel"):
        EmbeddedSentinels(sentinels=0)
    with pytest.raises(ClosedError, match="async with"):
        _ = EmbeddedCluster().url
    async with EmbeddedSentinels(replicas=0, sentinels=1) as group:
        with pytest.raises(ClosedError, match="single use"):
            await group.__aenter__()
