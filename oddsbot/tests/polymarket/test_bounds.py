"""What the other side sends costs a bounded time and memory, whatever it is."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
from collections import Counter
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.polymarket import (
    BadAnswer,
    BadFrame,
    Clob,
    Data,
    Gamma,
    MarketStream,
    PolymarketError,
    RateLimitedUpstream,
    parse_frame,
)
from oddsbot.polymarket.frames import max_frame, split_frame
from oddsbot.polymarket.slices import at_once, decoding, paced
from support.hooks import limit
from support.pace import Pace

BOOK = {
    "event_type": "book", "market": "m", "asset_id": "a", "timestamp": "1770921570954",
    "bids": [{"price": "0.5", "size": "10"}] * 100,
    "asks": [{"price": "0.6", "size": "10"}] * 100,
}  # fmt: skip
SIZE = 1024 * 1024


def listed(element, size=SIZE):
    """Return an array of one element, of about that size."""
    return "[" + ",".join([element] * (size // (len(element) + 1))) + "]"


ROW = {"proxy_wallet": "0xa", "timestamp": 1, "type": "TRADE", "size": "1"}
MARKET = {"id": "1", "conditionId": "0x1", "outcomes": '["Yes","No"]'}
MANY_KEYS = "{" + ",".join(f'"k{n}":1' for n in range(SIZE // 12)) + "}"
LONG = "9" * 100_000
JUNK = {
    "numbers": listed("0", max_frame(500) - 3),
    "long numbers": listed("111111111111"),
    "numbers of 100,000 digits": listed(LONG),
    "fractions of 100,000 digits": listed("0." + LONG),
    "objects": listed("{}"),
    "lists": listed("[]"),
    "odd objects": listed('{"event_type":"odd"}'),
    "no books": listed('{"event_type":"book"}'),
    "empty events": listed(json.dumps({**BOOK, "bids": [], "asks": []})),
    "bad entries": json.dumps(
        {
            "event_type": "price_change", "market": "m", "timestamp": "1",
            "price_changes": [{"x": 1}] * (SIZE // 9),
        }
    ),
    "many bad entries": listed(
        '{"event_type":"price_change","market":"m","timestamp":"1","price_changes":['
        + ",".join(["{}"] * 4_000)
        + "]}"
    ),
    "many tags": listed(
        '{"event_type":"new_market","market":"m","tags":['
        + ",".join(["1"] * 8_000)
        + "]}"
    ),
    "a long text": json.dumps(["x" * SIZE]),
    "escapes": '["' + "\\u0041" * (SIZE // 6) + '"]',
    "a long number": "[" + "9" * SIZE + "]",
    "nested": "[" * SIZE,
    "nested objects": '{"a":' * (SIZE // 5),
    "nested and closed": "[" * 500 + "]" * 500,
    "white space": "[" + " " * SIZE + "]",
    "many keys": MANY_KEYS,
    "unknown fields": listed(json.dumps(BOOK)[:-1] + "," + MANY_KEYS[1:60_000] + '1"}'),
    "one-sided books": json.dumps([{**BOOK, "asks": []}] * 400),
    "a large book": json.dumps([{**BOOK, "bids": BOOK["bids"] * 36}]),
    "books": json.dumps([BOOK] * 400),
    "rows": json.dumps({"data": [ROW] * 5_000, "pagination": {"next_cursor": LONG}}),
    "empty rows": '{"data":' + listed("{}", 60_000) + "}",
    "no rows": '{"data":' + listed("{}") + "}",
    "markets": json.dumps({"markets": [MARKET] * 1_000}),
    "markets in markets": '{"markets":[' + '{"events":[{"markets":[' * 300 + "]}",
    "a market of many names": json.dumps(
        {"markets": [{**MARKET, "outcomes": json.dumps([1] * 20_000)}] * 3}
    ),
    "points": json.dumps({"history": [{"t": 1, "p": 0.5}] * 19_000}),
    "other points": json.dumps({"history": [{"t": "x", "q": 0.5}] * 19_000}),
}  # fmt: skip
READERS = {
    '{"markets"': lambda base: Gamma(*base).markets(),
    '{"data"': lambda base: Data(*base).activity("0xa"),
    '{"history"': lambda base: Clob(*base).prices_history("a", interval="1d"),
    "{": lambda base: Gamma(*base).event("e"),
    "[": lambda base: Clob(*base).books("a"),
}
"""Who asks for an answer that begins so."""
MOST = 0.005
"""The processor's seconds for one step, where the machine is not `slower`."""


def steps_of_frame(text):
    """Yield after each step that a stream makes of a frame."""
    parts = split_frame(text, max_frame(500))
    while True:
        try:
            part = next(parts, None)
            yield
            if part is None:
                return
            parse_frame(part)
        except BadFrame:
            pass
        yield


def longest_step(make):
    """Return the processor's seconds of the longest of some steps, were it quiet.

    Each counts by the quickest of at most three runs: what else the machine does is no
    step. A run whose steps are all short is the last one.
    """
    runs, pace = [], Pace()
    for _ in range(3):
        pace.take()
        steps, times = make(), []
        while True:
            began = time.thread_time()
            try:
                next(steps)
            except (StopIteration, ValueError):
                times.append(time.thread_time() - began)
                break
            times.append(time.thread_time() - began)
        runs.append(times)
        longest = max(map(min, zip(*runs, strict=True))) / pace.slower
        if longest < MOST:
            break
    return longest


@pytest.mark.performance
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("name", JUNK)
def test_no_part_of_a_frame_holds_the_loop_for_long(name):
    """Any frame is refused at once, or read in steps of at most 5 ms each."""
    gc.collect()
    assert longest_step(lambda: steps_of_frame(JUNK[name])) < MOST


@pytest.mark.performance
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("name", JUNK)
def test_no_frame_that_is_read_at_once_holds_the_loop_for_long(name):
    """`parse_frame` refuses what it could not read in 5 ms."""

    def whole():
        with suppress(BadFrame):
            parse_frame(JUNK[name])
        yield

    gc.collect()
    assert longest_step(whole) < MOST


class Stepped:
    """Awaits a coroutine; `times` has the processor's seconds of each of its steps.

    Collections of garbage are left out: they cost by all that the process holds.
    """

    def __init__(self, coroutine) -> None:
        self.coroutine = coroutine
        self.times = []
        self._collecting = self._began = 0.0

    def __await__(self):
        steps, sent = self.coroutine.__await__(), None
        gc.callbacks.append(self._on_collection)
        try:
            while True:
                self._collecting, began = 0.0, time.thread_time()
                try:
                    waits_for = steps.send(sent)
                except StopIteration as end:
                    return end.value
                finally:
                    took = time.thread_time() - began
                    self.times.append(took - self._collecting)
                sent = yield waits_for
        finally:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase, info):
        if phase == "start":
            self._began = time.thread_time()
        else:
            self._collecting += time.thread_time() - self._began


@pytest.mark.performance
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("name", JUNK)
async def test_no_answer_holds_the_loop_for_long(serve, session, monkeypatch, name):
    """Whatever an answer holds, no step of reading it takes more than 4 ms.

    `paced` begins no step after 1 ms, so the loop is held for 5 ms at most. Here each
    step has a turn of its own: so the runs are alike from their ends on, whatever the
    chunks in which the answer came, and each step counts by its quickest of ten: what
    else runs on the machine slows a step down, and never makes it quicker. What is slow
    in all ten is known by `Pace`.
    """
    limit(monkeypatch, "turn of a reader", -1.0)
    body = JUNK[name].encode()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(body), 65_536):
            await response.write(body[at : at + 65_536])
        return response

    base = session, f"http://127.0.0.1:{await serve(answer)}"
    ask = next(ask for start, ask in READERS.items() if body.startswith(start.encode()))
    runs, pace = [], Pace()
    for _ in range(10):
        pace.take()
        reading = Stepped(ask(base))
        with suppress(PolymarketError):
            await reading
        runs.append(reading.times[::-1])
        longest = max(map(min, zip(*runs, strict=False))) / pace.slower
        if longest < MOST - 0.001:
            break
    assert longest < MOST - 0.001


@pytest.mark.advanced
@pytest.mark.requirement("X4")
async def test_steps_let_others_run_after_a_millisecond():
    """Between two turns of the loop no step begins when 1 ms is over."""
    turns, between = 0, []

    def steps():
        for _ in range(50):
            between.append(turns)
            until = time.perf_counter() + 0.0003
            while time.perf_counter() < until:
                pass
            yield

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(others(), name="others")
    await paced(steps())
    task.cancel()
    # Four take more than a millisecond.
    assert max(Counter(between).values()) <= 4


@pytest.mark.advanced
@pytest.mark.requirement("X4")
def test_the_parts_of_a_frame_are_the_frame():
    """Nothing is lost or reordered between two parts; what is too much is refused."""
    books = [{**BOOK, "asset_id": str(n)} for n in range(300)]
    odd = {"event_type": "odd", "x": 1}
    text = json.dumps([*books[:150], odd, *books[150:]], indent=1)
    frames = [parse_frame(part) for part in split_frame(text, max_frame(500))]
    assert len(frames) > 10
    events = [event for frame in frames for event in frame.events]
    assert [event.asset_id for event in events] == [str(n) for n in range(300)]
    assert [kind for frame in frames for kind in frame.skipped_kinds] == ["odd"]
    raw = [parse_frame(part) for part in split_frame(text.encode(), max_frame(500))]
    assert raw == frames
    with pytest.raises(BadFrame, match="more than its assets need"):
        next(split_frame(text, max_frame(0)))
    with pytest.raises(BadFrame, match="too many at once"):
        parse_frame(text)


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize(
    ("tail", "good", "why"),
    [
        (json.dumps({**BOOK, "bids": BOOK["bids"] * 100}), 100, "too large"),
        ('{"event_type":', 100, "not JSON"),
        ("{}}", 101, "not JSON"),
        (",".join(["{}"] * 1_000), 1_000, "more than 1000 events"),
        ("{}] {}", 101, "more after the frame"),
    ],
)
def test_what_comes_before_the_damage_of_a_frame_is_read(tail, good, why):
    """A frame that breaks off in its middle gives the events before it."""
    text = "[" + json.dumps(BOOK) + ("," + json.dumps(BOOK)) * 99 + "," + tail + "]"
    frames = []
    with pytest.raises(BadFrame, match=why):
        frames.extend(map(parse_frame, split_frame(text, max_frame(500))))
    assert sum(len(frame.events) + frame.skipped for frame in frames) == good


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=40),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=40,
)


@pytest.mark.advanced
@pytest.mark.requirement("X4")
@given(values, st.integers(1, 60), st.sampled_from([None, 1, "\t"]))
def test_a_text_in_pieces_is_the_same_as_at_once(value, size, indent):
    """However small the slices are, the same comes out, and damage is an error."""
    text = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    assert at_once(decoding(text, json.loads, size)) == json.loads(text)
    for damaged in (text[:-1], text + b"]", text + b" x"):
        with suppress(ValueError, RecursionError):
            found = at_once(decoding(damaged, json.loads, size))
            assert found == json.loads(damaged)


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
