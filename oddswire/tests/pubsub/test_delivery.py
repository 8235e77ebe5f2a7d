"""Each class of topic while nothing is broken."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from oddswire.clock import SystemClock
from oddswire.errors import ClosedError, TopicError
from oddswire.pubsub import Delivery, Gap, GapReason, Message, PubSub, Topic
from support import eventually


class Price(msgspec.Struct, frozen=True):
    """What a market costs."""

    bid: float
    ask: float


PRICES = Topic("prices", Price, delivery=Delivery.LATEST)
TICKS = Topic("ticks", int)
EVENTS = Topic("events", int, delivery=Delivery.LOG)

pytestmark = pytest.mark.basic


@pytest.mark.parametrize("topic", [TICKS, EVENTS], ids=["volatile", "log"])
async def test_messages_come_typed_and_in_order(pubsub, take, topic):
    """What is published after entering is yielded, in order, with key, id and time."""
    async with pubsub.subscribe(topic) as sub:
        published = [await pubsub.publish(topic[f"k{n}"], n) for n in range(10)]
        events = await take(sub, 10)

    assert [each.value for each in events] == list(range(10))
    assert [each.key for each in events] == [f"k{n}" for n in range(10)]
    assert [each.id for each in events] == [each.id for each in published]
    assert [each.sequence for each in published] == list(range(1, 11))
    assert {each.topic for each in events} == {topic.name}
    assert all(abs(each.at - SystemClock().now()) < 5 for each in events)


async def test_nothing_from_before_entering_is_yielded(pubsub, take):
    """The position is fixed by entering, neither earlier nor by the first read."""
    await pubsub.publish(EVENTS, 1)
    async with pubsub.subscribe(EVENTS) as sub:
        await pubsub.publish(EVENTS, 2)
        (event,) = await take(sub, 1)
    assert event.value == 2


async def test_publishing_to_nobody_is_no_failure(pubsub):
    """Without subscribers a publish succeeds and says that nobody heard it."""
    published = await pubsub.publish(TICKS, 1)
    assert (published.subscribers, published.sequence) == (0, 1)


async def test_keys_and_patterns_select(pubsub, take):
    """A key or a pattern yields its messages only; the topic yields all of them."""
    async with (
        pubsub.subscribe(EVENTS["user:1"]) as one,
        pubsub.subscribe(EVENTS.matching("user:*")) as users,
        pubsub.subscribe(EVENTS) as all_,
    ):
        for value, key in enumerate(["user:1", "market:1", "user:2", "user:1"]):
            await pubsub.publish(EVENTS[key], value)
        assert [each.value for each in await take(one, 2)] == [0, 3]
        assert [each.value for each in await take(users, 3)] == [0, 2, 3]
        assert [each.value for each in await take(all_, 4)] == [0, 1, 2, 3]


async def test_several_topics_in_one_subscription(pubsub, take):
    """A subscription merges topics of every class, and no topic silences another."""
    async with pubsub.subscribe(TICKS, EVENTS, PRICES) as sub:
        for n in range(20):
            await pubsub.publish(TICKS, n)
        await pubsub.publish(EVENTS, 1)
        await pubsub.publish(PRICES["m"], Price(0.1, 0.2))
        await eventually(lambda: sub.depth == 22)
        events = await take(sub, 22)

    assert {each.topic for each in events[:4]} == {"ticks", "events", "prices"}
    assert [each.value for each in events if each.topic == "ticks"] == list(range(20))


async def test_latest_yields_the_newest_and_begins_with_what_is_stored(pubsub, take):
    """A new reader gets each key's value first; then only newer versions."""
    await pubsub.publish(PRICES["a"], Price(0.1, 0.2), version=5)
    async with pubsub.subscribe(PRICES) as sub:
        (stored,) = await take(sub, 1)
        assert (stored.key, stored.value) == ("a", Price(0.1, 0.2))

        older = await pubsub.publish(PRICES["a"], Price(0.9, 0.9), version=4)
        same = await pubsub.publish(PRICES["a"], Price(0.9, 0.9), version=5)
        newer = await pubsub.publish(PRICES["a"], Price(0.3, 0.4), version=6)
        (event,) = await take(sub, 1)

    assert (older.outdated, same.outdated, newer.outdated) == (True, True, False)
    assert older.id == same.id == stored.id
    assert event.value == Price(0.3, 0.4)
    assert await pubsub.latest(PRICES) == {"a": Price(0.3, 0.4)}


async def test_latest_without_a_version_takes_the_servers_clock(pubsub):
    """Publishes without a version follow one another, whatever came before."""
    await pubsub.publish(PRICES["a"], Price(1, 1), version=2**52)
    published = await pubsub.publish(PRICES["a"], Price(2, 2))
    assert not published.outdated
    assert await pubsub.latest(PRICES) == {"a": Price(2, 2)}


@pytest.mark.parametrize("topic", [TICKS, EVENTS], ids=["volatile", "log"])
async def test_a_dedup_id_is_published_once(pubsub, take, topic):
    """The second publish of an id does nothing and returns the first one's id."""
    async with pubsub.subscribe(topic) as sub:
        first = await pubsub.publish(topic, 1, dedup_id="market:outcome")
        second = await pubsub.publish(topic, 2, dedup_id="market:outcome")
        await pubsub.publish(topic, 3)
        events = await take(sub, 2)

    assert (first.duplicate, second.duplicate) == (False, True)
    assert (second.id, second.sequence) == (first.id, first.sequence)
    assert [each.value for each in events] == [1, 3]


async def test_log_begins_where_it_is_told(pubsub, take):
    """`start` takes earliest, the id of a message, and a time."""
    published = [await pubsub.publish(EVENTS, n) for n in range(5)]
    at = int(published[0].id.partition("-")[0]) / 1000
    for start, expected in [
        ("earliest", [0, 1, 2, 3, 4]),
        (published[2].id, [3, 4]),
        (at, [0, 1, 2, 3, 4]),
        (at + 3600, []),
    ]:
        async with pubsub.subscribe(EVENTS, start=start) as sub:
            published.append(await pubsub.publish(EVENTS, len(published)))
            later = range(5 if expected else len(published) - 1, len(published))
            events = await take(sub, len(expected) + len(later))
            assert [each.value for each in events] == [*expected, *later]


async def test_history_pages_through_a_log(pubsub):
    """`history` returns what is kept, oldest first, from after an id."""
    for n in range(5):
        await pubsub.publish(EVENTS["k"], n)
    first = await pubsub.history(EVENTS, limit=2)
    rest = await pubsub.history(EVENTS, after=first[-1].id)
    assert [each.value for each in first + rest] == [0, 1, 2, 3, 4]
    assert isinstance(first[0], Message)
    assert first[0].key == "k"


async def test_a_named_position_resumes(pubsub, take):
    """A reader of a name goes on behind the last message it was done with."""
    async with pubsub.subscribe(EVENTS, position="mailer") as sub:
        for n in range(4):
            await pubsub.publish(EVENTS, n)
        await take(sub, 2)
    await pubsub.publish(EVENTS, 4)
    async with pubsub.subscribe(EVENTS, position="mailer") as sub:
        events = await take(sub, 3)
    assert [each.value for each in events] == [2, 3, 4]


async def test_a_message_whose_handling_failed_comes_again(pubsub, take):
    """A block that is left by an error keeps its position before the last message."""

    async def fail():
        async with pubsub.subscribe(EVENTS, position="p") as sub:
            await pubsub.publish(EVENTS, 0)
            await pubsub.publish(EVENTS, 1)
            await take(sub, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with pubsub.subscribe(EVENTS, position="p") as sub:
        (event,) = await take(sub, 1)
    assert event.value == 1


async def test_closing_ends_the_iteration(client, prefix):
    """Leaving the PubSub ends iterations that wait, without an error."""
    seen = []

    async def read(sub):
        async with sub:
            entered.set()
            seen.extend([event async for event in sub])

    async with asyncio.TaskGroup() as group:
        async with PubSub(client, prefix=prefix) as pubsub:
            entered = asyncio.Event()
            task = group.create_task(read(pubsub.subscribe(TICKS)))
            await entered.wait()
            await pubsub.publish(TICKS, 1)
        await task
    with pytest.raises(ClosedError):
        pubsub.subscribe(TICKS)
    assert [each.value for each in seen] in ([1], [])


async def test_volatile_drops_the_oldest_and_says_how_many(pubsub, take):
    """A full queue keeps the newest; the gap says what was dropped."""
    async with pubsub.subscribe(TICKS, queue=10) as sub:
        await pubsub.publish(TICKS, 0)
        assert (await take(sub, 1))[0].value == 0
        for n in range(1, 31):
            await pubsub.publish(TICKS, n)
        dropped = pubsub.stats
        await eventually(lambda: dropped().topics["ticks"].dropped == 20)
        gap, *messages = await take(sub, 11)

    assert isinstance(gap, Gap)
    assert (gap.lost, gap.reason) == (20, GapReason.OVERFLOW)
    assert [each.value for each in messages] == list(range(21, 31))
    assert gap.next == messages[0].id


async def test_log_reads_again_what_its_queue_did_not_hold(pubsub, take):
    """A reader slower than its queue gets every message all the same."""
    async with pubsub.subscribe(EVENTS, queue=10) as sub:
        for n in range(700):
            await pubsub.publish(EVENTS, n)
        assert sub.depth <= 10
        events = await take(sub, 700)
    assert [each.value for each in events] == list(range(700))


async def test_two_tasks_cannot_read_one_subscription(pubsub):
    """The second task is told, and the first goes on."""
    async with pubsub.subscribe(TICKS) as sub, asyncio.TaskGroup() as group:
        first = group.create_task(anext(sub))
        await asyncio.sleep(0)
        with pytest.raises(TopicError, match="one task"):
            await anext(sub)
        await pubsub.publish(TICKS, 7)
        assert (await first).value == 7
