"""The server restarts, forgets, goes away and is replaced; the queue goes on."""

from __future__ import annotations

import asyncio
import logging
import signal

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.embedded import EmbeddedSentinels
from oddswire.errors import NoPermission, OddswireError
from oddswire.queue import Queue
from support import eventually, failover

from .conftest import Inbox, Note, consuming, empty

USERS = 20
EACH = 15
WANTED = [str(number) for number in range(EACH)]


def opened(server, **options):
    """A client that is quick to come back."""
    return Client.from_url(
        server.url,
        command_timeout=1.0,
        reconnect_delay=0.01,
        # Or the pause grows with the outage, and is longer than a call may take.
        reconnect_cap=0.1,
        **options,
    )


async def filled(queue):
    """Put `EACH` messages for each of `USERS` into the queue."""
    for number in WANTED:
        await queue.enqueue_many(dict.fromkeys(range(USERS), Note(number)))


def without_repeats(texts):
    """The texts, of those that follow each other only the first."""
    return [text for i, text in enumerate(texts) if i == 0 or texts[i - 1] != text]


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_a_server_that_is_killed_and_keeps_its_data_loses_nothing():
    """Killed twice with an append-only file: all delivered, in order."""
    # With everysec the server may reply before the write is in the file.
    args = ("--appendfsync", "always")
    async with (
        EmbeddedServer(aof=True, args=args) as server,
        opened(server) as client,
    ):
        queue = Queue(client, "notes", Note, lease=1.0, poll=0.05)
        await filled(queue)
        inbox = Inbox(lambda _: asyncio.sleep(0.005))
        async with consuming(queue, inbox):
            for share in (3, 2):
                await eventually(lambda: len(inbox.got) > USERS * EACH / share)  # noqa: B023
                server.kill(signal.SIGKILL)
                await server.wait_exit()
                await server.restart()
            await eventually(lambda: empty(queue))
        for user in range(USERS):
            assert without_repeats(inbox.of(user)) == WANTED
        repeats = len(inbox.got) - USERS * EACH
        assert repeats <= 2 * 8
        assert sum(message.uncertain for message in inbox.messages) >= repeats
        assert (await queue.stats()).accounted == USERS * EACH


@pytest.mark.integration
@pytest.mark.requirement("P5")
@pytest.mark.parametrize("how", ["flushed", "restarted without its data"])
async def test_a_server_that_lost_its_data_is_gone_on_with(how):
    """What was lost is lost, nothing stops, and the same ids are taken in again."""
    async with EmbeddedServer() as server, opened(server) as client:
        queue = Queue(client, "notes", Note, lease=1.0, poll=0.05)
        held, leave = asyncio.Event(), asyncio.Event()

        async def hold(message):
            if message.value.text == "hold":
                held.set()
                await leave.wait()

        await queue.enqueue(1, Note("hold"))
        await queue.enqueue(1, Note("lost"), dedup_id="x")
        inbox = Inbox(hold)
        async with consuming(queue, inbox):
            await held.wait()
            if how == "flushed":
                await client.flushall()
            else:
                server.kill(signal.SIGKILL)
                await server.wait_exit()
                await server.restart()
            # The very same ids and positions, while the old message is still held.
            assert await queue.enqueue(1, Note("again"), dedup_id="x")
            await eventually(lambda: inbox.of(1) == ["again"])
            leave.set()
            await eventually(lambda: queue.counts.lost == 1)
            await queue.enqueue(1, Note("new"))
            await eventually(lambda: empty(queue))
        assert [t for t in inbox.of(1) if t != "hold"] == ["again", "new"]
        assert (await queue.stats()).delivered == 2


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_consuming_waits_for_a_server_that_is_away():
    """An outage ends no worker; who enqueues is told, and can repeat with an id."""
    async with EmbeddedServer(aof=True) as server, opened(server) as client:
        queue = Queue(client, "notes", Note, poll=0.05)
        inbox = Inbox()
        async with consuming(queue, inbox):
            await queue.enqueue(1, Note("before"))
            await eventually(lambda: inbox.of(1) == ["before"])
            await server.stop()
            with pytest.raises(OddswireError) as caught:
                await queue.enqueue(1, Note("during"), dedup_id="x")
            assert caught.value.outcome in ("not_sent", "unknown")
            await server.restart()
            await eventually(lambda: _enqueued(queue))
            await eventually(lambda: len(inbox.got) == 2)
        assert inbox.of(1) == ["before", "during"]


async def _emptied(queue):
    try:
        return await empty(queue)
    except OddswireError:  # between two primaries
        return False


async def _enqueued(queue):
    try:
        await queue.enqueue(1, Note("during"), dedup_id="x")
    except OddswireError:
        return False
    return True


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_what_was_delivered_during_an_outage_is_not_delivered_again(caplog):
    """A worker says that it delivered until it is heard, its lease still running."""
    caplog.set_level(logging.DEBUG, "oddswire.queue")
    async with EmbeddedServer(aof=True) as server, opened(server) as client:
        queue = Queue(client, "notes", Note, lease=3_600.0, poll=0.05)
        held, leave = asyncio.Event(), asyncio.Event()

        async def hold(_message):
            held.set()
            await leave.wait()

        for text in ("first", "second"):
            await queue.enqueue(1, Note(text))
        inbox = Inbox(hold)
        async with consuming(queue, inbox):
            await held.wait()
            await server.stop()
            leave.set()
            await eventually(lambda: "settling" in caplog.text)
            await server.restart()
            await eventually(lambda: _emptied(queue))
        assert inbox.of(1) == ["first", "second"]
        assert queue.counts.delivered == 2


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_an_outage_longer_than_the_leases_repeats_nothing_here(caplog):
    """A worker that gets back what it has in hand goes on with it, once."""
    caplog.set_level(logging.DEBUG, "oddswire.queue")
    async with EmbeddedServer(aof=True) as server, opened(server) as client:
        queue = Queue(client, "notes", Note, lease=0.2, poll=0.05)
        held, leave, longer = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hold(message):
            held.set()
            await (longer if message.user_id == 2 else leave).wait()

        await queue.enqueue_many({1: Note("delivered"), 2: Note("in hand")})
        inbox = Inbox(hold)
        async with consuming(queue, inbox):
            await eventually(lambda: len(inbox.messages) == 2)
            await server.stop()
            leave.set()
            # A settlement has failed, which takes longer than a lease.
            await eventually(lambda: "settling" in caplog.text)
            await server.restart()
            await eventually(lambda: queue.counts.delivered == 1)
            longer.set()
            await eventually(lambda: _emptied(queue))
        assert sorted(inbox.got) == [(1, "delivered"), (2, "in hand")]
        assert len(inbox.messages) == 2
        assert (queue.counts.delivered, queue.counts.lost) == (2, 0)


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_refusal_that_no_waiting_mends_ends_the_worker():
    """Without the permission for its keys, consuming raises instead of spinning."""
    async with EmbeddedServer() as server, opened(server) as admin:
        await admin.acl_setuser(
            "w", enabled=True, passwords=["+p"], keys=["other:*"], categories=["+@all"]
        )
        url = f"redis://w:p@{server.host}:{server.port}"
        async with Client.from_url(url) as client:
            with pytest.raises(NoPermission):
                await Queue(client, "notes", Note).consume(Inbox())


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_workers_go_on_after_a_failover():
    """What the new primary has is delivered, everybody's in order; more may repeat."""
    async with EmbeddedSentinels() as group:
        hosts = ",".join(f"{each.host}:{each.port}" for each in group.sentinels)
        async with Client.from_url(
            f"redis://:{group.password}@{group.name}/0",
            sentinels=hosts,
            sentinel_password=group.password,
            reconnect_delay=0.02,
            command_timeout=1.0,
        ) as client:
            queue = Queue(client, "notes", Note, lease=1.0, poll=0.05)
            await filled(queue)
            assert await client.wait(1, 5_000) == 1
            inbox = Inbox(lambda _: asyncio.sleep(0.005))
            async with consuming(queue, inbox):
                await eventually(lambda: len(inbox.got) > USERS * EACH / 3)
                await failover.switch(group, "kill")
                await eventually(lambda: _emptied(queue))
            for user in range(USERS):
                assert list(dict.fromkeys(inbox.of(user))) == WANTED
            assert (await queue.stats()).accounted == USERS * EACH
