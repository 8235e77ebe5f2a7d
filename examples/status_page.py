"""A service that shows how it is: probes, Prometheus and a page on one port.

Run it: ``python examples/status_page.py``, and open the address that it prints. It uses
its cache, a limit, a topic and a queue by itself, so that there is something to see.
``PORT`` names the port. SIGTERM, and Ctrl-C, end it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from random import Random

import oddswire
from oddswire.pubsub import Topic
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from oddswire.web.status import Status

PRICES = Topic("prices", int)
ALERTS = QueueKey("alerts", dict[str, str])
RULES = (Rule("commands", SlidingWindow(20, 10.0), key="user"),)


async def use(wire: oddswire.Wire, rng: Random) -> None:
    """Do what a small bot does, ten times a second."""
    async with wire.pubsub.subscribe(PRICES) as prices:
        while True:
            market = rng.randint(1, 20)
            await wire.cache.get_or_set(f"market:{market}", lambda _: 64, ttl=5)
            await wire.limiter.hit("commands", user=market % 3)
            await wire.pubsub.publish(PRICES, market)
            await anext(prices)
            await wire.queues[ALERTS].enqueue(market, {"text": "64"})
            await asyncio.sleep(0.1)


async def deliver(wire: oddswire.Wire) -> None:
    """Handle the messages of the queue."""

    async def handler(_: object) -> None:
        await asyncio.sleep(0.01)

    await wire.queues[ALERTS].consume(handler)


async def main() -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    port = int(os.environ.get("PORT", "0"))  # noqa: TID251 - the application
    async with (
        oddswire.connect(rules=RULES, topics=[PRICES], queues=[ALERTS]) as wire,
        Status(wire.metrics, wire.health) as status,
        status.listener(port=port) as listener,
        asyncio.TaskGroup() as tasks,
    ):
        work = [
            tasks.create_task(use(wire, Random(1))),  # noqa: S311 - something to see
            tasks.create_task(deliver(wire)),
        ]
        print(f"http://127.0.0.1:{listener.port}/status", flush=True)  # noqa: T201
        await stop.wait()
        for task in work:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
