"""`MarketStream` when links drop, fall silent, are refused, or carry rubbish."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import (
    Connected,
    Disconnected,
    MarketStream,
)
from oddsbot.polymarket._socket import reconnect_delay

from .conftest import QUICK, Venue, book, connect, read


@pytest.mark.errors
@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_dropped_link_is_replaced(venue, session, how):
    """After a drop: a marker, a new connection, the same subscription."""
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, first = await connect(venue, stream)
        await link.ws.send_str(book(1))
        assert len(await read(stream, 1)) == 1
        if how == "abort":
            link.transport.abort()
        else:
            await link.ws.close(code=1001)

        gone, back = await read(stream, 2)
        again = await (await venue.links.get()).received.get()

    assert isinstance(gone, Disconnected)
    assert isinstance(back, Connected)
    assert again == first
    assert stream.counters.reconnects == 1


@pytest.mark.errors
async def test_what_came_before_a_drop_is_delivered_before_the_marker(venue, session):
    """A drop loses nothing that had arrived."""
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        await link.ws.send_str(f"[{book(1)},{book(2)}]")
        await link.ws.send_str(book(3))
        await link.ws.close()

        things = await read(stream, 4)

    assert [event.timestamp for event in things[:3]] == [1, 2, 3]
    assert isinstance(things[3], Disconnected)


@pytest.mark.errors
async def test_a_silent_link_is_replaced_although_it_answers(venue, session):
    """No data for `stale_after` replaces the connection, PONG or not."""
    async with MarketStream(
        session,
        venue.url,
        ["a"],
        ping_every=0.01,
        stale_after=0.2,
        backoff=(0.001, 0.01),
    ) as stream:
        link, _ = await connect(venue, stream)

        gone, back = await read(stream, 2)

    assert gone == Disconnected("no data for 0.2 s")
    assert isinstance(back, Connected)
    assert link.pings > 0


@pytest.mark.errors
async def test_data_keeps_a_link_alive(venue, session):
    """The watchdog counts from the last data frame, not from the connection."""
    async with MarketStream(
        session, venue.url, ["a"], stale_after=1.0, backoff=(0.001, 0.01)
    ) as stream:
        link, _ = await connect(venue, stream)
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.3
        sent = 1
        while loop.time() < until:
            await link.ws.send_str(book(sent))
            (event,) = await read(stream, 1)
            assert event.timestamp == sent
            sent += 1

    assert stream.counters.reconnects == 0


NEW = {"event_type": "new_market", "market": "0xother", "timestamp": "1770921570954"}
OTHERS = [
    json.dumps(NEW | {"assets_ids": ["8", "9"], "outcomes": ["Yes", "No"]}),
    json.dumps(json.loads(book(5)) | {"asset_id": "other"}),
    json.dumps(json.loads(book(5)) | {"bids": "broken"}),
    "[]",
    "{}",
    "INVALID OPERATION",
    '{"event_type": "heartbeat"}',
]


@pytest.mark.errors
@pytest.mark.requirement("B1")
async def test_only_what_is_subscribed_is_a_sign_of_life(venue, session):
    """New markets, other assets and unreadable frames keep no frozen link alive."""
    async with MarketStream(
        session, venue.url, ["a"], stale_after=0.3, backoff=(0.001, 0.01)
    ) as stream:
        link, _ = await connect(venue, stream)
        await link.ws.send_str(book(1))
        seen = await read(stream, 1)

        async def chatter():
            while not link.ws.closed:
                for frame in OTHERS:
                    await link.ws.send_str(frame)
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            chatting = group.create_task(chatter())
            while not isinstance(seen[-1], Disconnected):
                seen += await read(stream, 1)
            chatting.cancel()

    assert seen[-1] == Disconnected("no data for 0.3 s")
    assert stream.counters.last_sign_at < stream.counters.last_frame_at


@pytest.mark.advanced
@pytest.mark.requirement("B1")
async def test_a_busy_consumer_makes_no_link_stale(venue, session):
    """Time that the consumer spends elsewhere is no silence of the server."""
    async with MarketStream(
        session, venue.url, ["a"], stale_after=0.2, backoff=(0.001, 0.01)
    ) as stream:
        link, _ = await connect(venue, stream)
        for number in (1, 2, 3):
            await link.ws.send_str(book(number))
            await asyncio.sleep(0.3)
            (event,) = await read(stream, 1)
            assert event.timestamp == number

    assert stream.counters.reconnects == 0


@pytest.mark.errors
async def test_what_is_skipped_is_named_once(venue, session, caplog):
    """However often one kind of event cannot be read, one line says which and why."""
    caplog.set_level(logging.WARNING)
    bad = json.dumps(json.loads(book(5)) | {"bids": "broken"})
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        for _ in range(5):
            await link.ws.send_str(bad)
        await link.ws.send_str(book(1))
        await read(stream, 1)

    assert stream.counters.skipped == {"book": 5}
    (line,) = [each.message for each in caplog.records]
    assert "asset_id 'a': `bids`" in line


@pytest.mark.advanced
async def test_nothing_subscribed_is_not_stale(venue, session):
    """Without assets nothing is asked for and nothing missed: the connection stays."""
    async with MarketStream(
        session, venue.url, [], stale_after=1.0, backoff=(0.001, 0.01)
    ) as stream:
        assert isinstance((await read(stream, 1))[0], Connected)
        link = await venue.links.get()
        # Longer than it takes to be stale; a busy machine answers sooner than that.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await read(stream, 1)
        assert link.received.empty()  # an empty list would subscribe to everything
        await stream.subscribe("a")
        first = await link.received.get()
        await link.ws.send_str(book(1))

        assert (await read(stream, 1))[0].timestamp == 1
    assert (first["assets_ids"], first["type"]) == (["a"], "market")


@pytest.mark.errors
async def test_a_broken_frame_is_counted_and_the_stream_goes_on(venue, session, caplog):
    """Broken text and unknown events cost themselves only."""
    caplog.set_level(logging.WARNING)
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        for frame in (
            '{"event_type": "book", "mar',
            f'[{book(1)},{{"event_type": "tea"}},{{"event_type": "book"}}]',
            "7",
            book(2),
        ):
            await link.ws.send_str(frame)

        events = await read(stream, 2)

    assert [event.timestamp for event in events] == [1, 2]
    assert stream.counters.bad_frames == 2
    assert stream.counters.skipped == {"tea": 1, "book": 1}
    assert stream.counters.frames == 4
    # One line of a kind and connection, however many there are.
    told = [each.event for each in caplog.records if hasattr(each, "event")]
    assert sorted(told) == ["feed_event_skipped"] * 2 + ["feed_frame_skipped"]


@pytest.mark.errors
async def test_invented_kinds_cannot_fill_the_counters(venue, session):
    """After 50 unknown kinds the others are counted together."""
    kinds = [{"event_type": f"kind-{number}"} for number in range(80)]
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        await link.ws.send_str(json.dumps([*kinds, json.loads(book(1))]))
        await read(stream, 1)

    assert len(stream.counters.skipped) == 51
    assert stream.counters.skipped["other"] == 30


@pytest.mark.errors
async def test_it_waits_for_a_server_that_cannot_serve_yet(serve, session, caplog):
    """Tries go on until one succeeds, with one log line for all that failed."""
    caplog.set_level(logging.WARNING)
    venue = Venue()
    refused = 0

    async def answer(request):
        nonlocal refused
        if refused < 4:
            refused += 1
            return web.Response(status=503)
        return await venue.serve(request)

    url = f"ws://127.0.0.1:{await serve(answer)}/ws/market"
    async with MarketStream(session, url, ["a"], **QUICK) as stream:
        assert await read(stream, 1) == [Connected(5)]

    assert stream.counters.failed_attempts == 4
    assert len(caplog.records) == 1


@pytest.mark.errors
async def test_a_server_that_hangs_up_at_once_is_called_less_and_less(venue, session):
    """Connections that bring nothing count as failed tries."""
    async with MarketStream(
        session, venue.url, ["a"], backoff=(0.01, 0.04), jitter=lambda: 1.0
    ) as stream:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(5):
            link, _ = await connect(venue, stream)
            link.transport.abort()
            await read(stream, 1)

        # At once, then 0.01, 0.02, 0.04 and 0.04 s.
        assert loop.time() - began >= 0.11


@pytest.mark.advanced
async def test_data_brings_the_next_try_back_to_at_once(venue, session):
    """After a connection that was worth something the first try does not wait."""
    now = 0.0
    stream = MarketStream(
        session, venue.url, ["a"], clock=lambda: now, backoff=(10.0, 30.0)
    )
    async with stream:
        for _ in range(3):  # would take 5 s or more if it counted as failing
            async with asyncio.timeout(4.5):
                link, _ = await connect(venue, stream)
            await link.ws.send_str(book(1))
            await read(stream, 1)
            now += 10.0
            link.transport.abort()
            await read(stream, 1)


@pytest.mark.basic
@given(
    attempt=st.integers(0, 10_000),
    jitter=st.floats(0, 1),
    base=st.floats(0.001, 10),
    cap=st.floats(0.001, 100),
)
def test_every_delay_is_within_its_bounds(attempt, jitter, base, cap):
    """At once, then doubling from the base to the cap, half of it by chance."""
    delay = reconnect_delay(attempt, jitter, base=base, cap=cap)

    if attempt == 0:
        assert delay == 0
    else:
        full = min(cap, base * 2 ** min(attempt - 1, 60))
        assert full / 2 <= delay <= full


@pytest.mark.errors
async def test_closing_while_it_connects_leaves_no_connection(serve, session):
    """A handshake that succeeds after the close is hung up at once."""
    venue = Venue()
    asked = asyncio.Event()
    release = asyncio.Event()

    async def answer(request):
        asked.set()
        await release.wait()
        return await venue.serve(request)

    url = f"ws://127.0.0.1:{await serve(answer)}/ws/market"
    async with asyncio.TaskGroup() as group:
        async with MarketStream(session, url, ["a"], **QUICK) as stream:
            reading = group.create_task(read(stream, 1))
            await asked.wait()
        release.set()

    assert reading.result() == []
    assert not stream.connected
