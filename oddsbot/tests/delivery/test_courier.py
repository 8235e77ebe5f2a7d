"""Alerts out of the queue: each has one fate, whatever happens on the way."""

from __future__ import annotations

import asyncio
import random

import pytest
from sqlalchemy import text

from oddsbot.delivery import ALERTS, Courier, Decision
from oddsbot.delivery.outbox import ATTEMPTS, Entry
from oddsbot.store import Fate, Place
from oddswire import Client
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import Undeliverable
from oddswire.queue import Queue
from support import eventually
from support.hooks import limit, queue_script

TAKE, SETTLE = queue_script("take"), queue_script("settle")


def courier_of(book, deliver, clock=None):
    """Return a courier."""
    return Courier(book.queue, book.log, book.home, deliver, clock or SystemClock())


def ids(user, *numbers):
    """Return what the chat keeps of a person's alerts of some rounds."""
    return [(user, f"{n}.0") for n in numbers]


async def settled(book):
    """Wait until every alert has a fate."""
    await eventually(book.fates, 60.0, holds=lambda fates: None not in fates)


@pytest.mark.basic
@pytest.mark.requirement("B4")
async def test_alerts_are_delivered_in_order_and_each_has_its_fate(book, chat):
    """Each alert is delivered once, in order, and its row says so."""
    async with book.running(courier_of(book, chat)):
        for _ in range(60):
            book.outbox.put(await book.commit(1))
        await settled(book)
        await courier_of(book, chat).wait_empty()
    assert chat.told == ids(1, *range(1, 61))
    assert chat.again == []
    assert set(await book.fates()) == {"sent"}
    newest, *_ = await book.log.history(1)
    assert newest.message_id == 60


@pytest.mark.basic
async def test_latency_runs_from_seeing_the_tick_to_delivery(book, chat):
    """The latency is the time from when the tick was seen until the chat had it."""
    committed = await book.commit(1)
    clock = ManualClock(now=SystemClock().now() + 100)
    courier = courier_of(book, chat, clock)
    async with book.running(courier):
        book.outbox.put(committed)
        await settled(book)
    assert courier.latency.count == 1
    assert 99 < courier.latency.max < 200


@pytest.mark.errors
@pytest.mark.requirement("B4")
@pytest.mark.parametrize("reply", [TAKE, SETTLE], ids=["take", "settle"])
async def test_a_lost_reply_neither_repeats_nor_loses(lossy, book_on, chat, reply):
    """Whichever reply to the courier gets lost, each alert is delivered once."""
    way, client = lossy
    book = await book_on(client, 1)
    home = await book.home.read()
    async with book.running(courier_of(book, chat)):
        book.outbox.put(await book.commit(1, home=home))
        await chat.wait_told(1)
        way.lose = {reply: 2}
        for _ in range(6):
            book.outbox.put(await book.commit(1, home=home))
        await settled(book)
        await eventually(lambda: way.lose[reply] == 0)
    assert chat.told == ids(1, *range(1, 8))


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_a_courier_that_dies_before_the_fate_is_followed_by_a_marked_copy(
    book, chat
):
    """Killed after it sent: once more, in order, and the copy says `again`."""
    sending = asyncio.Event()
    sent = []

    async def die(alert, *, again):
        sent.append((alert.user_id, alert.id, again))
        sending.set()
        await asyncio.Event().wait()

    async with book.running(courier_of(book, die)):
        for _ in range(3):
            book.outbox.put(await book.commit(1))
        await sending.wait()
    async with book.running(courier_of(book, chat)):
        await settled(book)
    assert sent == [(1, "rule:1.0", False)]
    assert chat.told == ids(1, 1, 2, 3)
    assert chat.again == ids(1, 1)


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_what_is_on_its_way_when_its_lease_is_lost_is_sent_once(
    book, monkeypatch
):
    """The queue forgets who has it: the messenger's answer is still its fate."""
    # The answer comes at once, but for a machine that stands still in between.
    limit(monkeypatch, "delivery ends", 30.0)
    sent, sending, answer = [], asyncio.Event(), asyncio.Event()

    async def deliver(alert, *, again):
        sent.append(alert.id)
        sending.set()
        await answer.wait()
        return Decision(Fate.SENT)

    def cancelled():
        return any(
            task.cancelling()
            for task in asyncio.all_tasks()
            if task.get_name().startswith("queue: message")
        )

    async with book.running(courier_of(book, deliver)):
        committed = await book.commit(1)
        book.outbox.put(committed)
        await sending.wait()
        await book.queue.erase(1)
        await eventually(cancelled)
        answer.set()
        await settled(book)
        book.outbox.put(committed)
        await courier_of(book, deliver).wait_empty()
    assert sent == ["rule:1.0"]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_what_has_a_fate_is_not_sent_whatever_the_queue_says(book, chat):
    """A message that comes twice, or after its alert was settled, sends nothing."""
    committed = await book.commit(1, 2)
    book.outbox.put(committed)
    for row in await book.log.unsettled("0"):
        if row.user_id == 1:
            await book.log.settle(row, Fate.MUTED)
    async with book.running(courier_of(book, chat)):
        await chat.wait_told(1)
        await courier_of(book, chat).wait_empty()
    assert chat.told == ids(2, 1)
    assert sorted(await book.fates()) == ["muted", "sent"]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_a_message_that_is_no_alerts_costs_no_alert(book, chat, client, prefix):
    """Damaged, foreign, repeated or out of order in the queue: each alert once."""
    committed = await book.commit(1, 2)
    committed += await book.commit(1)
    # A queue of the same name, whose messages are something else.
    others = Queue(client, ALERTS.name, str, prefix=prefix)
    await others.enqueue_many({1: "damaged", 3: "damaged"})
    for where in (Place("0", 99, 0), Place("nowhere", 1, 0), committed[-1].where):
        entry = Entry(where.shard, where.n, where.place)
        await book.queue.enqueue_many({1: entry, 2: entry})
    async with book.running(courier_of(book, chat)):
        book.outbox.put(list(reversed(committed)))
        await settled(book)
        await courier_of(book, chat).wait_empty()
    assert sorted(chat.told) == [(1, "1.0"), (1, "2.0"), (2, "1.0")]
    assert [each for each in chat.told if each[0] == 1] == ids(1, 1, 2)
    # What cannot be read is kept for the operator.
    dead = await book.queue.dead()
    assert sorted(each.user_id for each in dead) == [1, 3]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_what_the_queue_lost_comes_before_what_it_has(book, chat):
    """The database knows a person's order: the older one is delivered first."""
    await book.commit(1)  # never queued
    await book.commit(1, home="another Redis")
    book.outbox.put(await book.commit(1))
    async with book.running(courier_of(book, chat)):
        await settled(book)
    assert chat.told == ids(1, 1, 2, 3)
    # Another courier may have had what was queued elsewhere.
    assert chat.again == ids(1, 2)


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_a_failing_chat_is_tried_again_and_holds_up_its_user_alone(book, chat):
    """An error of the chat loses nothing, keeps the order, and stops nobody else."""
    fails = True

    async def deliver(alert, *, again):
        if fails and alert.user_id == 1:
            raise OSError("no way to the messenger")
        return await chat(alert, again=again)

    async with book.running(courier_of(book, deliver)):
        for users in ((1,), (1,), (2,)):
            book.outbox.put(await book.commit(*users))
        await chat.wait_told(1)
        assert chat.told == ids(2, 3)
        fails = False
        await settled(book)
    assert chat.told == [*ids(2, 3), *ids(1, 1, 2)]


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_what_cannot_be_delivered_has_the_fate_failed(book, chat, monkeypatch):
    """Refused, damaged, or failed too often: with the reason, and no other waits."""
    monkeypatch.setattr("oddsbot.delivery.courier.ATTEMPTS", 1)

    async def deliver(alert, *, again):
        if alert.id == "rule:1.0":
            raise Undeliverable("blocked")
        if alert.id == "rule:3.0":
            raise OSError("again and again")
        if alert.id == "rule:4.0":
            return Decision(Fate.FILTERED, "98¢ is above 95¢")
        return await chat(alert, again=again)

    for _ in range(5):
        book.outbox.put(await book.commit(1))
    async with book.engine.begin() as connection:
        await connection.execute(
            text("UPDATE oddsbot_alerts SET data = '{' WHERE n = 2")
        )
    async with book.running(courier_of(book, deliver)):
        await settled(book)
    assert await book.fates() == ["failed", "failed", "failed", "filtered", "sent"]
    reasons = [row.reason for row in reversed(await book.log.history(1))]
    assert reasons[0] == "Undeliverable: blocked"
    assert reasons[1].startswith("damaged: ")
    assert reasons[2] == "OSError: again and again"
    assert ATTEMPTS == 8


@pytest.mark.errors
@pytest.mark.requirement("B4")
async def test_without_the_database_nothing_is_sent(book, chat, monkeypatch):
    """The alert waits and counts no failure; with the database back it is sent once."""
    book.outbox.put(await book.commit(1))
    async with book.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE oddsbot_alerts RENAME TO away"))
    async with book.running(courier_of(book, chat)):
        counts = book.queue.counts
        await eventually(lambda: counts.postponed >= 3)
        assert chat.told == []
        async with book.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO oddsbot_alerts"))
        await settled(book)
    assert (chat.told, chat.again) == (ids(1, 1), [])
    assert counts.retried == 0


@pytest.mark.errors
async def test_cancelling_ends_the_courier_at_once(book, chat):
    """Wherever a courier is when it is cancelled, it ends then."""
    for turns in range(12):
        async with asyncio.timeout(10), book.running(courier_of(book, chat)):
            for _ in range(turns):
                await asyncio.sleep(0)


@pytest.mark.integration
@pytest.mark.requirement("B4")
@pytest.mark.parametrize("seed", [1, 2])
async def test_redis_killed_at_any_moment_loses_nothing(durable, book_on, chat, seed):
    """Each alert once and in order, while the server dies and comes back."""
    dice = random.Random(seed)
    total, kills = 200, 3
    async with Client.from_url(durable.url) as client:
        book = await book_on(client, 1)
        home = await book.home.read()

        async def kill():
            for after in sorted(dice.sample(range(10, total - 10), kills)):
                await chat.wait_told(after)
                durable.kill()
                await durable.wait_exit()
                await durable.restart()

        async with book.running(courier_of(book, chat)):
            book.outbox.resume("0")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kill())
                for _ in range(total):
                    book.outbox.put(await book.commit(1, home=home))
            await settled(book)
    assert list(dict.fromkeys(chat.told)) == ids(1, *range(1, total + 1))
    # In one loop no process died, so no message was sent twice.
    assert len(chat.told) == total
