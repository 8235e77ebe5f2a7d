from __future__ import annotations

import asyncio

import pytest

from oddsbot.delivery import Outbox, alert_queue
from oddswire import Client
from oddswire.errors import OddswireError
from oddswire.keys import QUEUE_LINES
from support.hooks import Settlement, decoded, leases, queue_script

ENQUEUE = queue_script("enqueue")


async def written(queue) -> list[str]:
    """Return the ids of the alerts that wait in the queue, in order."""
    batch = await leases(queue).take(100, 0.001)
    if not batch.leased:
        return []
    done = []
    for taken in batch.leased:
        done.append(decoded(queue, taken).alert.id)
        await leases(queue).settle(taken, Settlement("done"))
    return done + await written(queue)


@pytest.fixture
async def queue(server, prefix):
    """A queue on the shared server."""
    async with Client.from_url(server.url) as client:
        yield alert_queue(client, prefix)


@pytest.mark.basic
async def test_alerts_are_written_in_the_order_of_their_calls(queue, alert):
    """Puts that run at once write in the order in which they were called."""
    outbox = Outbox(queue)
    await asyncio.gather(*(outbox.put(alert(n)) for n in range(50)))

    assert await written(queue) == [f"rule:{n}" for n in range(50)]


@pytest.mark.basic
async def test_the_names_of_a_new_process_are_no_repeats(queue, alert):
    """Rules count from 1 in each run; an alert of the next run is another alert."""
    await Outbox(queue).put(alert(1))
    await Outbox(queue).put(alert(1))

    assert await written(queue) == ["rule:1", "rule:1"]


@pytest.mark.errors
async def test_losing_one_reply_after_the_other_writes_once(lossy, prefix, alert):
    """However many replies in a row get lost, the alert is written once, in order."""
    way, client = lossy
    queue = alert_queue(client, prefix)
    outbox = Outbox(queue)
    await outbox.put(alert(0))
    way.lose = {ENQUEUE: 3}
    await outbox.put(alert(1))
    await outbox.put(alert(2))

    assert way.lost == 3
    assert queue.counts.duplicates == 1
    assert await written(queue) == ["rule:0", "rule:1", "rule:2"]


@pytest.mark.integration
async def test_puts_wait_for_a_server_that_is_down(durable, prefix, alert):
    """Alerts put while the server is down are written, in order, when it returns."""
    async with Client.from_url(durable.url) as client:
        queue = alert_queue(client, prefix)
        outbox = Outbox(queue)
        await outbox.put(alert(0))
        durable.kill()
        await durable.wait_exit()
        async with asyncio.TaskGroup() as tasks:
            puts = [tasks.create_task(outbox.put(alert(n))) for n in range(1, 20)]
            await asyncio.wait(puts, timeout=0.05)
            assert not any(put.done() for put in puts)
            await durable.restart()

        assert await written(queue) == [f"rule:{n}" for n in range(20)]


@pytest.mark.errors
async def test_a_cancelled_put_leaves_the_next_one_alone(durable, prefix, alert):
    """A put that is cancelled in an outage takes nothing with it."""
    async with Client.from_url(durable.url) as client:
        queue = alert_queue(client, prefix)
        outbox = Outbox(queue)
        durable.kill()
        await durable.wait_exit()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await outbox.put(alert(0))
        await durable.restart()
        await outbox.put(alert(1))

        assert await written(queue) == ["rule:1"]


@pytest.mark.errors
async def test_what_waiting_does_not_mend_is_raised_at_once(server, keys, alert):
    """A refusal that would stay the same for ever is raised instead of waited out."""
    async with Client.from_url(server.url) as client:
        await client.set(keys.key(QUEUE_LINES, "alerts"), "not a line")

        with pytest.raises(OddswireError, match="WRONGTYPE"):
            await Outbox(alert_queue(client, keys.prefix)).put(alert(0))
