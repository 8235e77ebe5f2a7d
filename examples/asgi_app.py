"""An ASGI application behind rate limits; any server and any framework will do.

The limits hold over all its processes. ``uvicorn asgi_app:app`` would serve it; run as
``python examples/asgi_app.py`` it asks itself four times and prints the answers.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

import oddswire
from oddswire.adapters.asgi import RateLimits
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

PRICES = Rule("prices", SlidingWindow(3, 60.0), key="client")


async def prices(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's
    """Answer: what a framework would do."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"yes": "0.61"}'})


class App:
    """The application: opens Redis at startup, closes it at shutdown."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a connection, or the lifespan of the process."""
        if scope["type"] != "lifespan":
            await self._serve(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            wire = oddswire.connect(prefix="shop:", **self._settings)
            client = (await self._stack.enter_async_context(wire)).client
            limiter = RateLimiter(client, prefix="shop:")
            await self._stack.enter_async_context(limiter)
            self._serve = RateLimits(prices, limiter, PRICES)
            await send({"type": "lifespan.startup.complete"})
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


app = App()


async def main() -> None:
    """Do what a server does: start it, ask it, stop it."""
    asked: asyncio.Queue[Any] = asyncio.Queue()
    told: asyncio.Queue[Any] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(app({"type": "lifespan"}, asked.get, told.put))
        await asked.put({"type": "lifespan.startup"})
        await told.get()
        for _ in range(4):
            scope = {"type": "http", "method": "GET", "client": ("192.0.2.1", 1)}
            await app(scope, None, told.put)
            start, body = await told.get(), await told.get()
            sys.stdout.write(f"{start['status']} {body['body'].decode()}\n")
        await asked.put({"type": "lifespan.shutdown"})


if __name__ == "__main__":
    asyncio.run(main())
