"""A program in which every part of a `Wire` is at work until SIGTERM.

`test_sigterm.py` runs it. On the signal it leaves the block of its wire under the calls
of all its tasks. It prints "working" when each part was at work, and at the end what
was acknowledged and what became of the rest.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter

import msgspec

import oddswire
from oddswire.errors import ClosedError, OddswireError
from oddswire.pubsub import Delivery, Topic
from oddswire.ratelimit import Concurrency, Rule

LOG = Topic("log", msgspec.Raw, delivery=Delivery.LOG)
TASKS = 4


class Note(msgspec.Struct):
    """A message of the queue."""

    n: int


class Tally:
    """What was acknowledged, by part, and the errors of the rest, by part."""

    def __init__(self):
        self.acknowledged = Counter()
        self.errors = {}
        self.tasks = []

    def work(self, part, call):
        """Repeat a call until it is refused; write down what became of each."""

        async def repeat(number):
            name = f"{part}:{number}"
            while True:
                try:
                    await call(number)
                except OddswireError as error:
                    outcome = f"{type(error).__name__} {error.outcome}"
                    self.errors.setdefault(name, Counter())[outcome] += 1
                    if isinstance(error, ClosedError):
                        return
                    await asyncio.sleep(0.01)
                else:
                    self.acknowledged[name] += 1
                    await asyncio.sleep(0)

        loop = asyncio.get_running_loop()
        self.tasks += [loop.create_task(repeat(n), name=part) for n in range(TASKS)]


async def main(url):
    """Work, and stop in order."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tally, handled = Tally(), Counter()
    slots = Rule("slots", Concurrency(100, 5.0), key="user")
    settings = oddswire.Settings(url=url, command_timeout=20.0, drain_timeout=20.0)
    async with oddswire.connect(
        settings, queue=Note, topics=(LOG,), rules=(slots,)
    ) as wire:

        def touch(session):
            session.preferences["n"] = session.preferences.get("n", 0) + 1

        async def handle(message):
            await wire.client.incr(f"handled:{message.value.n}")
            handled["queue"] += 1

        async def locked(number):
            async with wire.lock(f"lock:{number}", ttl=20):
                await wire.client.incr(f"locked:{number}")

        async def loaded(number):
            await wire.cache.set(f"n:{number}", tally.acknowledged[f"cache:{number}"])
            await wire.cache.get(f"n:{number}")

        async def limited(number):
            async with wire.limiter.slot("slots", user=number):
                await wire.client.incr(f"limited:{number}")

        tally.work("client", lambda n: wire.client.incr(f"n:{n}"))
        tally.work("sessions", lambda n: wire.sessions.update(n, touch, create=True))
        tally.work("queue", lambda n: wire.queue.enqueue(n, Note(n)))
        tally.work("pubsub", lambda n: wire.pubsub.publish(LOG, msgspec.Raw(b"1")))
        tally.work("cache", loaded)
        tally.work("lock", locked)
        tally.work("limiter", limited)
        consumer = loop.create_task(wire.queue.consume(handle, stop=stop))
        parts = 7 * TASKS
        while len(tally.acknowledged) < parts or not handled["queue"]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        print("working", flush=True)
        await stop.wait()
        # It finishes what it has in hand; then the block is left under all the others.
        await consumer
    await asyncio.wait(tally.tasks, timeout=20)
    left = {task.get_name() for task in asyncio.all_tasks()}
    left -= {asyncio.current_task().get_name()}
    found = {
        "acknowledged": tally.acknowledged,
        "errors": tally.errors,
        "handled": handled["queue"],
        "left": sorted(left),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
