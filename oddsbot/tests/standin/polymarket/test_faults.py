"""`Replay` and a stream when links break, freeze, fill up, or carry rubbish."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from aiohttp import WSServerHandshakeError

from oddsbot.polymarket import (
    Book,
    Connected,
    Disconnected,
    MarketResolved,
    MarketStream,
    NewMarket,
    PriceChange,
)
from oddsbot.standin.polymarket import Replay
from oddswire.errors import SettingsError

from .conftest import DOWN, INF, UP, collect, connect


@pytest.mark.integration
@pytest.mark.requirement("B1")
async def test_after_a_disconnect_the_books_catch_up(sampled, session):
    """Each cut is announced, and the books after it are those of that moment."""
    market = next(iter(sampled.markets.values()))
    async with (
        Replay(sampled, speed=INF, until=sampled.start + 300_000) as replay,
        MarketStream(
            session, replay.ws_url, market.tokens, backoff=(0.001, 0.01)
        ) as stream,
    ):
        cuts = 0
        known = {}
        events = 0

        async def start():
            await replay.wait_subscribed(*market.tokens)
            replay.start()

        async with asyncio.TaskGroup() as group:
            group.create_task(start())
            async with aclosing(aiter(stream)) as things:
                async for thing in things:
                    if isinstance(thing, Disconnected):
                        known.clear()
                        cuts += 1
                    elif isinstance(thing, Book):
                        known[thing.asset_id] = (len(thing.bids), thing.timestamp)
                    elif isinstance(thing, PriceChange):
                        # No change ever comes before the book it belongs to.
                        for entry in thing.price_changes:
                            assert entry.asset_id in known
                            assert thing.timestamp >= known[entry.asset_id][1]
                    events += 1
                    if events % 100 == 0 and cuts < 3:
                        assert replay.disconnect() == 1
                    if cuts == 3 and len(known) == 2:
                        break

    assert cuts == 3
    assert stream.counters.reconnects == 3


@pytest.mark.integration
@pytest.mark.requirement("B1")
async def test_a_frozen_link_is_noticed_and_replaced(small, session):
    """A freeze answers PING and sends nothing; the watchdog gets the next book."""
    async with (
        Replay(small, speed=INF) as replay,
        MarketStream(
            session,
            replay.ws_url,
            [UP],
            stale_after=0.2,
            ping_every=0.02,
            backoff=(0.001, 0.01),
        ) as stream,
    ):
        await collect(stream, lambda thing: isinstance(thing, Connected))
        await replay.wait_subscribed(UP)
        replay.freeze()
        replay.start()
        await replay.finished()
        sent = replay.frames_sent
        things = await collect(stream, lambda thing: isinstance(thing, Book))

    assert sent == 0
    assert things[0] == Disconnected("no data for 0.2 s")
    assert things[-1].timestamp == 1_180_000


@pytest.mark.advanced
async def test_a_thawed_link_flows_again(small, session):
    """A freeze ends by `thaw`; what it swallowed is not repeated."""
    async with Replay(small, speed=INF) as replay:
        ws = await connect(session, replay, UP)
        replay.freeze()
        await replay.inject("lost")
        replay.thaw()
        await replay.inject("{}")
        first = await ws.receive_str()

    assert first == "{}"


@pytest.mark.integration
@pytest.mark.requirement("B1")
async def test_a_broken_frame_does_not_stop_a_stream(small, session):
    """Injected rubbish is counted; the good frames around it are delivered."""
    async with (
        Replay(small, speed=INF) as replay,
        MarketStream(session, replay.ws_url, [UP, DOWN]) as stream,
    ):
        await collect(stream, lambda thing: isinstance(thing, Connected))
        await replay.wait_subscribed(UP, DOWN)
        await replay.inject('{"event_type": "book", "market"')
        await replay.inject('[{"event_type": "horoscope"}]')
        replay.start()
        things = await collect(stream, lambda thing: isinstance(thing, MarketResolved))

    assert stream.counters.bad_frames == 1
    assert stream.counters.skipped == {"horoscope": 1}
    assert stream.counters.reconnects == 0
    assert [type(thing) for thing in things[:3]] == [NewMarket, Book, Book]


@pytest.mark.performance
async def test_a_slow_subscriber_holds_the_replay_up(sampled, session):
    """At full speed the replay waits for who does not read, and drops nothing."""
    market = next(iter(sampled.markets.values()))
    big = json.dumps({"event_type": "x" * 1_000_000})
    received = asyncio.Queue()

    async def flood():
        # 40 MB: more than the sockets between hold by themselves.
        for _ in range(40):
            await replay.inject(big)

    async def read_on():
        while True:
            received.put_nowait(await ws.receive_str())

    async with (
        Replay(sampled, speed=INF, patience=60.0) as replay,
        asyncio.TaskGroup() as group,
    ):
        ws = await connect(session, replay, *market.tokens)
        flooding = group.create_task(flood())
        _, waiting = await asyncio.wait([flooding], timeout=0.5)
        replay.start()
        finishing = group.create_task(replay.finished())
        _, held = await asyncio.wait([finishing], timeout=0.2)
        held_at = replay.played_until

        reading = group.create_task(read_on())
        await asyncio.wait([flooding, finishing])
        frames = [await received.get() for _ in range(replay.frames_sent)]
        reading.cancel()

    assert waiting
    assert held
    # aiohttp looks at the socket after each 64 KB of small frames, so some went in.
    assert held_at - sampled.start < (sampled.end - sampled.start) / 4
    assert frames.count(big) == 40
    times = [json.loads(text)["timestamp"] for text in frames if text != big]
    assert len(times) == replay.frames_sent - 40 > 1000
    assert times == sorted(times)


async def deaf(replay, tokens):
    """Subscribe on a connection that never reads; return its writer."""
    port = int(replay.gamma_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    head = (
        f"GET /ws/market HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    writer.write(head.encode())
    assert b" 101 " in await reader.readline()
    text = json.dumps({"assets_ids": tokens, "type": "market"}).encode()
    size = len(text).to_bytes(2, "big")
    writer.write(b"\x81\xfe" + size + bytes(4) + text)
    writer.transport.pause_reading()
    return writer


@pytest.mark.errors
@pytest.mark.requirement("X4", "B1")
async def test_a_subscriber_that_takes_nothing_is_cut(sampled, session):
    """One that never reads holds the others up for its patience, and no longer."""
    tokens = [token for market in sampled.markets.values() for token in market.tokens]
    async with Replay(sampled, speed=INF, patience=0.2) as replay:
        writer = await deaf(replay, tokens)
        await replay.wait_subscribed(*tokens)
        ws = await connect(session, replay, *tokens)
        replay.start()
        frames = 0

        async def read():
            nonlocal frames
            async for _ in ws:
                frames += 1

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            await replay.finished()
            await ws.close()
            reading.cancel()
        assert frames > 1000
        writer.transport.abort()


@pytest.mark.errors
@pytest.mark.requirement("X4", "B1")
async def test_at_a_finite_speed_nobody_waits_for_who_takes_nothing(small, session):
    """The others have every frame at once; the one that is far behind is cut."""
    tokens = [token for market in small.markets.values() for token in market.tokens]
    big = json.dumps({"event_type": "x" * 100_000})
    async with Replay(small, speed=1.0, patience=3600.0) as replay:
        writer = await deaf(replay, tokens)
        await replay.wait_subscribed(*tokens)
        ws = await connect(session, replay, *tokens)
        await ws.send_str("PING")
        while await ws.receive_str() != "PONG":  # then it is subscribed too
            pass
        received = 0
        for _ in range(300):  # 30 MB: more than the sockets between hold
            await replay.inject(big)
            while await ws.receive_str() != big:
                pass
            received += 1
        assert received == 300
        assert replay.disconnect() == 1  # the other one was cut
        writer.transport.abort()


@pytest.mark.errors
@pytest.mark.requirement("X4", "B1")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_no_page_of_a_browser_reaches_the_replay(small, session, headers, status):
    """The recorded Polymarket answers programs of this machine, by its own name."""
    async with Replay(small) as replay:
        async with session.get(
            f"{replay.gamma_url}/markets", headers=headers
        ) as answer:
            assert answer.status == status
        with pytest.raises(WSServerHandshakeError) as caught:
            await session.ws_connect(replay.ws_url, headers=headers)
        assert caught.value.status == status
    with pytest.raises(SettingsError, match="other machines"):
        Replay(small, host="0.0.0.0")
