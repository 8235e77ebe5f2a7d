"""A process that loads for a minute: ``leader.py URL PREFIX``."""

from __future__ import annotations

import asyncio
import sys

from oddswire import Client
from oddswire.cache import Cache


async def main(url, prefix):
    """Load, and say so."""

    async def load():
        print("ready", flush=True)
        await asyncio.sleep(60)

    async with (
        Client.from_url(url) as client,
        Cache(client, prefix=prefix, timeout=5.0, load_lease=0.4) as cache,
    ):
        await cache.get_or_set("m:1", load)


asyncio.run(main(*sys.argv[1:]))
