from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from oddsbot.delivery import Courier, Outbox, alert_queue
from oddswire import Client
from oddswire.clock import ManualClock, SystemClock
from oddswire.queue import Queue
from support.hooks import leases, queue_script

TAKE, SETTLE = queue_script("take"), queue_script("settle")


class Chat:
    """Collects the ids of the alerts that were delivered."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._more = asyncio.Condition()

    async def __call__(self, alert) -> None:
        """Take an alert."""
        async with self._more:
            self.told.append(alert.id)
            self._more.notify_all()

    async def wait_told(self, count: int) -> None:
        """Wait until so many were told."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.told) >= count)


@asynccontextmanager
async def running(courier: Courier):
    """Run a courier in a task for the length of a block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(courier.run())
        yield task
        task.cancel()


def ids(*numbers: int) -> list[str]:
    """Return the ids of the n-th alerts."""
    return [f"rule:{n}" for n in numbers]


@pytest.fixture
async def queue(server, prefix):
    """A queue on the shared server."""
    async with Client.from_url(server.url) as client:
        yield alert_queue(client, prefix)


@pytest.mark.basic
async def test_alerts_are_delivered_in_order_and_leave_the_queue(queue, alert):
    """Each alert is delivered once, in order, and is gone then."""
    chat = Chat()
    outbox = Outbox(queue)
    for n in range(5):
        await outbox.put(alert(n))
    courier = Courier(queue, chat, SystemClock())
    async with running(courier):
        for n in range(5, 100):
            await outbox.put(alert(n))
        await courier.wait_empty()

    assert chat.told == ids(*range(100))
    left = await queue.stats()
    assert (left.depth, left.delivered, left.retried, left.reclaimed) == (0, 100, 0, 0)


@pytest.mark.basic
async def test_latency_runs_from_seeing_the_tick_to_delivery(queue, alert):
    """The latency is the time from when the tick was seen until the chat had it."""
    clock = ManualClock(now=1_790_000_000.25)  # a quarter of a second after seen_at
    chat = Chat()
    await Outbox(queue).put(alert(0))
    courier = Courier(queue, chat, clock)
    async with running(courier):
        await chat.wait_told(1)

    assert courier.latency.count == 1
    assert courier.latency.max == pytest.approx(0.25)


@pytest.mark.errors
@pytest.mark.parametrize("reply", [TAKE, SETTLE], ids=["take", "settle"])
async def test_a_lost_reply_neither_repeats_nor_loses(lossy, prefix, alert, reply):
    """Whichever reply to the courier gets lost, each alert is delivered once."""
    way, client = lossy
    queue = alert_queue(client, prefix)
    chat = Chat()
    outbox = Outbox(queue)
    for n in range(3):
        await outbox.put(alert(n))
    way.lose = {reply: 2}
    courier = Courier(queue, chat, SystemClock())
    async with running(courier):
        for n in range(3, 10):
            await outbox.put(alert(n))
        await courier.wait_empty()

    assert way.lose[reply] == 0
    assert chat.told == ids(*range(10))


@pytest.mark.errors
async def test_a_crash_before_the_settlement_delivers_again(queue, alert):
    """A courier that ended while it delivered: at least once, in order."""
    told = []
    delivering = asyncio.Event()

    async def crash(alert) -> None:
        told.append(alert.id)
        delivering.set()
        await asyncio.Event().wait()

    outbox = Outbox(queue)
    for n in range(3):
        await outbox.put(alert(n))
    async with running(Courier(queue, crash, SystemClock())):
        await delivering.wait()
    chat = Chat()
    courier = Courier(queue, chat, SystemClock())
    async with running(courier):
        await courier.wait_empty()

    assert told == ids(0)
    assert chat.told == ids(0, 1, 2)


@pytest.mark.errors
async def test_a_failing_chat_is_tried_again_and_holds_up_its_user_alone(queue, alert):
    """An error of the chat loses nothing, keeps the order, and stops nobody else."""
    chat = Chat()
    fails = True

    async def deliver(alert) -> None:
        if fails and alert.user_id == 1:
            raise OSError("no way to the messenger")
        await chat(alert)

    outbox = Outbox(queue)
    for n, user in ((0, 1), (1, 1), (2, 2)):
        await outbox.put(alert(n, user))
    courier = Courier(queue, deliver, SystemClock())
    async with running(courier):
        await chat.wait_told(1)
        assert chat.told == ids(2)
        fails = False
        await courier.wait_empty()

    assert chat.told == ids(2, 0, 1)


@pytest.mark.errors
async def test_what_cannot_be_decoded_becomes_a_dead_letter(queue, prefix, alert):
    """A damaged alert is set aside with its reason; those behind it are delivered."""
    chat = Chat()
    outbox = Outbox(queue)
    await outbox.put(alert(0))
    damaged = Queue(leases(queue).client, "alerts", str, prefix=prefix)
    await damaged.enqueue(1, "damaged")
    await outbox.put(alert(1))
    courier = Courier(queue, chat, SystemClock())
    async with running(courier):
        await courier.wait_empty()

    assert chat.told == ids(0, 1)
    (letter,) = await queue.dead()
    assert letter.reason.startswith("CodecError: ")
    assert b"damaged" in letter.data


@pytest.mark.errors
async def test_a_server_that_lost_its_data_is_served_again(durable, prefix, alert):
    """After everything is gone, new alerts are delivered."""
    chat = Chat()
    async with Client.from_url(durable.url) as client:
        queue = alert_queue(client, prefix)
        outbox = Outbox(queue)
        async with running(Courier(queue, chat, SystemClock())):
            await outbox.put(alert(0))
            await chat.wait_told(1)
            await client.flushall()
            await outbox.put(alert(1))
            await chat.wait_told(2)

    assert chat.told == ids(0, 1)


@pytest.mark.errors
async def test_cancelling_ends_the_courier_at_once(queue):
    """Wherever a courier is when it is cancelled, it ends then."""
    courier = Courier(queue, Chat(), SystemClock())
    for turns in range(12):
        async with asyncio.timeout(10), running(courier):
            for _ in range(turns):
                await asyncio.sleep(0)


@pytest.mark.integration
@pytest.mark.parametrize("seed", [1, 2])
async def test_kill_9_loses_nothing_and_repeats_nothing(durable, prefix, alert, seed):
    """The server killed at random moments: each alert arrives once, in order."""
    chat = Chat()
    dice = random.Random(seed)
    total, kills = 200, 3
    async with Client.from_url(durable.url) as client:
        queue = alert_queue(client, prefix)
        outbox = Outbox(queue)
        courier = Courier(queue, chat, SystemClock())

        async def produce() -> None:
            for n in range(total):
                await outbox.put(alert(n))

        async def kill() -> None:
            for after in sorted(dice.sample(range(10, total - 10), kills)):
                await chat.wait_told(after)
                durable.kill()
                await durable.wait_exit()
                await durable.restart()

        async with running(courier):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce())
                tasks.create_task(kill())
            await courier.wait_empty()

        assert chat.told == ids(*range(total))
        assert client.stats().connects == 1 + kills
