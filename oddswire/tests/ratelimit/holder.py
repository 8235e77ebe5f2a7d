"""A process that holds a slot until it is killed: ``holder.py URL PREFIX``."""

from __future__ import annotations

import asyncio
import sys

from oddswire import Client
from oddswire.ratelimit import Concurrency, RateLimiter, Rule


async def main(url, prefix):
    """Hold it, and say so."""
    rule = Rule("s", Concurrency(2, 1.5))
    async with (
        Client.from_url(url) as client,
        RateLimiter(client, [rule], prefix=prefix, deadline=5.0) as limiter,
        limiter.slot("s"),
    ):
        print("held", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
