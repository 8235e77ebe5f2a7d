"""Several real processes on one real server, with clocks of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from oddswire.ratelimit import Concurrency, Rule
from oddswire.testing import frozen
from support import eventually

HAMMER = """
import asyncio, json, multiprocessing, sys, time
from oddswire import Client
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

PROCESSES, ENOUGH = 8, 120  # three limits: however slow the machine is
# Forked, for each of them to import everything anew takes longer than the test.
fork = multiprocessing.get_context("fork")
ready = fork.Barrier(PROCESSES)
total = fork.Value("i", 0)

async def main(number, url, prefix):
    rules = [
        Rule("w", SlidingWindow(40, 0.5)), Rule("u", SlidingWindow(9, 0.2), key="u"),
    ]
    async with Client.from_url(url) as client:
        limiter = RateLimiter(
            client, rules, prefix=prefix, deadline=5.0,
            now=lambda: time.monotonic() + 3.0 * number,
        )
        admitted = []
        await client.ping()
        ready.wait()  # so that they all work at the same time
        async def one(user):
            while total.value < ENOUGH:
                decision = await limiter.hit("w", "u", u=user, cost=1 + user % 3)
                if decision.allowed:
                    admitted.append([decision.taken.at, 1 + user % 3, user])
                    with total:
                        total.value += 1 + user % 3
                elif decision.source == "memory":
                    await asyncio.sleep(0.001)
        async with asyncio.timeout(30):
            await asyncio.gather(*(one(user) for user in range(6)))
        await limiter.aclose()
    return admitted

def work(number):
    return asyncio.run(main(number, *sys.argv[1:]))

with fork.Pool(PROCESSES) as pool:
    print(json.dumps(pool.map(work, range(PROCESSES), chunksize=1)))
"""

HOLDER = """
import asyncio, sys
from oddswire import Client
from oddswire.ratelimit import Concurrency, RateLimiter, Rule

async def main(url, prefix):
    async with Client.from_url(url) as client:
        rule = Rule("s", Concurrency(2, 0.6))
        async with RateLimiter(client, [rule], prefix=prefix, deadline=5.0) as limiter:
            async with limiter.slot("s"):
                print("held", flush=True)
                await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


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


async def start(code, *args):
    """Start a Python process."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *map(str, args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


@pytest.mark.integration
@pytest.mark.requirement("R1")
async def test_eight_processes_never_exceed_the_limit(server, prefix):
    """Clocks three seconds apart, one limit: exact in any window of the server's."""
    running = await start(HAMMER, server.url, prefix)
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
    limiter = limiter_of(Rule("s", Concurrency(2, 0.6)))
    holder = await start(HOLDER, server.url, prefix)
    assert await holder.stdout.readline() == b"held\n"
    (key,) = await client.keys(f"{prefix}*")
    ((lease, began),) = await client.zrange(key, 0, -1, withscores=True)

    async with limiter.slot("s"):
        # It renews its own: held for much longer than its time.
        async def renewed():
            return await client.zscore(key, lease) > began + 1_200_000

        await eventually(renewed)
        assert not (await limiter.peek("s")).allowed
        holder.send_signal(signal.SIGKILL)
        await holder.wait()
        last = await client.zscore(key, lease)
        decision = await limiter.acquire("s", timeout=10)
        assert decision.taken.at >= last + 600_000
        await limiter.refund(decision)


@pytest.mark.errors
@pytest.mark.requirement("R1")
async def test_a_stopped_holder_is_counted_again_when_it_goes_on(
    server, prefix, limiter_of
):
    """A process that stood still for too long loses its slot, and takes it back."""
    limiter = limiter_of(Rule("s", Concurrency(2, 0.6)))

    async def free(slots):
        return (await limiter.peek("s")).remaining == slots

    holder = await start(HOLDER, server.url, prefix)
    assert await holder.stdout.readline() == b"held\n"
    try:
        with frozen(holder.pid):
            await eventually(lambda: free(2))
        await eventually(lambda: free(1))
    finally:
        holder.kill()
        await holder.communicate()
