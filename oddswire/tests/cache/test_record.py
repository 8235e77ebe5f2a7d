"""The bytes of an entry: any are a record, what a delete left, or an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire.cache._record import (
    Record,
    details_of,
    parse_header,
    tags_of,
    version_bytes,
)
from oddswire.errors import CodecError
from support.keys import entry_key

from .conftest import Loader

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
EIGHT = st.binary(min_size=8, max_size=8)
SIXTEEN = st.binary(min_size=16, max_size=16)
RECORDS = st.builds(
    lambda times, **rest: Record(
        fresh_until=min(times), usable_until=max(times), **rest
    ),
    st.tuples(U64, U64),
    stored_at=U64,
    namespace=EIGHT,
    body=st.binary(max_size=100),
    tags=st.lists(st.tuples(EIGHT, SIXTEEN), max_size=16).map(tuple),
    version=U64,
    cost=U32,
    interval=U32,
    refreshes=st.integers(0, 255),
    changes=st.integers(0, 255),
    content=EIGHT,
)


@pytest.mark.advanced
@given(record=RECORDS)
def test_a_record_comes_back_as_it_was(record):
    """Every record reads back equal, and its version is where the scripts look."""
    data = record.to_bytes()
    hit, body = parse_header(data)
    details = details_of(data)
    assert body == record.body
    assert tags_of(data, hit[4]) == record.tags
    assert hit[:4] == (
        *(record.fresh_until, record.usable_until),
        *(record.cost, record.namespace),
    )
    assert details == (
        *(record.version, record.usable_until, record.stored_at),
        *(record.cost / 1000, record.interval / 1000),
        *(record.refreshes, record.changes, record.content),
    )
    assert data[10:18] == record.version.to_bytes(8, "big")


@pytest.mark.errors
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(data):
    """Bytes of anybody raise nothing but `CodecError`."""
    try:
        parse_header(data)
    except CodecError as error:
        assert error.reason in ("foreign", "damaged")  # noqa: PT017 - it need not raise


@pytest.mark.errors
@given(record=RECORDS, data=st.data())
def test_a_flipped_bit_of_the_head_is_found(record, data):
    """A change of any bit before the value is found, but in the time it is fresh."""
    raw = bytearray(record.to_bytes())
    end = len(raw) - len(record.body)
    at = data.draw(st.integers(0, end - 1).filter(lambda at: not 2 <= at < 10))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CodecError):
        parse_header(bytes(raw))


@pytest.mark.basic
def test_versions_sort_as_bytes():
    """The scripts compare versions as bytes: that is their order as numbers."""
    numbers = [1, 2, 255, 256, 2**32, 2**63, 2**64 - 1]
    assert sorted(numbers, key=version_bytes) == numbers
    assert version_bytes(None) == b""


@pytest.mark.errors
@pytest.mark.requirement("K3")
@pytest.mark.parametrize("kind", [1, 2])
async def test_a_record_of_the_former_form_is_replaced(fleet, kind):
    """Where it has a time, the version is now: no source could ever be newer."""
    a = await fleet.cache()
    key = entry_key(fleet.prefix, "m:1")
    former = bytes((0xC1, kind)) + (4).to_bytes(8, "big") + b"\0\0\1" + bytes(50)
    former = former if kind == 1 else former[:18]
    for write in (
        lambda: a.set("m:1", "new", version=5),
        lambda: a.get_or_set("m:1", Loader("new"), version=5),
    ):
        await a.client.set(key, former)
        assert await a.expire("m:1") == 0
        assert await a.client.get(key) == former
        assert await write() in (True, "new")
        assert await a.get("m:1") == "new"
    await a.client.set(key, former)
    await a.delete("m:1")
    assert await a.client.get(key) is None
