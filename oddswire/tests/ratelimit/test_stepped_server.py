"""The clock of a real server is stepped under load, by libfaketime."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from time import monotonic

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.embedded import find_binary
from oddswire.errors import LockLost
from oddswire.locks import Locks
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.scripts import Script
from support import eventually

LIMIT, WINDOW = 20, 0.25

STEPS = (
    -3600,
    -3601,
    0,
    3600,
    -7200,
)  # seconds from the real time, one after the other

pytestmark = pytest.mark.system("faketime", package="faketime")

# The server's clock alone: its monotonic one, which spaces its own work, stays true.
WRAPPER = """#!/bin/sh
export FAKETIME_TIMESTAMP_FILE='{offset}' FAKETIME_NO_CACHE=1
export FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 LD_PRELOAD='{library}'
exec "{server}" "$@"
"""


class Stepped:
    """A server's program with a clock that the test steps."""

    def __init__(self, folder):
        self.offset = folder / "offset"
        self.step(0)
        # The command says where the library is: it preloads it.
        preloaded = subprocess.run(
            ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        self.program = folder / "server"
        self.program.write_text(
            WRAPPER.format(offset=self.offset, library=preloaded, server=find_binary())
        )
        self.program.chmod(0o755)

    def step(self, seconds):
        """Set it to this far from the real one, at once."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self.offset)


@pytest.fixture
def stepped(tmp_path):
    """A program, to be given to a server."""
    return Stepped(tmp_path)


def most_in_a_window(admitted):
    """Return the most of (asked, answered) that lie in one window for certain."""
    return max(
        sum(begin <= start and end <= begin + WINDOW for start, end in admitted)
        for begin, _ in admitted
    )


async def step_through(stepped, progress, on_forward):
    """Step the clock each time that `progress` has grown by two limits.

    `on_forward` is called before and after each step forward.
    """
    was = 0
    for step in STEPS:
        before = progress()
        await eventually(lambda least=before + 2 * LIMIT: progress() >= least)
        if step > was:
            on_forward()
        await asyncio.to_thread(stepped.step, step)
        if step > was:
            on_forward()
        was = step
    before = progress()
    await eventually(lambda: progress() >= before + 2 * LIMIT)


@pytest.mark.errors
@pytest.mark.requirement("R1")
async def test_a_window_is_exact_while_a_real_clock_is_stepped(stepped):
    """Steps back admit nothing extra and shut nothing; forward, each side is exact."""
    # A step forward ends windows early, so what is admitted is judged on each side.
    # Every second list is of what was asked during the step itself.
    sides, going = [[]], True

    async with (
        EmbeddedServer(binary=stepped.program) as server,
        Client.from_url(server.url) as client,
        RateLimiter(
            client,
            [Rule("w", SlidingWindow(LIMIT, WINDOW))],
            deadline=5.0,
            remember=0.0,
        ) as limiter,
    ):

        async def ask():
            while going:
                side, asked = sides[-1], monotonic()
                decision = await limiter.hit("w")
                assert decision.source == "redis"
                # What was under way during a step may belong to either side.
                if decision.allowed and side is sides[-1]:
                    side.append((asked, monotonic()))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(ask())
            await step_through(
                stepped,
                lambda: sum(map(len, sides)),
                lambda: sides.append([]),
            )
            going = False
    assert len(sides) == 5
    assert all(most_in_a_window(side) <= LIMIT for side in sides[::2])


@pytest.mark.errors
@pytest.mark.requirement("L1")
async def test_a_lock_is_fenced_while_a_real_clock_is_stepped(stepped):
    """Whatever the clock does, no older holder counts after a newer one."""
    count = Script("count", "return redis.call('INCR', KEYS[1])")
    told, going = [], True

    async with EmbeddedServer(binary=stepped.program) as server:

        async def work(client):
            locks = Locks(client)
            while going:
                with suppress(LockLost):
                    async with locks.lock("tally", 1.0) as lock:
                        key = lock.key("tally")
                        value = await lock.run(count, [key])
                        told.append((value, int(lock.fence)))

        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(Client.from_url(server.url))
                for _ in range(3)
            ]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(work(client))
                await step_through(stepped, lambda: len(told), int)
                going = False
    fences = [fence for _, fence in sorted(told)]
    assert all(older < newer for older, newer in pairwise(fences))
