"""Bad input: a typed error or a gap, and nothing else is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import connect
from oddswire.codec import Codec
from oddswire.errors import (
    ClosedError,
    CodecError,
    InvalidKey,
    TopicError,
    WrongLoop,
)
from oddswire.pubsub import Delivery, Gap, GapReason, PubSub, Topic
from oddswire.pubsub.topic import Selection
from support import eventually
from support.hooks import publish_as
from support.keys import TopicKeys


class Price(msgspec.Struct, frozen=True):
    """What a market costs."""

    bid: float


TICKS = Topic("ticks", Price)
PRICES = Topic("prices", Price, delivery=Delivery.LATEST)
EVENTS = Topic("events", Price, delivery=Delivery.LOG)
SMALL = Topic("small", bytes, max_size=1000)
ALL = [TICKS, PRICES, EVENTS]

pytestmark = pytest.mark.errors


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.delivery.value)
async def test_a_value_of_another_type_is_refused(pubsub, topic):
    """Nothing is published that a subscriber could not read."""
    for value in (7, "text", None, {"bid": "high"}, object()):
        with pytest.raises(CodecError, match=f"topic {topic.name}") as caught:
            await pubsub.publish(topic, value)
        assert caught.value.reason == "type"
    assert pubsub.stats().topics[topic.name].published == 0


async def test_a_value_that_is_too_large_is_refused(pubsub):
    """The limit of the topic holds before anything is sent."""
    await pubsub.publish(SMALL, b"x" * 900)
    with pytest.raises(CodecError, match="the limit is 1000") as caught:
        await pubsub.publish(SMALL, b"x" * 1001)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.delivery.value)
@pytest.mark.parametrize("what", ["newer", "type", "damaged", "foreign"])
async def test_what_cannot_be_read_is_a_gap(client, prefix, take, topic, what):
    """A message of a newer schema, another type or damaged is told in its place."""
    good = Codec(Price).encode(Price(0.5))
    bad = {
        "newer": b"\xfa" + good[1:],
        "type": Codec(str).encode("text"),
        "damaged": good[:-1] + b"!",
        "foreign": b"hello",
    }[what]
    async with (
        PubSub(client, prefix=prefix) as pubsub,
        pubsub.subscribe(topic) as sub,
    ):
        await pubsub.publish(topic["a"], Price(1))
        first = await take(sub, 1)
        published = await publish_as(pubsub, topic["b"], bad)
        await pubsub.publish(topic["c"], Price(3))
        events = first + await take(sub, 2)
        counts = pubsub.stats().topics[topic.name]

    gap = next(each for each in events if isinstance(each, Gap))
    assert (gap.reason, gap.lost) == (GapReason.UNREADABLE, 1)
    assert published.id != gap.after or topic is PRICES
    assert [each.value.bid for each in events if not isinstance(each, Gap)] == [1, 3]
    assert (counts.unreadable, counts.delivered) == (1, 2)


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.delivery.value)
async def test_other_peoples_messages_are_counted_and_left(client, prefix, take, topic):
    """What somebody else publishes on our channel breaks nothing."""
    async with (
        PubSub(client, prefix=prefix) as pubsub,
        pubsub.subscribe(topic) as sub,
    ):
        channel = TopicKeys(topic, prefix).channel
        for data in (b"", b"hello", b"a b c d e f g", b"1 2 3", b"\xff" * 100):
            await client.publish(channel, data)
        await pubsub.publish(topic, Price(1))
        events = await take(sub, 1)
        assert events[-1].value == Price(1)
        assert pubsub.stats().topics[topic.name].foreign >= 4


@pytest.mark.requirement("X4")
@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.delivery.value)
@pytest.mark.parametrize(
    "link",
    [
        b"junk",
        b"\xff\xfe-1-" + b"a" * 16,
        b"9" * 400 + b"-1-" + b"a" * 16,
        b"9" * 5000 + b"-1-" + b"a" * 16,
        b"-" * 20,
        b"1-1-" + b"a" * 16,
    ],
    ids=["word", "bytes", "future", "number", "dashes", "root"],
)
async def test_a_frame_that_looks_like_ours_ends_no_subscription(
    client, prefix, take, topic, link
):
    """What follows our last message and is none of ours is a gap at most."""
    async with (
        PubSub(client, prefix=prefix, check_every=0.2) as pubsub,
        pubsub.subscribe(topic) as sub,
    ):
        before = await pubsub.publish(topic, Price(1))
        assert [e.value for e in await take(sub, 1)] == [Price(1)]
        keys = TopicKeys(topic, prefix)
        for number in (b"2", b"9" * 5000, b"-1"):
            frame = b" ".join((number, link, before.id.encode(), b"", b"3", b"\xc1"))
            await client.publish(keys.channel, frame)
        await client.set(keys.head, b"2 " + link + b" epoch")
        await pubsub.publish(topic, Price(2))
        async with asyncio.timeout(10):
            async for event in sub:
                if not isinstance(event, Gap) and event.value == Price(2):
                    break
        await pubsub.publish(topic, Price(3))
        async with asyncio.timeout(10):
            async for event in sub:
                if not isinstance(event, Gap) and event.value == Price(3):
                    break


@pytest.mark.requirement("P2")
@pytest.mark.parametrize("start", ["earliest", "id"])
@pytest.mark.parametrize("foreign", [500, 1_100])
async def test_a_log_goes_on_behind_pages_of_other_peoples_entries(
    client, prefix, pubsub, take, start, foreign
):
    """However much somebody else wrote into the stream, our messages are found."""
    topic = Topic("shared", Price, delivery=Delivery.LOG, history=10_000)
    log = TopicKeys(topic, prefix).log

    async def others():
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(foreign):
                pipe.xadd(log, {"somebody": "else"})
            await pipe.execute()

    if start == "earliest":
        await others()
    first = await pubsub.publish(topic, Price(1.0))
    await others()
    await pubsub.publish(topic, Price(2.0))
    await others()
    place = "earliest" if start == "earliest" else first.id
    async with pubsub.subscribe(topic, start=place) as sub:
        await pubsub.publish(topic, Price(3.0))
        expected = [1.0, 2.0, 3.0][start == "id" :]
        events = await take(sub, len(expected))
        assert [event.value.bid for event in events] == expected


async def test_damaged_keys_of_ours_are_survived(own, opened, take):
    """A head and entries that are not ours: the topic begins anew, with a gap."""
    async with opened(own.url) as pubsub, pubsub.subscribe(EVENTS) as sub:
        keys = TopicKeys(EVENTS)
        await pubsub.publish(EVENTS, Price(1))
        await pubsub.client.set(keys.head, "garbage")
        await pubsub.client.xadd(keys.log, {"what": "ever"})
        await pubsub.publish(EVENTS, Price(2))
        first, gap, second = await take(sub, 3)
        while isinstance(second, Gap):
            (second,) = await take(sub, 1)
    assert (first.value, second.value) == (Price(1), Price(2))
    assert isinstance(gap, Gap)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Topic("", int),
        lambda: Topic("x" * 600, int),
        lambda: Topic("t", int, history=0),
        lambda: Topic("t", int, history=1.5),
        lambda: Topic("t", int, delivery="log"),
        lambda: Topic("t", int, retention=0.1),
        lambda: Topic("t", int, retention=float("nan")),
        lambda: Topic("t", int, max_size=0),
        lambda: TICKS[""],
        lambda: TICKS["a b"],
        lambda: TICKS["x" * 257],
        lambda: TICKS["\ud800"],
        lambda: TICKS[7],
        lambda: TICKS.matching("a\nb"),
    ],
    ids=range(14),
)
@pytest.mark.requirement("C7")
def test_topics_and_keys_that_cannot_be(make):
    """A name, a key or a number that cannot be used is refused where it is written."""
    with pytest.raises(TopicError):
        make()


async def test_arguments_that_cannot_be(pubsub):
    """Each is named, and says what is accepted."""
    for call, text in [
        (pubsub.publish(TICKS, Price(1), version=1), "version is for LATEST"),
        (pubsub.publish(PRICES, Price(1), dedup_id="x"), "by their version"),
        (pubsub.publish(PRICES, Price(1), version=-1), "whole number"),
        (pubsub.publish(PRICES, Price(1), version=2**53), "whole number"),
        (pubsub.publish(PRICES, Price(1), version=1.5), "whole number"),
        (pubsub.publish(EVENTS, Price(1), dedup_id="x" * 600), "dedup_id"),
        (pubsub.publish(EVENTS.matching("*"), Price(1)), "Topic is needed"),
        (pubsub.publish("events", Price(1)), "Topic is needed"),
        (pubsub.latest(EVENTS), "not LATEST"),
        (pubsub.history(PRICES), "not LOG"),
        (pubsub.history(EVENTS, after="7"), "not the id"),
    ]:
        with pytest.raises(TopicError, match=text):
            await call
    for arguments, options, text in [
        ((), {}, "at least one topic"),
        (("ticks",), {}, "is subscribed to"),
        ((EVENTS,), {"queue": 0}, "queue 0: accepted is a whole number from 1"),
        ((EVENTS,), {"start": "yesterday"}, "start is"),
        ((EVENTS,), {"start": -1}, "start is"),
        ((EVENTS,), {"start": None}, "start is"),
        ((TICKS,), {"start": "earliest"}, "for LOG topics"),
        ((TICKS,), {"position": "p"}, "for LOG topics"),
        ((EVENTS,), {"position": "p" * 600}, "position"),
        ((EVENTS["a"], EVENTS["b"]), {"position": "p"}, "subscribed to once"),
    ]:
        with pytest.raises(TopicError, match=text):
            pubsub.subscribe(*arguments, **options)


async def test_topics_that_are_declared_are_the_only_ones(client, prefix, own):
    """A misspelt topic, or one that means something else elsewhere, is refused."""
    async with PubSub(client, prefix=prefix, topics=[TICKS]) as pubsub:
        await pubsub.publish(TICKS, Price(1))
        with pytest.raises(TopicError, match="not among those declared: ticks"):
            await pubsub.publish(EVENTS, Price(1))
        with pytest.raises(TopicError, match="declared twice"):
            pubsub.subscribe(Topic("ticks", int))
    with pytest.raises(TopicError, match="declared twice"):
        PubSub(client, topics=[TICKS, Topic("ticks", int)])
    with pytest.raises(TopicError, match="topic odd"):
        PubSub(client, topics=[Topic("odd", lambda: None)])
    async with connect(url=own.url, topics=[TICKS]) as wire:
        await wire.pubsub.publish(TICKS, Price(1))
        with pytest.raises(TopicError, match="not among"):
            await wire.pubsub.publish(EVENTS, Price(1))


@given(st.text(min_size=1, max_size=50))
def test_a_key_selects_itself_or_is_refused(key):
    """Any text is a key, which selects exactly its messages, or an error."""
    try:
        keyed = TICKS[key]
    except TopicError:
        return
    selection = Selection(keyed)
    assert selection.takes(key.encode())
    assert not selection.takes(key.encode() + b"x")
    assert b" " not in key.encode()


async def test_wrong_arguments_of_a_consumer_are_named(pubsub):
    """A number that is none, and a function that would never run, are `TopicError`s."""

    def generator(message):
        yield message

    async def later(event, error):
        raise error

    for concurrency in (0, float("nan"), float("inf"), 10**400, "2", True):
        with pytest.raises(TopicError, match="concurrency"):
            pubsub.handle(print, TICKS, concurrency=concurrency)
    for timeout in (0, float("nan"), "2", True):
        with pytest.raises(TopicError, match="timeout"):
            pubsub.handle(print, TICKS, timeout=timeout)
    for handler in (None, generator, TICKS):
        with pytest.raises(TopicError, match="handler must be a function"):
            pubsub.handle(handler, TICKS)
    for name, wrong in (("on_gap", 5), ("on_gap", generator), ("on_error", 5)):
        with pytest.raises(TopicError, match=f"{name} must be a function"):
            pubsub.handle(print, TICKS, **{name: wrong})
    with pytest.raises(TopicError, match="on_error must be a plain function"):
        pubsub.handle(print, TICKS, on_error=later)


async def test_wrong_arguments_of_topics_are_named(client, pubsub):
    """Neither redis-py's errors nor Python's come out: `TopicError` names each."""
    for retention in (None, "5", timedelta(1), True, float("nan")):
        with pytest.raises(TopicError, match="retention is 1 second to 10 years"):
            Topic("odd", int, retention=retention)
    for limit in (0, -1, None, "5", float("nan"), True):
        with pytest.raises(TopicError, match="limit"):
            await pubsub.history(EVENTS, limit=limit)
    with pytest.raises(TopicError, match="not the id of a message"):
        await pubsub.history(EVENTS, after=5)
    with pytest.raises(TopicError, match="dedup_id is empty"):
        await pubsub.publish(EVENTS, Price(1), dedup_id="")
    for topics in (["ticks"], [None]):
        with pytest.raises(TopicError, match="topics are Topic objects"):
            PubSub(client, topics=topics)
    for every in (0, None, float("nan")):
        with pytest.raises(TopicError, match="check_every"):
            PubSub(client, check_every=every)
    for prefix in (5, b"x:", ["x:"]):
        with pytest.raises(InvalidKey, match="prefix"):
            PubSub(client, prefix=prefix)


async def test_odd_exceptions_of_a_handler_end_nothing(pubsub):
    """A handler that raises what is no `Exception` is reported; the next one runs."""
    seen, errors = [], []

    async def handler(message):
        seen.append(message.value.bid)
        if message.value.bid == 0:
            raise BaseExceptionGroup("of a group", [asyncio.CancelledError()])

    async with (
        asyncio.timeout(20),
        pubsub.handle(handler, TICKS, on_error=lambda _, error: errors.append(error)),
    ):
        await pubsub.publish(TICKS, Price(0))
        await pubsub.publish(TICKS, Price(1))
        await eventually(lambda: seen == [0, 1])
    assert [type(each) for each in errors] == [BaseExceptionGroup]


async def test_a_subscription_that_was_closed_before_its_block_is_not_entered(pubsub):
    """Closed, it stays closed: entering it says so, and nothing is subscribed to."""
    for close in ("close", "aclose"):
        subscription = pubsub.subscribe(TICKS)
        closed = getattr(subscription, close)()
        if closed is not None:
            await closed
        with pytest.raises(ClosedError, match="used once"):
            await subscription.__aenter__()
    async with pubsub.subscribe(TICKS):
        assert pubsub.stats().topics["ticks"].subscriptions == 1
    assert pubsub.stats().topics["ticks"].subscriptions == 0


async def test_another_loop_is_told(pubsub):
    """A subscription of another event loop waited for ever; it is named at once."""

    async def elsewhere(topic):
        with pytest.raises(WrongLoop):
            async with asyncio.timeout(10), pubsub.subscribe(topic):
                pass
        with pytest.raises(WrongLoop):
            async with asyncio.timeout(10), pubsub.handle(print, topic):
                pass
        with pytest.raises(WrongLoop):
            async with asyncio.timeout(10):
                await mine.__anext__()

    async with pubsub.subscribe(TICKS) as mine:
        for topic in ALL:
            await asyncio.to_thread(asyncio.run, elsewhere(topic))
        await pubsub.publish(TICKS, Price(1))
        async with asyncio.timeout(10):
            assert (await mine.__anext__()).value == Price(1)
