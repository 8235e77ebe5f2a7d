from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import msgspec
import pytest
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from hypothesis import example, given
from hypothesis import strategies as st

from oddswire import Client, Outcome
from oddswire.adapters.aiogram import Storage
from oddswire.adapters.aiogram._parts import parts
from oddswire.errors import (
    CodecError,
    InvalidKey,
    OddswireError,
    SettingsError,
    Unavailable,
)
from oddswire.keys import CONVERSATION, KeySpace

KEY = StorageKey(bot_id=42, chat_id=-100, user_id=7)
IDS = st.integers(-(2**52), 2**52)
KEYS = st.builds(
    StorageKey,
    IDS,
    IDS,
    IDS,
    st.none() | IDS,
    st.none() | st.text(max_size=8),
    st.text(max_size=8),
)


class Order(StatesGroup):
    """States of a conversation."""

    amount = State()


@pytest.fixture
def storage(client, prefix):
    """A storage on the shared server."""
    return Storage(client, prefix=prefix)


def key_of(prefix, key=KEY):
    """Return the name of a conversation's hash."""
    return KeySpace(prefix).key(CONVERSATION, *parts(key))


@pytest.mark.basic
@pytest.mark.requirement("S9")
async def test_state_and_data_come_back(storage):
    """What was set is read, by state, as a whole and by value."""
    context = FSMContext(storage, KEY)
    assert await context.get_state() is None
    assert await context.get_data() == {}

    await context.set_state(Order.amount)
    await context.set_data({"market": "0x1", "price": Decimal("0.61")})

    assert await context.get_state() == "Order:amount"
    assert await context.get_data() == {"market": "0x1", "price": Decimal("0.61")}
    assert await context.get_value("market") == "0x1"
    assert await context.get_value("none", "x") == "x"
    assert await context.update_data(side="buy") == {
        "market": "0x1",
        "price": Decimal("0.61"),
        "side": "buy",
    }
    await context.set_state(None)
    assert await context.get_state() is None
    assert len(await context.get_data()) == 3


@pytest.mark.basic
@pytest.mark.requirement("S9")
async def test_a_conversation_is_one_hash_that_ends_with_clear(storage, client, prefix):
    """`clear` and aiogram's own leave nothing behind."""
    await storage.replace(KEY, "s", {"a": 1})
    assert await client.type(key_of(prefix)) == b"hash"
    await storage.clear(KEY)
    assert not await client.exists(key_of(prefix))

    await storage.replace(KEY, "s", {"a": 1})
    await FSMContext(storage, KEY).clear()
    assert not await client.exists(key_of(prefix))


@pytest.mark.advanced
@given(KEYS, KEYS)
@example(KEY, StorageKey(42, -100, 7, business_connection_id=""))
@example(KEY, StorageKey(42, -100, 7, thread_id=0))
@example(StorageKey(1, 2, 3, 4, None), StorageKey(1, 2, 3, None, "4"))
def test_two_conversations_never_share_a_key(one, other):
    """Bot, chat, user, thread, business connection and destiny all tell them apart."""
    assert (key_of("p:", one) == key_of("p:", other)) == (one == other)


@pytest.mark.basic
async def test_bots_destinies_and_threads_do_not_meet(storage):
    """Each of the parts that aiogram leaves out by default is in the key."""
    keys = [
        KEY,
        StorageKey(43, -100, 7),
        StorageKey(42, -100, 7, destiny="other"),
        StorageKey(42, -100, 7, thread_id=0),
        StorageKey(42, -100, 7, thread_id=5),
        StorageKey(42, -100, 7, business_connection_id="5"),
        StorageKey(42, -100, 7, business_connection_id=""),
    ]
    for number, key in enumerate(keys):
        await storage.set_data(key, {"n": number})

    assert [await storage.get_value(key, "n") for key in keys] == list(range(7))


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_fifty_updates_at_once_keep_fifty(storage):
    """Of updates at the same time on different values none is lost, without a lock."""
    found = await asyncio.gather(
        *(storage.update_data(KEY, {f"k{n}": n}) for n in range(50))
    )

    assert await storage.get_data(KEY) == {f"k{n}": n for n in range(50)}
    # Each was answered with all that had been written by then.
    assert sorted(len(data) for data in found) == list(range(1, 51))


@pytest.mark.advanced
async def test_reading_and_writing_begin_the_lifetime_again(client, prefix):
    """A conversation ends when nobody used it for its lifetime, not before."""
    storage = Storage(client, prefix=prefix, ttl=1000.0)
    name = key_of(prefix)

    async def used(call):
        await client.pexpire(name, 5000)
        await call
        return await client.pttl(name) > 900_000

    await storage.replace(KEY, "s", {"a": 1})
    assert await client.pttl(name) > 900_000
    assert await used(storage.get_state(KEY))
    assert await used(storage.get_data(KEY))
    assert await used(storage.get_value(KEY, "a"))
    assert await used(storage.set_state(KEY, "t"))
    assert await used(storage.set_data(KEY, {"b": 2}))
    assert await used(storage.update_data(KEY, {"c": 3}))
    forever = Storage(client, prefix=prefix, ttl=None)
    await forever.set_state(KEY, "u")
    assert await client.pttl(name) == -1


@pytest.mark.advanced
async def test_state_and_data_do_not_overwrite_each_other(storage):
    """Setting one of both leaves the other."""
    await storage.set_state(KEY, "s")
    await storage.set_data(KEY, {"s": 1, "ds": 2, "": 3})
    assert await storage.get_state(KEY) == "s"
    assert await storage.get_data(KEY) == {"s": 1, "ds": 2, "": 3}
    await storage.set_data(KEY, {})
    assert await storage.get_state(KEY) == "s"
    assert await storage.get_data(KEY) == {}


@pytest.mark.errors
@pytest.mark.parametrize("data", [[], "ab", None, 3])
async def test_data_that_is_no_mapping_is_refused(storage, data):
    """The error of aiogram says so, and what was there stays."""
    await storage.set_data(KEY, {"a": 1})
    with pytest.raises(DataNotDictLikeError):
        await storage.set_data(KEY, data)
    with pytest.raises(DataNotDictLikeError):
        await storage.update_data(KEY, data)
    assert await storage.get_data(KEY) == {"a": 1}


@pytest.mark.errors
@pytest.mark.parametrize(
    "call",
    [
        lambda storage: storage.set_data(KEY, {7: 1}),
        lambda storage: storage.update_data(KEY, {"a": object()}),
        lambda storage: storage.set_state(KEY, 7),
        lambda storage: storage.set_state(KEY, "\ud800"),
        lambda storage: storage.get_value(KEY, 7),
    ],
    ids=["name", "value", "state", "unicode", "reading"],
)
async def test_what_cannot_be_stored_is_refused(storage, call):
    """A typed error, and what was there stays."""
    await storage.replace(KEY, "s", {"a": 1})
    with pytest.raises(CodecError):
        await call(storage)
    assert await storage.get_data(KEY) == {"a": 1}
    assert await storage.get_state(KEY) == "s"


@pytest.mark.errors
async def test_too_large_a_conversation_is_refused_and_kept(client, prefix):
    """The cap counts what is there too; nothing of the refused write happens."""
    storage = Storage(client, prefix=prefix, max_size=100)
    await storage.replace(KEY, "s", {"a": "x" * 40})

    for call in (
        storage.update_data(KEY, {"b": "x" * 60}),
        storage.set_data(KEY, {"b": "x" * 101}),
        storage.set_state(KEY, "x" * 101),
    ):
        with pytest.raises(CodecError) as caught:
            await call
        assert caught.value.reason == "too_large"

    assert await storage.get_data(KEY) == {"a": "x" * 40}
    assert await storage.get_state(KEY) == "s"
    await storage.set_data(KEY, {"b": "x" * 60})


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_a_damaged_conversation_hurts_that_user_only(storage, client, prefix):
    """It raises a typed error, others go on, and its owner may begin again."""
    other = StorageKey(42, 8, 8)
    await storage.replace(KEY, "s", {"a": 1, "b": 2})
    await storage.set_data(other, {"a": 1})
    await client.hset(key_of(prefix), mapping={"da": b"\xff{", "s": b"\xff"})

    for call in (
        storage.get_data(KEY),
        storage.get_value(KEY, "a"),
        storage.get_state(KEY),
    ):
        with pytest.raises(CodecError):
            await call
    assert await storage.get_value(KEY, "b") == 2
    assert await storage.get_data(other) == {"a": 1}
    with pytest.raises(CodecError) as caught:
        await storage.update_data(KEY, {"b": 3})
    assert caught.value.outcome is Outcome.UNKNOWN
    assert await storage.get_value(KEY, "b") == 3
    await storage.clear(KEY)
    assert await storage.get_data(KEY) == {}


@pytest.mark.errors
@pytest.mark.parametrize(
    "call",
    [
        lambda storage: storage.clear(KEY),
        lambda storage: storage.set_data(KEY, {"a": 1}),
        lambda storage: storage.replace(KEY, "s", {"a": 1}),
    ],
    ids=["clear", "set_data", "replace"],
)
async def test_a_key_of_another_kind_ends_with_what_overwrites(
    storage, client, prefix, call
):
    """It is not read as an empty conversation; overwriting and deleting work on it."""
    await client.set(key_of(prefix), "x")
    for read in (storage.get_state(KEY), storage.update_data(KEY, {"a": 1})):
        with pytest.raises(OddswireError):
            await read
    await call(storage)
    assert await storage.get_data(KEY) in ({}, {"a": 1})
    assert await storage.get_state(KEY) in (None, "s")


# --- order

NAMES = st.text("abc019", max_size=3)
DICTS = st.dictionaries(NAMES, st.integers(0, 9) | st.text("x", max_size=80))


class Ordered(msgspec.Struct):
    """What a bot does with its data, and where it is kept."""

    storage: Storage
    expected: dict

    async def run(self, steps):
        """Replace or merge, and compare each time with a dict."""
        for kind, data in steps:
            if kind == "replace":
                self.expected = dict(data)
                await self.storage.set_data(KEY, data)
            else:
                self.expected |= data
                found = await self.storage.update_data(KEY, data)
                assert list(found.items()) == list(self.expected.items())
            stored = await self.storage.get_data(KEY)
            assert list(stored.items()) == list(self.expected.items())


@pytest.mark.advanced
@pytest.mark.requirement("S9")
@given(st.lists(st.tuples(st.sampled_from(["replace", "merge"]), DICTS), max_size=5))
def test_data_comes_back_in_the_order_of_a_dict(redis_server, steps):
    """After any replacements and merges the data has the order that a dict would."""

    async def main():
        async with Client.from_url(redis_server.url) as client:
            storage = Storage(client, prefix=f"order-{uuid4().hex[:12]}:")
            await Ordered(storage, {}).run(steps)
            await storage.clear(KEY)

    asyncio.run(main())


@pytest.mark.advanced
async def test_data_without_places_comes_first(storage, client, prefix):
    """What was stored before values had places is read, and keeps its place."""
    await client.hset(key_of(prefix), mapping={"db": b"1", "da": b'"@7:x"'})
    assert await storage.get_data(KEY) == {"a": "@7:x", "b": 1}
    assert await storage.get_value(KEY, "a") == "@7:x"
    found = await storage.update_data(KEY, {"c": 2, "b": 3})
    assert list(found.items()) == [("a", "@7:x"), ("b", 3), ("c", 2)]


@pytest.mark.errors
def test_wrong_options_are_named(client):
    """Numbers out of range and prefixes that are none raise at once."""
    for options in ({"ttl": 0}, {"ttl": float("nan")}, {"max_size": 0}, {"wait": -1}):
        with pytest.raises(SettingsError):
            Storage(client, **options)
    with pytest.raises(InvalidKey):
        Storage(client, prefix="a")


# --- Redis away


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_without_redis_a_typed_error_comes_and_no_empty_conversation(own):
    """A killed server is an error, not a user who has no state."""
    async with Client.from_url(own.url, command_timeout=1.0) as client:
        storage = Storage(client)
        await storage.set_state(KEY, "s")
        own.kill()
        for call in (
            storage.get_state(KEY),
            storage.get_data(KEY),
            storage.set_state(KEY, "t"),
        ):
            with pytest.raises(OddswireError):
                await call


@pytest.mark.integration
async def test_by_choice_a_call_waits_until_redis_is_back(own):
    """With `wait`, calls of an outage are answered after it."""
    async with Client.from_url(own.url, command_timeout=1.0) as client:
        storage = Storage(client, wait=20.0)
        await storage.set_state(KEY, "s")
        own.kill()
        with pytest.raises(OddswireError):
            await client.get("x")  # it is known to be away
        calls = asyncio.gather(
            storage.update_data(KEY, {"a": 1}), storage.get_state(KEY)
        )
        for _ in range(3):
            with pytest.raises(OddswireError):
                await client.get("x")
        assert not calls.done()
        await own.restart()
        assert await calls == [{"a": 1}, None]  # it kept nothing over its death


@pytest.mark.errors
async def test_waiting_has_an_end(own):
    """After `wait` seconds the error is raised."""
    async with Client.from_url(own.url, command_timeout=0.5) as client:
        storage = Storage(client, wait=0.5)
        await client.ping()
        own.kill()
        with pytest.raises(OddswireError):
            await client.get("x")  # it is known to be away
        with pytest.raises(Unavailable):
            await storage.set_state(KEY, "s")


# --- the records of aiogram's own storage


@pytest.fixture
def legacy(client, prefix):
    """The RedisStorage of aiogram on the same server."""
    return RedisStorage(client, DefaultKeyBuilder(prefix=prefix + "fsm"))


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_conversations_of_the_old_storage_go_on(client, prefix, legacy):
    """They are read, then written to ours; the old record stays as it was."""
    await legacy.set_state(KEY, "Order:amount")
    await legacy.set_data(KEY, {"a": 1, "nan": float("inf")})
    storage = Storage(client, prefix=prefix, legacy_prefix=prefix + "fsm")

    assert await storage.get_state(KEY) == "Order:amount"
    assert await storage.update_data(KEY, {"b": 2}) == {
        "a": 1,
        "nan": float("inf"),
        "b": 2,
    }
    assert await legacy.get_data(KEY) == {"a": 1, "nan": float("inf")}
    assert await legacy.get_state(KEY) == "Order:amount"
    # Ours holds now, whether or not the old one is looked at.
    assert len(await Storage(client, prefix=prefix).get_data(KEY)) == 3


@pytest.mark.advanced
@pytest.mark.parametrize("first", ["read", "clear"])
async def test_an_ended_conversation_does_not_come_back(client, prefix, legacy, first):
    """What was cleared or expired here is not read from the old record again."""
    await legacy.set_state(KEY, "old")
    storage = Storage(client, prefix=prefix, legacy_prefix=prefix + "fsm")
    if first == "read":
        assert await storage.get_state(KEY) == "old"
        await client.delete(key_of(prefix))  # as if its lifetime was over
    else:
        await storage.clear(KEY)

    assert await storage.get_state(KEY) is None
    assert await legacy.get_state(KEY) == "old"


@pytest.mark.advanced
async def test_the_mark_lives_as_long_as_the_old_record(client, prefix):
    """A record that ends by itself leaves no mark for ever."""
    keys = DefaultKeyBuilder(prefix="fsm", with_bot_id=True, with_destiny=True)
    legacy = RedisStorage(client, keys, state_ttl=100, data_ttl=200)
    user = StorageKey(int(prefix[5:12], 16), 1, 1, destiny="d")
    await legacy.set_state(user, "s")
    await legacy.set_data(user, {"a": 1})
    storage = Storage(client, prefix=prefix, legacy_prefix=keys)

    assert await storage.get_data(user) == {"a": 1}

    (mark,) = await client.keys(f"{prefix}conversation-adopted:*")
    assert 100_000 < await client.pttl(mark) <= 200_000
    await legacy.set_state(user, None)
    await legacy.set_data(user, {})


@pytest.mark.integration
async def test_the_order_of_an_old_record_goes_on(client, prefix, legacy):
    """JSON kept the order of the dict, and so does what takes it over."""
    data = {f"q{number}": number for number in (3, 1, 2, 9, 7, 8, 4, 6, 5, 0)}
    await legacy.set_data(KEY, data)
    storage = Storage(client, prefix=prefix, legacy_prefix=prefix + "fsm")
    found = await storage.update_data(KEY, {"q1": 0, "new": 1})
    assert list(found) == [*data, "new"]


UNREADABLE = [
    b"{",
    b"[]",
    b"\xff",
    pickle.dumps({"a": 1}),
    b'{"a": "\\ud800"}',
    b"[" * 100_000,
    b'{"a": ' * 100 + b"1" + b"}" * 100,
    None,
]
KINDS = ["json", "list", "bytes", "pickle", "unicode", "brackets", "deep", "kind"]


@pytest.mark.errors
@pytest.mark.requirement("S9")
@pytest.mark.parametrize("data", UNREADABLE, ids=KINDS)
async def test_an_old_record_that_cannot_be_read_ends_with_what_overwrites(
    server, prefix, data
):
    """Reading it is an error, all else works, and the old record stays as it was."""
    name = f"{prefix}fsm:-100:7:data"
    for number, end in enumerate(("set_data", "clear", "replace")):
        key = StorageKey(bot_id=43 + number, chat_id=-100, user_id=7)
        async with (
            Client.from_url(server.url) as client,
            Client.from_url(server.url, decode_responses=True) as text,
        ):
            if data is None:
                await client.lpush(name, "x")
            else:
                await client.set(name, data)
            await client.set(f"{prefix}fsm:-100:7:state", "old")
            storage = Storage(
                (client, text)[number % 2], prefix=prefix, legacy_prefix=prefix + "fsm"
            )
            for _ in range(2):
                for call in (storage.get_data(key), storage.get_value(key, "a")):
                    with pytest.raises(CodecError) as caught:
                        await call
                    assert caught.value.reason == "foreign"
            assert await storage.get_state(key) == "old"
            await storage.set_state(key, "s")
            with pytest.raises(CodecError) as caught:
                await storage.update_data(key, {"a": 1})
            assert caught.value.outcome is Outcome.UNKNOWN
            arguments = {"set_data": ({"b": 2},), "replace": ("s", {"b": 2})}
            await getattr(storage, end)(key, *arguments.get(end, ()))
            assert await storage.get_data(key) == ({} if end == "clear" else {"b": 2})
            assert await storage.update_data(key, {"b": 3}) == {"b": 3}
            if data is None:
                assert await client.lrange(name, 0, -1) == [b"x"]
            else:
                assert await client.get(name) == data
            await client.delete(name)


@pytest.mark.errors
@pytest.mark.parametrize("state", [b"\xff", None], ids=["bytes", "list"])
async def test_an_old_state_that_cannot_be_read_ends_with_a_new_one(
    client, prefix, state
):
    """The data beside it is taken over all the same."""
    name = f"{prefix}fsm:-100:7:state"
    await (client.lpush(name, "x") if state is None else client.set(name, state))
    await client.set(f"{prefix}fsm:-100:7:data", b'{"a": 1}')
    storage = Storage(client, prefix=prefix, legacy_prefix=prefix + "fsm")
    with pytest.raises(CodecError):
        await storage.get_state(KEY)
    assert await storage.get_data(KEY) == {"a": 1}
    await storage.set_state(KEY, "s")
    assert await storage.get_state(KEY) == "s"


@pytest.mark.basic
async def test_a_destiny_the_old_storage_could_not_keep_is_new(client, prefix):
    """The default keys of aiogram know no destiny: there is nothing to take over."""
    storage = Storage(client, prefix=prefix, legacy_prefix=prefix + "fsm")
    key = StorageKey(42, 1, 1, destiny="d")
    await storage.set_data(key, {"at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert await storage.get_data(key) == {"at": datetime(2026, 1, 1, tzinfo=UTC)}
