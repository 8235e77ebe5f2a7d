from __future__ import annotations

import asyncio
import itertools
import logging

import pytest
from aiogram.fsm.storage.base import StorageKey

from oddswire import Client
from oddswire.adapters._update_locks import name
from oddswire.adapters.aiogram import EventIsolation
from oddswire.adapters.aiogram._parts import parts
from oddswire.errors import (
    CommandTimeout,
    ConversationBusy,
    OddswireError,
    SettingsError,
)
from oddswire.keys import LOCK, KeySpace
from oddswire.testing import Resources, frozen
from support import eventually
from support.hooks import limit

KEY = StorageKey(bot_id=42, chat_id=1, user_id=1)
OTHER = StorageKey(bot_id=42, chat_id=2, user_id=2)


def name_of(prefix, family=LOCK):
    """Return the key of a lock."""
    return KeySpace(prefix).key(family, name("conversation", *parts(KEY)))


@pytest.fixture
def isolation(client, prefix):
    """An isolation on the shared server."""
    return EventIsolation(client, prefix=prefix)


class Inside:
    """Handlers that note who is inside, and stay until they are let go."""

    def __init__(self, isolation):
        self.isolation = isolation
        self.order = []
        self.most = 0
        self._now = 0
        self.go = asyncio.Event()

    async def enter(self, number, key=KEY):
        """Handle an update."""
        async with self.isolation.lock(key):
            self._now += 1
            self.most = max(self.most, self._now)
            self.order.append(number)
            await self.go.wait()
            self._now -= 1


@pytest.mark.basic
@pytest.mark.requirement("S9")
async def test_updates_of_a_user_run_one_at_a_time_in_order(isolation, client, prefix):
    """First come, first served, and nothing is left behind."""
    inside = Inside(isolation)
    inside.go.set()
    await asyncio.gather(*(inside.enter(number) for number in range(30)))

    assert inside.order == list(range(30))
    assert inside.most == 1
    assert isolation.locks.keys == 0
    assert not await client.exists(name_of(prefix))


@pytest.mark.basic
async def test_updates_of_two_users_run_at_the_same_time(isolation):
    """A turn is that of one conversation only."""
    inside = Inside(isolation)
    tasks = [
        asyncio.ensure_future(inside.enter(1)),  # noqa: TID251 - awaited below
        asyncio.ensure_future(inside.enter(2, OTHER)),  # noqa: TID251 - awaited below
    ]
    await eventually(lambda: inside.most == 2)
    inside.go.set()
    await asyncio.gather(*tasks)


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_two_processes_lose_no_update(server, client, prefix, worker):
    """A read and a write under the lock count right, over processes."""
    first, second = [
        await worker("count", server.url, prefix, prefix + "n", 60) for _ in range(2)
    ]
    assert await first.stdout.readline() == b"done\n"
    assert await second.stdout.readline() == b"done\n"

    assert int(await client.get(prefix + "n")) == 120


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_the_lock_of_a_killed_process_ends_by_its_lease(
    server, client, prefix, worker
):
    """Kill -9 in a handler: the next update waits for the lease and no longer."""
    holder = await worker("hold", server.url, prefix, 1.2)
    assert await holder.stdout.readline() == b"held\n"
    isolation = EventIsolation(client, prefix=prefix, timeout=20.0)
    taken = asyncio.Event()

    async def take():
        async with isolation.lock(KEY):
            taken.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(take())
        # Two leases long it is held, for its holder renews it.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(taken.wait(), 2.6)
        holder.kill()
        async with asyncio.timeout(20):
            await taken.wait()


@pytest.mark.advanced
async def test_who_waits_is_woken_and_does_not_poll(
    server, prefix, client, monkeypatch
):
    """While another process holds the lock, no commands are sent to look at it."""
    # Or it would look by itself each second.
    limit(monkeypatch, "look at a lock", 300.0)
    async with Client.from_url(server.url) as far:
        here, there = (EventIsolation(each, prefix=prefix) for each in (client, far))
        inside = Inside(here)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inside.enter(1))
            await eventually(lambda: inside.order == [1])
            other = Inside(there)
            other.go.set()
            waiting = tasks.create_task(other.enter(2))
            async with asyncio.timeout(60):
                while not (await client.info("clients"))["blocked_clients"]:
                    pass
            calls = far.stats().calls
            assert (calls["EVALSHA"], calls["XREAD"]) == (1, 1)
            inside.go.set()
            await waiting
            # To have it and to give it back.
            assert far.stats().calls["EVALSHA"] == 3
    assert other.order == [2]


@pytest.mark.advanced
async def test_more_waits_than_wires_are_all_served(server, prefix, client):
    """Many contended conversations do not use up the pool."""
    keys = [StorageKey(42, number, number) for number in range(1, 13)]
    async with Client.from_url(server.url) as far:
        here, there = (EventIsolation(each, prefix=prefix) for each in (client, far))
        inside, other = Inside(here), Inside(there)
        other.go.set()
        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(inside.enter(key.user_id, key))
            await eventually(lambda: len(inside.order) == 12)
            for key in keys:
                tasks.create_task(other.enter(key.user_id, key))
            await eventually(lambda: there.locks.keys == 12)
            assert await far.blpop([prefix + "no"], timeout=0.01) is None
            inside.go.set()
        assert len(other.order) == 12


@pytest.mark.errors
async def test_too_many_waiting_updates_are_refused(client, prefix):
    """The queue of one user has a cap; the others are not held up."""
    isolation = EventIsolation(client, prefix=prefix, queue=2)
    inside = Inside(isolation)
    async with asyncio.TaskGroup() as tasks:
        for number in range(3):
            tasks.create_task(inside.enter(number))
        await eventually(lambda: inside.order == [0])
        with pytest.raises(ConversationBusy, match="2 updates"):
            await inside.enter(3)
        inside.go.set()
        await inside.enter(4, OTHER)
    assert sorted(inside.order) == [0, 1, 2, 4]


@pytest.mark.errors
async def test_waiting_for_a_turn_has_an_end(client, server, prefix):
    """After the timeout it is refused, in this process and for another's lock."""
    isolation = EventIsolation(client, prefix=prefix, timeout=1.0)
    inside = Inside(isolation)
    async with Client.from_url(server.url) as far, asyncio.TaskGroup() as tasks:
        tasks.create_task(inside.enter(1))
        await eventually(lambda: inside.order == [1])
        with pytest.raises(ConversationBusy, match="timeout"):
            await inside.enter(2)
        there = EventIsolation(far, prefix=prefix, timeout=1.0)
        with pytest.raises(ConversationBusy, match="another process"):
            await Inside(there).enter(3)
        assert there.locks.keys == 0
        inside.go.set()
    assert isolation.locks.keys == 0


@pytest.mark.errors
async def test_a_cancelled_update_leaves_the_line(isolation):
    """Its place goes to the next, wherever it was cancelled."""
    inside = Inside(isolation)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(inside.enter(number)) for number in range(4)]
        await eventually(lambda: inside.order == [0])
        tasks[1].cancel()
        tasks[0].cancel()  # the turn passes to a task that is cancelled too
        tasks[2].cancel()
        inside.go.set()
    assert inside.order == [0, 3]
    assert isolation.locks.keys == 0


@pytest.mark.errors
async def test_cancelled_at_the_moment_of_its_turn_it_passes_the_turn_on(isolation):
    """However the turn and the cancellation meet, the next one goes on."""
    for turns in range(40):
        inside = Inside(isolation)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(inside.enter(0))
            second = tasks.create_task(inside.enter(1))
            tasks.create_task(inside.enter(2))
            while not inside.order:  # noqa: ASYNC110 - each turn of the loop counts
                await asyncio.sleep(0)
            inside.go.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            second.cancel()
        assert inside.order in ([0, 2], [0, 1, 2])
    assert isolation.locks.keys == 0


@pytest.mark.errors
async def test_cancelled_at_any_turn_of_the_loop_nothing_stays(
    isolation, client, prefix
):
    """However far it came, the lock is free and the next may go on."""
    await client.ping()
    before = Resources.now()
    inside = Inside(isolation)
    for turns in range(12):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(inside.enter(turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
    inside.go.set()
    await inside.enter("last")

    assert inside.order[-1] == "last"
    assert isolation.locks.keys == 0
    assert not await client.exists(name_of(prefix))
    assert not Resources.now().leaked(before)


@pytest.mark.errors
async def test_a_handler_that_raises_gives_the_turn_back(isolation, client, prefix):
    """Its own error comes out, and the next goes on at once."""
    with pytest.raises(ZeroDivisionError):
        async with isolation.lock(KEY):
            _ = 1 / 0
    assert not await client.exists(name_of(prefix))


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_a_lost_lock_is_told_and_the_handler_succeeds(client, prefix, caplog):
    """A lock that another took is a warning and a count, never an error."""
    isolation = EventIsolation(client, prefix=prefix, lease=0.3)
    with caplog.at_level(logging.WARNING, "oddswire.adapters"):
        async with isolation.lock(KEY):
            await client.set(name_of(prefix), "somebody else")
            await eventually(lambda: isolation.locks.lost == 1)
            done = True
    assert done
    assert "before its handler was done" in caplog.text
    assert await client.get(name_of(prefix)) == b"somebody else"


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_redis_killed_in_a_handler_does_not_undo_it(own):
    """The handler was done, so nothing is raised when the lock cannot be given back."""
    async with Client.from_url(own.url, command_timeout=2.0) as client:
        isolation = EventIsolation(client)
        async with isolation.lock(KEY):
            own.kill()
        assert isolation.locks.keys == 0


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_without_redis_it_raises_or_keeps_its_own_order(own):
    """By choice; without Redis, a process still has its own turns."""
    async with Client.from_url(own.url, command_timeout=0.5) as client:
        await client.ping()
        own.kill()
        with pytest.raises(OddswireError):
            async with EventIsolation(client).lock(KEY):
                pytest.fail("it has no turn")
        isolation = EventIsolation(client, on_error="local")
        inside = Inside(isolation)
        inside.go.set()
        await asyncio.gather(*(inside.enter(number) for number in range(3)))
    assert inside.order == [0, 1, 2]
    assert inside.most == 1
    assert isolation.locks.local == 3


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_a_redis_that_hangs_is_redis_away_and_no_busy_conversation(own):
    """A server that does not answer: its error, or by choice this process's order."""
    async with Client.from_url(own.url) as client:
        await client.ping()
        with frozen(own):
            with pytest.raises(CommandTimeout):
                async with EventIsolation(client, timeout=0.5).lock(KEY):
                    pytest.fail("it has no turn")
            isolation = EventIsolation(client, timeout=0.5, on_error="local")
            async with isolation.lock(OTHER):
                assert isolation.locks.local == 1


@pytest.mark.errors
async def test_a_turn_that_comes_at_the_last_moment_is_taken(isolation, monkeypatch):
    """The time went by in this process's line, and nobody else has the lock."""
    later = itertools.count(0, 50).__next__
    monkeypatch.setattr("oddswire.adapters._update_locks.monotonic", later)
    async with isolation.lock(KEY):
        assert later() > 60
    assert isolation.locks.local == 0


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_who_waits_for_another_and_has_its_wire_cut_waits_on(
    server, prefix, client
):
    """A wire lost while the server is there is no reason to run beside the holder."""
    async with Client.from_url(server.url) as far:
        holder = Inside(EventIsolation(client, prefix=prefix))
        there = EventIsolation(far, prefix=prefix, on_error="local")
        other = Inside(there)
        other.go.set()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(holder.enter(1))
            await eventually(lambda: holder.order == [1])
            tasks.create_task(other.enter(2))
            while not far.stats().failures:
                for one in await client.client_list():
                    if one["cmd"] == "xread" and "b" in one["flags"]:
                        await client.client_kill_filter(_id=one["id"])
            assert other.order == []
            holder.go.set()
    assert other.order == [2]
    assert there.locks.local == 0


@pytest.mark.errors
def test_wrong_options_are_named(client):
    """Numbers out of range raise at once."""
    for options in (
        {"lease": 0},
        {"lease": 1e9},
        {"timeout": 0},
        {"queue": -1},
        {"on_error": "open"},
    ):
        with pytest.raises(SettingsError):
            EventIsolation(client, **options)
