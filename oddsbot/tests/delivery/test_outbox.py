from __future__ import annotations

import asyncio

import pytest

from oddsbot.delivery import OUTBOX, Outbox, OutboxError
from oddsbot.delivery.outbox import FIELD, Entry
from oddswire import Client
from oddswire.clock import ManualClock, SystemClock
from oddswire.codec import Codec
from oddswire.errors import WrongType


async def written(client, keys) -> list[str]:
    """Return the ids of the alerts in the stream, in order."""
    codec = Codec(Entry)
    entries = await client.xrange(keys.key(OUTBOX))
    return [codec.decode(fields[FIELD]).alert.id for _, fields in entries]


@pytest.mark.basic
async def test_alerts_are_written_in_the_order_of_their_calls(server, keys, alert):
    """Puts that run at once write in the order in which they were called."""
    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        entries = await asyncio.gather(*(outbox.put(alert(n)) for n in range(50)))

        assert await written(client, keys) == [f"rule:{n}" for n in range(50)]
        assert entries == sorted(entries)
        assert outbox.last_id == entries[-1]


@pytest.mark.basic
async def test_a_new_process_continues_the_ids(server, keys, alert):
    """An outbox that is opened again goes on above the newest id of the stream."""
    clock = ManualClock(now=1_000.0)
    async with Client.from_url(server.url) as client:
        async with Outbox(client, keys, clock) as outbox:
            assert outbox.last_id is None
            first = await outbox.put(alert(0))
        async with Outbox(client, keys, clock) as outbox:
            second = await outbox.put(alert(1))

        assert (first, second) == ("1000001-0", "1000002-0")
        assert await written(client, keys) == ["rule:0", "rule:1"]


@pytest.mark.errors
async def test_ids_go_on_growing_when_the_data_is_lost(server, keys, alert):
    """After the server lost its data, ids still exceed those of before."""
    async with Client.from_url(server.url) as client:
        async with Outbox(client, keys, ManualClock(now=1_000.0)) as outbox:
            before = await outbox.put(alert(0))
        await client.unlink(keys.key(OUTBOX))
        async with Outbox(client, keys, ManualClock(now=1_060.0)) as outbox:
            after = await outbox.put(alert(1))

        assert int(before.partition("-")[0]) < int(after.partition("-")[0])


@pytest.mark.errors
async def test_a_lost_reply_does_not_write_twice(lossy, keys, alert):
    """An XADD that arrived although its reply got lost is found, not repeated."""
    way, client = lossy
    async with Outbox(client, keys, SystemClock()) as outbox:
        await outbox.put(alert(0))
        way.lose = {b"XADD": 1}
        await outbox.put(alert(1))
        await outbox.put(alert(2))

        assert way.lost == 1
        assert await written(client, keys) == ["rule:0", "rule:1", "rule:2"]


@pytest.mark.errors
async def test_losing_one_reply_after_the_other_writes_once(lossy, keys, alert):
    """However many replies in a row get lost, the alert is written once."""
    way, client = lossy
    async with Outbox(client, keys, SystemClock()) as outbox:
        way.lose = {b"XADD": 3, b"XRANGE": 2}
        await outbox.put(alert(0))

        assert sum(way.lose.values()) == 0
        assert await written(client, keys) == ["rule:0"]


@pytest.mark.integration
async def test_puts_wait_for_a_server_that_is_down(durable, keys, alert):
    """Alerts put while the server is down are written, in order, when it returns."""
    async with (
        Client.from_url(durable.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        await outbox.put(alert(0))
        durable.kill()
        await durable.wait_exit()
        async with asyncio.TaskGroup() as tasks:
            puts = [tasks.create_task(outbox.put(alert(n))) for n in range(1, 20)]
            await asyncio.wait(puts, timeout=0.05)
            assert not any(put.done() for put in puts)
            await durable.restart()

        assert await written(client, keys) == [f"rule:{n}" for n in range(20)]


@pytest.mark.errors
async def test_a_cancelled_put_leaves_the_next_one_alone(durable, keys, alert):
    """A put cancelled in an outage takes its id with it; the next one works."""
    async with (
        Client.from_url(durable.url) as client,
        Outbox(client, keys, SystemClock()) as outbox,
    ):
        durable.kill()
        await durable.wait_exit()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await outbox.put(alert(0))
        await durable.restart()
        await outbox.put(alert(1))

        assert await written(client, keys) == ["rule:1"]


@pytest.mark.errors
async def test_opening_waits_for_the_server_too(durable, keys, alert):
    """An outbox can be opened while the server is down; it is open when it is back."""
    async with Client.from_url(durable.url) as client:
        durable.kill()
        await durable.wait_exit()
        outbox = Outbox(client, keys, SystemClock())
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(outbox.__aenter__())
            await asyncio.wait([opening], timeout=0.05)
            assert not opening.done()
            await durable.restart()
        await outbox.put(alert(0))

        assert await written(client, keys) == ["rule:0"]


@pytest.mark.errors
async def test_a_second_producer_is_found_out(server, keys, alert):
    """Two producers on one stream: the one whose id was taken says so and stops."""
    clock = ManualClock(now=1_000.0)
    async with (
        Client.from_url(server.url) as client,
        Outbox(client, keys, clock) as one,
        Outbox(client, keys, clock) as other,
    ):
        await one.put(alert(0))

        with pytest.raises(OutboxError, match="there may be one only"):
            await other.put(alert(1))
        assert await written(client, keys) == ["rule:0"]


@pytest.mark.errors
async def test_what_waiting_does_not_mend_is_raised_at_once(server, keys, alert):
    """A refusal that would stay the same for ever is raised instead of waited out."""
    async with Client.from_url(server.url) as client:
        await client.set(keys.key(OUTBOX), "not a stream")

        with pytest.raises(WrongType):
            await Outbox(client, keys, SystemClock()).__aenter__()
