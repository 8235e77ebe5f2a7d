"""Handlers: in order, isolated, and never on the reader's path."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.errors import TopicError
from oddswire.pubsub import Delivery, Gap, GapReason, Topic
from support import eventually

TICKS = Topic("ticks", int)
EVENTS = Topic("events", int, delivery=Delivery.LOG)


@pytest.mark.advanced
@pytest.mark.requirement("P1")
async def test_a_topic_has_any_number_of_handlers(pubsub):
    """Each handler of a topic is called with each message, in order."""
    first, second = [], []

    async def slowly(message):
        await asyncio.sleep(0)
        second.append(message.value)

    async with (
        pubsub.handle(lambda message: first.append(message.value), TICKS),
        pubsub.handle(slowly, TICKS),
    ):
        for n in range(20):
            await pubsub.publish(TICKS, n)
        await eventually(lambda: len(first) == len(second) == 20)
    assert first == second == list(range(20))


@pytest.mark.errors
@pytest.mark.requirement("P1")
async def test_a_handler_that_fails_harms_nobody(pubsub):
    """One that raises, hangs or is cancelled is reported, and the next is called."""
    good, bad, told = [], [], []

    async def handler(message):
        bad.append(message.value)
        match message.value:
            case 1:
                raise ValueError("no")
            case 2:
                await asyncio.Event().wait()
            case 3:
                inner = asyncio.get_running_loop().create_task(asyncio.sleep(60))
                inner.cancel()
                await inner

    def tell(event, error):
        told.append((event.value, type(error)))
        raise RuntimeError("of its own")

    async with (
        pubsub.handle(handler, TICKS, on_error=tell, timeout=0.5),
        pubsub.handle(lambda message: good.append(message.value), TICKS),
    ):
        for n in range(5):
            await pubsub.publish(TICKS, n)
        await eventually(lambda: len(good) == len(bad) == 5)
        counts = pubsub.stats().topics["ticks"]
    assert good == bad == list(range(5))
    assert told == [
        (1, ValueError),
        (2, TimeoutError),
        (3, asyncio.CancelledError),
    ]
    # Three handlers failed, and three times the report did.
    assert counts.handler_errors == 6
    assert counts.handled == 7


@pytest.mark.errors
@pytest.mark.requirement("P1")
async def test_task_groups_of_handlers_that_fail_end_no_handling(pubsub):
    """A group failed and was caught; what a later call lets out ends nothing."""
    handled = []

    async def fail():
        raise ValueError("of a group")

    async def handler(message):
        if message.value == 0:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
            except* ValueError:
                pass
        if message.value == 1:
            raise asyncio.CancelledError
        handled.append(message.value)

    async with pubsub.handle(handler, TICKS):
        for n in range(3):
            await pubsub.publish(TICKS, n)
        await eventually(lambda: handled == [0, 2])


@pytest.mark.errors
async def test_handling_ends_although_a_task_group_fails_at_that_moment(pubsub):
    """A handler turns its cancellation into an error: leaving the block ends all."""
    begun = asyncio.Event()

    async def fail():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while it was cancelled")

    async def handler(_):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async with asyncio.timeout(10), pubsub.handle(handler, TICKS):
        await pubsub.publish(TICKS, 1)
        await begun.wait()


@pytest.mark.errors
async def test_a_handler_that_hangs_does_not_hold_the_reader(pubsub, take):
    """While one handler hangs, other subscriptions of the wire are served."""
    hangs = asyncio.Event()

    async def hang(_):
        hangs.set()
        await asyncio.Event().wait()

    async with pubsub.handle(hang, TICKS), pubsub.subscribe(TICKS) as sub:
        for n in range(100):
            await pubsub.publish(TICKS, n)
        await hangs.wait()
        events = await take(sub, 100)
    assert [each.value for each in events] == list(range(100))


@pytest.mark.advanced
async def test_concurrency_keeps_the_order_of_a_key(pubsub):
    """Several handlers run at once, and messages of one key stay in order."""
    done, running, most = {}, 0, 0
    together = asyncio.Event()

    async def handler(message):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            together.set()
        # However slowly the messages come, the first one waits for the second.
        await together.wait()
        await asyncio.sleep(0.001 * (message.value % 3))
        done.setdefault(message.key, []).append(message.value)
        running -= 1

    async with pubsub.handle(handler, EVENTS, concurrency=4):
        for n in range(60):
            await pubsub.publish(EVENTS[f"k{n % 6}"], n)
        await eventually(lambda: sum(map(len, done.values())) == 60)
    assert all(values == sorted(values) for values in done.values())
    assert 2 <= most <= 4


@pytest.mark.advanced
async def test_gaps_are_handled_in_their_place(own, opened):
    """`on_gap` is called when the messages before the gap are done."""
    seen = []

    async def handler(message):
        await asyncio.sleep(0.01)
        seen.append(message.value)

    async with (
        opened(own.url) as pubsub,
        pubsub.handle(handler, EVENTS, on_gap=seen.append, concurrency=3),
    ):
        for n in range(5):
            await pubsub.publish(EVENTS[f"k{n}"], n)
        await eventually(lambda: pubsub.stats().topics["events"].delivered == 5)
        await pubsub.client.flushall()
        await pubsub.publish(EVENTS, 5)
        await eventually(lambda: 5 in seen)
    gap = next(each for each in seen if isinstance(each, Gap))
    assert gap.reason is GapReason.RESET
    assert set(seen[:5]) == set(range(5))
    assert seen[5:] == [gap, 5]


@pytest.mark.errors
async def test_a_message_whose_handler_was_cancelled_comes_again(pubsub):
    """A position stays before the message whose handling did not end."""
    begun = asyncio.Event()

    async def hang(message):
        if message.value == 1:
            begun.set()
            await asyncio.Event().wait()

    async with pubsub.handle(hang, EVENTS, position="worker"):
        await pubsub.publish(EVENTS, 0)
        await pubsub.publish(EVENTS, 1)
        await begun.wait()
    seen = []
    async with pubsub.handle(
        lambda message: seen.append(message.value), EVENTS, position="worker"
    ):
        await eventually(lambda: seen)
    assert seen == [1]


@pytest.mark.errors
def test_wrong_arguments_are_named(pubsub):
    """What cannot be kept is refused when it is asked for."""
    with pytest.raises(TopicError, match="concurrency is 1"):
        pubsub.handle(print, EVENTS, position="p", concurrency=2)
    with pytest.raises(TopicError, match="concurrency 0"):
        pubsub.handle(print, EVENTS, concurrency=0)
    with pytest.raises(TopicError, match="timeout 0"):
        pubsub.handle(print, EVENTS, timeout=0)
