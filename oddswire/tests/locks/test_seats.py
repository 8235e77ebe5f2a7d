"""Locks with seats, and for how long a waiter keeps its place."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from oddswire import Client
from oddswire.errors import InvalidKey, SettingsError
from oddswire.locks import Locks
from oddswire.scripts import Script
from support import eventually
from support.keys import LockKeys

HOLDER = Path(__file__).with_name("seated.py")


@pytest.fixture
def locks(client, prefix):
    """Return the locks of one process."""
    return Locks(client, prefix=prefix)


@pytest.fixture
async def others(server, prefix):
    """Return the locks of another process, with a client of its own."""
    async with Client.from_url(server.url) as client:
        yield Locks(client, prefix=prefix)


@pytest.fixture
def keys(prefix):
    """Return the keys of the lock that most tests take."""
    return LockKeys(prefix, "x")


async def _queued(client, keys, count):
    async def enough():
        return await client.zcard(keys.queue) == count

    await eventually(enough)


@pytest.mark.basic
@pytest.mark.requirement("L1")
async def test_as_many_hold_it_as_it_has_seats(locks, others):
    """Twelve tasks of two processes sit on three seats, never two on one."""
    taken, most = set(), 0

    async def sit(part):
        nonlocal most
        async with part.lock("x", 5, seats=3) as lock:
            assert lock.seat not in taken
            taken.add(lock.seat)
            most = max(most, len(taken))
            await asyncio.sleep(0.01)
            taken.remove(lock.seat)

    await asyncio.gather(*(sit(part) for part in (locks, others) * 6))
    assert most == 3
    assert len(locks.local) == len(others.local) == 0


@pytest.mark.basic
@pytest.mark.requirement("L1")
async def test_who_waits_for_a_seat_is_served_in_order(locks, others, client, keys):
    """The processes that wait get the seats in the order in which they came."""
    order = []

    async def sit(part, number):
        async with part.lock("x", 5, seats=2):
            order.append(number)

    # One of the two seats stays taken: of two that are free at the same time, the
    # processes may hear in either order.
    async with (
        locks.lock("x", 5, seats=2),
        asyncio.TaskGroup() as group,
        locks.lock("x", 5, seats=2),
    ):
        for number, part in enumerate((others, locks)):
            group.create_task(sit(part, number))
            await _queued(client, keys, number + 1)
    assert order == [0, 1]


@pytest.mark.integration
@pytest.mark.requirement("L1")
async def test_the_seat_of_a_killed_process_is_free_after_its_lease(
    locks, server, prefix
):
    """Two seats, one of them a killed process's: whoever waits gets that one."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, HOLDER, server.url, prefix, stdout=asyncio.subprocess.PIPE
    )
    seat = int(await holder.stdout.readline())
    async with locks.lock("x", 1.5, seats=2) as mine:
        assert {seat, mine.seat} == {0, 1}
        with pytest.raises(TimeoutError):
            # Two leases and more: the process that lives renews its own.
            async with asyncio.timeout(3.5), locks.lock("x", 1.5, seats=2):
                pass
        holder.kill()
        async with asyncio.timeout(20), locks.lock("x", 1.5, seats=2) as freed:
            assert freed.seat == seat
    await holder.wait()


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_cancelled_waiter_for_a_seat_leaves_no_trace(
    locks, others, client, keys
):
    """Cancelled at any step, it holds no seat and no place, and no one is held up."""
    for steps in range(12):
        async with others.lock("x", 5, seats=2):
            waiting = asyncio.get_running_loop().create_task(_sit(locks))
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            async with asyncio.timeout(5), locks.lock("x", 5, seats=2):
                pass
        assert await client.zcard(keys.queue) == 0
        assert len(locks.local) == 0


async def _sit(part):
    async with part.lock("x", 5, seats=2):
        pass


@pytest.mark.errors
async def test_seats_patience_and_names_that_cannot_be_are_refused(locks):
    """What is wrong is named; a fenced script needs a lock with one holder."""
    with pytest.raises(InvalidKey, match="a lock has a name"):
        locks.lock("", 5)
    for seats in (0, 101, True, 1.5):
        with pytest.raises(SettingsError, match=r"seats .*from 1 to 100"):
            locks.lock("x", 5, seats=seats)
    for patience in (0.0, 3601.0, "1", float("nan")):
        with pytest.raises(SettingsError, match=r"patience .*accepted are seconds"):
            locks.lock("x", 5, patience=patience)
    async with locks.lock("x", 5, seats=2) as lock:
        with pytest.raises(ValueError, match="no newest holder"):
            await lock.run(Script("one", "return 1"), [])


@pytest.mark.advanced
@pytest.mark.requirement("L1")
@pytest.mark.parametrize(
    ("ttl", "patience", "believed"),
    [(0.5, None, 0.5), (60.0, None, 3.0), (60.0, 9.0, 9.0), (0.5, 6.0, 6.0)],
)
async def test_for_how_long_a_silent_waiter_keeps_its_place(
    locks, others, client, keys, ttl, patience, believed
):
    """3 s, less for a short lease, or as the caller says; not a whole long lease."""
    async with locks.lock("x", ttl), asyncio.TaskGroup() as group:
        waiting = group.create_task(_wait(others, ttl, patience))
        kept = []

        async def waits():
            # At the same moment: the waiter may say again that it waits.
            (now, us), places = await (
                client.pipeline()
                .time()
                .zrange(keys.waiting, 0, -1, withscores=True)
                .execute()
            )
            kept[:] = [until / 1e3 - now - us / 1e6 for _, until in places]
            return kept and kept[0] > 0

        await eventually(waits)
        assert believed / 3 < kept[0] <= believed
        waiting.cancel()


async def _wait(part, ttl, patience):
    async with part.lock("x", ttl, patience=patience):
        pass


@pytest.mark.advanced
@pytest.mark.requirement("L1")
async def test_a_waiter_of_little_patience_ends_nobody_elses(
    locks, others, server, prefix, client, keys
):
    """The queue lives for as long as its most patient waiter is believed in."""
    async with (
        Client.from_url(server.url) as third,
        locks.lock("x", 60.0),
        asyncio.TaskGroup() as group,
    ):
        waiting = []
        for part, patience in ((others, 60.0), (Locks(third, prefix=prefix), 0.2)):
            waiting.append(group.create_task(_wait(part, 60.0, patience)))
            await _queued(client, keys, len(waiting))
        for key in (keys.queue, keys.waiting):
            assert await client.pttl(key) > 60_000
        for each in waiting:
            each.cancel()
