"""A task that asks for what it has already; locks that nobody will release."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.errors import LockHeld, LockLost, SettingsError
from oddswire.locks import Locks
from support.keys import LockKeys


@pytest.fixture
def locks(client, prefix):
    """Return the locks of one process."""
    return Locks(client, prefix=prefix)


@pytest.mark.errors
async def test_a_task_that_takes_its_lock_again_is_told(locks):
    """A task does not wait for itself: it gets an error, and keeps what it has."""
    async with asyncio.timeout(10), locks.lock("x", 5) as held:
        with pytest.raises(LockHeld, match="has it already"):
            async with locks.lock("x", 5):
                pass
        held.check()
        async with locks.lock("other", 5):
            pass
    async with asyncio.timeout(10), locks.lock("x", 5):
        pass
    assert locks.stats().held == locks.stats().waiting == 0


@pytest.mark.basic
async def test_a_task_of_its_own_waits_for_the_lock(locks):
    """Another task waits as ever, also one that the holder began."""

    async def other():
        async with locks.lock("x", 5):
            return "after"

    async with locks.lock("x", 5):
        waiting = asyncio.get_running_loop().create_task(other())
        await asyncio.sleep(0)
        assert not waiting.done()
    async with asyncio.timeout(10):
        assert await waiting == "after"


@pytest.mark.errors
@pytest.mark.parametrize("value", ["junk", ""])
async def test_a_lock_without_an_end_is_taken_over(locks, client, prefix, value):
    """What other software left in a lock's key, without expiry, holds up nobody."""
    await client.set(LockKeys(prefix, "x").holder, value)
    async with asyncio.timeout(10), locks.lock("x", 5) as lock:
        lock.check()


@pytest.mark.errors
def test_on_lost_is_a_plain_function(locks):
    """A coroutine function, which would never run, is refused, and what is none."""

    async def later():
        pass

    for wrong in (later, 5):
        with pytest.raises(SettingsError, match="accepted is a plain function"):
            locks.lock("x", 5, on_lost=wrong)


@pytest.mark.errors
async def test_what_on_lost_raises_is_reported(locks, client, prefix):
    """An exception of `on_lost` ends nothing, and the loop's handler gets it."""
    seen = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: seen.append(context)
    )
    lost = asyncio.Event()

    def on_lost():
        lost.set()
        raise ValueError("of on_lost")

    async with asyncio.timeout(10), locks.lock("x", 0.3, on_lost=on_lost) as lock:
        await client.delete(LockKeys(prefix, "x").holder)
        await lost.wait()
        with pytest.raises(LockLost):
            lock.check()
    assert [str(each["exception"]) for each in seen] == ["of on_lost"]


@pytest.mark.errors
async def test_a_task_that_has_every_seat_is_told(locks):
    """A task may have several seats, and does not wait for a further one of its own."""

    async def other():
        async with locks.lock("x", 5, seats=2):
            return "after"

    async with asyncio.timeout(10):
        async with locks.lock("x", 5, seats=2), locks.lock("x", 5, seats=2):
            with pytest.raises(LockHeld, match="every seat"):
                async with locks.lock("x", 5, seats=2):
                    pass
            waiting = asyncio.get_running_loop().create_task(other())
        assert await waiting == "after"
        async with locks.lock("x", 5, seats=2):
            pass
    assert locks.stats().held == locks.stats().waiting == 0
