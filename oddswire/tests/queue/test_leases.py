"""Whose a message is: a handler may ask, and a repeat says that it may be one."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client
from oddswire.errors import OddswireError
from oddswire.keys import QUEUE_LEASES, KeySpace
from oddswire.queue import Message, Queue
from oddswire.testing import ManualClock
from support import eventually
from support.hooks import Settlement, leases

from .conftest import Note, consuming

pytestmark = pytest.mark.requirement("P5")


class Handler:
    """Keeps what it gets, and holds it until it is let go."""

    def __init__(self):
        self.messages = []
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, message):
        """Take a message."""
        self.messages.append(message)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def got(self, count):
        """Wait until so many messages came."""
        await eventually(lambda: len(self.messages) >= count)
        return self.messages[count - 1]


@pytest.mark.advanced
async def test_a_handler_asks_whether_its_message_is_its_own(make):
    """Yes while it has it, and for another lease from then; no when another has it."""
    clock = ManualClock()
    # Its worker does not look meanwhile: it would be given the message again.
    queue, handler = make(clock=clock, lease=60.0, poll=60.0), Handler()
    await queue.enqueue(1, Note("a"))
    async with consuming(queue, handler):
        message = await handler.got(1)
        for _ in range(3):
            await clock.advance(50.0)
            assert await message.check()
        assert (await leases(queue).take(1, 60)).leased == []
        await clock.advance(60.0)
        (other,) = (await leases(queue).take(1, 60)).leased
        assert other.uncertain
        assert not await message.check()
        assert await leases(queue).settle(other, Settlement("done"))
        assert not await message.check()
        handler.go.set()


@pytest.mark.advanced
async def test_a_message_that_is_done_or_erased_is_nobodys(make):
    """After the handler has ended, after an erasure, and for one made by hand."""
    queue, handler = make(), Handler()
    handler.go.set()
    await queue.enqueue(1, Note("a"))
    async with consuming(queue, handler):
        message = await handler.got(1)
        await eventually(lambda: queue.counts.delivered)
        assert not await message.check()
        handler.go.clear()
        await queue.enqueue(2, Note("b"))
        message = await handler.got(2)
        assert await message.check()
        await queue.erase(2)
        assert not await message.check()
        handler.go.set()
    fields = ("id", "user_id", "value", "kind", "key", "attempt")
    by_hand = {name: getattr(message, name) for name in fields}
    made = Message(**by_hand, uncertain=False, due_at=0.0, expires_at=None)
    assert not await made.check()


@pytest.mark.errors
async def test_while_redis_is_away_it_is_not_known(own):
    """The handler gets the error, which is neither yes nor no."""
    async with Client.from_url(own.url, command_timeout=2.0) as client:
        queue, handler = Queue(client, "notes", Note), Handler()
        await queue.enqueue(1, Note("a"))
        consumer = asyncio.get_running_loop().create_task(queue.consume(handler))
        message = await handler.got(1)
        assert await message.check()
        own.kill()
        with pytest.raises(OddswireError):
            await message.check()
        consumer.cancel()
        await asyncio.wait([consumer])


@pytest.mark.errors
@pytest.mark.parametrize("how", ["paused", "overtaken"])
async def test_a_repeat_that_does_not_come_next_is_marked(make, how):
    """The lease ran out, and another message of the user was handed out in between."""
    clock = ManualClock()
    queue = make(clock=clock)
    store = leases(queue)
    await queue.enqueue(1, Note("first"), at=clock.now() + 5.0)
    await queue.enqueue(1, Note("held"), kind="slow")
    await queue.enqueue(1, Note("next"))
    (held,) = (await store.take(1, 10)).leased
    assert held.kind == "slow"
    if how == "paused":
        await queue.pause(kind="slow")
    await clock.advance(10.0)
    seen = {}
    for _ in range(4):
        for taken in (await store.take(1, 10)).leased:
            seen[taken.id] = taken.uncertain
            await store.settle(taken, Settlement("done"))
        await queue.resume(kind="slow")
    assert len(seen) == 3
    assert [id_ for id_, uncertain in seen.items() if uncertain] == [held.id]


@pytest.mark.errors
@pytest.mark.parametrize("how", ["renewed", "done", "failed"])
async def test_a_lease_that_the_server_forgot_marks_the_repeat(
    make, client, prefix, how
):
    """As after a failover: who still has the message says so, and the repeat does."""
    queue = make(clock=(clock := ManualClock()))
    store = leases(queue)
    await queue.enqueue(1, Note("a"))
    (held,) = (await store.take(1, 10)).leased
    await client.delete(KeySpace(prefix).key(QUEUE_LEASES, "notes"))
    if how == "renewed":
        assert await store.renew(10, [held]) == [False]
    else:
        what = "done" if how == "done" else "retry"
        assert not await store.settle(held, Settlement(what))
    await clock.advance(10.0)
    (again,) = (await store.take(1, 10)).leased
    # What its handler reported as failed was not delivered.
    assert again.uncertain is (how != "failed")
