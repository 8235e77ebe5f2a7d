from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.clock import LoopLag
from oddswire.errors import ClosedError, LockLost, OddswireError
from oddswire.keys import LOCK_FENCE, KeySpace
from oddswire.locks import Locks, LockStats
from oddswire.scripts import Script
from oddswire.testing import frozen
from support import eventually
from support.hooks import limit
from support.keys import LockKeys

WORKER = Path(__file__).with_name("worker.py")
WRITE = Script("write", "return redis.call('SET', KEYS[1], ARGV[1])")


@pytest.fixture
def keys(prefix):
    """Return the keys of the lock that most tests take."""
    return LockKeys(prefix, "x")


@pytest.fixture
def locks(client, prefix):
    """Return the locks of one process."""
    return Locks(client, prefix=prefix)


@pytest.fixture
async def others(server, prefix):
    """Return the locks of another process, with a client of its own."""
    async with Client.from_url(server.url) as client:
        yield Locks(client, prefix=prefix)


class Adder:
    """A process of `worker.py`."""

    def __init__(self):
        self.said = Counter()
        self.news = asyncio.Event()

    async def start(self, url, prefix, how):
        """Start it."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, WORKER, url, prefix, how, stdout=asyncio.subprocess.PIPE
        )
        self.reading = asyncio.get_running_loop().create_task(self._read())
        return self

    async def _read(self):
        async for line in self.process.stdout:
            self.said[line.decode().strip()] += 1
            self.news.set()

    async def says(self, word, count):
        """Wait until it has said a word so often."""
        while self.said[word] < count:
            self.news.clear()
            await self.news.wait()

    async def kill(self):
        """Kill it, and read what it said before."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.reading


@pytest.mark.integration
@pytest.mark.requirement("L1")
async def test_overrun_killed_and_paused_holders_count_what_they_acknowledged(
    server, client, prefix
):
    """Additions acknowledged and counted are the same, whatever becomes of holders."""
    adders = [
        await Adder().start(server.url, prefix, how)
        for how in ("plain", "plain", "plain", "overrun")
    ]
    key = Locks(client, prefix=prefix).lock("counter", 1).key("count")
    killed = unsure = 0
    async with asyncio.timeout(28):
        first, second, third, overrun = adders
        await first.says("held", 3)
        await first.kill()
        killed += 1
        await second.says("added", 5)
        # Stopped while it holds the lock, for longer than its lease.
        held = second.said["held"]
        await second.says("held", held + 1)
        with frozen(second.process.pid):
            added = third.said["added"]
            await third.says("added", added + 5)
        await overrun.says("lost", 2)
        total = lambda: sum(a.said["added"] for a in adders)  # noqa: E731
        while total() < 100:
            third.news.clear()
            await third.news.wait()
        for adder in adders[1:]:
            await adder.kill()
            killed += 1
    acknowledged = total()
    unsure = sum(adder.said["error unknown"] for adder in adders)
    counted = int(await client.get(key))
    # A killed process may have written what it could no longer say.
    assert acknowledged <= counted <= acknowledged + killed + unsure
    assert acknowledged >= 100


@pytest.mark.integration
@pytest.mark.requirement("L1")
async def test_a_hundred_additions_are_a_hundred(locks, others, client):
    """A hundred tasks of two processes add one each, and each of them is counted."""

    async def add(part):
        async with part.lock("counter", 5) as lock:
            value = int(await client.get(lock.key("n")) or 0)
            await asyncio.sleep(0)
            await lock.run(WRITE, [lock.key("n")], [value + 1])

    await asyncio.gather(*(add(part) for part in (locks, others) * 50))
    assert await client.get(locks.lock("counter", 5).key("n")) == b"100"
    assert len(locks.local) == 0


@pytest.mark.basic
@pytest.mark.requirement("L1")
async def test_first_come_first_served(locks, others, keys):
    """Tasks of one process, and processes, get the lock in the order they asked."""
    order = []

    async def take(part, number):
        async with part.lock("x", 5):
            order.append(number)

    async with asyncio.TaskGroup() as group, locks.lock("x", 5):
        for number in range(10):
            group.create_task(take(locks, number))
            await asyncio.sleep(0)
        group.create_task(take(others, 10))
        await _waits(others.client, keys, 1)
    assert sorted(order) == list(range(11))
    assert [n for n in order if n < 10] == list(range(10))


async def _waits(client, keys, count):
    async def enough():
        return await client.zcard(keys.queue) >= count

    await eventually(enough)


@pytest.mark.integration
@pytest.mark.requirement("L1")
async def test_processes_are_served_in_their_order(server, prefix, keys):
    """Three processes that wait for one lock get it in the order they came."""
    order = []
    clients = [Client.from_url(server.url) for _ in range(4)]
    parts = [Locks(client, prefix=prefix) for client in clients]

    async def take(part, number):
        async with part.lock("x", 5):
            order.append(number)

    async with asyncio.TaskGroup() as group, parts[3].lock("x", 5):
        for number in range(3):
            group.create_task(take(parts[number], number))
            await _waits(clients[3], keys, number + 1)
    assert order == [0, 1, 2]
    await asyncio.gather(*(client.aclose() for client in clients))


@pytest.mark.basic
@pytest.mark.requirement("C7")
async def test_locks_are_counted(locks, others, client, keys):
    """Held, waited for, taken, had by another process first, and lost."""
    async with others.lock("x", 5), asyncio.TaskGroup() as group:
        waiting = group.create_task(_take(locks, "x"))
        await _waits(others.client, keys, 1)
        assert locks.stats() == LockStats(waiting=1)
        assert others.stats() == LockStats(held=1, acquired=1)
        waiting.cancel()
    async with asyncio.TaskGroup() as group, others.lock("x", 5):
        group.create_task(_take(locks, "x"))
        await _waits(others.client, keys, 1)
    assert locks.stats() == LockStats(acquired=1, contended=1)

    async def lose():
        async with others.lock("x", 0.5):
            await client.delete(keys.holder)
            await asyncio.sleep(60)

    with pytest.raises(LockLost):
        await lose()
    assert others.stats() == LockStats(acquired=3, lost=1)


@pytest.mark.advanced
@pytest.mark.requirement("L1")
async def test_it_is_renewed_while_it_is_held(locks, others, client, keys):
    """A block that lasts several leases keeps the lock, and nobody gets in."""
    async with locks.lock("x", 1.0) as lock:
        waiting = asyncio.get_running_loop().create_task(_take(others, "x"))
        token = await client.get(keys.holder)
        for _ in range(40):
            await asyncio.sleep(0.06)
            assert 0 < lock.left <= 1.0
            assert await client.get(keys.holder) == token
        assert not waiting.done()
    assert await waiting > lock.fence


async def _take(part, name):
    async with part.lock(name, 1) as lock:
        return lock.fence


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_lock_that_was_taken_away_ends_the_block(locks, client, keys):
    """Somebody else's token in the key is noticed by the next renewal."""
    with pytest.raises(LockLost):  # noqa: PT012
        async with locks.lock("x", 0.3):
            await client.set(keys.holder, "somebody")
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
    assert await client.get(keys.holder) == b"somebody", "it is not ours to delete"


@pytest.mark.errors
@pytest.mark.requirement("L1")
@pytest.mark.parametrize("ends", ["in the block", "at its end"])
async def test_by_choice_a_lock_that_was_lost_is_told_and_the_block_goes_on(
    locks, client, ends, keys
):
    """With `on_lost` it is called once, nothing is raised, nothing is cancelled."""
    told, known = [], asyncio.Event()

    def on_lost():
        told.append(lock.left)
        known.set()

    lock = locks.lock("x", 0.3 if ends == "in the block" else 60, on_lost=on_lost)
    async with asyncio.timeout(5), lock:
        await client.set(keys.holder, "somebody")
        if ends == "in the block":
            await known.wait()
            with pytest.raises(LockLost):
                lock.check()
    assert told == [0]
    assert await client.get(keys.holder) == b"somebody", "it is not ours to delete"


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_the_end_of_a_lease_is_known_without_the_server():
    """While the server is stopped the block is cancelled before the lease can end."""
    async with EmbeddedServer() as own, Client.from_url(own.url) as client:
        locks = Locks(client)
        began = ended = 0.0
        with (  # noqa: PT012
            LoopLag() as lag,
            frozen_later() as freeze,
            pytest.raises(LockLost),
        ):
            async with locks.lock("x", 0.5) as lock:
                began = monotonic()
                freeze(own)
                try:
                    await asyncio.Event().wait()
                finally:
                    ended = monotonic()
                    with pytest.raises(LockLost):
                        lock.check()
                    with pytest.raises(LockLost):
                        await lock.run(WRITE, [lock.key("n")], [1])
        assert ended - began - lag.between(began, ended) < 0.75


class frozen_later:  # noqa: N801 - reads like `frozen`
    """Stops a server when it is told to, until the end of the block."""

    def __enter__(self):
        self.stack = []

        def freeze(server):
            context = frozen(server)
            context.__enter__()
            self.stack.append(context)

        return freeze

    def __exit__(self, *exc):
        for context in self.stack:
            context.__exit__(None, None, None)


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_late_write_of_an_older_holder_is_refused(locks, others, client, keys):
    """The script checks the number: who overran cannot write over the next holder."""
    with pytest.raises(LockLost, match="ended before"):  # noqa: PT012
        async with locks.lock("x", 5) as old:
            # As if it had been paused past its lease: the server gave it to another.
            await client.delete(keys.holder)
            async with others.lock("x", 5) as new:
                await new.run(WRITE, [new.key("n")], ["new"])
                with pytest.raises(LockLost, match="another holder"):
                    await old.run(WRITE, [old.key("n")], ["old"])
            with pytest.raises(LockLost):
                await old.run(WRITE, [old.key("n")], ["old"])
            assert new.fence > old.fence
    assert await client.get(old.key("n")) == b"new"


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_cancelled_waiters_leave_no_trace(locks, others, client, keys):
    """Who stops waiting, at any step, holds nothing up and leaves nothing behind."""
    for steps in range(15):
        async with others.lock("x", 5):
            tasks = [
                asyncio.get_running_loop().create_task(_take(locks, "x"))
                for _ in range(3)
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks[:2]:
                task.cancel()
        await asyncio.wait_for(tasks[2], 5)
        assert len(locks.local) == 0
        assert await client.zcard(keys.queue) == 0
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(4), locks.lock("x", 5):
        pass


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_dead_waiter_holds_nobody_up(locks, client, keys):
    """A waiter that was killed loses its place in three seconds."""
    lock = locks.lock("x", 5)
    await client.zadd(keys.queue, {"dead": 1})
    now = int((await client.time())[0]) * 1000
    await client.zadd(keys.waiting, {"dead": now + 1500})
    async with asyncio.timeout(5), lock:
        pass


@pytest.mark.errors
async def test_errors_of_the_block_and_of_the_caller(locks):
    """The block's own exception comes out, a lock is used once, a ttl has bounds."""
    lock = locks.lock("x", 5)
    with pytest.raises(ZeroDivisionError):
        async with lock:
            _ = 1 / 0
    with pytest.raises(ClosedError):
        async with lock:
            pass
    with pytest.raises(LockLost):
        lock.check()
    with pytest.raises(ValueError, match="ttl"):
        locks.lock("x", 0.01)
    with pytest.raises(TimeoutError):
        async with locks.lock("x", 5), asyncio.timeout(0.01):
            await asyncio.sleep(1)
    with pytest.raises(asyncio.CancelledError):  # noqa: PT012
        async with locks.lock("x", 5):
            asyncio.current_task().cancel()
            await asyncio.sleep(1)
    asyncio.current_task().uncancel()
    async with asyncio.timeout(4), locks.lock("x", 5):
        pass


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_lock_entered_by_two_tasks_at_once_is_refused_to_the_second(locks):
    """The first one has it, or waits on, and the name is free afterwards."""
    held, waiting = locks.lock("x", 5), locks.lock("x", 5)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        async with held:
            first = group.create_task(waiting.__aenter__())
            await asyncio.sleep(0)
            for again in (held, waiting):
                with pytest.raises(ClosedError):
                    await again.__aenter__()
        await first
        await waiting.__aexit__(None, None, None)
        async with locks.lock("x", 5):
            pass
    assert len(locks.local) == 0


@pytest.mark.errors
async def test_a_server_that_is_away_is_an_error_and_nothing_is_held(prefix):
    """Without a server, entering raises what the client raises."""
    async with Client.from_url(
        "redis://127.0.0.1:1", connect_timeout=0.2, command_timeout=0.4
    ) as client:
        locks = Locks(client, prefix=prefix)
        with pytest.raises(OddswireError):
            async with locks.lock("x", 5):
                pass
        assert len(locks.local) == 0


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_server_that_blocks_for_too_long_is_asked_again(
    locks, client, monkeypatch, keys
):
    """A wait that is not answered in time ends as one in which nothing happened.

    A server blocks by its wall clock: set back, it would wake nobody for as long.
    """
    limit(monkeypatch, "blocking grace", -60.0)
    await locks.wait(keys.released, "0-0", 60.0)
    assert client.stats().failures["CommandTimeout"] == 1


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_waiter_whose_wire_is_cut_gets_its_turn(locks, others):
    """A wire killed while it waits costs neither the place nor an error."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        async with others.lock("x", 5):
            waiting = group.create_task(_take(locks, "x"))
            while not locks.client.stats().failures:
                await _cut_waiting(others.client)
            assert not waiting.done()
        assert await waiting


async def _cut_waiting(client):
    for one in await client.client_list():
        if one["cmd"] == "xread" and "b" in one["flags"]:
            await client.client_kill_filter(_id=one["id"])


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_waiter_without_a_wire_gets_its_turn(server, prefix, others):
    """Where others have the whole pool, it looks by itself and raises nothing."""
    async with Client.from_url(server.url, pool_max=3) as client:
        locks = Locks(client, prefix=prefix)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            using = group.create_task(client.blpop([f"{prefix}none"], timeout=0))
            while not client.stats().calls.get("BLPOP"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            async with others.lock("x", 5):
                waiting = group.create_task(_take(locks, "x"))
                while not client.stats().failures:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                assert not waiting.done()
            assert await waiting
            using.cancel()


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("junk", ["junk", "", "9" * 400, "-1", "1e300", "0x10"])
async def test_a_fencing_number_of_somebody_else_is_none(client, prefix, junk):
    """Numbers go on growing by the clock, whatever stands where the last one was."""
    locks = Locks(client, prefix=prefix)
    async with locks.lock("x", 5.0) as first:
        before = first.fence
    await client.set(KeySpace(prefix).key(LOCK_FENCE, "x"), junk)
    async with locks.lock("x", 5.0) as second:
        assert before < second.fence < 2**53
