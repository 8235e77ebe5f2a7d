"""Clocks: the machine's, and one that moves when told to."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oddswire.clock import Clock, ManualClock, SystemClock


@pytest.mark.basic
async def test_the_system_clock_tells_the_machines_time() -> None:
    """Its three times are the machine's, and a sleep takes at least as long."""
    clock: Clock = SystemClock()
    wall, steady, boot = time.time(), time.monotonic(), clock.boottime()  # noqa: TID251 - what it is compared with
    await clock.sleep(0.01)

    assert wall <= clock.now() < wall + 60
    assert steady + 0.01 <= clock.monotonic() < steady + 60
    assert boot + 0.01 <= clock.boottime() < boot + 60


@pytest.mark.basic
def test_boottime_counts_suspends_where_the_system_can() -> None:
    """On Linux the lease clock is CLOCK_BOOTTIME, which a suspend does not stop."""
    source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    before = time.clock_gettime(source)

    assert before <= SystemClock().boottime() < before + 60


@pytest.mark.basic
async def test_a_manual_clock_stands_until_advanced() -> None:
    """Nothing moves by itself; advancing moves all three times by the same."""
    clock: Clock = ManualClock(now=100.0)
    assert (clock.now(), clock.monotonic(), clock.boottime()) == (100.0, 0.0, 0.0)
    await clock.advance(2.5)

    assert (clock.now(), clock.monotonic(), clock.boottime()) == (102.5, 2.5, 2.5)


@pytest.mark.advanced
@given(st.lists(st.floats(0.001, 100), max_size=8), st.floats(0, 120))
@example([5.7, 1.1], 5.7)  # 1.1 + (5.7 - 1.1) is not 5.7
def test_sleepers_wake_in_order_at_their_own_time(delays, span) -> None:
    """Advancing wakes who is due, earliest first, each at its deadline; others wait."""

    async def scenario() -> None:
        clock, woken = ManualClock(), []

        async def sleeper(number: int, delay: float) -> None:
            await clock.sleep(delay)
            woken.append((clock.monotonic(), number))

        async with asyncio.TaskGroup() as tasks:
            for number, delay in enumerate(delays):
                tasks.create_task(sleeper(number, delay))
            await clock.wait_sleeping(len(delays))
            await clock.advance(span)

            due = [(delay, number) for number, delay in enumerate(delays)]
            assert woken == sorted(each for each in due if each[0] <= span)
            assert clock.sleeping == len(delays) - len(woken)
            assert clock.monotonic() == span
            await clock.advance(200)
        assert len(woken) == len(delays)

    asyncio.run(scenario())


@pytest.mark.advanced
async def test_a_periodic_task_runs_each_time_it_is_due() -> None:
    """One advance over five periods runs a loop five times, at the right times."""
    clock, ticks = ManualClock(), []

    async def every_second() -> None:
        while True:
            await clock.sleep(1.0)
            ticks.append(clock.monotonic())

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(every_second())
        await clock.wait_sleeping()
        await clock.advance(5.0)
        task.cancel()

    assert ticks == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert clock.sleeping == 0


@pytest.mark.advanced
async def test_a_cancelled_sleep_leaves_nothing() -> None:
    """A cancelled sleeper and a cancelled wait_sleeping are forgotten."""
    clock = ManualClock()
    async with asyncio.TaskGroup() as tasks:
        sleeper = tasks.create_task(clock.sleep(1.0))
        waiting = tasks.create_task(clock.wait_sleeping(2))
        await clock.wait_sleeping()
        sleeper.cancel()
        waiting.cancel()

    assert clock.sleeping == 0
    await clock.advance(2.0)


@pytest.mark.advanced
async def test_sleeping_for_nothing_lets_others_run() -> None:
    """A sleep of 0 or less returns without an advance, after others had their turn."""
    clock, ran = ManualClock(), []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(int))
        tasks.create_task(clock.sleep(-1.0)).add_done_callback(lambda _: ran.append(1))

    assert ran == [1]


@pytest.mark.advanced
async def test_jumps_and_suspends_move_only_their_clocks() -> None:
    """A step of the wall clock and a suspend wake nobody and spare monotonic time."""
    clock = ManualClock(now=100.0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clock.sleep(1.0))
        await clock.wait_sleeping()
        clock.jump(-30.0)
        clock.suspend(3600.0)

        assert (clock.now(), clock.monotonic(), clock.boottime()) == (3670.0, 0, 3600.0)
        assert clock.sleeping == 1
        await clock.advance(1.0)
    assert clock.sleeping == 0


@pytest.mark.errors
@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
async def test_time_does_not_go_back(seconds) -> None:
    """Advancing by a negative or endless time raises ValueError and moves nothing."""
    clock = ManualClock()
    with pytest.raises(ValueError, match="finite"):
        await clock.advance(seconds)

    assert clock.monotonic() == 0.0
