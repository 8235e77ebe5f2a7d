"""Topics on a cluster: shard channels, each at the node that owns its slot."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import pytest
from redis.crc import key_slot

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import ClusterDown, OddswireError, Outcome, Unavailable
from oddswire.pubsub import Delivery, Gap, GapReason, PubSub, Topic
from oddswire.testing import frozen
from support import eventually
from support.hooks import ask
from support.keys import TopicKeys

LOGS = [Topic(f"log-{n}", int, delivery=Delivery.LOG, history=5000) for n in range(6)]
LIVE = [Topic(f"live-{n}", int) for n in range(6)]
PRICES = [Topic(f"prices-{n}", int, delivery=Delivery.LATEST) for n in range(3)]

pytestmark = [pytest.mark.integration, pytest.mark.requirement("P1", "C16")]


def _slot(topic):
    return key_slot(TopicKeys(topic).channel)


def _owner(cluster, topic):
    """Return the number of the primary that has a topic's slot at first."""
    return _slot(topic) * len(cluster.primaries) // 16_384


@asynccontextmanager
async def _topics(cluster, check_every=0.2, **options):
    options = {"command_timeout": 15.0, "reconnect_delay": 0.01, **options}
    async with (
        Client.from_url(cluster.cluster_url, **options) as client,
        PubSub(client, check_every=check_every) as pubsub,
    ):
        pubsub.client = client
        yield pubsub


async def _channels(server):
    return await ask(server.url, "PUBSUB", "SHARDCHANNELS")


class _Publisher:
    """Publishes numbers to each topic, one after the other, while its block is open.

    Attributes:
        sent: How many numbers each topic got.
        lost: Those that no server has: nobody knows whether they were published, or
            the replica that took over had not got them.
    """

    def __init__(self, pubsub, topics):
        self.sent = {topic.name: 0 for topic in topics}
        self.lost = {topic.name: set() for topic in topics}
        self._places = {topic.name: {} for topic in topics}
        self._pubsub, self._topics = pubsub, topics
        self._over = False

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(topic)) for topic in self._topics]
        return self

    async def __aexit__(self, *_):
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _work(self, topic):
        while not self._over:
            number = self.sent[topic.name]
            try:
                done = await self._pubsub.publish(topic, number)
            except OddswireError as error:
                if error.outcome is not Outcome.UNKNOWN:
                    raise
                self.lost[topic.name].add(number)
            else:
                self._note(topic.name, number, done.sequence)
            self.sent[topic.name] += 1

    def _note(self, name, number, sequence):
        # A sequence that comes again: the server went back behind the first one.
        places = self._places[name]
        for later in [each for each in places if each >= sequence]:
            self.lost[name].add(places.pop(later))
        places[sequence] = number

    def judge(self, name, events, check_runs):
        """Judge what a reader of a topic got: it misses nothing that a server has.

        A primary that was deposed publishes what it had read before, and its replica
        hears of that: such a message has a gap before it and behind it.
        """
        lost = self.lost[name]
        kept = [number for number in range(self.sent[name]) if number not in lost]
        check_runs(
            [
                each
                for each in events
                if isinstance(each, Gap) or each.value not in lost
            ],
            kept,
        )

    async def more(self, count=50):
        """Wait until each topic got so many more."""
        before = dict(self.sent)
        await eventually(
            lambda: all(n >= before[name] + count for name, n in self.sent.items()), 30
        )


@asynccontextmanager
async def _collected(pubsub, topics, collect):
    """Subscribe to each topic, and read it in a task."""
    async with AsyncExitStack() as stack:
        found = {}
        for topic in topics:
            sub = await stack.enter_async_context(pubsub.subscribe(topic))
            found[topic.name] = await stack.enter_async_context(collect(sub))
        yield found


async def _accounted(publisher, got):
    """Wait until what was published to a live topic is here, or in a gap's number."""
    for name, seen in got.items():
        total = publisher.sent[name]

        def whole(seen=seen, total=total):
            return len(seen.values) + sum(gap.lost or 0 for gap in seen.gaps) >= total

        await eventually(whole, 15)


async def test_each_topic_is_at_the_node_of_its_slot(collect):
    """Every topic is one shard channel at one node, and leaves it with its reader."""
    topics = [*LOGS, *LIVE, *PRICES]
    async with EmbeddedCluster(primaries=3) as cluster, _topics(cluster) as pubsub:
        async with _collected(pubsub, topics, collect) as got:
            for topic in topics:
                for number in range(20):
                    await pubsub.publish(topic, number)
            for topic in topics:
                await got[topic.name].saw(19)
            assert all(got[topic.name].gaps == [] for topic in topics)
            assert all(got[each.name].values == list(range(20)) for each in LOGS + LIVE)
            at = [len(await _channels(server)) for server in cluster.primaries]
            assert at == [
                sum(_owner(cluster, topic) == number for topic in topics)
                for number in range(3)
            ]
            assert all(at)

        async def nobody():
            return not any([await _channels(each) for each in cluster.primaries])

        await eventually(nobody)
        # The next subscription opens what was closed.
        async with pubsub.subscribe(LIVE[0]) as sub, collect(sub) as again:
            await pubsub.publish(LIVE[0], 99)
            await again.saw(99)


@pytest.mark.parametrize("atomic", [False, True], ids=["classic", "atomic"])
async def test_slots_move_under_the_topics(collect, check_runs, atomic):
    """Slots move: a log misses nothing, a live topic says what it lost."""
    topics = [*LOGS[:3], *LIVE[:3], PRICES[0]]
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        _topics(cluster) as pubsub,
        _topics(cluster) as other,
        _collected(pubsub, topics, collect) as got,
    ):
        async with _Publisher(other, topics) as publisher:
            await publisher.more()
            for turn in range(1, 4):
                for topic in topics:
                    slot, home = _slot(topic), _owner(cluster, topic)
                    source, target = (
                        cluster.primaries[(home + away) % 3]
                        for away in (turn - 1, turn)
                    )
                    await cluster.move_slots(slot, slot, source, target, atomic=atomic)
                await publisher.more()
        for topic in LOGS[:3]:
            count = publisher.sent[topic.name]
            await got[topic.name].saw(count - 1)
            assert got[topic.name].values == list(range(count))
            assert got[topic.name].gaps == []
        live = {topic.name: got[topic.name] for topic in LIVE[:3]}
        await _accounted(publisher, live)
        for name, seen in live.items():
            check_runs(seen.events, range(publisher.sent[name]))
            assert {gap.reason for gap in seen.gaps} <= {GapReason.DISCONNECTED}
        await got[PRICES[0].name].saw(publisher.sent[PRICES[0].name] - 1)


async def test_a_slot_that_stays_half_way(collect):
    """While a slot is on its way, the reader follows its topic to where it is going."""
    topics = [LOGS[0], LIVE[0]]
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        _topics(cluster) as pubsub,
        _collected(pubsub, topics, collect) as got,
    ):
        for topic in topics:
            await pubsub.publish(topic, 0)
            await got[topic.name].saw(0)
            home = _owner(cluster, topic)
            source, target = (cluster.primaries[(home + n) % 3] for n in (0, 1))
            await _half_move(cluster, _slot(topic), source, target)
            for number in range(1, 4):
                await pubsub.publish(topic, number)
            values = got[topic.name]
            await eventually(lambda seen=values: len(seen.events) >= 2)

            async def followed(server=target):
                return len(await _channels(server))

            await eventually(followed)
            # From here on nothing is missing: it listens where the topic is.
            for number in range(10, 20):
                await pubsub.publish(topic, number)
            await values.saw(19)
            assert values.values[-10:] == list(range(10, 20))
        assert got[LOGS[0].name].gaps == []
        [gap] = got[LIVE[0].name].gaps or [None]
        assert gap is None or gap.lost == 3


async def _half_move(cluster, slot, source, target):
    """Move the keys of a slot, and leave the slot itself where it was."""
    old = await ask(source.url, "CLUSTER", "MYID")
    new = await ask(target.url, "CLUSTER", "MYID")
    await ask(target.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", old)
    await ask(source.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)
    keys = await ask(source.url, "CLUSTER", "GETKEYSINSLOT", slot, 100)
    await ask(
        source.url,
        *("MIGRATE", "127.0.0.1", target.port, "", 0, 5000),
        *("AUTH", cluster.password, "KEYS", *keys),
    )


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_node_dies_under_its_topics(collect, check_runs, how):
    """The replica takes the topics over; what is missing then is a gap."""
    topics = [*LOGS, *LIVE]
    async with (
        EmbeddedCluster(primaries=3, replicas=1) as cluster,
        _topics(cluster, heartbeat_subscriber=1.0, heartbeat_answer=0.5) as pubsub,
        _topics(cluster) as other,
        _collected(pubsub, topics, collect) as got,
    ):
        victim, replica = cluster.primaries[0], cluster.replicas[0]
        assert any(_owner(cluster, topic) == 0 for topic in LOGS)
        assert any(_owner(cluster, topic) == 0 for topic in LIVE)

        async def took_over():
            return (await ask(replica.url, "ROLE"))[0] == "master"

        async with AsyncExitStack() as stack:
            publisher = await stack.enter_async_context(_Publisher(other, topics))
            await publisher.more()
            if how == "killed":
                victim.kill()
                await victim.wait_exit()
                await eventually(took_over)
            else:
                with frozen(victim):
                    await eventually(took_over)
                    await publisher.more()
            await publisher.more()
        for topic in LOGS:
            seen = got[topic.name]
            await seen.saw(publisher.sent[topic.name] - 1)
            publisher.judge(topic.name, seen.events, check_runs)
            # What the replica never got is a rollback; nothing else may be missing.
            assert {gap.reason for gap in seen.gaps} <= {GapReason.ROLLBACK}
        for topic in LIVE:
            seen = got[topic.name]
            last = publisher.sent[topic.name] - 1
            await eventually(lambda s=seen, n=last: n in s.values or s.gaps)
            publisher.judge(topic.name, seen.events, check_runs)
        here = {topic.name for topic in topics if _owner(cluster, topic) != 0}
        assert all(got[name].gaps == [] for name in here)


async def test_a_topic_of_a_slot_without_a_node():
    """Subscribing where nobody owns the slot fails in time and says what is missing."""
    async with EmbeddedCluster(primaries=3) as cluster:
        lonely = next(topic for topic in LIVE if _owner(cluster, topic) == 2)
        served = next(topic for topic in LIVE if _owner(cluster, topic) == 0)
        args = ("CONFIG", "SET", "cluster-require-full-coverage", "no")
        for server in cluster.primaries:
            await ask(server.url, *args)
        cluster.primaries[2].kill()
        await cluster.primaries[2].wait_exit()
        async with _topics(cluster, command_timeout=2.0) as pubsub:
            began = monotonic()
            with pytest.raises((ClusterDown, Unavailable)):
                async with pubsub.subscribe(lonely):
                    pass
            assert monotonic() - began < 8.0
            async with pubsub.subscribe(served) as sub:
                await pubsub.publish(served, 1)
                event = await anext(sub)
                assert not isinstance(event, Gap)
