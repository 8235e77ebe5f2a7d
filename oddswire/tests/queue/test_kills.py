"""Worker processes that are killed, stopped and continued; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from oddswire.clock import ManualClock
from oddswire.queue import Queue
from support import eventually
from support.hooks import Settlement, leases

from .conftest import Inbox, Note, consuming, empty
from .worker import STEPS

WORKER = Path(__file__).with_name("worker.py")
CONCURRENCY = 16


async def work(server, prefix, step):
    """Be a worker process until it is killed; by itself, if it is to die at a step."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, WORKER, server.url, prefix, step)
    )
    try:
        assert await worker.wait() == -signal.SIGKILL
    finally:
        with suppress(ProcessLookupError):
            worker.kill()
        await worker.wait()


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_ten_thousand_messages_survive_the_killing_of_their_workers(
    server, client, prefix
):
    """At each step: all delivered, expired or dead, in order; repeats say so."""
    queue = Queue(client, "notes", Note, prefix=prefix)
    users, rounds = 1_000, 10
    await queue.enqueue_many(dict.fromkeys(range(300), Note("old")), ttl=0.001)
    for number in range(rounds):
        if number in {2, 5}:
            odd = "dead" if number == 2 else "flaky"
            await queue.enqueue_many(dict.fromkeys(range(100), Note(odd)))
        await queue.enqueue_many(dict.fromkeys(range(users), Note(f"{number}")))
    # 10,000 numbered ones, 300 old, 100 dead, 100 flaky.
    fates = list(STEPS)
    for some in (fates[::2], fates[1::2]):
        async with asyncio.TaskGroup() as workers:
            for step in some:
                workers.create_task(work(server, prefix, step))
    assert not await empty(queue)
    lasting = [
        asyncio.get_running_loop().create_task(work(server, prefix, "none"), name=name)
        for name in ("one", "two")
    ]
    await eventually(lambda: empty(queue), 60, pause=0.05)
    assert not any(task.done() for task in lasting), "it ended by itself"
    for task in lasting:
        task.cancel()
    await asyncio.gather(*lasting, return_exceptions=True)
    counted = await queue.stats()
    assert counted.accounted == counted.enqueued == 10_500
    assert (counted.expired, counted.dead_letters) == (300, 100)
    assert {letter.value.text for letter in await queue.dead()} == {"dead"}
    lines = defaultdict(list)
    for entry in await client.lrange(prefix + "sent", 0, -1):
        user, text, uncertain = entry.decode().split(":")
        lines[int(user)].append((text, uncertain == "1"))
    repeats = 0
    for user in range(users):
        got = [
            (text, [uncertain for _, uncertain in same])
            for text, same in groupby(lines[user], key=itemgetter(0))
        ]
        wanted = [str(number) for number in range(rounds)]
        if user < 100:
            wanted.insert(5, "flaky")
        assert [text for text, _ in got] == wanted
        assert all(all(uncertain[1:]) for _, uncertain in got)
        repeats += sum(len(uncertain) - 1 for _, uncertain in got)
    assert repeats <= len(fates) * CONCURRENCY


@pytest.mark.integration
@pytest.mark.requirement("P5")
async def test_a_worker_that_was_stopped_does_no_harm_when_it_goes_on(
    server, client, prefix
):
    """Its message goes to another worker; what it says later about it is refused."""
    queue = Queue(client, "notes", Note, prefix=prefix, poll=0.05)
    await queue.enqueue(1, Note("hold"))
    await queue.enqueue(1, Note("next"))
    stopped = await asyncio.create_subprocess_exec(
        *(sys.executable, WORKER, server.url, prefix),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: client.exists(prefix + "held"))
        os.kill(stopped.pid, signal.SIGSTOP)
        inbox = Inbox()
        async with consuming(queue, inbox):
            await eventually(lambda: empty(queue))
        assert inbox.of(1) == ["hold", "next"]
        assert [each.uncertain for each in inbox.messages] == [True, False]
        await queue.enqueue(1, Note("last"))
        await client.rpush(prefix + "go", 1)
        os.kill(stopped.pid, signal.SIGCONT)
        await eventually(lambda: empty(queue))
        stopped.terminate()
        output, _ = await stopped.communicate()
    finally:
        with suppress(ProcessLookupError):
            stopped.kill()
    # It delivered the last one, and of the first it learned that it was not its own.
    assert output == b"1 1\n"
    counted = await queue.stats()
    assert (counted.delivered, counted.reclaimed, counted.depth) == (3, 1, 0)


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_handler_whose_lease_was_lost_is_cancelled(make):
    """What another worker has is not delivered any further by this one."""
    clock = ManualClock()
    queue = make(clock=clock, lease=0.15)
    held, cancelled = asyncio.Event(), asyncio.Event()

    async def hold(_message):
        held.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def taken_away():
        await clock.advance(0.15)
        return (await leases(queue).take(1, 60)).leased

    await queue.enqueue(1, Note("a"))
    async with consuming(queue, hold):
        await held.wait()
        await eventually(taken_away)
        await cancelled.wait()
        await eventually(lambda: queue.counts.lost == 1)
    counted = await queue.stats()
    assert (counted.waiting, counted.leased, counted.delivered) == (1, 1, 0)


@pytest.mark.errors
@pytest.mark.requirement("P5")
async def test_a_late_settlement_is_refused(make):
    """Who lost a lease can neither finish, fail nor bury what another one has."""
    clock = ManualClock()
    queue = make(clock=clock)
    store = leases(queue)
    await queue.enqueue(1, Note("a"))
    (late,) = (await store.take(1, 10)).leased
    assert (await store.take(1, 10)).leased == []
    assert await store.renew(10, [late]) == [True]
    await clock.advance(10)
    (now,) = (await store.take(1, 10)).leased
    assert (now.id, now.uncertain, late.uncertain) == (late.id, True, False)
    for what in ("done", "retry", "wait", "release", "dead"):
        assert not await store.settle(late, Settlement(what))
    assert await store.renew(10, [late, now]) == [False, True]
    assert (await queue.stats()).waiting == 1
    assert await store.settle(now, Settlement("done"))
    assert not await store.settle(now, Settlement("done"))
    counted = await queue.stats()
    assert (counted.delivered, counted.dead, counted.depth) == (1, 0, 0)
