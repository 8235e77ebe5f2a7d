"""One rule for every field, tried on generated objects of all models."""

from __future__ import annotations

import json
import types
from decimal import Decimal
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType

from oddsbot.polymarket import (
    Activity,
    ClobMarket,
    GammaEvent,
    GammaMarket,
    MarketEvent,
    OrderBook,
    Position,
    PricePoint,
    Profile,
    parse_frame,
    quotes,
)
from oddsbot.polymarket._reading import decoder, milliseconds, read

EVENTS = get_args(MarketEvent)
ANSWERS = (
    GammaMarket,
    GammaEvent,
    Profile,
    OrderBook,
    ClobMarket,
    PricePoint,
    Activity,
    Position,
)
ALL = (*EVENTS, *ANSWERS)
# Of each model, so that all of them together are tried as often as is usual.
shared_out = settings(max_examples=max(10, settings.default.max_examples // len(ALL)))
# A field of Decimal is a price or a size: what is below 1 is both.
small = st.decimals(Decimal("0.001"), Decimal("0.999"), places=3)
NOW_MS = 1_770_921_570_954


def bare(annotation):
    """Return a type without Annotated, None and UNSET, and what was annotated."""
    extra, least = {}, None
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *metas = get_args(annotation)
            for meta in metas:
                extra |= meta.extra or {}
                least = meta.min_length or least
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(
                part
                for part in get_args(annotation)
                if part not in (types.NoneType, UnsetType)
            )
        else:
            return annotation, extra, least


def values(annotation, depth):
    """Return a strategy for what the wire usually has in a field of this type."""
    kind, extra, least = bare(annotation)
    if kind is str:
        if least:
            return st.integers(1, 10**77).map(str)
        return st.text("abc xyz", min_size=1, max_size=8)
    if kind is Decimal:
        return small.map(str)
    if kind is bool:
        return st.booleans()
    if kind is int:
        unit = extra.get("unit")
        if unit is None:
            return st.integers(0, 5)
        return st.just(NOW_MS if unit == "ms" else NOW_MS // 1000)
    if get_origin(kind) is Literal:
        return st.sampled_from([each for each in get_args(kind) if each])
    if get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        if isinstance(item, type) and issubclass(item, Struct) and depth == 0:
            return st.just([])
        # Two of each: lists are paired by index.
        return st.lists(values(item, depth - 1), min_size=2, max_size=2)
    return objects(kind, depth)


def objects(kind, depth=2):
    """Return a strategy for whole objects of a model, as the wire has them."""
    fields = {
        each.encode_name: values(each.type, depth)
        for each in msgspec.structs.fields(kind)
    }
    if kind in EVENTS:
        fields["event_type"] = st.just(kind.__struct_config__.tag)
    return st.fixed_dictionaries(fields)


def camel(key):
    """Return a key in the spelling of the other half of Polymarket."""
    if "_" in key:
        head, *rest = key.split("_")
        return head + "".join(word.capitalize() for word in rest)
    return "".join(
        f"_{letter.lower()}" if letter.isupper() else letter for letter in key
    )


def spelled(value, draw):
    """Return a value as another encoder might have written it."""
    if isinstance(value, bool):
        return draw(
            st.sampled_from([value, str(value), str(value).lower(), int(value)])
        )
    if isinstance(value, int):
        return draw(st.sampled_from([value, str(value), float(value)]))
    if isinstance(value, str):
        if value.isdigit() and value == str(int(value)):
            return draw(st.sampled_from([value, int(value)]))
        if value.replace(".", "").isdigit():
            return draw(st.sampled_from([value, Decimal(value)]))
        return value
    if isinstance(value, dict):
        return {key: spelled(each, draw) for key, each in value.items()}
    inner = [spelled(each, draw) for each in value]
    if draw(st.booleans()):
        return msgspec.json.Encoder(decimal_format="number").encode(inner).decode()
    return inner


@pytest.mark.basic
@pytest.mark.requirement("G6")
@shared_out
@given(data=st.data())
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_spelling_is_the_same_object(kind, data):
    """Numbers for text, text for numbers, lists as text, other cases: one object."""
    usual = data.draw(objects(kind))
    other = {
        camel(key) if data.draw(st.booleans()) else key: spelled(value, data.draw)
        for key, value in usual.items()
    }
    if "side" in other:
        other["side"] = other["side"].lower()

    assert read(other, kind) == read(usual, kind)


@pytest.mark.timeout(240)
@pytest.mark.basic
@pytest.mark.requirement("G6")
@shared_out
@given(data=st.data())
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_null_empty_and_absent_are_the_same_in_every_optional_field(kind, data):
    """Whatever words for nothing stand in whichever optional fields, it is nothing."""
    usual = data.draw(objects(kind))
    optional = [
        each.encode_name
        for each in msgspec.structs.fields(kind)
        if not each.required or types.NoneType in get_args(each.type)
        if each.default is not UNSET  # tops: see the test of quotes
    ]
    nothing = data.draw(st.sets(st.sampled_from(optional))) if optional else set()
    without = {key: value for key, value in usual.items() if key not in nothing}
    words = {key: data.draw(st.sampled_from([None, ""])) for key in nothing}

    def outcome(raw):
        # A list of outcomes that is nothing beside two prices is no market: a refusal.
        try:
            return read(raw, kind, left_out)
        except ValueError as refusal:
            return str(refusal)

    left_out = []
    assert outcome(usual | words) == outcome(without)
    assert left_out == []


@pytest.mark.errors
@pytest.mark.requirement("G6")
@shared_out
@given(data=st.data())
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_nothing_in_a_required_field_names_the_field(kind, data):
    """An object without what makes it one is refused, whichever way it is missing."""
    usual = data.draw(objects(kind, depth=1))
    required = [
        each.encode_name
        for each in msgspec.structs.fields(kind)
        if each.required and types.NoneType not in get_args(each.type)
    ]
    for key in required:
        for word in (None, "", UNSET):
            broken = {name: each for name, each in usual.items() if name != key}
            if word is not UNSET:
                broken[key] = word
            with pytest.raises(ValueError, match=f"`{key}`: it is missing"):
                read(broken, kind)


@pytest.mark.advanced
@shared_out
@given(data=st.data())
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_the_quick_way_reads_what_the_tolerant_one_reads(kind, data):
    """A frame of usual events and the same frame beside an odd one give the same."""
    sent = data.draw(st.lists(objects(kind), max_size=3))
    alone = parse_frame(json.dumps(sent))
    beside = parse_frame(json.dumps([*sent, {"event_type": "tea"}]))

    assert alone.events == beside.events
    assert (alone.skipped, beside.skipped) == (0, 1)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["1e999999", "NaN", "-0", "0e-99999", "9" * 5_000, "[1", "null"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.errors
@pytest.mark.requirement("G6")
@shared_out
@given(data=st.data(), value=_JSON)
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_any_value_in_any_field_is_read_or_refused_in_one_line(kind, data, value):
    """No number is kept that no text can show, and nothing but ValueError is raised."""
    usual = data.draw(objects(kind, depth=1))
    key = data.draw(st.sampled_from(sorted(set(usual) - {"event_type"})))
    refused = ""
    try:
        found = read(usual | {key: value}, kind)
    except ValueError as error:
        refused = str(error)
    assert len(refused) < 300
    assert len(refused.splitlines()) <= 1
    if refused:
        return
    for each in msgspec.structs.astuple(found):
        if isinstance(each, Decimal):
            assert len(format(each, "f")) < 250
    if value is not None and isinstance(found, EVENTS):
        assert found.timestamp is None or 0 < found.timestamp < 10**14


@pytest.mark.basic
@pytest.mark.parametrize(
    ("sent", "at"),
    [
        (str(NOW_MS), NOW_MS),
        (NOW_MS, NOW_MS),
        (float(NOW_MS), NOW_MS),
        ("1770921570", 1_770_921_570_000),
        (1_770_921_570.5, 1_770_921_570_500),
        (NOW_MS * 1_000, NOW_MS),
        (f"{NOW_MS}000999", NOW_MS),
        ("2026-02-12T18:39:30.954Z", NOW_MS),
        ("2026-02-12T19:39:30.954+01:00", NOW_MS),
        ("2026-02-12 18:39:30.954", NOW_MS),
        (5_000, 5_000),
        (0, None),
        ("0", None),
        ("", None),
        (" ", None),
        ("null", None),
        ("0001-01-01T00:00:00Z", None),
    ],
    ids=repr,
)
def test_a_time_is_read_in_whatever_unit_it_comes(sent, at):
    """Seconds, milli-, micro- and nanoseconds and ISO text are one time; 0 is none."""
    assert milliseconds(sent) == at


@pytest.mark.errors
@pytest.mark.parametrize(
    "sent",
    [
        "-1",
        -5,
        "1e30",
        "9" * 30,
        "yesterday",
        "NaN",
        "Infinity",
        True,
        {},
        "1901-01-01",
    ],
    ids=str,
)
def test_an_impossible_time_costs_its_event(sent):
    """A time that cannot be costs the event it stands in, and no other."""
    event = {
        "event_type": "best_bid_ask",
        "market": "m",
        "asset_id": "1",
        "best_bid": "0.4",
        "best_ask": "0.5",
        "timestamp": NOW_MS,
    }
    frame = parse_frame(json.dumps([event, event | {"timestamp": sent}, event]))

    assert [each.timestamp for each in frame.events] == [NOW_MS, NOW_MS]
    assert frame.skipped_kinds == ("best_bid_ask",)
    assert frame.problems[0].startswith("best_bid_ask: asset_id '1': `timestamp`: ")


@pytest.mark.basic
@pytest.mark.parametrize(
    "missing", [{"best_bid"}, {"best_ask"}, {"best_bid", "best_ask"}]
)
def test_a_change_that_leaves_a_top_out_is_no_empty_book(missing):
    """A top that is not told of gives no quote; "" and null are an empty side."""
    entry = {
        "asset_id": "7",
        "price": "0.5",
        "size": "2",
        "best_bid": "0.5",
        "best_ask": "1",
    }
    change = {"event_type": "price_change", "market": "m", "timestamp": NOW_MS}

    def told(entry):
        (event,) = parse_frame(json.dumps(change | {"price_changes": [entry]})).events
        return [(quote.bid, quote.ask) for quote in quotes(event)]

    without = {key: value for key, value in entry.items() if key not in missing}
    assert told(without) == []
    for word in (None, ""):
        sides = told(entry | dict.fromkeys(missing, word))
        assert sides == [(None if "best_bid" in missing else Decimal("0.5"), None)]


@pytest.mark.errors
@pytest.mark.requirement("B1")
def test_one_entry_of_a_change_costs_no_other():
    """An entry of one token that cannot be read leaves the other token's."""
    good = {
        "asset_id": "7",
        "price": "0.5",
        "size": "2",
        "best_bid": "0.5",
        "best_ask": "0.6",
    }
    change = {
        "event_type": "price_change",
        "market": "m",
        "timestamp": NOW_MS,
        "price_changes": [good | {"asset_id": "8", "price": "2"}, good],
    }
    frame = parse_frame(json.dumps(change))

    assert [each.asset_id for each in frame.events[0].price_changes] == ["7"]
    assert frame.skipped_kinds == ("price_change",)
    assert "asset_id '8'" in frame.problems[0]


@pytest.mark.errors
@pytest.mark.requirement("B1")
@pytest.mark.parametrize(
    ("field", "value", "default"),
    [
        ("tags", [{"id": "1", "label": "Politics"}], ()),
        ("tags", "politics", ()),
        ("question", {"en": "Will it?"}, ""),
        ("slug", True, ""),
    ],
)
def test_what_is_only_shown_costs_no_resolution(field, value, default):
    """A label that cannot be read is left empty and named; who won is told."""
    event = {
        "event_type": "market_resolved",
        "market": "0xm",
        "timestamp": NOW_MS,
        "winning_asset_id": "1",
        "winning_outcome": "Yes",
    }
    frame = parse_frame(json.dumps(event | {field: value}))

    assert frame.events[0].winning_outcome == "Yes"
    assert getattr(frame.events[0], field) == default
    assert frame.skipped_kinds == ("market_resolved",)
    assert f"'0xm': `{field}`" in frame.problems[0]
    # Who won is no label: unreadable, it must not look like "nobody".
    assert not parse_frame(json.dumps(event | {"winning_outcome": {}})).events


@pytest.mark.shared
@pytest.mark.basic
@pytest.mark.requirement("G6")
@shared_out
@given(data=st.data())
def test_recorded_answers_survive_every_spelling(shared_data, data):
    """What Polymarket sent, spelled otherwise, is read as what it sent."""
    rest = shared_data / "rest"
    market = data.draw(
        st.sampled_from(
            decoder.decode((rest / "gamma-markets.before-gta-vi.json").read_bytes())
        )
    )
    known = {each.encode_name for each in msgspec.structs.fields(GammaMarket)}
    other = {
        camel(key) if key in known and data.draw(st.booleans()) else key: (
            spelled(value, data.draw)
            if key in known and not isinstance(value, Decimal | dict | list)
            else value
        )
        for key, value in market.items()
    }
    gone = [key for key in known if key not in market]
    nulls = {key: None for key in gone if camel(key) not in other}

    assert read(other | nulls, GammaMarket) == read(market, GammaMarket)
