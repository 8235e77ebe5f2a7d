from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.adapters._values import decode, encode, place_of, placed
from oddswire.errors import CodecError

ZONES = st.one_of(
    st.none(),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
)
HASHABLE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.decimals(allow_nan=False),
        st.uuids(),
        st.datetimes(timezones=ZONES),
        st.dates(),
        st.times(timezones=ZONES),
        st.timedeltas(),
    ),
    lambda each: st.one_of(
        st.lists(each, max_size=3).map(tuple), st.frozensets(each, max_size=3)
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda each: st.one_of(
        st.lists(each, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=3), st.sampled_from(["$", "$dict", "$set"])),
            each,
            max_size=3,
        ),
        st.dictionaries(HASHABLE, each, max_size=3),
    ),
    max_leaves=10,
)


def typed(value):
    """Return a value with its types, so that 1 and True are not the same."""
    if isinstance(value, dict):
        return [
            "dict",
            sorted(((typed(k), typed(v)) for k, v in value.items()), key=repr),
        ]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [typed(each) for each in value]]
    if isinstance(value, (set, frozenset)):
        return [type(value).__name__, sorted((typed(each) for each in value), key=repr)]
    return [type(value).__name__, repr(value) if isinstance(value, float) else value]


def order(value):
    """Return the keys of all dicts in a value, in their order."""
    if isinstance(value, dict):
        return [(list(value), [order(each) for each in value.values()])]
    if isinstance(value, (list, tuple)):
        return [order(each) for each in value]
    return None


@pytest.mark.advanced
@given(VALUES)
def test_every_dict_inside_keeps_its_order(value):
    """Also one whose keys are no text."""
    assert order(decode(encode(value))) == order(value)


@pytest.mark.advanced
@given(VALUES, st.integers(-1, 10**15 - 1))
def test_a_place_and_a_value_come_back(value, place):
    """Whatever the value is, also one that looks like a place."""
    encoded = encode(value)
    assert place_of(placed(place, encoded)) == (place, encoded)


@pytest.mark.advanced
@given(VALUES)
def test_a_value_comes_back_equal_and_of_its_type(value):
    """Datetimes, Decimals, tuples, sets and keys that are no text survive."""
    assert typed(decode(encode(value))) == typed(value)


@pytest.mark.basic
def test_what_json_has_is_written_as_json():
    """A value that JSON knows is stored as any other program writes it."""
    value = {"a": [1, 2.5, None, True, "x"], "$b": {}, "c": {"d": "e"}}

    assert json.loads(encode(value)) == value


@pytest.mark.basic
def test_dates_and_decimals_are_not_turned_into_text():
    """What the C2 list of aiogram's storage loses is kept."""
    value = {
        "at": datetime(2026, 11, 24, 3, 2, 1, 5, tzinfo=UTC),
        "day": date(2026, 11, 24),
        "when": time(3, 2),
        "in": timedelta(days=-1, microseconds=3),
        "price": Decimal("0.610"),
        "id": UUID(int=7),
        7: (b"\x00\xff", {1, 2}),
    }

    back = decode(encode(value))

    assert back == value
    assert str(back["price"]) == "0.610"


@pytest.mark.basic
def test_an_enum_of_text_or_numbers_comes_back_as_what_it_equals():
    """As the standard JSON does it, which bots rely on."""

    class Side(StrEnum):
        BUY = "buy"

    class Step(IntEnum):
        ONE = 1

    assert decode(encode([Side.BUY, Step.ONE])) == ["buy", 1]


@pytest.mark.errors
@pytest.mark.parametrize(
    "value",
    [
        object(),
        [lambda: 0],
        {"a": Enum("E", "X").X},
        "\ud800",
        {"\ud800": 1},
        10**5000,
        time(12, tzinfo=ZoneInfo("Europe/Berlin")),
    ],
    ids=["object", "function", "enum", "text", "key", "digits", "zone"],
)
def test_what_cannot_be_kept_is_refused(value):
    """A value of another type raises, and is not turned into its text."""
    with pytest.raises(CodecError) as caught:
        encode(value)
    assert caught.value.reason == "type"


@pytest.mark.errors
def test_a_value_that_contains_itself_is_refused():
    """A cycle raises a typed error, not a RecursionError."""
    value = []
    value.append(value)

    with pytest.raises(CodecError, match="contains itself"):
        encode(value)


@pytest.mark.errors
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    """No stored bytes cause another error than CodecError."""
    with suppress(CodecError):
        decode(data)


@pytest.mark.errors
@pytest.mark.parametrize(
    "data",
    [
        b'{"$datetime": "soon"}',
        b'{"$datetime": 7}',
        b'{"$decimal": "x"}',
        b'{"$set": [[]]}',
        b'{"$set": 3}',
        b'{"$dict": [1]}',
        b'{"$dict": [[[], 1]]}',
        b'{"$timedelta": [1]}',
        b'{"$timedelta": [1e300, 0, 0]}',
        b'{"$bytes": "%"}',
        b'{"$int": "9' + b"9" * 5000 + b'"}',
        b"[" * 100_000,
        b"\xff",
        b"",
    ],
)
def test_damaged_values_are_refused(data):
    """Each way a stored value can be wrong raises a typed error without showing it."""
    with pytest.raises(CodecError) as caught:
        decode(data)
    assert caught.value.reason == "damaged"


@pytest.mark.errors
def test_a_type_of_a_later_version_is_said_to_be_newer():
    """What this version does not know is left alone and named."""
    with pytest.raises(CodecError) as caught:
        decode(b'{"$market": "x"}')
    assert caught.value.reason == "newer"


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("group", ["$set", "$frozenset", "$dict", "tuples"])
def test_keys_made_to_collide_are_refused(group):
    """Keys that share a hash would cost quadratic time; as many others are read."""
    alike = [{"$int": str(n * (2**61 - 1))} for n in range(20_000)]
    other = list(range(20_000))
    if group == "tuples":
        group = "$set"
        alike, other = (
            [{"$tuple": [each]} for each in keys] for keys in (alike, other)
        )
    for keys, whole in ((alike, False), (other, True)):
        pairs = [[key, 1] for key in keys] if group == "$dict" else keys
        data = msgspec.json.encode({group: pairs})
        if whole:
            assert len(decode(data)) == 20_000
            continue
        with pytest.raises(CodecError, match="slow"):
            decode(data)


@pytest.mark.errors
@pytest.mark.requirement("X4")
def test_a_decimal_has_an_exponent_within_bounds():
    """What would be a text of a gigabyte is neither stored nor read."""
    for text in ("1E999999", "1E-999999", "-1E+99999999"):
        with pytest.raises(CodecError):
            encode(Decimal(text))
        with pytest.raises(CodecError):
            decode(msgspec.json.encode({"$decimal": text}))
    for text in ("NaN", "Infinity", "0", "1E+6000", "0.0517"):
        assert str(decode(encode(Decimal(text)))) == text
