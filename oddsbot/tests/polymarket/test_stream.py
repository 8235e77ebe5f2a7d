"""`MarketStream` while the server behaves."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from oddsbot.polymarket import (
    MAX_ASSETS,
    Book,
    Connected,
    MarketStream,
    TooManyAssets,
)

from .conftest import QUICK, book, connect, read


@pytest.mark.basic
async def test_the_first_frame_subscribes(venue, session):
    """The first thing sent names the assets, the channel, and asks for all events."""
    async with MarketStream(session, venue.url, ["b", "a", "b"], **QUICK) as stream:
        assert await read(stream, 1) == [Connected(1)]
        link = await venue.links.get()

        assert await link.received.get() == {
            "assets_ids": ["b", "a"],
            "type": "market",
            "custom_feature_enabled": True,
        }


@pytest.mark.basic
async def test_frames_are_objects_or_arrays(venue, session):
    """Events come one by one, however they were packed."""
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        await link.ws.send_str(f"[{book(1)},{book(2)}]")
        await link.ws.send_str(book(3))

        events = await read(stream, 3)

    assert [event.timestamp for event in events] == [1, 2, 3]
    assert (stream.counters.frames, stream.counters.events) == (2, 3)


@pytest.mark.basic
async def test_pings_are_text_and_pongs_are_no_data(venue, session):
    """The stream sends PING by itself and never yields the answer."""
    async with MarketStream(
        session, venue.url, ["a"], ping_every=0.001, **QUICK
    ) as stream:
        link, _ = await connect(venue, stream)
        await link.pinged.wait()
        await link.ws.send_str(book(1))

        (event,) = await read(stream, 1)

    assert event.timestamp == 1
    assert stream.counters.frames == 1


@pytest.mark.advanced
async def test_pings_go_on_while_the_consumer_is_busy(venue, session):
    """A consumer that does not read for a while is no reason to fall silent."""
    async with MarketStream(
        session, venue.url, ["a"], ping_every=0.001, **QUICK
    ) as stream:
        link, _ = await connect(venue, stream)
        for _ in range(3):
            link.pinged.clear()
            await link.pinged.wait()

    assert link.pings >= 3


@pytest.mark.advanced
async def test_assets_come_and_go_while_live(venue, session):
    """Subscribing sends what is new, unsubscribing what was known, a drop the rest."""
    async with MarketStream(session, venue.url, ["a", "b"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        await stream.subscribe("b", "c")
        await stream.unsubscribe("a", "never")
        await stream.subscribe("b")
        flag = {"custom_feature_enabled": True}
        assert (
            await link.received.get()
            == {
                "operation": "subscribe",
                "assets_ids": ["c"],
            }
            | flag
        )
        assert (
            await link.received.get()
            == {
                "operation": "unsubscribe",
                "assets_ids": ["a"],
            }
            | flag
        )
        link.transport.abort()
        await read(stream, 2)
        again = await (await venue.links.get()).received.get()

    assert again["assets_ids"] == ["b", "c"]
    assert link.received.empty()


@pytest.mark.advanced
async def test_assets_may_be_added_while_there_is_no_connection(venue, session):
    """What is subscribed before or between connections is in the next request."""
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        await stream.subscribe("b")
        _, first = await connect(venue, stream)

    assert first["assets_ids"] == ["a", "b"]


@pytest.mark.errors
async def test_too_many_assets_are_refused_before_anything_is_sent(session):
    """Beyond what one connection serves with a first book: an error, no change."""
    most = [str(number) for number in range(MAX_ASSETS)]
    with pytest.raises(TooManyAssets, match="501 assets"):
        MarketStream(session, "ws://127.0.0.1:1", [*most, "more"])
    stream = MarketStream(session, "ws://127.0.0.1:1", most)
    with pytest.raises(TooManyAssets, match="open another"):
        await stream.subscribe("more")

    assert stream.assets == tuple(most)


@pytest.mark.errors
@pytest.mark.parametrize("url", ["", "http://x/ws", "ws://", "localhost:80/ws"])
async def test_what_is_no_websocket_url_is_refused(session, url):
    """A malformed URL is an error at once, not an endless retry."""
    with pytest.raises(ValueError, match="is no websocket URL"):
        MarketStream(session, url, ["a"])


@pytest.mark.advanced
async def test_cancelling_the_consumer_loses_nothing(venue, session):
    """A consumer that gives up waiting, again and again, still reads every event."""
    total = 200
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)

        async def send():
            for number in range(1, total + 1):
                await link.ws.send_str(book(number))
                await asyncio.sleep(0)

        seen = []
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while len(seen) < total:
                try:
                    async with asyncio.timeout(0.0005):
                        async with aclosing(aiter(stream)) as events:
                            async for event in events:
                                seen.append(event.timestamp)
                                if len(seen) == total:
                                    break
                except TimeoutError:
                    continue

    assert seen == list(range(1, total + 1))


@pytest.mark.performance
async def test_a_slow_consumer_holds_the_server_up(venue, session):
    """Who does not read is sent no more: nothing is kept for it, nothing lost."""
    filling = "x" * 60_000
    total = 2_000  # 120 MB in all
    async with MarketStream(session, venue.url, ["a"], **QUICK) as stream:
        link, _ = await connect(venue, stream)
        held_up = asyncio.Event()
        sent = 0

        async def send():
            nonlocal sent
            for number in range(1, total + 1):
                frame = json.loads(book(number)) | {"hash": filling}
                sending = link.ws.send_str(json.dumps(frame))
                task = asyncio.get_running_loop().create_task(sending)
                _, waiting = await asyncio.wait([task], timeout=0.5)
                if waiting:
                    held_up.set()
                await task
                sent += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            await held_up.wait()
            # The sockets' own buffers, and no more.
            assert sent * len(filling) < 20_000_000
            events = await read(stream, total)

    assert [event.timestamp for event in events] == list(range(1, total + 1))


@pytest.mark.basic
async def test_closing_ends_the_iteration(venue, session):
    """A consumer that waits is released when the stream is closed."""
    seen = asyncio.Queue()

    async def consume(stream):
        async for thing in stream:
            seen.put_nowait(thing)

    async with (
        asyncio.TaskGroup() as group,
        MarketStream(session, venue.url, ["a"], **QUICK) as stream,
    ):
        group.create_task(consume(stream))
        link = await venue.links.get()
        await link.ws.send_str(book(1))
        assert isinstance(await seen.get(), Connected)
        assert isinstance(await seen.get(), Book)

    assert not stream.connected
