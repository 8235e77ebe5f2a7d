"""A worker process: ``worker.py URL PREFIX [STEP]``, killed by its tests, or by itself.

What is delivered goes to the list ``<prefix>sent``, which stands for the world outside:
each entry is ``user:text:uncertain``. With a step of `STEPS` it kills itself (SIGKILL)
when it has come there so many times.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import msgspec

from oddswire import Client
from oddswire.queue import Queue
from support.hooks import leases

LEASE = 0.5


class Note(msgspec.Struct, frozen=True):
    """A notification."""

    text: str


STEPS = {
    "taking": 20,  # asked for messages, and does not live to see the answer
    "handed": 100,  # has a message
    "delivered": 100,  # the world has it
    "settling": 100,  # sent that it did, and does not live to see the answer
    "settled": 100,
    "renewing": 1,
}


class Fate:
    """Ends the process at its step."""

    def __init__(self, step):
        self._step = step
        self._left = STEPS.get(step)

    def reach(self, step):
        """Be there once."""
        if step == self._step:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def at(self, before, call, after=""):
        """Return `call`, with a step when it is sent and one when it is answered."""

        async def fated(*args, **options):
            sending = asyncio.get_running_loop().create_task(call(*args, **options))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.reach(before)
            answer = await sending
            self.reach(after)
            return answer

        return fated


async def main(url, prefix, step=None):
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
        fate, store = Fate(step), leases(queue)
        store.take = fate.at("taking", store.take)
        store.settle = fate.at("settling", store.settle, "settled")
        store.renew = fate.at("renewing", store.renew)

        async def deliver(message):
            fate.reach("handed")
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
            fate.reach("delivered")

        await queue.consume(deliver, concurrency=16, stop=stop)
        sys.stdout.write(f"{queue.counts.delivered} {queue.counts.lost}\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(*sys.argv[1:]))
