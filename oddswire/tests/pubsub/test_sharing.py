"""One wire and one SUBSCRIBE per topic, however many listen."""

from __future__ import annotations

import asyncio
import gc

import pytest

from oddswire import Client
from oddswire.errors import ClosedError, NoPermission, OutOfMemory, Unavailable
from oddswire.pubsub import Delivery, PubSub, Topic
from oddswire.testing import FaultProxy
from support import eventually
from support.hooks import save_position

TICKS = Topic("ticks", int)
OTHERS = Topic("others", int)
EVENTS = Topic("events", int, delivery=Delivery.LOG)


async def _calls(client, command):
    stats = await client.info("commandstats")
    return stats.get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.mark.advanced
@pytest.mark.requirement("P1")
async def test_a_thousand_subscriptions_are_one_at_the_server(own, opened):
    """A topic is subscribed once, on one wire; the last to leave unsubscribes it."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        subs = [pubsub.subscribe(TICKS[f"k{n}"]) for n in range(500)]
        subs += [pubsub.subscribe(TICKS.matching(f"k{n}*")) for n in range(500)]
        async with asyncio.TaskGroup() as group:
            for sub in subs:
                group.create_task(sub.__aenter__())
        async with pubsub.subscribe(OTHERS):
            clients = await admin.client_list(_type="pubsub")
            assert len(clients) == 1
            assert clients[0]["sub"] == "2"
            assert await _calls(admin, "subscribe") == 2
            assert await _calls(admin, "psubscribe") == 0

            published = await pubsub.publish(TICKS["k7"], 7)
            assert published.subscribers == 1
            async with asyncio.timeout(5):
                assert (await anext(subs[7])).value == 7
                assert (await anext(subs[507])).value == 7

        for sub in subs:
            await sub.__aexit__(None, None, None)

        async def left():
            return not await admin.client_list(_type="pubsub")

        await eventually(left)
        assert await _calls(admin, "unsubscribe") in (1, 2)


@pytest.mark.performance
@pytest.mark.requirement("P1", "C14")
async def test_a_check_of_many_topics_is_one_command(own, opened):
    """Where topics end is asked by one command for hundreds of them, not by each."""
    topics = [Topic(f"t{n}", int, delivery=Delivery.LOG) for n in range(200)]
    async with (
        opened(own.url, check_every=0.1) as pubsub,
        Client.from_url(own.url) as admin,
        pubsub.subscribe(*topics),
    ):
        await admin.config_resetstat()

        async def counted():
            stats = await admin.info("commandstats")
            return {
                name.removeprefix("cmdstat_"): each["calls"]
                for name, each in stats.items()
            }

        calls = await eventually(counted, holds=lambda now: now.get("mget", 0) >= 5)

    # The others are this test's own, a heartbeat, and lives prolonged at the start.
    assert calls["mget"] < 20
    assert calls.get("get", 0) == 0
    assert calls.get("set", 0) == 0


@pytest.mark.advanced
@pytest.mark.requirement("P1")
async def test_leaving_and_entering_again_at_once(pubsub, take):
    """Whoever enters while the last one's leaving is under way misses nothing."""
    for n in range(50):
        async with pubsub.subscribe(EVENTS, TICKS) as sub:
            await pubsub.publish(EVENTS, n)
            await pubsub.publish(TICKS, n)
            events = await take(sub, 2)
        assert [each.value for each in events] == [n, n]


@pytest.mark.errors
async def test_cancelled_while_entering_nothing_is_left(own, opened):
    """An entering that was cancelled leaves no subscription behind."""
    async with opened(own.url) as pubsub, Client.from_url(own.url) as admin:
        for turns in range(12):
            sub = pubsub.subscribe(TICKS, EVENTS)
            entering = asyncio.get_running_loop().create_task(sub.__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            (outcome,) = await asyncio.gather(entering, return_exceptions=True)
            if outcome is sub:  # it was faster than the cancellation
                await sub.aclose()

        async def nothing():
            return not await admin.pubsub_channels("*")

        await eventually(nothing)
        statistics = pubsub.stats()
        assert all(topic.subscriptions == 0 for topic in statistics.topics.values())


@pytest.mark.errors
async def test_entering_without_a_server_is_an_error_within_the_deadline():
    """Nobody there: `Unavailable`, and the way out is clean."""
    async with (
        Client.from_url("redis://127.0.0.1:1", command_timeout=0.3) as client,
        PubSub(client) as pubsub,
    ):
        with pytest.raises(Unavailable, match="not subscribed to ticks"):
            await pubsub.subscribe(TICKS).__aenter__()


@pytest.mark.errors
async def test_a_channel_that_the_acl_forbids_is_named(own, opened, take):
    """A forbidden topic fails by itself; the others of the wire go on."""
    async with opened(own.url) as admin:
        client = admin.client
        await client.acl_setuser(
            "reader",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            commands=["+@all"],
            channels=["oddswire:topic:{ticks*"],
            reset_channels=True,
        )
        url = own.url.replace(f":{own.password}@", "reader:pw@")
        async with opened(url) as pubsub, pubsub.subscribe(TICKS) as sub:
            with pytest.raises(NoPermission):
                await pubsub.subscribe(EVENTS).__aenter__()
            await admin.publish(TICKS, 1)
            assert (await take(sub, 1))[0].value == 1
            statistics = pubsub.stats()
            assert (statistics.refused, statistics.connects) == (1, 1)


@pytest.mark.errors
@pytest.mark.parametrize("what", ["subscription", "PubSub"])
async def test_closed_while_it_is_entered_it_says_so_at_once(own, what):
    """Who waits for the server hears that it was closed, and does not wait on."""
    async with (
        FaultProxy(own.url) as proxy,
        Client.from_url(proxy.url, command_timeout=60.0) as client,
        Client.from_url(own.url) as admin,
    ):
        pubsub = await PubSub(client).__aenter__()
        async with pubsub.subscribe(OTHERS), asyncio.timeout(20):
            proxy.down.hold = True
            sub = pubsub.subscribe(TICKS)
            entering = asyncio.get_running_loop().create_task(sub.__aenter__())

            async def asked():
                return len(await admin.pubsub_channels("*"))

            await eventually(asked, holds=lambda now: now == 2)
            if what == "PubSub":
                await pubsub.__aexit__(None, None, None)
            else:
                await sub.aclose()
            with pytest.raises(ClosedError, match="was closed"):
                await entering
            proxy.heal()
        await pubsub.__aexit__(None, None, None)


@pytest.mark.errors
async def test_used_twice_or_closed(pubsub, client, prefix):
    """A subscription and a PubSub are used once, and say so."""
    sub = pubsub.subscribe(TICKS)
    with pytest.raises(ClosedError, match="enter the subscription"):
        await anext(sub)
    async with sub:
        pass
    with pytest.raises(ClosedError, match="subscribe again"):
        await sub.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await anext(sub)
    other = PubSub(client, prefix=prefix)
    with pytest.raises(ClosedError, match="enter the PubSub"):
        other.subscribe(TICKS)
    async with other:
        pass
    with pytest.raises(ClosedError):
        await other.__aenter__()


@pytest.mark.errors
async def test_nothing_is_left_running(own):
    """After closing there is no task and no connection of ours."""
    before = asyncio.all_tasks()
    async with Client.from_url(own.url) as admin:
        async with Client.from_url(own.url) as client, PubSub(client) as pubsub:
            async with pubsub.subscribe(TICKS, EVENTS):
                await pubsub.publish(TICKS, 1)
            abandoned = pubsub.subscribe(TICKS)
            await abandoned.__aenter__()

        async def gone():
            return len(await admin.client_list()) == 1

        await eventually(gone)
    gc.collect()
    assert asyncio.all_tasks() <= before


@pytest.mark.errors
@pytest.mark.parametrize(
    ("topic", "queue"),
    [(TICKS, 2000), (EVENTS, 2000), (EVENTS, 5)],
    ids=["volatile", "log", "log that is behind"],
)
async def test_cancelled_reads_lose_nothing(pubsub, topic, queue):
    """A read that is cancelled at any moment leaves the message to the next one."""
    got = []
    async with pubsub.subscribe(topic, queue=queue) as sub:

        async def publish():
            for n in range(300):
                await pubsub.publish(topic, n)

        publishing = asyncio.get_running_loop().create_task(publish())
        turns = 0
        async with asyncio.timeout(15):
            while len(got) < 300:
                reading = asyncio.get_running_loop().create_task(anext(sub))
                for _ in range(turns % 9):
                    await asyncio.sleep(0)
                turns += 1
                if turns % 9:
                    reading.cancel()
                (result,) = await asyncio.gather(reading, return_exceptions=True)
                if not isinstance(result, asyncio.CancelledError):
                    got.append(result.value)
        await publishing
    assert got == list(range(300))


@pytest.mark.errors
@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_catching_up_is_begun_again(pubsub, take, turns):
    """Cancelled while it reads the log, the next read goes on, with nothing new."""
    async with pubsub.subscribe(EVENTS, queue=5) as sub:
        for n in range(20):
            await pubsub.publish(EVENTS, n)
        reading = asyncio.get_running_loop().create_task(anext(sub))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        (first,) = await asyncio.gather(reading, return_exceptions=True)
        got = [] if isinstance(first, asyncio.CancelledError) else [first.value]
        got += [each.value for each in await take(sub, 20 - len(got))]
    assert got == list(range(20))


@pytest.mark.errors
async def test_positions_that_cannot_be_written_stop_nobody(own, opened, take):
    """A position that Redis refuses is written later; the messages go on."""
    async with opened(own.url) as pubsub:
        client = pubsub.client
        async with pubsub.subscribe(EVENTS, position="p") as sub:
            await pubsub.publish(EVENTS, 1)
            await take(sub, 1)
            await client.config_set("maxmemory", 1)
            assert await save_position(sub) == 1
            await client.config_set("maxmemory", 0)
        async with pubsub.subscribe(EVENTS, position="p") as sub:
            await pubsub.publish(EVENTS, 2)
            assert (await take(sub, 1))[0].value == 2


@pytest.mark.errors
async def test_out_of_memory_is_the_publishers_error_alone(own, opened, take):
    """A full server refuses a publish, typed; subscriptions stay and go on after it."""
    async with opened(own.url) as pubsub, pubsub.subscribe(EVENTS) as sub:
        await pubsub.publish(EVENTS, 1)
        await pubsub.client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemory):
            await pubsub.publish(EVENTS, 2)

        async def looks():
            return (await pubsub.client.info("commandstats"))["cmdstat_mget"]["calls"]

        before = await looks()
        # Two position checks under a full server.
        await eventually(looks, holds=lambda now: now >= before + 2)
        await pubsub.client.config_set("maxmemory", 0)
        await pubsub.publish(EVENTS, 3)
        assert [each.value for each in await take(sub, 2)] == [1, 3]
        assert pubsub.stats().refused == 0


@pytest.mark.advanced
@pytest.mark.requirement("P6")
async def test_nobody_subscribed_is_no_connection(pubsub, client, take):
    """The last reader takes the connection with it; the next one opens another."""
    topic = Topic("now and then", int, delivery=Delivery.LOG)
    connections = len(await client.client_list())

    async def closed():
        return len(await client.client_list()) == connections

    for number in range(2):
        async with pubsub.subscribe(topic) as sub:
            await pubsub.publish(topic, number)
            assert [each.value for each in await take(sub, 1)] == [number]
        await eventually(closed)
