"""A process that takes one of two seats, prints which, and keeps it until killed.

Arguments: URL, prefix.
"""

from __future__ import annotations

import asyncio
import sys

from oddswire import Client
from oddswire.locks import Locks


async def main(url, prefix):
    """Sit for ever."""
    async with (
        Client.from_url(url) as client,
        Locks(client, prefix=prefix).lock("x", 1.5, seats=2) as lock,
    ):
        sys.stdout.write(f"{lock.seat}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
