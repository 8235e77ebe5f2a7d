from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from oddsbot.delivery import DEAD_LETTERS, OUTBOX, Backlog, Courier, Outbox, backlog
from oddsbot.delivery.outbox import FIELD
from oddswire import Client
from oddswire.clock import ManualClock, SystemClock


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


@pytest.mark.basic
async def test_alerts_are_delivered_in_order_and_leave_the_stream(server, keys, alert):
    """Each alert is delivered once, in order, acknowledged, and trimmed away."""
    chat = Chat()
    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        for n in range(5):
            await outbox.put(alert(n))
        courier = Courier(client, keys, chat, SystemClock())
        async with running(courier):
            for n in range(5, 200):
                await outbox.put(alert(n))
            await courier.wait_acknowledged(outbox.last_id)

        assert chat.told == ids(*range(200))
        assert (courier.delivered, courier.repeats, courier.dead) == (200, 0, 0)
        # The newest stays: the producer may have to look at it.
        assert await backlog(client, keys, courier.group) == Backlog(1, 0, 0, 0)


@pytest.mark.basic
async def test_latency_runs_from_seeing_the_tick_to_delivery(server, keys, alert):
    """The latency is the time from when the tick was seen until the chat had it."""
    clock = ManualClock(now=1_790_000_000.25)  # a quarter of a second after seen_at
    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, clock) as outbox,
    ):
        courier = Courier(client, keys, Chat(), clock)
        async with running(courier):
            await courier.wait_acknowledged(await outbox.put(alert(0)))

        assert courier.latency.count == 1
        assert courier.latency.max == pytest.approx(0.25)


@pytest.mark.errors
@pytest.mark.parametrize("reply", [b"XREADGROUP", b"EXEC", b"XGROUP"])
async def test_a_lost_reply_neither_repeats_nor_loses(lossy, keys, alert, reply):
    """Whichever reply to the courier gets lost, each alert is delivered once."""
    way, client = lossy
    chat = Chat()
    async with Outbox(client, keys, SystemClock()) as outbox:
        way.lose = {reply: 2 if reply != b"XGROUP" else 1}
        courier = Courier(client, keys, chat, SystemClock())
        for n in range(3):
            await outbox.put(alert(n))
        async with running(courier):
            for n in range(3, 10):
                await outbox.put(alert(n))
            await courier.wait_acknowledged(outbox.last_id)

        assert way.lose[reply] == 0
        assert chat.told == ids(*range(10))
        assert await backlog(client, keys, courier.group) == Backlog(1, 0, 0, 0)


@pytest.mark.errors
async def test_the_last_acknowledgement_may_get_lost(lossy, keys, alert):
    """Who waits for an acknowledgement is told of it even if its reply got lost."""
    way, client = lossy
    chat = Chat()
    async with Outbox(client, keys, SystemClock()) as outbox:
        courier = Courier(client, keys, chat, SystemClock())
        async with running(courier):
            way.lose = {b"EXEC": 1}
            await courier.wait_acknowledged(await outbox.put(alert(0)))

        assert way.lost == 1
        assert chat.told == ids(0)


@pytest.mark.errors
async def test_a_crash_before_the_acknowledgement_delivers_again(server, keys, alert):
    """A process that ended between delivery and acknowledgement: at least once."""
    told = []
    delivering = asyncio.Event()

    async def crash(alert) -> None:
        told.append(alert.id)
        delivering.set()
        await asyncio.Event().wait()

    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        for n in range(3):
            await outbox.put(alert(n))
        async with running(Courier(client, keys, crash, SystemClock())):
            await delivering.wait()
        chat = Chat()
        courier = Courier(client, keys, chat, SystemClock())
        async with running(courier):
            await courier.wait_acknowledged(outbox.last_id)

        assert told == ids(0)
        assert chat.told == ids(0, 1, 2)


@pytest.mark.errors
async def test_a_failing_chat_ends_the_courier_and_loses_nothing(server, keys, alert):
    """An error of the chat ends `run`; what was not delivered is still there."""

    async def fail(_alert) -> None:
        raise OSError("no way to the messenger")

    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        await outbox.put(alert(0))
        with pytest.raises(OSError, match="no way"):
            await Courier(client, keys, fail, SystemClock()).run()
        chat = Chat()
        courier = Courier(client, keys, chat, SystemClock())
        async with running(courier):
            await courier.wait_acknowledged(outbox.last_id)

        assert chat.told == ids(0)


@pytest.mark.errors
@pytest.mark.parametrize("fields", [{FIELD: b"not ours"}, {b"other": b"field"}])
async def test_what_cannot_be_decoded_becomes_a_dead_letter(
    server, keys, alert, fields
):
    """A damaged entry is set aside with its reason; those behind it are delivered."""
    chat = Chat()
    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        first = await outbox.put(alert(0))
        damaged = first.replace("-0", "-1")
        await client.xadd(keys.key(OUTBOX), fields, id=damaged)
        await outbox.put(alert(1))
        courier = Courier(client, keys, chat, SystemClock())
        async with running(courier):
            await courier.wait_acknowledged(outbox.last_id)

        assert chat.told == ids(0, 1)
        assert courier.dead == 1
        ((_, letter),) = await client.xrange(keys.key(DEAD_LETTERS))
        assert letter[b"entry"] == damaged.encode()
        assert letter[b"reason"].startswith((b"CodecError: ", b"KeyError: "))
        assert fields.items() <= letter.items()
        assert await backlog(client, keys, courier.group) == Backlog(1, 0, 0, 1)


@pytest.mark.errors
async def test_a_dead_letter_is_written_once_although_its_reply_is_lost(lossy, keys):
    """Setting a damaged entry aside and acknowledging it is one step."""
    way, client = lossy
    courier = Courier(client, keys, Chat(), SystemClock())
    await client.xadd(keys.key(OUTBOX), {FIELD: b"not ours"}, id="5-0")
    way.lose = {b"EXEC": 1}
    async with running(courier):
        await courier.wait_acknowledged("5-0")

    assert way.lost == 1
    assert courier.dead == 1
    assert await client.xlen(keys.key(DEAD_LETTERS)) == 1


@pytest.mark.errors
async def test_a_server_that_lost_its_data_is_served_again(durable, keys, alert):
    """After the stream and its group are gone, new alerts are delivered."""
    chat = Chat()
    async with (
        Client.from_url(durable.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        courier = Courier(client, keys, chat, SystemClock(), block=0.05)
        async with running(courier):
            await courier.wait_acknowledged(await outbox.put(alert(0)))
            await client.flushall()
            await courier.wait_acknowledged(await outbox.put(alert(1)))

        assert chat.told == ids(0, 1)


@pytest.mark.errors
async def test_cancelling_ends_the_courier_at_once(server, keys):
    """Wherever a courier is when it is cancelled, it ends then."""
    async with Client.from_url(server.url) as client:
        courier = Courier(client, keys, Chat(), SystemClock(), block=0.3)
        for turns in range(12):
            async with asyncio.timeout(10), running(courier):
                for _ in range(turns):
                    await asyncio.sleep(0)


@pytest.mark.integration
@pytest.mark.parametrize("seed", [1, 2])
async def test_kill_9_loses_nothing_and_repeats_nothing(durable, keys, alert, seed):
    """The server killed at random moments: each alert arrives once, in order."""
    chat = Chat()
    dice = random.Random(seed)
    total, kills = 200, 3
    async with (
        Client.from_url(durable.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        courier = Courier(client, keys, chat, SystemClock())

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
            await courier.wait_acknowledged(outbox.last_id)

        assert chat.told == ids(*range(total))
        assert await backlog(client, keys, courier.group) == Backlog(1, 0, 0, 0)
        assert client.statistics().connects == 1 + kills
