"""Handlers of every kind, and what they raise: nothing of it ends a worker."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import QueueError, RateLimited, Undeliverable
from oddswire.queue import Queue
from support import eventually

from .conftest import Note, consuming, drained


class Mute(Exception):
    """An error whose text cannot be read."""

    def __str__(self):
        raise ValueError("no text")


@pytest.mark.errors
@pytest.mark.requirement("P5")
@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        Undeliverable(Mute()),
        BaseExceptionGroup("of a group", [asyncio.CancelledError()]),
        GeneratorExit(),
    ],
    ids=["mute", "undeliverable", "group", "exit"],
)
async def test_whatever_a_handler_raises_the_others_are_served(make, error):
    """A message whose handler raises oddly is a dead letter, and its worker goes on."""
    queue = make(max_attempts=2)
    await queue.enqueue(1, Note("odd"))
    await queue.enqueue(2, Note("good"))

    async def deliver(message):
        if message.user_id == 1:
            raise error

    async with asyncio.timeout(20), consuming(queue, deliver):
        await eventually(lambda: queue.counts.dead == queue.counts.delivered == 1)
    (letter,) = await queue.dead()
    assert letter.user_id == 1
    assert letter.reason.startswith(type(error).__name__)


@pytest.mark.errors
@pytest.mark.parametrize("seconds", ["5", None, float("nan"), -5, Decimal("0.01")])
async def test_a_retry_after_that_is_no_number_is_the_shortest(queue, seconds):
    """The user waits for a moment, and the message is not lost."""
    await queue.enqueue(1, Note("odd"))
    seen = []

    async def deliver(message):
        seen.append(message.user_id)
        if len(seen) == 1:
            raise RateLimited("wait", retry_after=seconds)

    async with asyncio.timeout(20):
        await drained(queue, deliver)
    assert seen == [1, 1]
    assert queue.counts.postponed == 1


@pytest.mark.basic
async def test_a_plain_function_handles_a_message_once(queue):
    """A handler that is not async has handled it when it returns: no second time."""
    await queue.enqueue(1, Note("once"))
    seen = []
    async with asyncio.timeout(20):
        await drained(queue, lambda message: seen.append(message.value.text))
    assert seen == ["once"]
    assert queue.counts.delivered == 1


@pytest.mark.errors
async def test_what_is_no_handler_is_refused_and_takes_nothing(queue):
    """None and generators are named before a message is taken, and so is the event."""

    def generator(message):
        yield message

    async def async_generator(message):
        yield message

    await queue.enqueue(1, Note("kept"))
    for handler in (None, generator, async_generator):
        with pytest.raises(QueueError, match="handler must be a function"):
            await queue.consume(handler)
    with pytest.raises(QueueError, match="stop is an asyncio"):
        await queue.consume(print, stop=True)
    assert (await queue.stats()).waiting == 1


@pytest.mark.errors
async def test_arguments_of_another_type_are_named(queue, client):
    """Each wrong argument is a `QueueError` that names it; nothing is sent."""
    note = Note("x")
    for name, wrong in (
        ("identity", True),
        ("identity", ["x"]),
        ("identity", "\udcff"),
        ("uncertain", None),
        ("uncertain", "yes"),
    ):
        with pytest.raises(QueueError, match=name):
            await queue.enqueue(1, note, **{name: wrong})
    with pytest.raises(QueueError, match="user_id"):
        await queue.enqueue([1], note)
    for values in (None, [(1, note)], 5):
        with pytest.raises(QueueError, match="values must be a dict"):
            await queue.enqueue_many(values)
    for name in ("", None, 5):
        with pytest.raises(QueueError, match="name is a text"):
            Queue(client, name, Note)
    with pytest.raises(QueueError, match="codec is"):
        Queue(client, "notes", Note, codec="json")
    assert (await queue.stats()).enqueued == 0


@pytest.mark.errors
async def test_consuming_ends_although_a_task_group_fails_while_redis_is_away():
    """A handler turns its cancellation into an error: nothing waits for Redis."""
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

    async with EmbeddedServer() as server, Client.from_url(server.url) as client:
        queue = Queue(client, "q", Note)
        await queue.enqueue(1, Note("a"))
        task = asyncio.get_running_loop().create_task(queue.consume(handler))
        await begun.wait()
        server.kill()
        await server.wait_exit()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=15)
        assert done
        assert task.cancelled()
