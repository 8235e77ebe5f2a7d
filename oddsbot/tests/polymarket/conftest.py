"""A local server that behaves as each test says."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from oddsbot.polymarket import Connected

QUICK = {"backoff": (0.001, 0.01), "stale_after": 5.0}


@pytest.fixture
async def session():
    """A client session for the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def serve():
    """Start a server for one handler, on `port` or a free one; return its port."""
    async with AsyncExitStack() as stack:

        async def start(handler, port=0):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", port).start()
            return runner.addresses[0][1]

        yield start


def book(number: int) -> str:
    """Return a `book` frame that carries a number."""
    return json.dumps(
        {"event_type": "book", "market": "m", "asset_id": "a", "timestamp": number}
    )


class Venue:
    """A market channel of which the test is the server's side.

    Attributes:
        links: One for each connection, as they come.
    """

    def __init__(self) -> None:
        self.links: asyncio.Queue[Link] = asyncio.Queue()

    async def serve(self, request):
        """Serve one connection: what the client sends goes to its link."""
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        link = Link(ws, request.transport)
        self.links.put_nowait(link)
        async for message in ws:
            if message.type is WSMsgType.TEXT and message.data == "PING":
                link.pings += 1
                await ws.send_str("PONG")
                link.pinged.set()
            else:
                link.received.put_nowait(json.loads(message.data))
        return ws


class Link:
    """One connection, seen from the server."""

    def __init__(self, ws, transport) -> None:
        self.ws = ws
        self.transport = transport
        self.received: asyncio.Queue[dict] = asyncio.Queue()
        self.pinged = asyncio.Event()
        self.pings = 0


@pytest.fixture
async def venue(serve):
    """A market channel and its URL."""
    venue = Venue()
    venue.url = f"ws://127.0.0.1:{await serve(venue.serve)}/ws/market"
    return venue


async def read(stream, count):
    """Read the next `count` things a stream yields."""
    found = []
    async with aclosing(aiter(stream)) as things:
        async for thing in things:
            found.append(thing)
            if len(found) == count:
                break
    return found


async def connect(venue, stream):
    """Read until connected; return the link and the subscription it got."""
    assert isinstance((await read(stream, 1))[0], Connected)
    link = await venue.links.get()
    return link, await link.received.get()
