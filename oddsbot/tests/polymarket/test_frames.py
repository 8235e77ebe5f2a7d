"""Websocket text to typed events."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oddsbot.polymarket import (
    BadFrame,
    BestBidAsk,
    Book,
    LastTradePrice,
    Level,
    LevelChange,
    MarketResolved,
    NewMarket,
    PriceChange,
    TickSizeChange,
    parse_frame,
)

prices = st.decimals(0, 1, places=4)
sizes = st.decimals(0, 10**9, places=6)
maybe = st.none() | prices
times = st.none() | st.integers(10**11, 10**14 - 1)
words = st.text(max_size=20)
ids = st.text("0123456789abcdefx", min_size=1, max_size=20)
texts = st.lists(words, max_size=3).map(tuple)
sides = st.lists(st.builds(Level, prices, sizes), max_size=5).map(tuple)
entries = st.builds(
    LevelChange, ids, prices, sizes, st.sampled_from(["BUY", "SELL"]), maybe, maybe
)
events = st.one_of(
    st.builds(Book, ids, ids, times, sides, sides, words, maybe, maybe),
    st.builds(PriceChange, ids, times, st.lists(entries, max_size=4).map(tuple)),
    st.builds(TickSizeChange, ids, ids, times, prices, maybe),
    st.builds(
        LastTradePrice,
        ids,
        ids,
        times,
        prices,
        st.none() | sizes,
        st.sampled_from(["BUY", "SELL", ""]),
    ),
    st.builds(BestBidAsk, ids, ids, times, maybe, maybe, maybe),
    st.builds(NewMarket, ids, times, words, words, words, words, texts, texts, texts),
    st.builds(MarketResolved, ids, times, words, words, texts, texts),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["event_type", "market", "timestamp", "bids", "price"]),
            inner | st.sampled_from(["book", "price_change", "0.5"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)


def wire(event) -> dict:
    """Return an event as the wire writes it: numbers in strings, "" for nothing."""

    def text(value):
        if isinstance(value, Decimal):
            return format(value, "f")
        if isinstance(value, dict):
            return {
                key: str(each) if key == "timestamp" and each else text(each)
                for key, each in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [text(each) for each in value]
        return "" if value is None else value

    return text(msgspec.to_builtins(event, builtin_types=(Decimal,)))


BOOK = {
    "event_type": "book",
    "market": "0x1",
    "asset_id": "7",
    "timestamp": "1770921570954",
    "bids": [{"price": "0.12", "size": "3"}, {"price": "0.13", "size": "30.5"}],
    "asks": [{"price": "0.14", "size": "1"}],
}
CHANGE = {
    "event_type": "price_change",
    "market": "0x1",
    "timestamp": "1757908892351",
    "price_changes": [
        {
            "asset_id": "7",
            "price": "0.5",
            "size": "200",
            "side": "BUY",
            "hash": "ab",
            "best_bid": "0.5",
            "best_ask": "1",
        }
    ],
}


@pytest.mark.basic
@pytest.mark.requirement("G6")
@given(event=events)
def test_every_event_survives_the_wire(event):
    """Any event, written as the wire writes it, is read back exactly."""
    frame = parse_frame(json.dumps(wire(event)))

    assert frame.events == (event,)
    assert frame.skipped == 0


@pytest.mark.basic
@given(sent=st.lists(events, max_size=5))
def test_an_array_frame_keeps_the_order(sent):
    """An array gives its events in the order they were sent."""
    frame = parse_frame(json.dumps([wire(event) for event in sent]).encode())

    assert frame.events == tuple(sent)


@pytest.mark.basic
@pytest.mark.requirement("G6")
@given(event=events, more=st.dictionaries(st.just("new_key"), json_values, min_size=1))
def test_unknown_fields_are_tolerated(event, more):
    """A field Polymarket adds one day changes nothing."""
    assert parse_frame(json.dumps(wire(event) | more)).events == (event,)


@pytest.mark.basic
def test_prices_are_exact_from_strings_and_from_numbers():
    """No price passes through a float, whichever way it is written."""
    digits = "0.12345678901234567890123456789"
    typed = f'{{"price": {digits}, "size": "{digits}"}}'
    # The unknown event beside it sends the frame down the slow path.
    head = '{"event_type":"book","market":"m","asset_id":"a","timestamp":1,"bids":['
    for text in (f"{head}{typed}]}}", f'[{head}{typed}]}},{{"event_type":"x"}}]'):
        level = parse_frame(text).events[0].bids[0]

        assert level == Level(Decimal(digits), Decimal(digits))


@pytest.mark.errors
@pytest.mark.requirement("G6")
@pytest.mark.parametrize(
    ("event", "path", "value"),
    [
        (BOOK, "timestamp", "yesterday"),
        (BOOK, "timestamp", "-1"),
        (BOOK, "market", {}),
        (BOOK, "market", ""),
        (BOOK, "asset_id", ""),
        (BOOK, "bids", "0.5"),
        (BOOK, "bids", [{"price": "NaN", "size": "1"}]),
        (BOOK, "bids", [{"price": "1.5", "size": "1"}]),
        (BOOK, "bids", [{"price": "-0.1", "size": "1"}]),
        (BOOK, "asks", [{"price": "0.5", "size": "Infinity"}]),
        (BOOK, "asks", [{"price": "0.5", "size": "-1"}]),
        (BOOK, "asks", [{"price": "0.5"}]),
        (BOOK, "tick_size", "2"),
        (BOOK, "last_trade_price", "sNaN"),
        (CHANGE, "price_changes", {}),
        (CHANGE, "price_changes", [CHANGE["price_changes"][0] | {"side": "HOLD"}]),
        (CHANGE, "price_changes", [CHANGE["price_changes"][0] | {"best_bid": "9"}]),
        (CHANGE, "price_changes", [CHANGE["price_changes"][0] | {"price": True}]),
        (CHANGE, "price_changes", [CHANGE["price_changes"][0] | {"price": ""}]),
    ],
)
def test_a_wrong_value_refuses_its_event_only(event, path, value):
    """A field that cannot be true costs its own event and is counted by kind."""
    frame = parse_frame(json.dumps([event, event | {path: value}, event]))

    assert len(frame.events) == 2
    assert frame.skipped_kinds == (event["event_type"],)


@pytest.mark.errors
@pytest.mark.requirement("G6")
@pytest.mark.parametrize("missing", ["market", "asset_id"])
def test_an_event_without_its_identity_is_skipped(missing):
    """What says which token must be there."""
    book = {key: value for key, value in BOOK.items() if key != missing}

    assert parse_frame(json.dumps(book)).skipped_kinds == ("book",)


@pytest.mark.errors
@pytest.mark.requirement("G6")
@given(
    good=st.lists(events, min_size=1, max_size=4),
    bad=st.lists(
        st.sampled_from([{"event_type": "tea"}, {}, 7, None, "x", ["book"]]),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_good_events_survive_beside_bad_ones(good, bad, data):
    """Whatever stands between them, every good event is delivered, in order."""
    mixed = [wire(event) for event in good]
    for item in bad:
        mixed.insert(data.draw(st.integers(0, len(mixed))), item)

    frame = parse_frame(json.dumps(mixed))

    assert frame.events == tuple(good)
    assert frame.skipped == len(bad)
    assert set(frame.skipped_kinds) <= {"tea", "untyped"}


@pytest.mark.basic
def test_absent_and_empty_fields_are_defaults():
    """A book may lack its hash, tick size, last trade and a whole side."""
    text = json.dumps(
        {
            "event_type": "book",
            "market": "m",
            "asset_id": "a",
            "timestamp": 5,
            "asks": [],
            "tick_size": "",
            "last_trade_price": "",
        }
    )

    assert parse_frame(text).events == (Book("m", "a", 5),)


@pytest.mark.errors
@given(text=st.text() | st.binary() | json_values.map(json.dumps))
@example("PONG")
@example("")
@example("7")
@example('"\ud800"')
@example(b'{"market":"\xff"}')
@example("[" * 100_000)
@example('{"bids":' * 100_000)
def test_no_frame_raises_anything_but_bad_frame(text):
    """Any text at all is read, skipped and counted, or refused as a bad frame."""
    lines = 1
    try:
        parse_frame(text)
    except BadFrame as error:
        lines = len(str(error).splitlines())

    assert lines == 1


@pytest.mark.errors
@pytest.mark.parametrize("text", ["PONG", "", '{"event_type":', "7", "null", "\ud800"])
def test_text_that_is_no_object_or_array_is_a_bad_frame(text):
    """What is not JSON, or is no object and no array, is refused as a whole."""
    with pytest.raises(BadFrame, match="the frame is"):
        parse_frame(text)


@pytest.mark.errors
def test_a_skipped_kind_is_kept_short():
    """The name of an unknown event cannot fill a log or a counter's label."""
    frame = parse_frame(json.dumps({"event_type": "x" * 1000}))

    assert frame.skipped_kinds == ("x" * 40,)
