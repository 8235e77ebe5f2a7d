"""A worker process: ``worker.py URL PREFIX DEADLY``, killed by its tests, or by itself.

What is delivered goes to the list ``<prefix>sent``, which stands for the world outside:
each entry is ``user:text:uncertain``. With DEADLY, a probability, it kills itself at
each step: when a message was handed to it, when it has delivered it, when it has sent
that it did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys

import msgspec

from oddswire import Client
from oddswire.queue import Queue

LEASE = 0.5


class Note(msgspec.Struct, frozen=True):
    """A notification."""

    text: str


def die(deadly):
    """Perhaps."""
    if random.random() < deadly:
        os.kill(os.getpid(), signal.SIGKILL)


def deadly_settle(settle, deadly):
    """Send that it is done, and perhaps not live to see the answer."""

    async def deadly_one(*args, **options):
        sending = asyncio.get_running_loop().create_task(settle(*args, **options))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        die(deadly)
        return await sending

    return deadly_one


async def main(url, prefix, deadly):
    """Consume until killed, or asked to stop by SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Client.from_url(url) as client:
        queue = Queue(
            client,
            "notes",
            Note,
            prefix=prefix,
            lease=LEASE,
            retry_base=0.01,
            max_attempts=3,
        )
        queue._store.settle = deadly_settle(queue._store.settle, deadly)

        async def deliver(message):
            die(deadly)
            match message.value.text:
                case "dead":
                    raise ValueError("no such chat")
                case "flaky" if message.attempt == 1:
                    raise ConnectionError("try again")
                case "hold":
                    await client.rpush(prefix + "held", os.getpid())
                    await client.blpop(prefix + "go", 20)
            text = f"{message.user_id}:{message.value.text}:{int(message.uncertain)}"
            await client.rpush(prefix + "sent", text)
            die(deadly)

        await queue.consume(deliver, concurrency=16, stop=stop)
        sys.stdout.write(f"{queue.counts.delivered} {queue.counts.lost}\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
