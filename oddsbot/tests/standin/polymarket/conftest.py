"""Small recordings on disk, and what tests read off the wire."""

from __future__ import annotations

import gzip
import json
from contextlib import aclosing

import aiohttp
import pytest

from oddsbot.standin.polymarket import Recording, token_id

INF = float("inf")
UP, DOWN = token_id("0xaa", "UP"), token_id("0xaa", "DOWN")

MARKET = {
    "market_id": "0xaa",
    "slug": "up-or-down",
    "question": "Up or down?",
    "start_ts": 1_000_000,
    "end_ts": 1_900_000,
    "outcome_up": "Up",
    "outcome_down": "Down",
    "payout_up": 1.0,
    "payout_down": 0.0,
    "category": "crypto",
}
OTHER = MARKET | {
    "market_id": "0xbb",
    "slug": "other",
    "payout_up": 0.0,
    "payout_down": 1.0,
}


def line(ts=1_000_000, side="UP", bids=((0.4, 5),), asks=((0.5, 7),), **more):
    """Return one line of a recording."""
    body = {"ts": ts, "market_id": "0xaa", "side": side, "bids": bids, "asks": asks}
    return json.dumps(body | more)


@pytest.fixture
def write(tmp_path):
    """Write a recording of these lines; return its path."""

    def write(*lines, markets=(MARKET,)):
        path = tmp_path / "x.books.jsonl.gz"
        text = "".join(f"{each}\n" for each in lines)
        path.write_bytes(gzip.compress(text.encode("utf-8", "surrogatepass")))
        (tmp_path / "x.markets.json").write_text(json.dumps(markets))
        return path

    return write


@pytest.fixture
async def session():
    """A client session for the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def small(write):
    """Five moments of a market, and one of another."""
    return Recording.load(
        write(
            line(1_000_000),
            line(1_000_000, "DOWN", [[0.5, 7]], [[0.6, 5]]),
            line(1_060_000, bids=[[0.45, 1], [0.4, 5]]),
            line(1_120_000, market_id="0xbb", bids=[], asks=[]),
            line(1_180_000, bids=[[0.999, 3]], asks=[]),
            markets=(MARKET, OTHER),
        )
    )


async def connect(session, replay, *tokens, custom=True):
    """Subscribe with a plain websocket; return when the replay knows."""
    ws = await session.ws_connect(replay.ws_url)
    request = {"assets_ids": tokens, "type": "market"}
    if custom:
        request["custom_feature_enabled"] = True
    await ws.send_str(json.dumps(request))
    await replay.wait_subscribed(*tokens)
    return ws


async def take(ws, count):
    """Read the next `count` frames."""
    return [json.loads(await ws.receive_str()) for _ in range(count)]


async def collect(stream, until):
    """Read from a stream up to the first thing that `until` says ends it."""
    found = []
    async with aclosing(aiter(stream)) as things:
        async for thing in things:
            found.append(thing)
            if until(thing):
                return found
    return found
