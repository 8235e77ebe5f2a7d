"""`StreamPool`: quiet is not frozen, and what was missed is said. Time is simulated."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from oddsbot.polymarket import (
    Connected,
    Disconnected,
    Found,
    Gap,
    StreamPool,
    Tick,
    UpstreamUnavailable,
)
from oddsbot.polymarket.clob import read_books
from oddswire.clock import ManualClock
from support import eventually


class Exchange:
    """Polymarket's side: the books as they are, and connections that tell of them.

    Attributes:
        top: Bid and ask of each asset that has a book.
        silent: Assets of which nothing is sent.
        frozen: Connections on which nothing is sent.
        links: The assets of each connection; None once it ended.
        asked: The assets of each question.
    """

    def __init__(self):
        self.top = {}
        self.silent = set()
        self.frozen = set()
        self.links = []
        self.sockets = []
        self.requests = []
        self.asked = []
        self.away = False
        self.refuses = False
        self.at = 1_790_000_000_000
        self.wakes = asyncio.Event()

    def book(self, asset):
        """Return the book of an asset as an event."""
        bid, ask = self.top[asset]
        return {
            "event_type": "book",
            "market": "m",
            "asset_id": asset,
            "timestamp": str(self.at),
            "bids": [{"price": bid, "size": "1"}],
            "asks": [{"price": ask, "size": "1"}],
        }

    async def serve(self, request):
        """Serve one connection until it ends."""
        if self.refuses:
            return web.Response(status=503)
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        number = len(self.links)
        self.links.append(set())
        self.sockets.append(ws)
        async for message in ws:
            if message.data == "PING":
                await ws.send_str("PONG")
                continue
            asked = json.loads(message.data)
            self.requests.append((number, asked))
            ids = asked["assets_ids"]
            if asked.get("operation") == "unsubscribe":
                self.links[number].difference_update(ids)
            else:
                self.links[number].update(ids)
                await self.send(number, [each for each in ids if each in self.top])
        self.links[number] = None
        return ws

    async def send(self, number, assets):
        """Tell a connection of some books, unless it is frozen or they are silent."""
        told = [self.book(each) for each in assets if each not in self.silent]
        if told and number not in self.frozen:
            await self.sockets[number].send_str(json.dumps(told))

    async def move(self, asset, bid, ask):
        """Change a book, and tell who follows it."""
        self.top[asset] = bid, ask
        self.at += 1_000
        for number, assets in enumerate(self.links):
            if assets and asset in assets:
                await self.send(number, [asset])

    async def books(self, assets):
        """Answer a question."""
        self.asked.append(assets)
        if self.away:
            raise UpstreamUnavailable("away")
        books = read_books([self.book(each) for each in assets if each in self.top])
        return Found({book.asset_id: book for book in books})


@pytest.fixture
async def exchange(serve):
    """An exchange, and where it listens."""
    found = Exchange()
    found.url = f"ws://127.0.0.1:{await serve(found.serve)}/ws/market"
    return found


class Reader:
    """A pool on a simulated clock, and what it told."""

    def __init__(self, pool, clock):
        self.pool = pool
        self.clock = clock
        self.seen = []

    async def run(self):
        """Read for ever."""
        async for event in self.pool:
            self.seen.append(event)

    def of(self, kind):
        """Return what was told of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]

    async def pass_time(self, seconds):
        """Let that long pass, with turns for what the sockets have."""
        for _ in range(int(seconds)):
            await self.clock.advance(1.0)
            for _ in range(4):
                await asyncio.sleep(0.0005)


@pytest.fixture
async def follow(exchange, session):
    """Follow assets; return the reader once each of them with a book was told."""
    async with AsyncExitStack() as stack:

        async def start(*assets, books=None):
            clock = ManualClock()
            pool = await stack.enter_async_context(
                StreamPool(
                    session,
                    exchange.url,
                    books or exchange.books,
                    assets,
                    clock=clock.monotonic,
                    sleep=clock.sleep,
                    backoff=(0.001, 0.01),
                )
            )
            reader = Reader(pool, clock)
            task = asyncio.get_running_loop().create_task(reader.run(), name="reader")
            stack.callback(task.cancel)
            told = {each for each in assets if each in exchange.top} - exchange.silent
            await eventually(
                lambda: {t.quote.asset_id for t in reader.of(Tick)} >= told, 20
            )
            return reader

        yield start


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_a_quiet_connection_is_left_alone(exchange, follow):
    """Ten minutes of silence in which nothing changed replace no connection."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2")}
    reader = await follow("a", "b")
    await reader.pass_time(600)

    assert len(exchange.links) == 1
    assert reader.of(Disconnected) == reader.of(Gap) == []
    assert len(reader.of(Tick)) == 2
    # After 30 s, 60, 120 and 300 s more; and the samples of 300 s.
    assert 4 <= reader.pool.counters.questions <= 7


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_a_frozen_connection_is_replaced_within_35_seconds(exchange, follow):
    """A book that differs is told late, the connection is replaced, the gap is said."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2")}
    reader = await follow("a", "b")
    exchange.frozen.add(0)
    await exchange.move("a", "0.6", "0.7")
    await reader.pass_time(29)
    assert reader.of(Disconnected) == []
    await reader.pass_time(6)
    await eventually(lambda: reader.of(Gap))

    (late,) = [tick for tick in reader.of(Tick) if tick.late]
    assert (late.quote.asset_id, str(late.quote.bid)) == ("a", "0.6")
    (gap,) = reader.of(Gap)
    assert set(gap.assets) == {"a", "b"}
    assert gap.ended - gap.began <= 35
    assert [type(each) for each in reader.seen if not isinstance(each, Tick)] == [
        Connected, Disconnected, Connected, Gap,
    ]  # fmt: skip
    assert exchange.links[1] == {"a", "b"}


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_a_frozen_asset_is_found_within_6_minutes(exchange, follow):
    """One asset that falls silent among others is subscribed to again."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2")}
    reader = await follow("a", "b")
    exchange.silent.add("b")
    await exchange.move("b", "0.3", "0.4")
    for minute in range(12):
        await exchange.move("a", "0.4", f"0.{50 + minute}")
        await reader.pass_time(29)
        if reader.of(Gap):
            break
    assert reader.clock.monotonic() <= 360
    assert len(exchange.links) == 1
    assert [gap.assets for gap in reader.of(Gap)] == [("b",)]
    assert [t.quote.asset_id for t in reader.of(Tick) if t.late] == ["b"]
    exchange.silent.clear()
    await reader.pass_time(31)
    assert [
        asked["operation"] for _, asked in exchange.requests[1:3]
    ] == ["unsubscribe", "subscribe"]  # fmt: skip
    assert reader.pool.counters.frozen_assets == 1


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_frozen_connection_is_not_as_many_frozen_assets(exchange, follow):
    """Single assets are asked about when the connection is silent: it is one gap."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2")}
    reader = await follow("a", "b")
    # It is quiet and was asked about, so the next question comes after that of assets.
    await reader.pass_time(250)
    exchange.frozen.add(0)
    exchange.top = {"a": ("0.6", "0.7"), "b": ("0.3", "0.4")}
    await reader.pass_time(270)
    await eventually(lambda: reader.of(Gap))
    assert [gap.reason for gap in reader.of(Gap)] == ["frozen"]
    assert reader.pool.counters.frozen_assets == 0


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_more_assets_than_a_connection_takes(exchange, follow):
    """501 assets are on 3 connections of at most 200; an empty one is closed."""
    assets = [str(number) for number in range(501)]
    exchange.top = dict.fromkeys(assets, ("0.4", "0.5"))
    reader = await follow(*assets)

    assert sorted(map(len, exchange.links)) == [101, 200, 200]
    assert set.union(*exchange.links) == set(assets)
    emptied = next(each for each in exchange.links if len(each) == 101)
    await reader.pool.unsubscribe(*emptied)
    await reader.pass_time(70)
    await eventually(lambda: exchange.links.count(None) == 1)
    assert reader.pool.connections == 2
    assert all(asked["assets_ids"] for _, asked in exchange.requests)


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_an_asset_without_its_first_book_is_asked_for_again(exchange, follow):
    """Three times on its connection, then on another; its price is told meanwhile."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2")}
    exchange.silent.add("b")
    reader = await follow("a", "b")
    for step in range(5):
        await exchange.move("a", "0.4", f"0.{60 + step}")
        await reader.pass_time(29)
    assert [t.quote.asset_id for t in reader.of(Tick) if t.late][:1] == ["b"]
    assert len(exchange.links) == 2
    assert exchange.links == [{"a"}, {"b"}]
    assert reader.pool.counters.resubscribed == 3
    assert reader.of(Gap) == []


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_an_asset_that_has_no_book_is_no_trouble(exchange, follow):
    """A closed market's asset costs a question, and no connection."""
    exchange.top = {"a": ("0.4", "0.5")}
    reader = await follow("a", "closed")
    await reader.pass_time(120)
    assert len(exchange.links) == 1
    assert reader.pool.counters.resubscribed == 0
    assert reader.of(Gap) == []


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_question_without_an_answer_proves_nothing(exchange, follow):
    """While the books cannot be asked for, nothing is replaced, and it is counted."""
    exchange.top = {"a": ("0.4", "0.5")}
    reader = await follow("a")
    exchange.away = True
    await reader.pass_time(120)
    assert len(exchange.links) == 1
    assert reader.pool.counters.failed_questions >= 2


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_change_on_its_way_replaces_nothing(exchange, follow):
    """A book that is ahead of the connection by a moment is no difference."""
    exchange.top = {"a": ("0.4", "0.5")}

    async def ahead(assets):
        if len(exchange.asked) == 0:
            exchange.top["a"] = "0.41", "0.5"
        return await exchange.books(assets)

    reader = await follow("a", books=ahead)
    await reader.pass_time(31)
    await exchange.move("a", "0.41", "0.5")
    await eventually(lambda: len(reader.of(Tick)) == 2)
    await reader.pass_time(10)
    assert len(exchange.links) == 1
    assert reader.of(Gap) == []


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_each_cut_is_one_gap(exchange, follow):
    """A connection that was cut is subscribed again; the gap ends with its books."""
    exchange.top = {"a": ("0.4", "0.5")}
    reader = await follow("a")
    for cut in range(3):
        await reader.pass_time(5)
        await exchange.sockets[-1].close()
        await eventually(lambda cut=cut: len(reader.of(Gap)) == cut + 1)
    assert reader.pool.counters.gaps == 3
    assert reader.pool.down_for == 0
    assert all(4 <= gap.ended - gap.began <= 6 for gap in reader.of(Gap))


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_after_a_connection_the_books_are_asked_for(exchange, follow):
    """What its first books did not tell is told late; the rest is not repeated."""
    exchange.top = {"a": ("0.4", "0.5"), "b": ("0.1", "0.2"), "c": ("0.7", "0.8")}
    reader = await follow("a", "b", "c")
    asked = len(exchange.asked)
    # Meanwhile a and b move; only a comes with the first books.
    exchange.silent = {"b", "c"}
    await exchange.sockets[0].close()
    await exchange.move("a", "0.41", "0.5")
    await exchange.move("b", "0.3", "0.4")
    await eventually(lambda: reader.of(Gap))
    assert (
        reader.of(Tick)[3:]
        == [t for t in reader.of(Tick) if t.quote.asset_id == "a"][1:]
    )
    await reader.pass_time(5)
    (late,) = (tick for tick in reader.of(Tick) if tick.late)
    assert (late.quote.asset_id, str(late.quote.bid)) == ("b", "0.3")
    assert [set(each) for each in exchange.asked[asked:]] == [{"a", "b", "c"}]
    assert (Connected(1, ("a", "b", "c")), 2) == (
        reader.of(Connected)[0], len(reader.of(Connected)),
    )  # fmt: skip
    assert reader.of(Disconnected)[0].assets == ("a", "b", "c")


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_a_connection_that_is_away_is_told_at_once(exchange, follow):
    """`down_for` counts from the loss to the next connection; 0 without assets."""
    exchange.top = {"a": ("0.4", "0.5")}
    reader = await follow("a")
    assert reader.pool.down_for == 0
    exchange.refuses = True
    await exchange.sockets[0].close()
    await eventually(lambda: reader.of(Disconnected))
    await reader.pass_time(7)
    assert 6 <= reader.pool.down_for <= 7
    exchange.refuses = False
    await eventually(lambda: reader.of(Gap))
    assert reader.pool.down_for == 0
    exchange.refuses = True
    await exchange.sockets[1].close()
    await reader.pool.unsubscribe("a")
    await reader.pass_time(3)
    assert reader.pool.down_for == 0


@pytest.mark.advanced
@pytest.mark.requirement("B1")
@pytest.mark.parametrize("seed", range(3))
async def test_gaps_counted_are_the_gaps_made(exchange, follow, seed):
    """Cut and frozen at random: each is one gap, and what is told last is what is."""
    rng = random.Random(seed)
    assets = [str(number) for number in range(230)]  # on two connections
    exchange.top = dict.fromkeys(assets, ("0.1", "0.9"))
    reader = await follow(*assets)
    made = 0

    async def move(asset):
        await exchange.move(
            asset, f"0.{rng.randrange(10, 50)}", f"0.{rng.randrange(51, 99)}"
        )

    def last():
        told = {tick.quote.asset_id: tick.quote for tick in reader.of(Tick)}
        return {each: (str(q.bid), str(q.ask)) for each, q in told.items()}

    async def heard(asset):
        await move(asset)
        await eventually(lambda: last().get(asset), holds=exchange.top[asset].__eq__)

    for fault in rng.choices(["cut", "freeze", "asset", "quiet"], k=8):
        live = [n for n, on in enumerate(exchange.links) if on]
        link = rng.choice(live)
        asset = rng.choice(sorted(exchange.links[link]))
        made += fault != "quiet"
        match fault:
            case "cut":
                await exchange.sockets[link].close()
            case "freeze":
                await heard(asset)  # a connection that was quiet is asked about less
                exchange.frozen.add(link)
                await move(asset)
                await reader.pass_time(36)
            case "asset":
                exchange.silent.add(asset)
                await move(asset)
                others = sorted(exchange.links[link] - {asset})
                for _ in range(12):
                    await heard(rng.choice(others))
                    await reader.pass_time(28)
                exchange.silent.clear()
            case "quiet":
                await reader.pass_time(100)
        await eventually(lambda: reader.pool.counters.gaps, holds=made.__eq__)
        await reader.pass_time(3)
    assert len(reader.of(Gap)) == reader.pool.counters.gaps == made
    for asset in assets[::23]:
        await heard(asset)
    assert last() == exchange.top


def noise(rng, exchange):
    """Return a frame that tells nothing of the assets, and how many parts are bad."""
    book = exchange.book("a")
    foreign = {**book, "asset_id": "nobody's"}
    return rng.choice(
        [
            ('{"event_type": "book", "asset', 1),
            ("INVALID OPERATION", 1),
            ("[]", 0),
            ("{}", 1),
            ("null", 1),
            ("[[1], 7, null]", 3),
            (json.dumps([{"event_type": "heartbeat"}, foreign]), 1),
            (json.dumps({**book, "bids": [{"price": "1.7", "size": "1"}]}), 1),
            (json.dumps({**book, "timestamp": "-5"}), 1),
            (json.dumps({**book, "asset_id": ""}), 1),
            (json.dumps(foreign), 0),
            (json.dumps([book, book]), 0),  # told again
            (json.dumps([{**foreign, "event_type": "price_change"}]), 1),
            (
                json.dumps(
                    {
                        "event_type": "new_market", "market": "x",
                        "timestamp": "1", "assets_ids": ["8"],
                    }
                ),
                0,
            ),
        ]
    )  # fmt: skip


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize("seed", range(3))
async def test_frames_that_are_bad_cost_themselves_alone(exchange, follow, seed):
    """Damaged, foreign and repeated ones between good ones: counted, none lost."""
    rng = random.Random(seed)
    exchange.top = {"a": ("0.1", "0.9"), "b": ("0.1", "0.9")}
    reader = await follow("a", "b")
    wanted, bad = {"a": [("0.1", "0.9")], "b": [("0.1", "0.9")]}, 0
    for step in range(60):
        text, parts = noise(rng, exchange)
        bad += parts
        await exchange.sockets[0].send_str(text)
        asset, top = rng.choice("ab"), (f"0.{10 + step}", f"0.{72 + step % 20}")
        wanted[asset].append(top)
        await exchange.move(asset, *top)
    last = str(exchange.at)
    await eventually(lambda: str(reader.of(Tick)[-1].quote.at), holds=last.__eq__)
    told = {"a": [], "b": []}
    for tick in reader.of(Tick):
        top = str(tick.quote.bid), str(tick.quote.ask)
        if told[tick.quote.asset_id][-1:] != [top]:  # a repeat is no change
            told[tick.quote.asset_id].append(top)
    assert told == wanted
    counted = reader.pool.counters.streams
    assert counted.bad_frames + counted.skipped.total() == bad
    assert reader.of(Disconnected) == reader.of(Gap) == []


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize("noisy", [True, False], ids=["noise", "silence"])
async def test_a_frozen_connection_is_found_behind_any_noise(exchange, follow, noisy):
    """Frames about nobody we asked for, and what cannot be read, prove nothing."""
    rng = random.Random(1)
    exchange.top = {"a": ("0.1", "0.9")}
    reader = await follow("a")
    exchange.frozen.add(0)
    exchange.top["a"] = ("0.4", "0.5")
    for _ in range(35):
        text, _ = noise(rng, exchange)
        while '"asset_id": "a"' in text:
            text, _ = noise(rng, exchange)
        if noisy and not reader.of(Disconnected):
            await exchange.sockets[0].send_str(text)
        await reader.pass_time(1)
    await eventually(lambda: reader.of(Gap))
    assert [str(tick.quote.bid) for tick in reader.of(Tick) if tick.late] == ["0.4"]
    assert reader.pool.counters.replaced == 1


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_closed_while_it_works_it_leaves_nothing(exchange, session):
    """Leaving ends the iteration, every task and every connection."""
    exchange.top = {"a": ("0.4", "0.5")}
    pool = StreamPool(session, exchange.url, exchange.books, ["a"])
    async with pool:
        first = await anext(aiter(pool))
        assert isinstance(first, Connected)
    assert [event async for event in pool] == []
    await eventually(lambda: exchange.links == [None])
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("polymarket")}
