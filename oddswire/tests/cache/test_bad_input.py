"""Arguments of every kind, and loaders that do what they should not: each is named."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest

from oddswire import Client
from oddswire.cache import Adaptive, Cache, Namespace
from oddswire.errors import (
    ClosedError,
    CodecError,
    InvalidKey,
    SettingsError,
    WrongLoop,
)

pytestmark = pytest.mark.errors


@pytest.fixture
async def cache(client, prefix):
    """Return a cache, open."""
    async with Cache(client, prefix=prefix, timeout=5.0) as cache:
        yield cache


async def fetch(arguments):
    """Return each argument as its own value."""
    return {each: each for each in arguments}


@pytest.mark.parametrize("wrong", [0, -1, "3", None, True, 1_001, float("nan")])
async def test_a_batch_of_no_size_is_refused(cache, wrong):
    """A `max_batch` out of range is named at once; its callers waited for ever."""
    with pytest.raises(SettingsError, match="max_batch"):
        cache.batched(fetch, key="m:{id}", max_batch=wrong)


async def test_wrong_templates_are_named_where_they_are_declared(cache):
    """A text for tags would be a tag of each letter; fields are of the function."""

    async def function(item):
        return item

    def by_batch(key, **options):
        return cache.batched(fetch, key=key, **options)

    def by_cached(key, **options):
        return cache.cached(key=key, **options)(function)

    for declare in (by_batch, by_cached):
        for tags in ("abc", None, 5, [b"x"], [None]):
            with pytest.raises(InvalidKey, match="tags are a tuple of texts"):
                declare("m:{item}", tags=tags)
        with pytest.raises(InvalidKey, match="other"):
            declare("m:{item}", tags=["{other}"])
        for key in (None, 5, b"m:{item}", "{item}:m", "m"):
            with pytest.raises(InvalidKey, match="begins with its namespace"):
                declare(key)
        for key in ("m:{item", "m:{item!r}", "m:{item:3}", "m:{0}", "m:{}"):
            with pytest.raises(InvalidKey):
                declare(key)
        with pytest.raises(SettingsError, match="ttl 0"):
            declare("m:{item}", ttl=0)
        with pytest.raises(TypeError, match="no option 'tttl'"):
            declare("m:{item}", tttl=1)


async def test_what_is_no_function_is_not_cached(cache):
    """A generator has no result to keep, and a class method wants the other order."""

    def generator(item):
        yield item

    async def async_generator(item):
        yield item

    for function in (generator, async_generator, classmethod(fetch), None):
        with pytest.raises(TypeError, match="what is cached must be a function"):
            cache.cached(key="m:1")(function)
        with pytest.raises(TypeError, match="batch_loader must be a function"):
            cache.batched(function, key="m:{item}")
        with pytest.raises(TypeError, match="batch_loader must be a function"):
            await cache.get_or_set_many(["m:1"], function)
        with pytest.raises(TypeError, match="batch_loader must be a function"):
            await cache.refresh_many(["m:1"], function)


async def test_a_wrong_argument_fails_its_own_caller(cache):
    """Of calls that become one batch, the one with a wrong argument is told."""
    market = cache.batched(fetch, key="m:{id}")
    found = await asyncio.gather(
        *map(market, [3, None, [1], 4]), return_exceptions=True
    )
    assert (found[0], found[3]) == (3, 4)
    assert [type(each) for each in found[1:3]] == [InvalidKey, InvalidKey]


async def test_arguments_of_one_text_share_a_load(cache):
    """1 and "1" have one entry and one value; the number's was None."""
    asked = []

    async def load(arguments):
        asked.append(arguments)
        return dict.fromkeys(arguments, "value")

    market = cache.batched(load, key="m:{id}")
    assert await asyncio.gather(market(1), market("1")) == ["value", "value"]
    assert asked == [[1]]


async def test_closing_ends_a_batch_with_an_error(client, prefix):
    """A caller whom nobody cancelled gets `ClosedError`."""
    begun = asyncio.Event()

    async def load(arguments):
        begun.set()
        await asyncio.Event().wait()
        return arguments

    async with Cache(client, prefix=prefix, timeout=5.0) as cache:
        market = cache.batched(load, key="m:{id}")
        waiting = asyncio.get_running_loop().create_task(market(1))
        await begun.wait()
    async with asyncio.timeout(10):
        with pytest.raises(ClosedError):
            await waiting


@pytest.mark.parametrize("result", [None, [1], {1}, 5])
async def test_a_batch_loader_that_returns_no_dict_is_told(cache, result):
    """The error says what is returned; the same function may also be a plain one."""

    async def load(keys):
        return result

    for loader in (load, lambda _: result):
        for call in (cache.get_or_set_many, cache.refresh_many):
            with pytest.raises(TypeError, match="returns a dict of values"):
                await call(["m:1"], loader)
        with pytest.raises(TypeError, match="returns a dict of values"):
            await cache.batched(loader, key="m:{id}")(1)


async def test_keys_that_are_none_are_named(cache):
    """Neither `TypeError` nor the letters of a text: `InvalidKey` says what to give."""
    for wrong in (None, "m:1", b"m:1", 5):
        for call in (
            cache.get_many(wrong),
            cache.get_or_set_many(wrong, fetch),
            cache.refresh_many(wrong, fetch),
        ):
            with pytest.raises(InvalidKey, match="is not a list of keys"):
                await call
    with pytest.raises(InvalidKey, match="a key in the list"):
        await cache.get_many([["m:1"]])
    for call in (cache.get, cache.get_entry):
        with pytest.raises(InvalidKey, match="a str, not list"):
            await call(["m:1"])
    with pytest.raises(InvalidKey, match="a str, not list"):
        await cache.get_or_set(["m:1"], fetch)
    for wrong in (["m:1"], "m", None):
        with pytest.raises(InvalidKey):
            cache.peek(wrong)
    with pytest.raises(InvalidKey, match="tags are a tuple"):
        await cache.set("m:1", 1, tags=5)
    for user in ("5", True, None):
        with pytest.raises(InvalidKey, match="user_id"):
            await cache.erase(user)


async def test_what_is_warmed_are_pairs(cache):
    """A dict is taken; other things, numbers and options are named at once."""
    report = await cache.warm({"m:1": lambda: 1, "m:2": lambda: 2})
    assert (report.present, report.failed) == (2, {})
    for items in (["m:1"], [("m:1",)], [5]):
        with pytest.raises(SettingsError, match="pairs of a key and its loader"):
            await cache.warm(items)
    with pytest.raises(TypeError, match="no option 'tttl'"):
        await cache.warm([("m:1", lambda: 1)], tttl=1)
    with pytest.raises(TypeError, match="no option 'tttl'"):
        await cache.warm_hot("m", tttl=1)
    for limit in (0, -1, 2_001, None):
        with pytest.raises(SettingsError, match="limit"):
            await cache.warm_hot("m", limit=limit)


def test_wrong_fields_of_a_namespace_are_named():
    """A field of another type is a `SettingsError`, and not what Python makes of it."""
    for name, values in {
        "early": ["1", None, True, timedelta(1), Decimal(1), float("nan"), -1],
        "max_size": [0, -1, "1", None, True, 1.5, float("inf")],
        "l1": ["no", None, 0],
        "adaptive": [5, True, "yes"],
    }.items():
        for wrong in values:
            with pytest.raises(SettingsError, match=name):
                Namespace(name="m", **{name: wrong})
    for risk in (0, 1, None, "0.5", float("nan")):
        with pytest.raises(SettingsError, match="risk"):
            Adaptive(low=1, high=2, risk=risk)


def test_wrong_arguments_of_a_cache_are_named(client):
    """Sizes are whole numbers of bytes, and namespaces a list of them."""
    for name, values in {
        "l1_bytes": [-1, None, "x", float("nan"), True],
        "max_size": [0, -1, None, "x", float("nan"), True],
        "compress_above": [-1, None, "x", float("nan"), True],
        "namespaces": [Namespace(name="m"), ["m"], 5],
    }.items():
        for wrong in values:
            with pytest.raises(SettingsError, match=name):
                Cache(client, **{name: wrong})
    with pytest.raises(TypeError, match="namespace 'm': Type"):
        Cache(client, [Namespace(name="m", type="Market")])


@pytest.mark.parametrize(
    "error", [GeneratorExit(), BaseExceptionGroup("x", [asyncio.CancelledError()])]
)
async def test_whatever_a_loader_raises_its_callers_get(cache, error):
    """What is no `Exception` ends the load too: its callers waited for ever."""

    async def load(*_):
        raise error

    async with asyncio.timeout(20):
        for call in (
            cache.get_or_set("m:1", load),
            cache.get_or_set_many(["m:2", "m:3"], load),
        ):
            with pytest.raises(type(error)):
                await call


async def test_another_loop_is_told(server, prefix):
    """A cache of another event loop is a mistake and no outage: nothing is loaded."""
    called = []

    async def elsewhere(cache):
        for call in (
            cache.get_or_set("m:1", lambda: called.append(1)),
            cache.get_or_set_many(["m:1"], called.append),
        ):
            with pytest.raises(WrongLoop):
                await call

    async with (
        Client.from_url(server.url) as client,
        Cache(client, prefix=prefix, timeout=5.0) as c,
    ):
        await c.set("m:0", 0)
        await asyncio.to_thread(asyncio.run, elsewhere(c))
        assert await c.get_or_set("m:1", lambda: 1) == 1
    assert called == []


async def test_thousands_of_keys_at_once(cache):
    """As many keys as a caller has are loaded and deleted, whatever a link takes."""
    keys = [f"m:{number}" for number in range(6_000)]
    portions = []

    async def load(some):
        portions.append(len(some))
        return dict.fromkeys(some, 1)

    assert len(await cache.get_or_set_many(keys, load)) == len(keys)
    assert len(await cache.refresh_many(keys, load)) == len(keys)
    assert set(portions) == {1_000}
    assert await cache.delete(*keys) == len(keys)
    assert await cache.get_many(keys) == {}


class Text(str):
    """A text of a type of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Text("x"), "a Text in it cannot be stored"),
        ([1j], "a complex in it cannot be stored"),
        (2**70, "more than 64 bits"),
        ("\udcff", "not valid Unicode"),
    ],
)
async def test_what_cannot_be_stored_is_said(cache, value, said):
    """The error names the type, or what is wrong, and not the value."""
    with pytest.raises(CodecError, match=said):
        await cache.set("m:1", value)


async def test_a_version_of_a_value_is_a_number(cache):
    """A function tells the version of what is loaded; a value that is given has one."""
    for wrong in (lambda _: 1, "1", 0, 1.0, True):
        with pytest.raises(SettingsError, match="version"):
            await cache.set("m:1", 1, version=wrong)
    assert await cache.get("m:1") is None
