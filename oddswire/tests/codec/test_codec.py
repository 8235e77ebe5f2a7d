"""The codec: any value survives, any bytes are a value or a CodecError."""

from __future__ import annotations

import datetime as dt
import enum
import re
import uuid
import zlib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oddswire.codec import Codec, Compressor, Envelope, Zstd
from oddswire.errors import CodecError

OUTCOMES = {"value", "foreign", "newer", "damaged", "too_large", "type"}


class Side(enum.Enum):
    """One of two texts."""

    BUY = "buy"
    SELL = "sell"


class Fill(msgspec.Struct, frozen=True):
    """A Struct in a Struct."""

    price: Decimal
    size: float
    side: Side


class Watch(msgspec.Struct, frozen=True):
    """A shape with one of each kind of field."""

    user: int
    market: str
    at: dt.datetime | None = None
    id: uuid.UUID | None = None
    raw: bytes = b""
    fills: tuple[Fill, ...] = ()
    labels: dict[str, int] = {}
    muted: bool = False


class Renamed(msgspec.Struct, frozen=True):
    """What a later version of `Watch` might look like."""

    user: int
    muted: bool = False
    language: str = "en"


FILLS = st.builds(
    Fill,
    price=st.decimals(allow_nan=False, allow_infinity=False),
    size=st.floats(allow_nan=False),
    side=st.sampled_from(Side),
)
WATCHES = st.builds(
    Watch,
    user=st.integers(-(2**63), 2**64 - 1),
    market=st.text(),
    at=st.none() | st.datetimes(timezones=st.just(dt.UTC)),
    id=st.none() | st.uuids(),
    raw=st.binary(),
    fills=st.lists(FILLS, max_size=5).map(tuple),
    labels=st.dictionaries(st.text(), st.integers(-(2**63), 2**63), max_size=5),
    muted=st.booleans(),
)
# Compresses everything that can be, however small, so that both ways are tried.
EAGER = Codec(Watch, compress_above=0)


@pytest.mark.basic
@pytest.mark.requirement("G6")
@given(WATCHES, st.sampled_from([Codec(Watch), EAGER]))
@example(Watch(user=1, market="a" * 5000), Codec(Watch))
def test_values_survive(watch, codec) -> None:
    """What is decoded equals what was encoded, compressed or not."""
    assert codec.decode(codec.encode(watch)) == watch


@pytest.mark.basic
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 7),
        (type(None), None),
        (str, ""),
        (bytes, b"\x00\xff"),
        (dict[str, list[float]], {"a": [1.5, -0.0]}),
        (Watch | None, None),
    ],
    ids=["int", "None", "str", "bytes", "dict", "optional"],
)
def test_plain_types_survive(type_, value) -> None:
    """A codec takes whatever type msgspec decodes, None among the values."""
    codec = Codec(type_)

    assert codec.decode(codec.encode(value)) == value


@pytest.mark.basic
@pytest.mark.requirement("G6")
@given(WATCHES)
def test_fields_may_come_and_go(watch) -> None:
    """An unknown field is ignored, a missing one takes its default."""
    read = Codec(Renamed).decode(Codec(Watch).encode(watch))

    assert read == Renamed(user=watch.user, muted=watch.muted, language="en")


@pytest.mark.errors
@pytest.mark.requirement("G6")
@pytest.mark.parametrize(
    ("stored", "where"),
    [
        ({"user": "1", "market": "m"}, "$.user"),
        ({"user": 1.5, "market": "m"}, "$.user"),
        ({"user": None, "market": "m"}, "$.user"),
        ({"user": 1}, "market"),
        ({"user": 1, "market": "m", "fills": [{"price": "x"}]}, "$.fills[0].price"),
        ({"user": 1, "market": "m", "at": "yesterday"}, "$.at"),
        ([1, "m"], "object"),
        (None, "object"),
    ],
    ids=str,
)
def test_wrong_types_are_refused(stored, where) -> None:
    """A field of another type, or a missing one, is `type` and named."""
    data = Codec(object).encode(stored)
    with pytest.raises(CodecError) as caught:
        Codec(Watch).decode(data)

    assert caught.value.reason == "type"
    assert where in str(caught.value)


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.errors
@pytest.mark.parametrize(
    ("codec", "value", "reason"),
    [
        (Codec(Watch), Watch(user="1", market="m"), "type"),
        (Codec(Watch), Watch(user=1, market=None), "type"),
        (Codec(Watch), None, "type"),
        (Codec(int), 2**64, "type"),
        (Codec(object), object(), "type"),
        (Codec(str), "\ud800", "type"),
        (Codec(list), _nested(100_000), "too_large"),
        (Codec(bytes, max_size=10), b"x" * 10, "too_large"),
    ],
    ids=[
        "field",
        "None field",
        "None",
        "big int",
        "object",
        "surrogate",
        "nest",
        "size",
    ],
)
def test_nothing_is_written_that_could_not_be_read(codec, value, reason) -> None:
    """A value of another type, or too large, is refused when it is written."""
    with pytest.raises(CodecError) as caught:
        codec.encode(value)

    assert caught.value.reason == reason


@pytest.mark.errors
@given(st.text("CANRY", min_size=6).map("#".__add__))
def test_errors_do_not_show_values(secret) -> None:
    """The text of an error has the field's name, and not what was in it."""
    bad = {"user": secret, "market": "m"}
    with pytest.raises(CodecError) as read:
        Codec(Watch).decode(Codec(object).encode(bad))
    with pytest.raises(CodecError) as written:
        Codec(Watch).encode(Watch(user=secret, market="m"))

    assert secret not in f"{read.value!r} {written.value!r}"


# --- compression


@pytest.mark.basic
@pytest.mark.parametrize(
    ("size", "compressed"), [(1021, False), (1022, True), (100_000, True)]
)
def test_more_than_1024_bytes_are_compressed(size, compressed) -> None:
    """A body of 1,024 bytes stays as it is, one of 1,025 is compressed."""
    data = Codec(bytes).encode(b"\x00" * size)
    body = size + 3  # msgpack's head of a binary of this length, 5 above 65,535
    if size > 65_535:
        body += 2

    assert Envelope.from_bytes(data).compressed is compressed
    assert (len(data) < body / 10) is compressed


@pytest.mark.advanced
@given(st.randoms(use_true_random=False), st.integers(1025, 5000), st.floats(0, 1))
def test_compression_that_saves_little_is_left_out(random, size, share) -> None:
    """Stored compressed exactly when that saves a tenth; never larger than plain."""
    noise = int(size * share)
    value = random.randbytes(noise) + bytes(size - noise)
    data = Codec(bytes).encode(value)
    body = msgspec.msgpack.encode(value)
    saved = len(Zstd().compress(body)) <= len(body) * 0.9

    assert Envelope.from_bytes(data).compressed is saved
    assert len(data) <= 6 + len(body)
    assert Codec(bytes).decode(data) == value


class Deflate:
    """A compressor of a user's own."""

    id = 9

    def compress(self, data: bytes) -> bytes:
        """See `Compressor`."""
        return zlib.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """See `Compressor`."""
        reader = zlib.decompressobj()
        try:
            content = reader.decompress(data, limit + 1)
        except zlib.error as error:
            raise CodecError(str(error), reason="damaged") from None
        if len(content) > limit:
            raise CodecError("too much", reason="too_large")
        return content


@pytest.mark.advanced
def test_another_compressor_takes_its_place() -> None:
    """A user-written compressor is used, and never asked to read what zstd wrote."""
    mine: Compressor = Deflate()
    ours, theirs = Codec(str), Codec(str, compressor=mine)
    text = "odds " * 1000
    data = theirs.encode(text)

    assert Envelope.from_bytes(data).compressor == 9
    assert theirs.decode(data) == text
    for codec, other in ((ours, data), (theirs, ours.encode(text))):
        with pytest.raises(CodecError, match="compressed by compressor") as caught:
            codec.decode(other)
        assert caught.value.reason == "type"
    # What is not compressed has no compressor, so both read it.
    assert ours.decode(theirs.encode("short")) == "short"


# --- hostile bytes


def _outcome(codec: Codec, data: bytes) -> str:
    try:
        codec.decode(data)
    except CodecError as error:
        return error.reason
    return "value"


def _any_envelope(body: bytes, flags: int) -> bytes:
    head = bytes((0xF9, flags))
    crc = zlib.crc32(body, zlib.crc32(head))
    return head + crc.to_bytes(4, "little") + body


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.binary(max_size=64), st.integers(0, 255), st.binary(max_size=64))
@example(b"", 0, b"")
@example(b"\xf9\x00", 0, b"\xdd\xff\xff\xff\xff")
@example(b"\xf9\x00", 0, b"\xa1\xff")
@example(b"\xf9\x00", 0, b"\xc7\x0c\xff" + b"\x7f" * 12)
@example(b"\xf9\x00", 0, b"\x91" * 200_000)
@example(b"\xf9\x00", 1, b"")
def test_any_bytes_are_a_value_or_a_codec_error(data, flags, body) -> None:
    """Loose bytes, and any body under a right checksum: no other exception, ever."""
    for codec in (Codec(Watch), Codec(object), Codec(list[Fill] | int), Codec(str)):
        for stored in (data, data + body, _any_envelope(body, flags)):
            assert _outcome(codec, stored) in OUTCOMES


@pytest.mark.errors
@pytest.mark.requirement("X1")
@given(st.binary(max_size=64), st.integers(1, 1 << 12))
def test_any_compressed_content_is_a_value_or_a_codec_error(content, limit) -> None:
    """The same for what comes out of a real frame, at any limit of size."""
    data = _any_envelope(Zstd().compress(content * 50), 1)
    assert _outcome(Codec(object, max_size=limit), data) in OUTCOMES


@pytest.mark.advanced
@given(WATCHES, st.booleans(), st.data())
def test_a_flipped_bit_is_found(watch, eager, data) -> None:
    """One flipped bit anywhere, or one lost byte at the end, never gives a value."""
    stored = bytearray((EAGER if eager else Codec(Watch)).encode(watch))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CodecError):
        EAGER.decode(bytes(stored))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CodecError) as caught:
        EAGER.decode(bytes(stored[:-1]))
    assert caught.value.reason == "damaged"


@pytest.mark.advanced
def test_every_single_bit_of_one_value_is_guarded() -> None:
    """Each of all the bits of a plain and of a compressed value is tried."""
    for codec in (Codec(Watch), EAGER):
        stored = codec.encode(Watch(user=1, market="m" * 60))
        for bit in range(len(stored) * 8):
            changed = bytearray(stored)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CodecError):
                codec.decode(bytes(changed))


@pytest.mark.errors
def test_each_reason_means_what_it_says() -> None:
    """Foreign data, a newer version, damage, size and type are told apart."""
    stored = Codec(int).encode(5)
    cases = {
        b"": "foreign",
        b'{"json": 1}': "foreign",
        msgspec.msgpack.encode({"a": 1}): "foreign",
        Zstd().compress(b"x"): "foreign",
        b"\x80\x04K\x05.": "foreign",  # a pickle
        b"\xf8" + stored[1:]: "foreign",
        b"\xfa" + stored[1:]: "newer",
        b"\xff": "newer",
        _any_envelope(b"\x05", 0b0000_0100): "newer",
        b"\xf9": "damaged",
        stored[:5]: "damaged",
        stored + b"\x00": "damaged",
        _any_envelope(b"\x05\x05", 0): "damaged",
        _any_envelope(b"\x05", 1): "damaged",
        _any_envelope(Zstd().compress(b"\x05") + b"more", 1): "damaged",
        _any_envelope(Zstd().compress(b"\x05")[:-1], 1): "damaged",
        _any_envelope(Zstd().compress(b"\x05") * 2, 1): "damaged",
        _any_envelope(b"\x05", 0b0000_0010): "type",
        _any_envelope(b"\xa1x", 0): "type",
        _any_envelope(b"\xc4\x64" + bytes(100), 0): "too_large",
        _any_envelope(Zstd().compress(bytes(100)), 1): "too_large",
    }
    codec = Codec(int, max_size=64)

    assert {data: _outcome(codec, data) for data in cases} == cases


@pytest.mark.errors
def test_a_codec_that_cannot_work_is_refused() -> None:
    """An unsupported type, negative sizes and an id beyond four bits are refused."""
    with pytest.raises(TypeError):
        Codec(dict[int, set[list[int]]] | dict[str, int])
    with pytest.raises(ValueError, match="bytes"):
        Codec(int, max_size=-1)
    with pytest.raises(ValueError, match="bytes"):
        Codec(int, compress_above=-1)
    bad = Deflate()
    bad.id = 16
    with pytest.raises(ValueError, match="0 to 15"):
        Codec(int, compressor=bad)


# --- the format itself

V1 = {
    "plain": (
        (
            "f9009c97b84188a4757365722aa66d61726b6574a53078616263a26174d6ff695735a5a26964"
            "c0a3726177c400a566696c6c739183a57072696365a4302e3537a473697a65cb402900000000"
            "0000a473696465a3627579a66c6162656c7381a16101a56d75746564c2"
        ),
        Watch(
            user=42,
            market="0xabc",
            at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            fills=(Fill(Decimal("0.57"), 12.5, Side.BUY),),
            labels={"a": 1},
        ),
    ),
    "zstd": (
        (
            "f9019f73dd6228b52ffd60ed032d0200b40388a475736572cf8000a66d61726b6574da04b06f"
            "646473a26174c0a26964c0a3726177c400a566696c6c7390a66c6162656c7380a56d75746564"
            "c20200a9ecbec2c011"
        ),
        Watch(user=2**63, market="odds" * 300),
    ),
}


@pytest.mark.basic
@pytest.mark.parametrize("name", V1)
def test_version_1_stays_readable(name) -> None:
    """Bytes that version 1 wrote give the same value, in every later version."""
    stored, value = V1[name]

    assert Codec(Watch).decode(bytes.fromhex(stored)) == value


@pytest.mark.basic
@given(st.binary(max_size=40), st.booleans(), st.booleans(), st.integers(0, 15))
def test_the_envelope_has_the_documented_layout(body, packed, sealed, number) -> None:
    """Version, flags, CRC-32 of all else, body; and it comes back as it was."""
    envelope = Envelope(body=body, compressed=packed, sealed=sealed, compressor=number)
    data = envelope.to_bytes()

    assert data[0] == 0xF8 + 1
    assert data[1] == packed | sealed << 1 | number << 4
    assert int.from_bytes(data[2:6], "little") == zlib.crc32(data[:2] + body)
    assert data[6:] == body
    assert Envelope.from_bytes(data) == envelope


@pytest.mark.basic
def test_the_page_runs() -> None:
    """Each example of guides/codec.md runs, the compressor of a user's own included."""
    page = Path(__file__).parents[3] / "docs" / "guides" / "codec.md"
    names: dict = {}
    for block in re.findall("```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        exec(block, names)

    codec, watch = names["codec"], names["Watch"](user=1, market="m" * 5000)
    assert codec.compressor.id == Envelope.from_bytes(codec.encode(watch)).compressor
    assert codec.decode(codec.encode(watch)) == watch


class Loose(msgspec.Struct):
    """A Struct that says nothing of a part of it, and may hold itself."""

    meta: object = None
    more: dict[str, object] = {}
    inner: Loose | None = None
    price: Decimal = Decimal(0)


class Word(enum.StrEnum):
    """A text that is more than a text."""

    A = "a"


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.datetimes(
        timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=2))])
    )
    | st.dates()
    | st.uuids()
    | st.sampled_from(Side)
    | st.sampled_from(Word)
)
_anything = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 9), inner, max_size=3)
        | st.frozensets(_leaves, max_size=2)
    ),
    max_leaves=6,
)


def _types(value):
    """Return a value with the type of each part, comparable also where it is NaN."""
    match value:
        case dict():
            return dict, [(_types(key), _types(each)) for key, each in value.items()]
        case list() | tuple():
            return type(value), [_types(each) for each in value]
        case msgspec.Struct():
            return type(value), [
                _types(each) for each in msgspec.structs.astuple(value)
            ]
        case _:
            return type(value), repr(value)


@pytest.mark.advanced
@pytest.mark.requirement("K5")
@given(
    value=_anything, place=st.sampled_from(["any", "dict", "object", "field", "deep"])
)
def test_nothing_comes_back_as_another_type(value, place):
    """Where the type says nothing, a value is the same to the last type, or refused."""
    kind, value = {
        "any": (object, value),
        "dict": (dict, {"a": value}),
        "object": (dict[str, object], {"a": value}),
        "field": (Loose, Loose(value)),
        "deep": (Loose | None, Loose(inner=Loose(more={"a": [value]}))),
    }[place]
    codec = Codec(kind)
    try:
        data = codec.encode(value)
    except CodecError:
        return
    assert _types(codec.decode(data)) == _types(value)


@pytest.mark.errors
@pytest.mark.requirement("K5")
@pytest.mark.parametrize(
    ("kind", "value", "where"),
    [
        (dict, {"price": Decimal("0.5")}, r"\['price'\] is a Decimal"),
        (dict[str, object], {"a": [1, (2,)]}, r"\['a'\]\[1\] is a tuple"),
        (
            Loose,
            Loose(inner=Loose(dt.date(2026, 1, 1))),
            "inner.meta is a date",
        ),
        (list, [Word.A], r"\[0\] is a Word"),
    ],
    ids=["Decimal", "tuple", "date", "enum"],
)
def test_a_refused_value_is_named_with_its_place(kind, value, where):
    """The error says which part it is, its type, and what to do."""
    with pytest.raises(CodecError, match=f"{where} and would .*: declare"):
        Codec(kind).encode(value)


@pytest.mark.basic
def test_what_a_type_names_is_kept_under_any_container():
    """The same values under a type that names them come back as they were."""
    prices = {"a": Decimal("0.50")}
    assert (
        Codec(dict[str, Decimal]).decode(Codec(dict[str, Decimal]).encode(prices))
        == prices
    )
    loose = Loose(meta={"n": [1, None, True, b"x"]}, price=Decimal("0.1"))
    assert Codec(Loose).decode(Codec(Loose).encode(loose)) == loose
