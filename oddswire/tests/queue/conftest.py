"""What the tests of the queue share: a client, queues, a consumer that stops."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from oddswire.queue import Queue
from support import eventually


class Note(msgspec.Struct, frozen=True):
    """A notification."""

    text: str


@pytest.fixture
def make(client, prefix):
    """`make(**options)`: the queue of this test, with short waits."""

    def queue(**options):
        options = {"retry_base": 0.01, "poll": 0.1, "prefix": prefix, **options}
        return Queue(client, "notes", Note, **options)

    return queue


@pytest.fixture
def queue(make):
    """The queue of this test."""
    return make()


@asynccontextmanager
async def consuming(queue, handler, **options):
    """Consume for as long as the block lasts; its errors are raised."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(queue.consume(handler, stop=stop, **options))
        yield stop
        stop.set()


async def empty(queue):
    """Whether nothing is left to deliver."""
    return (await queue.stats()).depth == 0


async def drained(queue, handler, **options):
    """Consume until nothing is left to deliver."""
    async with consuming(queue, handler, **options):
        await eventually(lambda: empty(queue))


class Inbox:
    """A handler that keeps what it got, and fails as it is told.

    Attributes:
        got: (user, text) of each call.
        messages: The messages themselves.
        fail: Called with each message before it is kept; may raise.
    """

    def __init__(self, fail=lambda message: None):
        self.got = []
        self.messages = []
        self.fail = fail

    async def __call__(self, message):
        """Deliver."""
        self.messages.append(message)
        result = self.fail(message)
        if asyncio.iscoroutine(result):
            await result
        self.got.append((message.user_id, message.value.text))

    def of(self, user):
        """What a user got."""
        return [text for who, text in self.got if who == user]
