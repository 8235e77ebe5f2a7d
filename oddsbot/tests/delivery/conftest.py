from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import insert, select

from oddsbot.alerts import Direction, PriceCrossed
from oddsbot.delivery import ALERTS, Decision, Home, Outbox
from oddsbot.store import AlertLog, Fate, Place
from oddsbot.store.tables import alerts
from oddsbot.watch import Committed
from oddswire import Client, EmbeddedServer
from oddswire.clock import SystemClock
from oddswire.keys import KeySpace


@pytest.fixture
def keys(prefix):
    """The keys of this test, on a server that others use too."""
    return KeySpace(prefix)


@pytest.fixture
async def durable():
    """A server of this test's own, which keeps every write through kill -9."""
    async with EmbeddedServer(aof=True, args=("--appendfsync", "always")) as server:
        yield server


class Book:
    """What is due in a database, and the queue that it goes into."""

    def __init__(self, engine, client, prefix):
        self.engine = engine
        self.log = AlertLog(engine)
        self.home = Home(client, prefix)
        self.queue = ALERTS.open(client, prefix=prefix)
        self.clock = SystemClock()
        self.outbox = Outbox(self.queue, self.log, self.home, self.clock)
        self.n = 0

    async def commit(self, *users, home=None, seconds_ago=0.0):
        """Make one alert due for each, as one round; return them as the shard does."""
        self.n += 1
        places = Counter()
        rows = []
        for user in users:
            name = f"{self.n}.{places[user]}"
            alert = PriceCrossed(
                id=f"rule:{name}", user_id=user, rule_id="rule", market="0xmarket",
                asset_id="1", direction=Direction.ABOVE, level=Decimal("0.60"),
                price=Decimal("0.61"), at=self.n, seen_at=self.clock.now(),
            )  # fmt: skip
            due_at = int((self.clock.now() - seconds_ago) * 1000)
            rows.append({
                "user_id": user, "id": alert.id, "rule_id": "rule", "kind": "price",
                "market": "0xmarket", "data": msgspec.json.encode(alert).decode(),
                "at": self.n, "seen_at": 0, "due_at": due_at, "shard": "0", "epoch": 1,
                "n": self.n, "place": places[user],
                "home": await self.home.read() if home is None else home,
            })  # fmt: skip
            places[user] += 1
        async with self.engine.begin() as connection:
            await connection.execute(insert(alerts), rows)
        return [
            Committed(
                row["user_id"], Place("0", row["n"], row["place"]), "price", "0xmarket"
            )
            for row in rows
        ]

    async def fates(self):
        """Return the fate of each alert, in order."""
        async with self.engine.connect() as connection:
            query = select(alerts.c.fate).order_by(alerts.c.n, alerts.c.place)
            return (await connection.execute(query)).scalars().all()

    @asynccontextmanager
    async def running(self, *others):
        """Run the outbox, and others, for the length of a block."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run()) for each in (self.outbox, *others)]
            yield
            for each in running:
                each.cancel()


@pytest.fixture
def book_on(engine, known, prefix):
    """Return what is due for some people, for a client of the test's own."""

    async def make(client, *users):
        await known(*users)
        return Book(engine, client, prefix)

    return make


@pytest.fixture
async def book(book_on, client):
    """Return what is due for the users 1, 2 and 3."""
    return await book_on(client, 1, 2, 3)


class Chat:
    """Keeps the ids of the alerts that were delivered, and which said `again`."""

    def __init__(self):
        self.told = []
        self.again = []
        self._more = asyncio.Condition()

    async def __call__(self, alert, *, again):
        """Take an alert."""
        async with self._more:
            self.told.append((alert.user_id, alert.id.removeprefix("rule:")))
            if again:
                self.again.append(self.told[-1])
            self._more.notify_all()
        return Decision(Fate.SENT, message_id=len(self.told))

    async def wait_told(self, count):
        """Wait until so many were told."""
        async with asyncio.timeout(60), self._more:
            await self._more.wait_for(lambda: len(self.told) >= count)


@pytest.fixture
def chat():
    """Return a chat."""
    return Chat()


class Lossy:
    """A way to a server on which the reply to a chosen command gets lost.

    The command arrives and is executed; then the connection is cut before a byte of
    the reply came through.

    Attributes:
        url: Of this way.
        lose: How many more replies to lose, by what their request contains.
        lost: How many were lost.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self.lose: dict[bytes, int] = {}
        self.lost = 0
        self.url = ""
        self._server = server
        self._serving: set[asyncio.Task] = set()

    @asynccontextmanager
    async def open(self):
        """Listen."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.url = self._server.url.replace(f":{self._server.port}/", f":{port}/")
        async with listener:
            yield self
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader, writer) -> None:
        self._serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection(
            self._server.host, self._server.port
        )
        losing = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._requests(reader, up_writer, losing))
            tasks.create_task(self._replies(up_reader, writer, losing))
        for each in (up_writer, writer):
            with suppress(ConnectionError):
                await each.wait_closed()

    async def _requests(self, reader, writer, losing) -> None:
        while data := await _chunk(reader):
            for what, times in self.lose.items():
                if times and what in data:
                    self.lose[what] -= 1
                    losing.set()
            writer.write(data)
        writer.close()

    async def _replies(self, reader, writer, losing) -> None:
        while data := await _chunk(reader):
            if losing.is_set():
                self.lost += 1
                break
            writer.write(data)
        writer.transport.abort()


async def _chunk(reader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


@pytest.fixture
async def lossy(server):
    """A `Lossy` way to the server, and a client that takes it."""
    async with Lossy(server).open() as way, Client.from_url(way.url) as client:
        yield way, client
