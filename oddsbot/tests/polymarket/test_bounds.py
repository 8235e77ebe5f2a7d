"""What the other side sends costs a bounded time and memory, whatever it is."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest
from aiohttp import web

from oddsbot.polymarket import (
    BadAnswer,
    BadFrame,
    Clob,
    Gamma,
    MarketStream,
    RateLimitedUpstream,
    parse_frame,
)
from oddsbot.polymarket.frames import MAX_EVENTS, max_frame, split_frame

BOOK = {
    "event_type": "book", "market": "m", "asset_id": "a", "timestamp": "1770921570954",
    "bids": [{"price": "0.5", "size": "10"}] * 100,
    "asks": [{"price": "0.6", "size": "10"}] * 100,
}  # fmt: skip
SIZE = 4 * 1024 * 1024


def listed(element, size=SIZE):
    """Return an array of one element, of about that size."""
    return "[" + ",".join([element] * (size // (len(element) + 1))) + "]"


JUNK = {
    "numbers": listed("0"),
    "long numbers": listed("111111111111"),
    "objects": listed("{}"),
    "odd objects": listed('{"event_type":"odd"}'),
    "empty events": listed(json.dumps({**BOOK, "bids": [], "asks": []})),
    "bad entries": json.dumps(
        {
            "event_type": "price_change", "market": "m", "timestamp": "1",
            "price_changes": [{"x": 1}] * (SIZE // 9),
        }
    ),
    "a long text": json.dumps(["x" * SIZE]),
    "a long number": "[" + "9" * SIZE + "]",
    "nested": "[" * SIZE,
    "one-sided books": json.dumps([{**BOOK, "asks": []}] * 400),
}  # fmt: skip


@pytest.mark.performance
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("name", JUNK)
def test_no_part_of_a_frame_holds_the_loop_for_long(name):
    """Any frame is refused at once, or read in parts of some milliseconds each."""
    began = time.process_time()
    try:
        parts = split_frame(JUNK[name], max_frame(500))
    except BadFrame:
        parts = []
    longest = time.process_time() - began
    for part in parts:
        began = time.process_time()
        try:
            parse_frame(part)
        except BadFrame:
            continue
        finally:
            longest = max(longest, time.process_time() - began)
    # On a loaded machine; it is 10 to 40 ms on a quiet one, and was seconds.
    assert longest < 0.5


@pytest.mark.advanced
@pytest.mark.requirement("X4")
def test_the_parts_of_a_frame_are_the_frame():
    """Nothing is lost or reordered between two parts; what is too much is counted."""
    books = [{**BOOK, "asset_id": str(n)} for n in range(300)]
    odd = {"event_type": "odd", "x": 1}
    text = json.dumps([*books[:150], odd, *books[150:]])
    frames = [parse_frame(part) for part in split_frame(text, max_frame(500))]
    assert len(frames) > 10
    events = [event for frame in frames for event in frame.events]
    assert [event.asset_id for event in events] == [str(n) for n in range(300)]
    assert events == list(parse_frame(text).events)
    assert [kind for frame in frames for kind in frame.skipped_kinds] == ["odd"]
    many = json.dumps([{**BOOK, "bids": [], "asks": []}] * (MAX_EVENTS + 5))
    frames = [parse_frame(part) for part in split_frame(many, max_frame(500))]
    assert sum(len(frame.events) for frame in frames) == MAX_EVENTS
    assert [kind for frame in frames for kind in frame.skipped_kinds] == ["too many"]
    huge = {**BOOK, "bids": BOOK["bids"] * 100}
    frames = [
        parse_frame(part)
        for part in split_frame(json.dumps([huge, BOOK]), max_frame(500))
    ]
    assert [kind for frame in frames for kind in frame.skipped_kinds] == ["too large"]
    assert sum(len(frame.events) for frame in frames) == 1
    with pytest.raises(BadFrame, match="more than its assets need"):
        parse_frame(text, max_frame(0))


@pytest.mark.integration
@pytest.mark.requirement("X4")
async def test_a_large_frame_is_read_between_other_tasks(serve, session):
    """500 books in one frame come in order, and the loop is never away for long."""
    books = [{**BOOK, "asset_id": str(n)} for n in range(500)]

    async def market(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.send_str(json.dumps(books))
        await ws.receive()
        return ws

    port = await serve(market)
    url = f"ws://127.0.0.1:{port}/ws/market"
    seen, turns = [], set()

    async def others():
        while True:
            turns.add(len(seen))
            await asyncio.sleep(0)

    async with MarketStream(session, url, map(str, range(500))) as stream:
        task = asyncio.get_running_loop().create_task(others(), name="others")
        async for event in stream:
            if getattr(event, "asset_id", None) is not None:
                seen.append(event.asset_id)
            if len(seen) == 500:
                break
        task.cancel()
    assert seen == [str(n) for n in range(500)]
    assert len(turns) > 50, "others had no turn between the books"


@pytest.mark.errors
@pytest.mark.requirement("X4", "X1")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
async def test_nobody_is_sent_to_another_address(serve, session, status):
    """A redirect is an error; where it points is never asked."""
    asked = []

    async def elsewhere(request):
        asked.append(request.path)
        return web.json_response({"id": "1", "conditionId": "0x1"})

    other = await serve(elsewhere)

    async def answer(_request):
        where = f"http://127.0.0.1:{other}/latest/meta-data"
        return web.Response(status=status, headers={"Location": where})

    port = await serve(answer)
    with pytest.raises(BadAnswer, match="another address"):
        await Gamma(session, f"http://127.0.0.1:{port}").market("jump")
    assert asked == []


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_body_of_any_size_is_cut(serve, session, status, packed):
    """A body, decompressed or not, on an error or not, is read up to a bound."""
    body = b" " * 40_000_000

    async def answer(_request):
        headers = {"Content-Encoding": "gzip"} if packed else {}
        sent = gzip.compress(body, 1) if packed else body
        return web.Response(body=sent, status=status, headers=headers)

    port = await serve(answer)
    with pytest.raises(Exception, match=r"more than|404|500") as caught:
        await Gamma(session, f"http://127.0.0.1:{port}").market("bomb")
    assert type(caught.value).__module__ == "oddsbot.polymarket.errors"


NOW = "Mon, 30 Nov 2026 10:00:00 GMT"


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("2592000", 600.0),
        ("9" * 200, 600.0),
        ("9" * 5000, None),
        ("-5", None),
        ("nan", None),
        ("1e9", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        ("Mon, 30 Nov 2026 10:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 09:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600.0),
        ("Mon, 99 Nov 2026 10:00:30 GMT", None),
        ("30 Nov 2026 10:00:30", None),
    ],
)
async def test_retry_after_in_any_form_is_a_bounded_pause(
    serve, session, after, seconds
):
    """Seconds, a date, junk: at most ten minutes, or nothing, and no exception."""

    async def answer(_request):
        headers = {"Retry-After": after, "Date": NOW}
        return web.Response(status=429, headers=headers)

    port = await serve(answer)
    with pytest.raises(RateLimitedUpstream) as caught:
        await Clob(session, f"http://127.0.0.1:{port}").book("1")
    assert caught.value.retry_after == seconds
