from __future__ import annotations

import asyncio
import sys

import pytest

from oddswire import Client
from oddswire.cache import Namespace
from oddswire.errors import CodecError, InvalidKey, SettingsError
from support import eventually
from support.keys import entry_key, lease_key

from .conftest import Loader, Market


@pytest.mark.basic
@pytest.mark.requirement("K1", "K2")
async def test_a_value_comes_back_from_redis_and_then_from_memory(fleet):
    """Another process's value is read once from Redis and then from memory."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", {"price": 1})
    first = await b.get_entry("m:1")
    await fleet.believed(b)
    second = await b.get_entry("m:1")
    assert (first.value, first.tier) == ({"price": 1}, "l2")
    assert (second.value, second.tier) == ({"price": 1}, "l1")
    assert 269 <= second.ttl <= 300
    assert b.peek("m:1") == {"price": 1}


@pytest.mark.basic
@pytest.mark.requirement("K3")
async def test_none_is_a_value(fleet):
    """A None that was stored is a hit, not a miss."""
    a = await fleet.cache()
    load = Loader(value=lambda: None)
    assert await a.get_or_set("m:1", load) is None
    assert await a.get_or_set("m:1", load) is None
    assert await a.get("m:1", "default") is None
    assert await a.get("m:2", "default") == "default"
    assert load.calls == 1


@pytest.mark.basic
async def test_a_struct_comes_back_as_its_type(fleet):
    """Values of a declared namespace are of its type in every process."""
    declared = Namespace(name="m", type=Market)
    a, b = await fleet.cache(declared), await fleet.cache(declared)
    await a.set("m:1", Market(1))
    assert await b.get("m:1") == Market(1)
    assert await b.get("m:1", type=dict) == {"id": 1, "question": "?"}
    assert await b.get("m:1") == Market(1)
    with pytest.raises(CodecError, match="declare"):
        await a.set("other:1", Market(1))
    assert await a.get("other:1") is None


@pytest.mark.advanced
@pytest.mark.requirement("K2")
async def test_what_another_process_writes_is_seen(fleet):
    """A set, a delete and a tag of one process reach the memory of the others."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", 1, tags=("t",))
    assert await b.get("m:1") == 1
    await fleet.believed(b)
    assert b.peek("m:1") == 1
    await a.set("m:1", 2, tags=("t",))
    await eventually(lambda: b.peek("m:1") is None)
    assert await b.get("m:1") == 2
    await a.invalidate_tags("t")
    await eventually(lambda: b.peek("m:1") is None)
    assert await b.get("m:1") is None
    await a.set("m:1", 3)
    assert await b.get("m:1") == 3
    assert await a.delete("m:1", "m:2") == 1
    await eventually(lambda: b.peek("m:1") is None)
    assert await b.get("m:1") is None


@pytest.mark.basic
@pytest.mark.requirement("K1")
async def test_clearing_a_namespace_leaves_the_others(fleet):
    """`clear` invalidates every entry of one namespace, in every process."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set_many({"m:1": 1, "m:2": 2, "w:1": 3})
    assert await b.get("m:1") == 1
    await a.clear("m")
    assert [await a.get(key) for key in ("m:1", "m:2", "w:1")] == [None, None, 3]
    await eventually(lambda: b.peek("m:1") is None)
    assert [await b.get(key) for key in ("m:1", "m:2", "w:1")] == [None, None, 3]


@pytest.mark.basic
@pytest.mark.requirement("K1")
async def test_an_older_version_is_refused(fleet):
    """A value of an older version never replaces a newer one, after a delete too."""
    a = await fleet.cache()
    assert await a.set("m:1", "new", version=2)
    assert not await a.set("m:1", "old", version=1)
    assert await a.get("m:1") == "new"
    assert await a.delete("m:1") == 1
    assert await a.delete("m:1") == 0
    assert await a.get("m:1") is None
    assert not await a.set("m:1", "old", version=1)
    loaded = await a.get_or_set("m:1", Loader("lagging"), version=lambda _: 1)
    assert loaded == "lagging"
    assert await a.get("m:1") is None
    assert a.stats("m").fenced == 1
    assert await a.set("m:1", "same", version=2)
    assert await a.get("m:1") == "same"


@pytest.mark.errors
@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "namespace:rest"),
        ("nocolon", "namespace:rest"),
        (":x", "namespace:rest"),
        ("m:", "namespace:rest"),
        ("m:" + "x" * 600, "too long|512"),
        ("m:\udcff", "Unicode"),
        (b"m:1", "str"),
        (None, "str"),
    ],
)
async def test_bad_keys_are_refused(fleet, key, why):
    """A key of the wrong form is an `InvalidKey`, from every method."""
    a = await fleet.cache()
    for call in (
        lambda: a.get(key),
        lambda: a.get_entry(key),
        lambda: a.set(key, 1),
        lambda: a.delete("m:1", key),
        lambda: a.get_or_set(key, Loader()),
    ):
        with pytest.raises(InvalidKey, match=why):
            await call()


@pytest.mark.errors
async def test_control_bytes_in_a_key_are_only_text(fleet):
    """Whatever characters a key has, it names its own entry and no other."""
    a, b = await fleet.cache(), await fleet.cache()
    names = ["m:a\r\nSET x y\0{}*", "m:a", "m:a:b", "m:a%3Ab", "m:\u00e9\U0001f600"]
    for number, name in enumerate(names):
        await a.set(name, number)
    assert [await b.get(name) for name in names] == [0, 1, 2, 3, 4]
    await fleet.believed(b)
    assert [b.peek(name) for name in names] == [0, 1, 2, 3, 4]
    for name in names:
        await a.delete(name)
    for name in names:
        await eventually(lambda name=name: b.peek(name) is None)


@pytest.mark.errors
@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e9, "30", True])
async def test_bad_durations_are_refused(fleet, ttl):
    """A time to live that is none is refused, and nothing is stored."""
    a = await fleet.cache()
    with pytest.raises(SettingsError, match="ttl"):
        await a.set("m:1", 1, ttl=ttl)
    load = Loader()
    with pytest.raises(SettingsError, match="ttl"):
        await a.get_or_set("m:1", load, ttl=ttl)
    assert load.calls == 0
    assert await a.get("m:1") is None


@pytest.mark.errors
async def test_bad_tags_are_refused(fleet):
    """Too many tags, an empty one, one of another type, a text in place of a tuple."""
    a = await fleet.cache()
    for tags in ([str(n) for n in range(17)], [""], [1], ["x" * 600], ["\udcff"], "t"):
        with pytest.raises(InvalidKey, match="tag"):
            await a.set("m:1", 1, tags=tags)
    assert await a.get("m:1") is None


@pytest.mark.errors
@pytest.mark.requirement("K7")
@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\xc1\x01" + bytes(80), b"{}", b"\xc1\x02" + bytes(17)]
)
async def test_foreign_bytes_are_a_counted_miss(fleet, data):
    """What cannot be read is missing, is counted, and is overwritten."""
    a = await fleet.cache()
    name = entry_key(fleet.prefix, "m:1")
    await a.client.set(name, data)
    assert await a.get("m:1") is None
    assert a.stats("m").corrupt == 1
    assert await a.get_or_set("m:1", Loader("mine")) == "mine"
    assert await a.get("m:1") == "mine"


@pytest.mark.errors
async def test_a_key_of_another_type_is_a_miss(fleet):
    """A list under the name of an entry is missing, and is overwritten."""
    a = await fleet.cache()
    await a.client.rpush(entry_key(fleet.prefix, "m:1"), "x")
    await a.client.rpush(lease_key(fleet.prefix, "m:1"), "x")
    assert await a.get_or_set("m:1", Loader("mine")) == "mine"
    assert await a.get("m:1") == "mine"


@pytest.mark.advanced
async def test_every_key_has_a_time_to_live(own_fleet):
    """After every kind of use, no key of the cache is without a time to live."""
    a = await own_fleet.cache()
    await a.set("m:1", 1, tags=("t", "u"))
    await a.set("m:2", 1, version=1)
    await a.get_or_set("m:3", Loader(), tags=("v",), stale=100)
    await a.expire("m:3", "m:4")
    await a.delete("m:1", "m:2")
    await a.invalidate_tags("t")
    await a.clear("w")
    await own_fleet.believed(a)
    held = Loader(held=True)
    task = asyncio.get_running_loop().create_task(a.get_or_set("m:5", held))
    await held.started.wait()
    async with Client.from_url(own_fleet.url) as client:
        names = [name async for name in client.scan_iter()]
        ttls = {name: await client.pttl(name) for name in names}
    held.go.set()
    await task
    assert len(names) >= 7
    assert {name: ttl for name, ttl in ttls.items() if ttl <= 0} == {}


@pytest.mark.performance
@pytest.mark.requirement("K6")
async def test_large_values_are_compressed(fleet):
    """Above 1,024 bytes a value is compressed, if that saves a tenth."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:small", "x" * 1000)
    await a.set("m:large", "x" * 100_000)
    name = entry_key(fleet.prefix, "m:large")
    assert await a.client.strlen(name) < 1000
    assert await a.client.strlen(entry_key(fleet.prefix, "m:small")) > 1000
    assert await b.get("m:large") == "x" * 100_000


@pytest.mark.performance
async def test_a_hit_is_short_work(fleet):
    """A hit runs few functions of Python, which no other load of a machine changes."""
    near, far = await fleet.cache(), await fleet.cache(l1_bytes=0)

    @near.cached(key="m:{number}")
    async def cached(number: int) -> int:
        return number

    async def ran(read):
        """Return the functions of ours that one call runs."""
        frames = []
        before = sys.getprofile()
        sys.setprofile(
            lambda frame, event, _: frames.append(frame) if event == "call" else None
        )
        try:
            assert await read() == 1
        finally:
            sys.setprofile(before)
        # A coroutine that goes on is called again, in the same frame.
        return [
            frame.f_code.co_name
            for frame in dict.fromkeys(frames)
            if frame.f_globals["__name__"].startswith("oddswire.")
        ]

    await cached(1)
    await fleet.believed(near)
    for read, most in (
        (lambda: near.get("m:1"), 1),
        (lambda: cached(1), 3),
        (lambda: far.get("m:1"), 34),
    ):
        # A heartbeat may come between.
        fewest = min([await ran(read) for _ in range(5)], key=len)
        assert len(fewest) <= most, fewest


@pytest.mark.errors
async def test_a_type_that_cannot_be_decoded_is_refused_where_it_is_named(fleet):
    """A type that msgspec does not know is the caller's error, and breaks no wire."""
    a = await fleet.cache()
    await a.set("m:1", 1)
    with pytest.raises(TypeError):
        await a.get("m:1", type=dict[list, int] | dict[str, int])
    with pytest.raises(TypeError):
        await fleet.cache(Namespace(name="m", type=set[int] | list[int]))
    assert await a.get("m:1") == 1
    assert a.stats().generations == 0
