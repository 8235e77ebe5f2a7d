"""Committed alerts into the queue, whatever becomes of the queue."""

from __future__ import annotations

import asyncio

import pytest

from oddsbot.delivery import Sweep
from oddsbot.store import Fate, Place
from oddswire import Client
from oddswire.clock import ManualClock
from oddswire.errors import Undeliverable
from oddswire.locks import Locks
from support import eventually
from support.hooks import Settlement, decoded, leases, queue_script

ENQUEUE = queue_script("enqueue")


async def written(queue):
    """Return the user and the place of what waits in the queue, in its order."""
    batch = await leases(queue).take(100, 0.001)
    if not batch.leased:
        return []
    found = []
    for taken in batch.leased:
        entry = decoded(queue, taken)
        found.append((taken.user, entry.n, entry.place))
        await leases(queue).settle(taken, Settlement("done"))
    return found + await written(queue)


@pytest.mark.basic
@pytest.mark.requirement("B4")
async def test_rounds_are_queued_in_their_order(book):
    """Each alert is a message of its person, in the order of its commit."""
    async with book.running():
        for _ in range(20):
            book.outbox.put(await book.commit(1, 2, 1))
        await book.outbox.wait_queued()
    found = await written(book.queue)
    for user, places in ((1, (0, 1)), (2, (0,))):
        mine = [each[1:] for each in found if each[0] == user]
        assert mine == [(n, place) for n in range(1, 21) for place in places]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_losing_one_reply_after_the_other_writes_once(lossy, book_on):
    """However many replies in a row get lost, an alert is in the queue once."""
    way, client = lossy
    book = await book_on(client, 1)
    home = await book.home.read()
    async with book.running():
        book.outbox.put(await book.commit(1, home=home))
        await book.outbox.wait_queued()
        way.lose = {ENQUEUE: 3}
        book.outbox.put(await book.commit(1, home=home))
        book.outbox.put(await book.commit(1, home=home))
        await book.outbox.wait_queued()
    assert way.lost >= 2
    assert await written(book.queue) == [(1, 1, 0), (1, 2, 0), (1, 3, 0)]


@pytest.mark.integration
@pytest.mark.requirement("B4")
async def test_what_was_committed_while_redis_was_away_is_queued_when_it_is_back(
    durable, book_on
):
    """Nothing is kept in memory: the database says what is due, oldest first."""
    async with Client.from_url(durable.url) as client:
        book = await book_on(client, 1)
        home = await book.home.read()
        async with book.running():
            book.outbox.resume("0")
            book.outbox.put(await book.commit(1))
            await book.outbox.wait_queued()
            durable.kill()
            await durable.wait_exit()
            for _ in range(5):
                book.outbox.put(await book.commit(1, home=home))
            assert not book.outbox.home or book.outbox.home == home
            await durable.restart()
            await book.outbox.wait_queued()
            assert await written(book.queue) == [(1, n, 0) for n in range(1, 7)]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_an_emptied_redis_gets_back_all_that_is_due(durable, book_on):
    """The mark is gone, so everything without a fate is queued once more, in order."""
    async with Client.from_url(durable.url) as client:
        book = await book_on(client, 1, 2)
        async with book.running():
            book.outbox.resume("0")
            for _ in range(3):
                book.outbox.put(await book.commit(1, 2))
            await book.outbox.wait_queued()
            (first, *_) = await book.log.unsettled("0")
            await book.log.settle(first, Fate.SENT)
            await client.flushall()
            before = book.outbox.resumed
            await eventually(lambda: book.outbox.resumed > before)
            await book.outbox.wait_queued()
        found = sorted(await written(book.queue))
    assert found == [(1, 2, 0), (1, 3, 0), (2, 1, 0), (2, 2, 0), (2, 3, 0)]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_the_sweep_finds_what_was_forgotten_and_settles_what_was_given_up(
    book, prefix, client
):
    """Old and without a fate: queued once; a dead letter: failed."""
    sweep = Sweep(book.queue, book.log, Locks(client, prefix=prefix), book.clock)
    await book.commit(1, seconds_ago=60)
    await book.commit(2, seconds_ago=60)
    await book.commit(1)
    await sweep.look()
    await sweep.look()
    assert (await book.queue.stats()).depth == 2
    stop = asyncio.Event()

    async def give_up(message):
        if message.user_id == 2:
            stop.set()
            raise Undeliverable("no way")

    await book.queue.consume(give_up, stop=stop)
    await sweep.look()
    assert await book.fates() == [None, "failed", None]
    (row,) = await book.log.history(2)
    assert row.reason.endswith("no way")
    assert sweep.failed == 1


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_the_sweep_deletes_what_nobody_can_ask_about_any_more(
    book, prefix, client
):
    """However many are more than 30 days old; what has no fate is queued instead."""
    locks, clock = Locks(client, prefix=prefix), ManualClock(now=book.clock.now())
    sweep = Sweep(book.queue, book.log, locks, clock)
    await book.commit(*[1] * 501)
    rows = await book.log.unsettled(limit=2_000)
    await asyncio.gather(*(book.log.settle(each, Fate.SENT) for each in rows))
    await book.commit(2)
    await clock.advance(30 * 86_400.0 - 60)
    await sweep.look()
    assert sweep.forgotten == 0
    await clock.advance(120)
    await sweep.look()
    assert sweep.forgotten == 501
    assert await book.fates() == [None]
    assert (await book.queue.stats()).depth == 1


@pytest.mark.errors
async def test_a_backlog_beyond_what_is_kept_is_read_from_the_database(book):
    """More than ten thousand wait: they are forgotten here, and queued all the same."""
    committed = await book.commit(1)
    for _ in range(10_001):
        book.outbox.put(committed)
    async with book.running():
        await asyncio.wait_for(book.outbox.wait_queued(), 30)
    assert book.outbox.resumed == 1
    assert await written(book.queue) == [(1, 1, 0)]
    assert committed[0].where == Place("0", 1, 0)


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_what_is_left_to_the_database_while_it_is_read_is_queued(
    book, monkeypatch
):
    """The shard is taken over just when the last page of it was read: read again."""
    unsettled = book.log.unsettled

    async def read(*args, **options):
        rows = await unsettled(*args, **options)
        if not rows and book.n == 1:
            book.outbox.put(await book.commit(1))
            book.outbox.resume("0")
        return rows

    monkeypatch.setattr(book.log, "unsettled", read)
    await book.commit(1)
    book.outbox.resume("0")
    async with book.running():
        await book.outbox.wait_queued()
    assert await written(book.queue) == [(1, 1, 0), (1, 2, 0)]
