"""A program: what a call raises in a process of a pool, as its parent sees it.

Its argument is the server's URL; it prints a line of JSON for each call.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from oddswire import Client
from oddswire.errors import OddswireError

CALLS = (
    ("EVALSHA", "f" * 40, 0),
    ("EVAL", "return redis.error_reply('MOVED 1 h:1')", 0),
    ("EVAL", "error('no')", 0),
    ("SELECT", 1),
)


def call(url, args):
    """Make one call, in the other process."""

    async def make():
        async with Client.from_url(url) as client:
            await client.execute_command(*args)

    asyncio.run(make())


def main():
    """Make each call in the pool and print its error."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for args in CALLS:
            error = pool.submit(call, sys.argv[1], args).exception(timeout=30)
            assert isinstance(error, OddswireError), repr(error)
            mro = [cls.__name__ for cls in type(error).__mro__]
            line = json.dumps([mro, error.outcome, str(error)])
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
