"""Several real processes on one real server, with clocks of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from oddswire.ratelimit import Concurrency, Rule
from oddswire.testing import frozen
from support import eventually


def worst(admitted, window):
    """Return the most that was admitted in a closed interval of that length."""
    most, first, used = 0, 0, 0
    for at, cost in admitted:
        used += cost
        while admitted[first][0] < at - window:
            used -= admitted[first][1]
            first += 1
        most = max(most, used)
    return most


async def start(name, *args):
    """Start a process of a file beside this one."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name(f"{name}.py"),
        *map(str, args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


@pytest.mark.integration
@pytest.mark.requirement("R1")
async def test_eight_processes_never_exceed_the_limit(server, prefix):
    """Clocks three seconds apart, one limit: exact in any window of the server's."""
    running = await start("hammer", server.url, prefix)
    output, _ = await running.communicate()
    assert running.returncode == 0
    each = json.loads(output)
    assert len(each) == 8
    merged = sorted(admission for own in each for admission in own)
    assert worst([(at, cost) for at, cost, _ in merged], 500_000) <= 40
    for user in range(6):
        of_user = [(at, cost) for at, cost, one in merged if one == user]
        assert worst(of_user, 200_000) <= 9
    # It was worth limiting, and not by one process alone.
    assert sum(cost for _, cost, _ in merged) >= 120
    assert sum(1 for own in each if own) >= 2


@pytest.mark.errors
@pytest.mark.requirement("R1")
async def test_slots_of_a_killed_process_come_back(server, prefix, limiter_of, client):
    """After their time, not before, and without anybody cleaning up."""
    limiter = limiter_of(Rule("s", Concurrency(2, 1.5)))
    holder = await start("holder", server.url, prefix)
    assert await holder.stdout.readline() == b"held\n"
    (key,) = await client.keys(f"{prefix}*")
    ((lease, began),) = await client.zrange(key, 0, -1, withscores=True)

    async with limiter.slot("s"):
        # It renews its own: held for much longer than its time.
        async def renewed():
            return await client.zscore(key, lease) > began + 3_000_000

        await eventually(renewed)
        assert not (await limiter.peek("s")).allowed
        holder.send_signal(signal.SIGKILL)
        await holder.wait()
        last = await client.zscore(key, lease)
        decision = await limiter.acquire("s", timeout=10)
        assert decision.reservation.at >= last + 1_500_000
        await limiter.refund(decision)


@pytest.mark.errors
@pytest.mark.requirement("R1")
async def test_a_stopped_holder_is_counted_again_when_it_goes_on(
    server, prefix, limiter_of
):
    """A process that stood still for too long loses its slot, and takes it back."""
    limiter = limiter_of(Rule("s", Concurrency(2, 1.5)))

    async def free(slots):
        return (await limiter.peek("s")).remaining == slots

    holder = await start("holder", server.url, prefix)
    assert await holder.stdout.readline() == b"held\n"
    try:
        with frozen(holder.pid):
            await eventually(lambda: free(2))
        await eventually(lambda: free(1))
    finally:
        holder.kill()
        await holder.communicate()
