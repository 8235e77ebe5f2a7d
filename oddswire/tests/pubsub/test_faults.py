"""What breaks: between two gaps nothing is missing, doubled or out of order."""

from __future__ import annotations

import asyncio
import random
import signal
from inspect import signature
from time import monotonic

import pytest

from oddswire import Client, EmbeddedServer, Settings
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import OddswireError
from oddswire.events import Disconnected
from oddswire.pubsub import Delivery, Gap, GapReason, PubSub, Topic
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import find_gap, unheard
from support.keys import TopicKeys

LOG = Topic("log", int, delivery=Delivery.LOG, history=5000)
LIVE = Topic("live", int)
PRICES = Topic("prices", int, delivery=Delivery.LATEST)

pytestmark = pytest.mark.errors


async def _kill(client):
    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.requirement("P2")
async def test_three_disconnects_lose_nothing_of_a_log(own, opened, collect):
    """2,000 messages under 3 forced disconnects: all, once, in order, and no gap."""
    async with (
        opened(own.url) as pubsub,
        Client.from_url(own.url) as other,
        pubsub.subscribe(LOG) as sub,
        collect(sub) as got,
    ):
        for n in range(2000):
            await pubsub.publish(LOG, n)
            if n in (500, 1000, 1500):
                await _kill(other)
        await got.saw(1999)
        assert got.values == list(range(2000))
        assert got.gaps == []
        assert pubsub.stats().connects >= 2


@pytest.mark.requirement("P2")
async def test_three_disconnects_of_a_live_topic_are_all_announced(
    own, opened, collect, check_runs
):
    """A live topic loses what it loses, and the gaps count every message of it."""
    async with (
        opened(own.url) as pubsub,
        Client.from_url(own.url) as other,
        pubsub.subscribe(LIVE) as sub,
        collect(sub) as got,
    ):
        for n in range(2000):
            await pubsub.publish(LIVE, n)
            if n in (500, 1000, 1500):
                await _kill(other)
        # The last one may be among the lost: then the gap that counts it ends the wait.
        await eventually(
            lambda: len(got.values) + sum(gap.lost for gap in got.gaps) == 2000
        )
        check_runs(got.events, range(2000))
        assert {gap.reason for gap in got.gaps} <= {GapReason.DISCONNECTED}


@pytest.mark.requirement("P2")
async def test_a_lost_last_message_is_noticed(own, opened, take):
    """A message that never arrived, with none after it, is found within a check."""
    async with (
        FaultProxy(own.url) as proxy,
        opened(own.url) as publisher,
        opened(proxy.url) as pubsub,
        pubsub.subscribe(LOG) as log,
        pubsub.subscribe(LIVE) as live,
        pubsub.subscribe(PRICES) as prices,
    ):
        # What the server keeps changes without a message that tells so.
        for topic in (LOG, LIVE, PRICES):
            with unheard(publisher, topic):
                await publisher.publish(topic, 7)
        began = monotonic()
        (first,) = await take(log, 1)
        (gap,) = await take(live, 1)
        (price,) = await take(prices, 1)
        assert monotonic() - began < 5.0
        assert (first.value, price.value) == (7, 7)
        assert (gap.lost, gap.next, gap.reason) == (1, None, GapReason.LOST)


@pytest.mark.requirement("P2")
async def test_a_half_open_link_is_found_by_the_heartbeat(own, opened, collect):
    """A link that went silent is replaced after one heartbeat, and nothing is lost."""
    async with (
        FaultProxy(own.url) as proxy,
        opened(own.url) as publisher,
        opened(
            proxy.url,
            check_every=60,
            heartbeat_subscriber=0.3,
            heartbeat_answer=0.2,
        ) as pubsub,
        pubsub.subscribe(LOG) as sub,
        collect(sub) as got,
    ):
        await publisher.publish(LOG, 0)
        await got.saw(0)
        # The links that are up die in silence; new ones work, as behind a balancer.
        pubsub.client.events.subscribe(lambda _: proxy.heal(), Disconnected)
        proxy.blackhole()
        began = monotonic()
        await publisher.publish(LOG, 1)
        await got.saw(1)
        assert monotonic() - began < 20.0
        assert got.values == [0, 1]


@pytest.mark.requirement("P2")
async def test_the_defaults_find_a_dead_link_within_seven_seconds():
    """Half-open within 4 s + 2 s, a lost last message within 4 s and a round trip."""
    settings = Settings()
    assert settings.heartbeat_subscriber + settings.heartbeat_answer <= 7.0
    assert signature(PubSub).parameters["check_every"].default <= 6.0


@pytest.mark.requirement("P2", "C3")
@pytest.mark.parametrize("aof", [True, False], ids=["kept", "empty"])
async def test_a_server_that_restarts(opened, collect, check_runs, aof):
    """With its data nothing is missing; without it a gap says that it began anew."""
    # Else a server that is killed may lose what it acknowledged last.
    always = ("--appendfsync", "always") if aof else ()
    async with (
        EmbeddedServer(aof=aof, args=always) as server,
        opened(server.url) as pubsub,
        pubsub.subscribe(LOG, PRICES) as sub,
        collect(sub) as got,
    ):
        for n in range(100):
            await pubsub.publish(LOG, n)
        await pubsub.publish(PRICES["m"], 1000, version=1)
        await got.saw(1000)
        server.kill()
        await server.wait_exit()
        await server.restart()
        for n in range(100, 200):
            await pubsub.publish(LOG, n)
        await pubsub.publish(PRICES["m"], 1001, version=2)
        await got.saw(199)
        await got.saw(1001)

        logged = [each for each in got.events if each.topic == "log"]
        assert check_runs(logged, range(200)) == list(range(200))
        assert [gap.reason for gap in got.gaps] == ([] if aof else [GapReason.RESET])


@pytest.mark.requirement("P2", "P3")
async def test_a_subscriber_over_its_output_limit_catches_up(opened, collect):
    """The server drops a slow link without a word; the log is read again."""
    big = Topic("big", str, delivery=Delivery.LOG, history=5000)
    limit = ("--client-output-buffer-limit", "pubsub 16384 0 0")
    async with (
        EmbeddedServer(args=limit) as server,
        opened(server.url) as pubsub,
        pubsub.subscribe(big) as sub,
        collect(sub) as got,
    ):
        # Each is more than the server keeps for a subscriber: it cuts the link.
        values = [f"{n}:{random.randbytes(100_000).hex()}" for n in range(20)]
        for value in values:
            await pubsub.publish(big, value)
        await got.saw(values[-1])
        assert got.values == values
        assert got.gaps == []
        assert pubsub.stats().connects > 1


async def _roll_back(admin, dumps):
    # At once: a reader makes a head where it finds none.
    async with admin.pipeline(transaction=True) as pipe:
        for key, dump in dumps.items():
            pipe.delete(key)
            if dump is not None:
                pipe.restore(key, 0, dump)
        await pipe.execute()


async def _dump(admin, keys):
    return {key: await admin.dump(key) for key in (keys.head, keys.log, keys.newest)}


@pytest.mark.requirement("P2")
@pytest.mark.parametrize("away", [True, False], ids=["offline", "online"])
async def test_a_rollback_is_a_gap_and_repeats_nothing(
    own, opened, collect, check_runs, away
):
    """A server that lost 5 acknowledged messages and took 10 new ones is found out.

    An offset would say: 60 is more than 55, go on. Those that were read before and
    survived are not read again.
    """
    async with (
        FaultProxy(own.url) as proxy,
        Client.from_url(own.url) as admin,
        opened(own.url) as publisher,
        opened(proxy.url, reconnect_cap=0.05) as pubsub,
        pubsub.subscribe(LOG) as sub,
        collect(sub) as got,
    ):
        for n in range(50):
            await publisher.publish(LOG, n)
        keys = TopicKeys(LOG)
        dumps = await _dump(admin, keys)
        for n in range(50, 55):
            await publisher.publish(LOG, n)
        await got.saw(54)
        if away:
            proxy.refuse()
            proxy.reset()
        await _roll_back(admin, dumps)
        for n in range(100, 110):
            await publisher.publish(LOG, n)
        proxy.accept()
        await got.saw(109)
        order = [*range(55), *range(100, 110)]
        assert check_runs(got.events, order) == order
        assert [gap.reason for gap in got.gaps] == [GapReason.ROLLBACK]


@pytest.mark.requirement("P2")
async def test_an_id_given_out_twice_is_not_taken_for_the_same(own, opened, take):
    """The link holds random bits: the id alone can repeat after a rollback."""
    async with (
        opened(own.url, check_every=30) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(LOG) as sub,
    ):
        keys = TopicKeys(LOG)
        await pubsub.publish(LOG, 0)
        # Ids that do not depend on the clock: the next is always one higher.
        await admin.execute_command("XSETID", keys.log, f"{2**45}-0")
        await pubsub.publish(LOG, 1)
        dumps = await _dump(admin, keys)
        lost = await pubsub.publish(LOG, 2)
        events = await take(sub, 3)
        await _roll_back(admin, dumps)
        other = await pubsub.publish(LOG, 3)
        assert other.id.rpartition("-")[0] == lost.id.rpartition("-")[0]
        await pubsub.publish(LOG, 4)
        gap, *rest = await take(sub, 3)

    assert [each.value for each in events] == [0, 1, 2]
    assert (gap.reason, gap.after, gap.next) == (GapReason.ROLLBACK, lost.id, other.id)
    assert [each.value for each in rest] == [3, 4]


@pytest.mark.requirement("P2")
@pytest.mark.parametrize("topic", [LOG, LIVE], ids=["log", "volatile"])
async def test_a_number_that_fits_is_not_enough(own, opened, take, topic):
    """5 messages lost in a failover and 5 others unheard: the next number fits.

    What tells is the predecessor that the next message names.
    """
    async with (
        opened(own.url, check_every=60) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(topic) as sub,
    ):
        keys = TopicKeys(topic)
        for n in range(50):
            await pubsub.publish(topic, n)
        dumps = await _dump(admin, keys)
        for n in range(50, 55):
            await pubsub.publish(topic, n)
        await take(sub, 55)
        await _roll_back(admin, dumps)
        with unheard(pubsub, topic):
            for n in range(100, 105):
                await pubsub.publish(topic, n)
        assert (await pubsub.publish(topic, 105)).sequence == 56
        gap, *rest = await take(sub, 7 if topic is LOG else 2)
    assert gap.reason is GapReason.ROLLBACK
    expected = list(range(100, 106)) if topic is LOG else [105]
    assert [each.value for each in rest] == expected


@pytest.mark.requirement("P2")
async def test_a_position_is_not_behind_a_gap_that_was_not_told(own, opened, take):
    """A reader that ends between finding a gap and telling it tells it next time."""
    async with opened(own.url) as pubsub:
        async with pubsub.subscribe(LOG, position="p") as sub:
            await pubsub.publish(LOG, 0)
            await take(sub, 1)
            keys = TopicKeys(LOG)
            await pubsub.client.delete(keys.head, keys.log)
            await pubsub.publish(LOG, 1)
            await find_gap(sub)
        async with pubsub.subscribe(LOG, position="p") as sub:
            gap, event = await take(sub, 2)
        assert (gap.reason, event.value) == (GapReason.RESET, 1)


@pytest.mark.requirement("P2")
async def test_a_flush_is_a_gap_also_for_who_saw_nothing_yet(own, opened, take):
    """A topic that began anew is told from one that had no message: by its root."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        keys = TopicKeys(LOG)
        async with pubsub.subscribe(LOG, position="p"):
            pass
        for n in range(5):
            await pubsub.publish(LOG, n)
        await admin.delete(keys.head, keys.log)
        await pubsub.publish(LOG, 5)
        async with pubsub.subscribe(LOG, position="p") as sub:
            gap, event = await take(sub, 2)
            assert (gap.reason, gap.lost, event.value) == (GapReason.RESET, None, 5)
            await admin.flushall()
            await pubsub.publish(LOG, 6)
            gap, event = await take(sub, 2)
            assert (gap.reason, gap.lost, event.value) == (GapReason.RESET, None, 6)


@pytest.mark.requirement("P2")
async def test_what_was_trimmed_is_counted(own, opened, take):
    """Back after more than `history` messages: the gap says how many are gone."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        first = await pubsub.publish(LOG, 0)
        for n in range(1, 50):
            await pubsub.publish(LOG, n)
        await admin.xtrim(TopicKeys(LOG).log, maxlen=10, approximate=False)
        async with pubsub.subscribe(LOG, position="a", start=first.id) as sub:
            gap, *rest = await take(sub, 11)
            assert [each.value for each in rest] == list(range(40, 50))
            assert (gap.reason, gap.lost) == (GapReason.TRIMMED, None)
        for n in range(50, 100):
            await pubsub.publish(LOG, n)
        await admin.xtrim(TopicKeys(LOG).log, maxlen=10, approximate=False)
        async with pubsub.subscribe(LOG, position="a") as sub:
            gap, *rest = await take(sub, 11)
        assert [each.value for each in rest] == list(range(90, 100))
        assert (gap.reason, gap.lost) == (GapReason.TRIMMED, 40)


@pytest.mark.requirement("P2")
async def test_trimming_up_to_the_reader_is_no_gap(own, opened, take):
    """The chain proves that nothing is missing though the last read entry is gone."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        published = [await pubsub.publish(LOG, n) for n in range(20)]
        await admin.xtrim(TopicKeys(LOG).log, maxlen=10, approximate=False)
        async with pubsub.subscribe(LOG, start=published[9].id) as sub:
            events = await take(sub, 10)
        assert [each.value for each in events] == list(range(10, 20))


@pytest.mark.requirement("P2")
async def test_an_expired_log_is_one_gap_and_not_one_each_check(own, opened, take):
    """The log is gone and its head is there: told once, then it goes on."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        async with pubsub.subscribe(LOG, position="a") as sub:
            await pubsub.publish(LOG, 0)
            await take(sub, 1)
        await pubsub.publish(LOG, 1)
        await pubsub.publish(LOG, 2)
        await admin.delete(TopicKeys(LOG).log)
        async with pubsub.subscribe(LOG, position="a") as sub:
            (gap,) = await take(sub, 1)
            assert (gap.reason, gap.lost) == (GapReason.EXPIRED, 2)
            with pytest.raises(TimeoutError):
                await take(sub, 1, within=0.7)
            await pubsub.publish(LOG, 3)
            (event,) = await take(sub, 1)
            assert event.value == 3


@pytest.mark.requirement("P2")
async def test_a_clock_that_goes_back_changes_nothing(own, opened, take):
    """Ids that jump back after the log expired: compared as links, nothing is lost.

    The stream is given ids an hour ahead, as by a clock that is set back afterwards.
    """
    async with (
        opened(own.url) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(LOG) as sub,
    ):
        keys = TopicKeys(LOG)
        await pubsub.publish(LOG, 0)
        ahead = int((await admin.time())[0] * 1000) + 3_600_000
        await admin.execute_command("XSETID", keys.log, f"{ahead}-0")
        for n in range(1, 5):
            await pubsub.publish(LOG, n)
        await admin.delete(keys.log)
        for n in range(5, 10):
            await pubsub.publish(LOG, n)
        events = await take(sub, 10)
    assert [each.value for each in events] == list(range(10))


@pytest.mark.requirement("P2")
async def test_a_failover_that_loses_a_tail_is_told(collect, check_runs):
    """The primary acknowledged messages that no replica had: a gap, not a silence."""
    async with EmbeddedSentinels(replicas=1, sentinels=3) as group:
        hosts = ",".join(f"{each.host}:{each.port}" for each in group.sentinels)
        async with (
            Client.from_url(
                f"redis://:{group.password}@{group.name}/0",
                sentinels=hosts,
                sentinel_password=group.password,
                command_timeout=2.0,
                reconnect_delay=0.01,
            ) as client,
            PubSub(client, check_every=0.2) as pubsub,
            pubsub.subscribe(LOG) as sub,
            collect(sub) as got,
        ):
            order = list(range(100))
            for n in order:
                await pubsub.publish(LOG, n)
            await client.wait(1, 5000)
            with frozen(group.replicas[0]):
                await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
                for n in range(100, 120):
                    await pubsub.publish(LOG, n)
                    order.append(n)
                await got.saw(119)
                group.primary.kill(signal.SIGKILL)
            n = 1000
            async with asyncio.timeout(20):
                while n < 1020:
                    try:
                        await pubsub.publish(LOG, n)
                    except OddswireError:
                        await asyncio.sleep(0.02)
                    else:
                        order.append(n)
                        n += 1
            await got.saw(1019)
            assert check_runs(got.events, order) == order
            assert [gap.reason for gap in got.gaps] == [GapReason.ROLLBACK]
            kept = [each.value for each in await pubsub.history(LOG, limit=1000)]
            assert kept == [*range(100), *range(1000, 1020)]


@pytest.mark.requirement("P2")
async def test_a_failover_keeps_the_newest_value(own, opened, take):
    """A value that a failover lost is given back by who has it, and never goes back."""
    async with (
        opened(own.url) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(PRICES) as sub,
    ):
        await pubsub.publish(PRICES["a"], 1, version=1)
        await pubsub.publish(PRICES["b"], 1, version=1)
        await take(sub, 2)
        dumps = await _dump(admin, TopicKeys(PRICES))
        await pubsub.publish(PRICES["a"], 2, version=2)
        (event,) = await take(sub, 1)
        assert event.value == 2
        await _roll_back(admin, dumps)
        refresh = asyncio.get_running_loop().create_task(anext(sub))

        async def given_back():
            return await pubsub.latest(PRICES) == {"a": 2, "b": 1}

        await eventually(given_back)
        assert not refresh.done()
        await pubsub.publish(PRICES["b"], 5, version=5)
        assert (await refresh).value == 5


@pytest.mark.requirement("P2")
async def test_a_flushed_value_is_not_brought_back(own, opened, take):
    """What somebody deleted stays deleted: a new chain is not a rollback."""
    async with (
        opened(own.url) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(PRICES) as sub,
    ):
        await pubsub.publish(PRICES["a"], 1, version=1)
        await take(sub, 1)
        loop = asyncio.get_running_loop()
        recoveries = lambda: pubsub.stats().topics["prices"].recoveries  # noqa: E731 - polled
        reading = loop.create_task(anext(sub))
        # It knows the chain that is about to end.
        await eventually(recoveries)
        await admin.flushall()
        before = recoveries()
        await pubsub.publish(PRICES["b"], 2, version=1)
        assert (await reading).key == "b"
        reading = loop.create_task(anext(sub))
        await eventually(lambda: recoveries() > before)
        assert await pubsub.latest(PRICES) == {"b": 2}
        reading.cancel()


async def test_a_reader_waits_while_redis_is_away(collect, opened):
    """Reading does not raise when the server is down; it goes on when it is back."""
    async with (
        EmbeddedServer(aof=True) as server,
        opened(server.url, reconnect_probe=0.1, command_timeout=2.0) as pubsub,
        pubsub.subscribe(LOG) as sub,
        collect(sub) as got,
    ):
        await pubsub.publish(LOG, 0)
        await got.saw(0)
        await server.stop()
        with pytest.raises(OddswireError):
            await pubsub.publish(LOG, 1)
        await server.restart()
        async with asyncio.timeout(10):
            while True:
                try:
                    await pubsub.publish(LOG, 2)
                    break
                except OddswireError:
                    await asyncio.sleep(0.02)
        await got.saw(2)
        assert got.gaps == []


async def test_an_unasked_unsubscribe_is_subscribed_again(own, opened, take):
    """A server that takes the subscription away is asked again."""
    async with (
        FaultProxy(own.url) as proxy,
        opened(own.url) as publisher,
        opened(proxy.url, check_every=30) as pubsub,
        pubsub.subscribe(LOG) as sub,
    ):
        channel = TopicKeys(LOG).channel
        proxy.inject(
            b">3\r\n$11\r\nunsubscribe\r\n$%d\r\n%b\r\n:0\r\n" % (len(channel), channel)
        )
        await publisher.publish(LOG, 1)
        (event,) = await take(sub, 1)
        assert event.value == 1

        async def asked_twice():
            info = await publisher.client.info("commandstats")
            return info["cmdstat_subscribe"]["calls"] == 2

        await eventually(asked_twice)


@pytest.mark.requirement("P2")
@pytest.mark.parametrize(
    "damage",
    [
        lambda number, link, epoch, run: b"x",
        lambda number, link, epoch, run: b" ".join((number, b"1-0-zz", epoch, run)),
        lambda number, link, epoch, run: b" ".join((b"9" * 26, link, epoch, run)),
        lambda number, link, epoch, run: b" ".join((b"-5", link, epoch, run)),
    ],
    ids=["all", "link", "number", "sign"],
)
async def test_a_head_that_somebody_damaged_costs_a_gap(
    pubsub, client, prefix, take, damage
):
    """The next message mends it: a gap, then every message once and in order."""
    topic = Topic("damaged", int, delivery=Delivery.LOG)
    async with pubsub.subscribe(topic) as sub:
        await pubsub.publish(topic, 1)
        (first,) = await take(sub, 1)
        (head,) = [key async for key in client.scan_iter(f"{prefix}topic-head:*")]
        whole = await client.execute_command("GET", head, NEVER_DECODE=True)
        await client.set(head, damage(*whole.split(b" ")))
        for number in range(2, 6):
            await pubsub.publish(topic, number)
        gap, *rest = await take(sub, 5)
    assert first.value == 1
    assert isinstance(gap, Gap)
    assert [each.value for each in rest] == [2, 3, 4, 5]
    number, link, *_ = (
        await client.execute_command("GET", head, NEVER_DECODE=True)
    ).split(b" ")
    assert len(number) <= 15
    assert len(link.rpartition(b"-")[2]) == 16
