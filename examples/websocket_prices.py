"""A bridge: what is published on a topic goes to every websocket that wants it.

One subscription for the process, however many websockets are open. Each websocket has
at most one value of each market waiting: a browser that is slow skips values, and never
holds up another one.

Run it: ``python examples/websocket_prices.py``, then open
``ws://127.0.0.1:8080/prices?market=0x1``; without ``market`` it sends all of them. It
publishes generated prices itself, where a feed would.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

import oddswire
from oddswire.pubsub import Delivery, Message, Topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.pubsub import PubSub


class Price(msgspec.Struct, frozen=True):
    """What a market costs."""

    bid: float
    ask: float


PRICES = Topic("prices", Price, delivery=Delivery.LATEST)


class Browser:
    """One websocket: the newest value of each market that it was not sent yet."""

    def __init__(self, market: str | None) -> None:
        self.market = market
        self._waiting: dict[str, Price] = {}
        self._more = asyncio.Event()

    def offer(self, market: str, price: Price) -> None:
        """Take a value, in place of an older one of that market."""
        if self.market in (None, market):
            self._waiting[market] = price
            self._more.set()

    async def next(self) -> dict[str, Price]:
        """Wait until there is something to send, and take all of it."""
        await self._more.wait()
        self._more.clear()
        waiting, self._waiting = self._waiting, {}
        return waiting


class Bridge:
    """Hands each price to the browsers."""

    def __init__(self) -> None:
        self.browsers: set[Browser] = set()
        self.newest: dict[str, Price] = {}

    def take(self, message: Message[Price]) -> None:
        """Be called with each message; waits for nobody."""
        self.newest[message.key] = message.value
        for browser in self.browsers:
            browser.offer(message.key, message.value)


BRIDGE = web.AppKey("bridge", Bridge)


async def prices(request: web.Request) -> web.WebSocketResponse:
    """Serve one websocket until it leaves."""
    bridge = request.app[BRIDGE]
    socket = web.WebSocketResponse(heartbeat=20.0)
    await socket.prepare(request)
    browser = Browser(request.query.get("market"))
    for market, price in bridge.newest.items():
        browser.offer(market, price)
    bridge.browsers.add(browser)
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send(socket, browser))
            async for _ in socket:  # it ends when the browser leaves
                pass
            sending.cancel()
    finally:
        bridge.browsers.discard(browser)
    return socket


async def send(socket: web.WebSocketResponse, browser: Browser) -> None:
    """Send what waits, for as long as the socket is open."""
    with contextlib.suppress(ConnectionError):
        while True:
            for market, price in (await browser.next()).items():
                text = msgspec.json.encode({"market": market, "price": price})
                await socket.send_str(text.decode())


def application(pubsub: PubSub) -> web.Application:
    """Return the application that serves the topic."""
    app = web.Application()
    app[BRIDGE] = bridge = Bridge()

    async def subscribed(_: web.Application) -> AsyncIterator[None]:
        async with pubsub.handle(bridge.take, PRICES):
            yield

    app.cleanup_ctx.append(subscribed)
    app.router.add_get("/prices", prices)
    return app


async def main(port: int) -> None:
    """Serve, and publish generated prices."""
    async with oddswire.connect(topics=[PRICES]) as wire:
        # At the end browsers that are still there are given a second, not a minute.
        runner = web.AppRunner(application(wire.pubsub), shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            bound = runner.addresses[0][1]
            sys.stdout.write(f"ws://127.0.0.1:{bound}/prices\n")
            sys.stdout.flush()
            while True:
                market, bid = f"0x{random.randrange(5)}", round(random.random(), 2)  # noqa: S311 - generated prices
                await wire.pubsub.publish(PRICES[market], Price(bid, bid + 0.01))
                await asyncio.sleep(0.05)
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080))
