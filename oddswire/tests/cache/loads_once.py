"""A process of a hundred tasks that want one cold key: ``loads_once.py URL PREFIX``."""

from __future__ import annotations

import asyncio
import sys

from oddswire import Client
from oddswire.cache import Cache


async def main(url, prefix):
    """Wait for a line, then have all of them ask; print how many got the value."""
    async with (
        Client.from_url(url) as client,
        Cache(client, prefix=prefix, timeout=10.0) as cache,
    ):

        async def load():
            await client.incr(prefix + "loads")
            await asyncio.sleep(0.3)
            return "value"

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        got = await asyncio.gather(
            *(cache.get_or_set("m:cold", load, tags=("t",)) for _ in range(100))
        )
        print(got.count("value"), flush=True)


asyncio.run(main(*sys.argv[1:]))
