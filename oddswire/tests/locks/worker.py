"""A process that adds to a counter under a lock: read, wait, write.

Arguments: URL, prefix, how: ``plain``, or ``overrun``: blocks past its lease once in a
while. Each acknowledged addition is printed; ``held`` when it has read.
"""

from __future__ import annotations

import asyncio
import sys
import time

from oddswire import Client
from oddswire.errors import LockLost, OddswireError
from oddswire.locks import Locks
from oddswire.scripts import Script

TTL = 0.4
WRITE = Script("write", "return redis.call('SET', KEYS[1], ARGV[1])")


def say(word):
    """Print a line at once."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def main(url, prefix, how):
    """Add until killed."""
    async with Client.from_url(url) as client:
        locks = Locks(client, prefix=prefix)
        for turn in range(1_000_000):
            try:
                async with locks.lock("counter", TTL) as lock:
                    key = lock.key("count")
                    value = int(await client.get(key) or 0)
                    say("held")
                    if how == "overrun" and turn % 3 == 0:
                        time.sleep(TTL * 2)  # noqa: ASYNC251 - the overrun itself
                    await asyncio.sleep(0.001)
                    await lock.run(WRITE, [key], [value + 1])
                    say("added")
            except LockLost:
                say("lost")
            except OddswireError as error:
                say(f"error {error.outcome.value}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
