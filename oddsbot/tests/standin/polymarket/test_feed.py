"""`Replay` over the websocket: who gets which frames."""

from __future__ import annotations

import asyncio
import json

import pytest

from oddsbot.polymarket import (
    Connected,
    Disconnected,
    MarketResolved,
    MarketStream,
    quotes,
)
from oddsbot.standin.polymarket import Replay

from .conftest import DOWN, INF, UP, connect, take


@pytest.mark.basic
async def test_a_subscription_before_the_start_gets_its_first_book_later(
    small, session
):
    """Tokens without a book get nothing until their first snapshot."""
    async with Replay(small, speed=INF) as replay:
        ws = await connect(session, replay, UP, DOWN)
        await ws.send_str("PING")
        pong = await ws.receive_str()
        replay.start()
        frames = await take(ws, 3)

    assert pong == "PONG"
    assert [frame["event_type"] for frame in frames] == ["new_market", "book", "book"]
    assert [frame["asset_id"] for frame in frames[1:]] == [UP, DOWN]


@pytest.mark.basic
async def test_a_subscription_is_answered_with_an_array_of_books(small, session):
    """Who subscribes later gets the current books as one array, best level last."""
    async with Replay(small, speed=INF, until=1_060_000) as replay:
        replay.start()
        await replay.finished()
        ws = await connect(session, replay, DOWN, UP, "unknown")
        (books,) = await take(ws, 1)

    assert [book["asset_id"] for book in books] == [DOWN, UP]
    assert books[1] | {"hash": ""} == {
        "event_type": "book",
        "market": "0xaa",
        "asset_id": UP,
        "timestamp": "1060000",
        "bids": [{"price": "0.4", "size": "5"}, {"price": "0.45", "size": "1"}],
        "asks": [{"price": "0.5", "size": "7"}],
        "hash": "",
        "tick_size": "0.01",
    }


@pytest.mark.advanced
async def test_assets_come_and_go_on_an_open_link(small, session):
    """Later operations add books and end events of what is left out."""
    async with Replay(small, speed=INF) as replay:
        ws = await connect(session, replay, "unknown")
        replay.start()
        await replay.finished()
        await ws.send_str(json.dumps({"operation": "subscribe", "assets_ids": [UP]}))
        frames = await take(ws, 3)
        await ws.send_str(json.dumps({"operation": "unsubscribe", "assets_ids": [UP]}))
        await ws.send_str("not JSON")
        await ws.send_str("PING")
        pong = await ws.receive_str()

    # Events of no token in particular come to everybody.
    kinds = [frame["event_type"] for frame in frames[:-1]]
    assert set(kinds) == {"new_market"}
    assert [book["asset_id"] for book in frames[-1]] == [UP]
    assert pong == "PONG"


@pytest.mark.basic
async def test_custom_events_need_the_flag(small, session):
    """Without `custom_feature_enabled` only books, changes and steps come."""
    async with Replay(small, speed=INF) as replay:
        ws = await connect(session, replay, UP, custom=False)
        replay.start()
        frames = await take(ws, 5)
        await replay.finished()

    assert [frame["event_type"] for frame in frames] == [
        "book",
        "price_change",
        "price_change",
        "tick_size_change",  # the last price is in thousandths
        "book",
    ]
    assert replay.frames_sent == 5


@pytest.mark.integration
async def test_every_run_at_full_speed_sends_the_same(sampled, session):
    """As fast as they are taken, the frames are the same, in the same order."""
    market = next(iter(sampled.markets.values()))
    runs = []
    for _ in range(2):
        async with Replay(sampled, speed=INF, until=sampled.start + 180_000) as replay:
            ws = await connect(session, replay, *market.tokens)
            replay.start()
            await replay.finished()
            runs.append([await ws.receive_str() for _ in range(replay.frames_sent)])

    assert len(runs[0]) > 100
    assert runs[0] == runs[1]


@pytest.mark.integration
async def test_the_sample_plays_to_both_resolutions(sampled, session):
    """A stream that follows all tokens sees every top, then who won."""
    tokens = [token for each in sampled.markets.values() for token in each.tokens]
    tops = {}
    resolved = []
    async with (
        Replay(sampled, speed=INF) as replay,
        MarketStream(session, replay.ws_url, tokens) as stream,
        asyncio.TaskGroup() as group,
    ):

        async def start():
            await replay.wait_subscribed(*tokens)
            replay.start()

        group.create_task(start())
        async for event in stream:
            if isinstance(event, Connected | Disconnected):
                continue
            for quote in quotes(event):
                tops[quote.asset_id] = (quote.bid, quote.ask)
            if isinstance(event, MarketResolved):
                resolved.append((event.market, event.winning_outcome))
            if len(resolved) == 2:
                break
        await replay.finished()

    first, second = sampled.markets.values()
    assert resolved == [(first.market_id, "Up"), (second.market_id, "Down")]
    assert replay.played_until == sampled.end
    assert stream.counters.frames == replay.frames_sent
    for market in sampled.markets.values():
        last = {
            each.side: each
            for item in sampled.timeline
            if item.market_id == market.market_id and hasattr(item, "snapshots")
            for each in item.snapshots
        }
        for token, side in zip(market.tokens, ("UP", "DOWN"), strict=True):
            book = last[side]
            assert tops[token] == (
                book.bids[0][0] if book.bids else None,
                book.asks[0][0] if book.asks else None,
            )
