"""A made market and a chat, in the process that kills: what was sent, what came.

Prices walk at random. Every tick has a time of its own, so that its alerts have too:
after a stall those times run ahead of the clock.
"""

from __future__ import annotations

import asyncio
import json
import random
from time import time  # noqa: TID251 - it is the market's own clock
from typing import Any, NamedTuple, Self

from aiohttp import WSMsgType, web

_WHOLE_SECONDS = 5.0
# Telegram takes about as long.
_ANSWER_SECONDS = (0.002, 0.02)


class Tick(NamedTuple):
    """A price that was sent; prices are in thousandths."""

    at: int
    asset: int
    bid: int
    ask: int


class Link(NamedTuple):
    """A watcher's connection, from when it subscribed.

    Attributes:
        pid: Of the watcher.
        opened: When.
        first: How many ticks had been sent before; the books are of that moment.
        closed: When it ended.
        end: How many ticks had been sent until then.
    """

    pid: int
    opened: float
    first: int
    closed: float | None = None
    end: int | None = None


class Made(NamedTuple):
    """A fault of the feed: a connection cut or frozen, or an asset frozen on one."""

    when: float
    pid: int
    kind: str


class Told(NamedTuple):
    """What the chat was given."""

    when: float
    user: int
    rule: str
    at: int
    price: str
    again: bool
    pid: int
    latency: float
    id: str


class Stage:
    """The market and the chat. ``async with Stage(...)``.

    Args:
        assets: How many outcomes trade.
        rate: Ticks a second.
        seed: Of the prices.

    Attributes:
        made: The faults of the feed.
        withheld: From which watchers a fault kept a tick, by the tick's number.
    """

    def __init__(self, assets: int, rate: float, seed: int) -> None:
        self.rate = rate
        self.ticks: list[Tick] = []
        self.links: list[Link] = []
        self.told: list[Told] = []
        self.made: list[Made] = []
        self.withheld: dict[int, set[int]] = {}
        self._rng = random.Random(seed)
        self.first = [self._rng.randrange(300, 700) for _ in range(assets)]
        self._bids = list(self.first)
        self._times = [int(time() * 1000)] * assets
        self._last = self._times[0]
        self._open: dict[web.WebSocketResponse, set[int]] = {}
        # The watcher of a connection, what does not come on it, and its transport.
        self._pids: dict[web.WebSocketResponse, int] = {}
        self._muted: dict[web.WebSocketResponse, set[int]] = {}
        self._transports: dict[web.WebSocketResponse, Any] = {}
        # Watchers with a fault, until they have subscribed again; and when they had.
        self._away: set[int] = set()
        self._faulty: set[int] = set()
        self._whole_since: dict[int, float] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(
            [
                web.get("/market", self._market),
                web.post("/books", self._books),
                web.post("/chat", self._chat),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.market_url = f"ws://{host}:{port}/market"
        self.books_url = f"http://{host}:{port}"
        self.chat_url = f"http://{host}:{port}/chat"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    # --- the market

    async def trade(self, seconds: float) -> None:
        """Have prices change for so long."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while (now := loop.time() - began) < seconds:
            while sent < now * self.rate:
                await self._tick()
                sent += 1
            await asyncio.sleep(0.002)

    async def _tick(self) -> None:
        asset = self._rng.randrange(len(self._bids))
        step = self._rng.choice((-9, -6, -3, -1, 1, 3, 6, 9))
        if not 50 < self._bids[asset] + step < 940:
            step = -step
        self._bids[asset] += step
        self._last = self._times[asset] = max(self._last + 1, int(time() * 1000))
        bid = self._bids[asset]
        self.ticks.append(Tick(self._last, asset, bid, bid + 10))
        await self._send(
            asset,
            {
                "event_type": "best_bid_ask", "market": market_of(asset),
                "asset_id": asset_of(asset), "timestamp": str(self._last),
                "best_bid": price_of(bid), "best_ask": price_of(bid + 10),
                "spread": "0.010",
            },
        )  # fmt: skip

    async def _send(self, asset: int, event: dict[str, Any]) -> None:
        text = json.dumps(event)
        withheld = set(self._away)
        for link, assets in list(self._open.items()):
            if asset in self._muted.get(link, ()):
                withheld.add(self._pids[link])
            elif asset in assets:
                try:
                    await link.send_str(text)
                except (ConnectionError, RuntimeError):
                    self._open.pop(link, None)
        if withheld:
            self.withheld[len(self.ticks) - 1] = withheld

    def break_feed(self, rng: random.Random) -> None:
        """Cut or freeze a connection, or freeze an asset on one, of a whole watcher."""
        now = time()
        whole = [
            link
            for link in self._muted
            if self._pids[link] not in self._faulty
            and now - self._whole_since[self._pids[link]] > _WHOLE_SECONDS
        ]
        if not whole:
            return
        link, kind = rng.choice(whole), rng.choice(("cut", "freeze", "asset"))
        pid = self._pids[link]
        self.made.append(Made(now, pid, kind))
        self._faulty.add(pid)
        if kind == "asset":
            self._muted[link] = {rng.choice(sorted(self._open[link]))}
            return
        self._away.add(pid)
        self._open.pop(link, None)
        if kind == "cut":
            # What was sent before arrives: then it is clear who had which price.
            self._transports[link].close()

    def _mend(self, pid: int) -> None:
        self._away.discard(pid)
        self._faulty.discard(pid)
        self._whole_since[pid] = time()

    async def _market(self, request: web.Request) -> web.WebSocketResponse:
        link = web.WebSocketResponse()
        await link.prepare(request)
        self._open[link] = set()
        pid, number = int(request.query["pid"]), None
        self._pids[link], self._transports[link] = pid, request.transport
        try:
            async for message in link:
                if message.type is WSMsgType.TEXT and message.data != "PING":
                    if number is None:
                        # Before it subscribed it was told nothing.
                        number = len(self.links)
                        self.links.append(Link(pid, time(), len(self.ticks)))
                        self._muted[link] = set()
                        self._mend(pid)
                    await self._subscribe(link, json.loads(message.data))
        except (ConnectionError, RuntimeError):
            pass
        finally:
            self._open.pop(link, None)
            self._muted.pop(link, None)
            if number is not None:
                self.links[number] = self.links[number]._replace(
                    closed=time(), end=len(self.ticks)
                )
        return link

    async def _subscribe(
        self, link: web.WebSocketResponse, asked: dict[str, Any]
    ) -> None:
        assets = {int(each) - _FIRST for each in asked.get("assets_ids", ())}
        if link not in self._open:
            return  # it is frozen
        if asked.get("operation") == "unsubscribe":
            self._open[link] -= assets
            return
        if assets & self._muted[link]:
            self._muted[link] = set()
            self._mend(self._pids[link])
        # The books are of this moment, and every later tick comes behind them.
        books = [self._book(asset) for asset in sorted(assets)]
        self._open[link] |= assets
        await link.send_str(json.dumps(books))

    async def _books(self, request: web.Request) -> web.Response:
        asked = [int(each["token_id"]) - _FIRST for each in await request.json()]
        return web.json_response([self._book(asset) for asset in asked])

    def _book(self, asset: int) -> dict[str, Any]:
        bid = self._bids[asset]
        return {
            "event_type": "book", "market": market_of(asset), "hash": "",
            "asset_id": asset_of(asset), "timestamp": str(self._times[asset]),
            "bids": [{"price": price_of(bid), "size": "10"}],
            "asks": [{"price": price_of(bid + 10), "size": "10"}],
        }  # fmt: skip

    # --- the chat

    async def _chat(self, request: web.Request) -> web.Response:
        said = await request.json()
        now = time()
        self.told.append(
            Told(
                now, said["user"], said["rule"], said["at"], said["price"],
                said["again"], said["pid"], now - said["seen_at"], said["id"],
            )
        )  # fmt: skip
        await asyncio.sleep(self._rng.uniform(*_ANSWER_SECONDS))
        return web.json_response({"number": len(self.told)})


_FIRST = 7_000


def asset_of(asset: int) -> str:
    """Return the token id of an outcome."""
    return str(_FIRST + asset)


def market_of(asset: int) -> str:
    """Return the condition id of an outcome's market."""
    return f"0x{asset:064x}"


def price_of(thousandths: int) -> str:
    """Return a price as the wire has it."""
    return f"0.{thousandths:03d}"
