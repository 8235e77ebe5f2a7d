"""A process that counts until a signal tells it to stop; `test_shutdown.py` runs it.

On the first SIGTERM it closes its client under the calls of all its tasks, on the
second it cancels that. It prints "working" when every task was answered once,
"draining" when it closes, and at the end what became of every call.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from time import monotonic

from oddswire import Client
from oddswire.errors import ClosedError, OddswireError

TASKS = 20


class Tally:
    """What became of the calls: by counter, and of those that failed by error."""

    def __init__(self):
        self.acknowledged = Counter()
        self.unknown = Counter()
        self.errors = Counter()

    async def call(self, key, call):
        """Await a call and write down what became of it; False when it was the last."""
        try:
            await call
        except OddswireError as error:
            self.errors[f"{type(error).__name__} {error.outcome}"] += 1
            if error.outcome == "unknown":
                self.unknown[key] += 1
            return not isinstance(error, ClosedError)
        self.acknowledged[key] += 1
        return True


async def count(client, tally, key):
    """Increment a counter until the client takes no more calls."""
    while await tally.call(key, client.incr(key)):
        pass


async def wait(client, tally):
    """Block on a connection of its own."""
    await tally.call("blocked", client.blpop("never", 0))


async def main(url, drain):
    """Count, and stop in order."""
    loop = asyncio.get_running_loop()
    client = Client.from_url(url, drain_timeout=float(drain), command_timeout=60)
    tally, closing = Tally(), []

    def on_signal():
        if closing:
            closing[0].cancel()
        else:
            closing.append(loop.create_task(client.aclose()))
            told.set()
            # Behind the first step of the closing.
            loop.call_soon(lambda: print("draining", flush=True))

    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, on_signal)
    tasks = [loop.create_task(count(client, tally, f"n:{n}")) for n in range(TASKS)]
    tasks.append(loop.create_task(wait(client, tally)))
    # The pool tells nobody.
    while len(tally.acknowledged) < TASKS or client.stats().connections.leased < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    print("working", flush=True)
    await told.wait()
    began = monotonic()
    await asyncio.wait(closing)
    took = monotonic() - began
    await asyncio.gather(*tasks)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    found = {
        "took": took,
        "cancelled": closing[0].cancelled(),
        "acknowledged": tally.acknowledged,
        "unknown": tally.unknown,
        "errors": tally.errors,
        "left": [str(task) for task in left],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
