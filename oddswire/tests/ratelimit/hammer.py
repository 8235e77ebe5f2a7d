"""Eight processes that take from one limit: ``hammer.py URL PREFIX``.

Prints what each of them got, and when.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time

from oddswire import Client
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

PROCESSES, ENOUGH = 8, 120  # three limits: however slow the machine is
# Forked, for each of them to import everything anew takes longer than the test.
fork = multiprocessing.get_context("fork")
ready = fork.Barrier(PROCESSES)
total = fork.Value("i", 0)


async def main(number, url, prefix):
    """Take until all have taken enough; return what was admitted here."""
    rules = [
        Rule("w", SlidingWindow(40, 0.5)),
        Rule("u", SlidingWindow(9, 0.2), key="u"),
    ]
    async with Client.from_url(url) as client:
        limiter = RateLimiter(
            client,
            rules,
            prefix=prefix,
            deadline=5.0,
            now=lambda: time.monotonic() + 3.0 * number,
        )
        admitted = []
        await client.ping()
        ready.wait()  # so that they all work at the same time

        async def one(user):
            while total.value < ENOUGH:
                decision = await limiter.hit("w", "u", u=user, cost=1 + user % 3)
                if decision.allowed:
                    admitted.append([decision.reservation.at, 1 + user % 3, user])
                    with total:
                        total.value += 1 + user % 3
                elif decision.source == "memory":
                    await asyncio.sleep(0.001)

        async with asyncio.timeout(30):
            await asyncio.gather(*(one(user) for user in range(6)))
        await limiter.aclose()
    return admitted


def work(number):
    """Be one of the processes."""
    return asyncio.run(main(number, *sys.argv[1:]))


with fork.Pool(PROCESSES) as pool:
    print(json.dumps(pool.map(work, range(PROCESSES), chunksize=1)))
