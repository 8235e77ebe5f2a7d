"""A program on a cluster: the URL is all that differs."""

from __future__ import annotations

import asyncio

import pytest

import oddswire
from oddswire import Settings
from oddswire.client import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import ClusterDown, Outcome, Unavailable
from oddswire.health import Health
from oddswire.metrics.prometheus import Collector
from oddswire.pubsub import Delivery, Topic
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from support import eventually
from support.hooks import ask

RESULTS = Topic("results", str, delivery=Delivery.LOG)
ALERTS = QueueKey("alerts", str)
SLOW = Rule("slow", SlidingWindow(2, 60.0), key="user")

pytestmark = [pytest.mark.integration, pytest.mark.requirement("C16")]


async def _program(url):
    """Use every part of a Wire, and return what it saw."""
    seen = {}
    async with oddswire.connect(
        Settings(url=url, command_timeout=10.0),
        topics=[RESULTS],
        rules=[SLOW],
        queue=str,
        queues=[ALERTS],
    ) as wire:
        await wire.client.mset({"{a}1": 1, "{a}2": 2})
        seen["mget"] = await wire.client.mget("{a}1", "{a}2", "other")

        async def load(context):
            del context
            return "loaded"

        key = "market:1"
        seen["loaded"] = await wire.cache.get_or_set(key, load, tags=("user:7",))
        seen["cached"] = await wire.cache.get(key)
        await wire.cache.invalidate_tags("user:7")
        seen["invalidated"] = await wire.cache.get(key, "gone")

        def rename(session):
            session.metadata["name"] = "Ada"

        await wire.sessions.update(7, rename, create=True)
        seen["session"] = (await wire.sessions.get(7)).metadata
        seen["limits"] = [bool(await wire.limiter.hit("slow", user=7)) for _ in "abc"]
        async with wire.lock("one", 5.0):
            seen["lock"] = wire.locks.stats().held
        async with wire.pubsub.subscribe(RESULTS) as sub:
            await wire.pubsub.publish(RESULTS, "yes")
            seen["topic"] = (await anext(sub)).value
        handled = []

        async def handle(message):
            handled.append(message.value)

        for queue in (wire.queue, wire.queues[ALERTS]):
            await queue.enqueue(7, queue.name)
            consumer = asyncio.get_running_loop().create_task(queue.consume(handle))
            await eventually(lambda name=queue.name: name in handled)
            consumer.cancel()
            await asyncio.wait([consumer])
        seen["handled"] = handled
        report = await wire.health.check()
        seen["health"] = {check.name: check.status for check in report.checks}
        stats = await wire.stats()
        seen["sessions"] = stats.sessions.total
        await wire.metrics.sample()
        families = list(Collector(wire.metrics).collect())
        seen["families"] = {family.name for family in families}
        receipt = await wire.erase(7, search=True)
        seen["erased"] = receipt.complete
        seen["left"] = await wire.sessions.get(7)
    return seen


async def test_a_program_differs_in_its_url_alone(own):
    """The same program sees the same of every part on a server and on a cluster."""
    single = await _program(own.url)
    async with EmbeddedCluster(primaries=3) as cluster:
        whole = await _program(cluster.cluster_url)
    assert whole.pop("health").pop("cluster") == "pass"
    single.pop("health")
    assert whole == single
    assert whole["limits"] == [True, True, False]
    assert (whole["erased"], whole["left"]) == (True, None)


async def test_health_names_the_worst_node():
    """A check is that of the node where it is worst; a lost slot fails one of them."""
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        Client.from_url(cluster.cluster_url, command_timeout=2.0) as client,
    ):
        health = Health(client, durable=False)
        report = await health.check()
        assert report["cluster"].values["slots"] == 16_384
        odd = cluster.primaries[1]
        await ask(odd.url, "CONFIG", "SET", "maxmemory", str(10 << 30))
        await ask(odd.url, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        for server in cluster.primaries[::2]:
            await ask(server.url, "CONFIG", "SET", "maxmemory", str(10 << 30))
        check = (await health.check())["eviction"]
        assert check.status == "warn"
        assert check.values["node"] != f"{odd.host}:{odd.port}"

        cluster.primaries[2].kill()
        await cluster.primaries[2].wait_exit()

        async def failed():
            report = await health.check()
            return report if report["cluster"].status == "fail" else None

        report = await eventually(failed)
        assert report.status == "fail"
        assert (
            report["reachable"].values["node"].endswith(f":{cluster.primaries[2].port}")
        )
        assert "CLUSTER NODES" in report["cluster"].fix


async def test_a_cluster_without_a_node_ends_connect_in_time():
    """With every node dead, entering a Wire fails within its deadline and says why."""
    async with EmbeddedCluster(primaries=3) as cluster:
        url = cluster.cluster_url
    with pytest.raises((Unavailable, ClusterDown)) as caught:
        async with oddswire.connect(Settings(url=url, command_timeout=2.0)):
            pass
    assert caught.value.outcome is Outcome.NOT_SENT
