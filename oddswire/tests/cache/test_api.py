"""Many keys, the decorator, warming, the composition: K5."""

from __future__ import annotations

import asyncio
import inspect
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import oddswire
from oddswire import Client, EmbeddedServer
from oddswire.cache import Cache, Namespace
from oddswire.errors import ClosedError, CodecError, InvalidKey, SettingsError
from support import eventually

from .conftest import Loader, Market
from .test_fences import spawn

pytestmark = pytest.mark.requirement("K5")


async def sent(cache):
    """Count the commands that the server has taken from everybody."""
    info = await cache.client.info("stats")
    return info["total_commands_processed"]


@pytest.mark.basic
async def test_many_values_cost_one_trip(own_fleet):
    """`get_many` asks once for what memory lacks, and returns what there is."""
    a, b = await own_fleet.cache(), await own_fleet.cache()
    await a.set_many({f"m:{n}": n for n in range(50)}, tags=("t",))
    await own_fleet.believed(b)
    assert await b.get("m:0") == 0
    async with Client.from_url(own_fleet.url) as client:
        before = (
            (await client.info("commandstats"))["cmdstat_mget"]["calls"]
            if ("cmdstat_mget" in await client.info("commandstats"))
            else 0
        )
        got = await b.get_many([f"m:{n}" for n in range(60)])
        stats = await client.info("commandstats")
    assert got == {f"m:{n}": n for n in range(50)}
    assert stats["cmdstat_mget"]["calls"] - before == 1
    assert b.stats("m").misses == 10
    assert b.stats("m").l1_hits >= 1


@pytest.mark.errors
@pytest.mark.requirement("K5")
async def test_of_many_one_that_fails_is_named_and_the_others_are_stored(fleet):
    """A value that cannot be stored costs itself, and its key is in the error."""
    a = await fleet.cache()
    values = {f"m:{n}": n for n in range(250)} | {"m:7": object(), "m:240": object()}
    with pytest.raises(
        ExceptionGroup, match=r"2 of 250 not stored: m:7, m:240"
    ) as told:
        await a.set_many(values)

    assert [each.__notes__ for each in told.value.exceptions] == [
        ["key m:7"],
        ["key m:240"],
    ]
    found = await a.get_many(values)
    assert len(found) == 248


@pytest.mark.basic
async def test_many_values_are_loaded_by_one_call(fleet):
    """What is missing is loaded by one call, stored, and fenced by key."""
    a, b = await fleet.cache(), await fleet.cache()
    calls = []

    async def load(keys):
        calls.append(sorted(keys))
        return {key: key.upper() for key in keys if key != "m:3"}

    await a.set("m:1", "here")
    keys = [f"m:{n}" for n in range(100)]
    got = await a.get_or_set_many(keys, load, tags=lambda key: (f"tag-{key}",))
    assert len(calls) == 1
    assert len(calls[0]) == 99
    assert (got["m:0"], got["m:1"], got["m:3"]) == ("M:0", "here", None)
    assert list(got) == keys
    assert await b.get_or_set_many(keys, load) == got
    assert len(calls) == 1
    await b.invalidate_tags("tag-m:7")
    await b.get_or_set_many(keys, load)
    assert calls[1:] == [["m:7"]]


@pytest.mark.advanced
@pytest.mark.parametrize("tier", ["l1", "l2"])
@pytest.mark.parametrize("why", ["stale", "too old"])
async def test_what_is_refreshed_of_many_is_loaded_by_one_call(fleet, why, tier):
    """Stale, or too old for this caller: it serves at once, one call loads them all."""
    a = await fleet.cache(l1_bytes=0 if tier == "l2" else 10**6)
    keys = [f"m:{n}" for n in range(20)]
    await a.set_many(dict.fromkeys(keys, "old"), stale=100)
    if why == "stale":
        await a.expire(*keys)
    slow = Loader(held=True)
    calls = []

    async def load(asked):
        calls.append(sorted(asked))
        await slow()
        return dict.fromkeys(asked, "new")

    age = 0 if why == "too old" else None
    async with asyncio.timeout(5):
        got = await a.get_or_set_many(keys, load, max_age=age)
        assert got == dict.fromkeys(keys, "old")
        await slow.started.wait()
    slow.go.set()
    await eventually(lambda: a.stats().writes == 2 * len(keys))
    assert calls == [sorted(keys)]
    assert await a.get_many(keys) == dict.fromkeys(keys, "new")


@pytest.mark.advanced
async def test_batches_of_two_processes_load_each_key_once(fleet):
    """Overlapping batches: each key is loaded by one process."""
    a, b = await fleet.cache(), await fleet.cache()
    loaded = []

    async def load(keys):
        loaded.extend(keys)
        await asyncio.sleep(0.02)
        return dict.fromkeys(keys, "value")

    first, second = [f"m:{n}" for n in range(30)], [f"m:{n}" for n in range(15, 45)]
    await asyncio.gather(
        a.get_or_set_many(first, load), b.get_or_set_many(second, load)
    )
    assert sorted(loaded) == sorted({*first, *second})


@pytest.mark.errors
async def test_batch_that_fails_fails_for_its_callers_only(fleet):
    """A batch loader's error is raised; the keys can be loaded afterwards."""
    a = await fleet.cache()

    async def fails(keys):
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await a.get_or_set_many(["m:1", "m:2"], fails)

    async def load(keys):
        return dict.fromkeys(keys, "value")

    async with asyncio.timeout(4):
        assert await a.get_or_set_many(["m:1"], load) == {"m:1": "value"}


@pytest.mark.errors
@pytest.mark.parametrize("how", ["get_or_set_many", "refresh_many"])
async def test_who_leaves_a_batch_does_not_wait_for_who_joined_it(fleet, how):
    """Cancelled, a caller returns at once; another who waits for a key gets it."""
    a = await fleet.cache()
    slow = Loader(held=True)

    async def load(keys):
        await slow()
        return dict.fromkeys(keys, "value")

    first = spawn(getattr(a, how)(["m:1", "m:2"], load))
    await slow.started.wait()
    joined = spawn(a.get_or_set("m:1", Loader("other")))
    await eventually(lambda: a.stats().shared == 1)
    first.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([first])
    assert first.cancelled()
    slow.go.set()
    assert await joined == "value"
    assert slow.calls == 1
    assert await a.get("m:2") is None


@pytest.mark.errors
async def test_closing_ends_the_call_of_a_batch(fleet):
    """The cache is closed while a batch refreshes behind its caller: that ends too."""
    async with Client.from_url(fleet.url) as client:
        async with Cache(client, prefix=fleet.prefix, timeout=5.0) as a:
            await a.set("m:1", "old", stale=100)
            await a.expire("m:1")
            slow = Loader(held=True)
            ended = asyncio.Event()

            async def load(keys):
                try:
                    await slow()
                finally:
                    ended.set()

            assert await a.get_or_set_many(["m:1"], load) == {"m:1": "old"}
            await slow.started.wait()
        assert ended.is_set()


@pytest.mark.errors
async def test_closing_ends_a_gathered_batch_that_has_not_begun_to_run(fleet):
    """Who asked just before the cache is closed gets `ClosedError`, and no silence."""

    async def fetch(ids):
        return dict.fromkeys(ids, "value")

    async with Client.from_url(fleet.url) as client:
        async with Cache(client, prefix=fleet.prefix, timeout=5.0) as a:
            market = a.batched(fetch, key="m:{id}")
            task = spawn(market(1))
            # One turn to ask, one to gather: the task of the batch is made, and waits.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError):
                await task


@pytest.mark.basic
async def test_batched_gathers_what_is_asked_for_together(fleet):
    """Calls of one turn of the loop become one call of the batch loader."""
    a = await fleet.cache()
    calls = []

    async def fetch(ids):
        calls.append(sorted(ids))
        return {each: f"market {each}" for each in ids}

    market = a.batched(fetch, key="m:{id}", tags=("tag:{id}",))
    got = await asyncio.gather(*(market(n % 5) for n in range(20)))
    assert got == [f"market {n % 5}" for n in range(20)]
    assert calls == [[0, 1, 2, 3, 4]]
    await a.invalidate_tags("tag:3")
    assert await market(3) == "market 3"
    assert calls[1:] == [[3]]
    with pytest.raises(InvalidKey, match="one field"):
        a.batched(fetch, key="m:x")


@pytest.mark.errors
@pytest.mark.requirement("K3", "K5")
async def test_one_key_of_a_batch_fails_alone(fleet):
    """A key to which the loader gives an exception fails with it; no other does."""
    a = await fleet.cache()
    broken = {2}

    async def fetch(ids):
        return {
            each: LookupError(f"no {each}") if each in broken else f"market {each}"
            for each in ids
        }

    market = a.batched(fetch, key="m:{id}", negative_ttl=60.0)
    got = await asyncio.gather(*map(market, (1, 2, 3)), return_exceptions=True)

    assert got[0::2] == ["market 1", "market 3"]
    assert repr(got[1]) == repr(LookupError("no 2"))
    assert await a.get_entry("m:2") is None
    with pytest.raises(LookupError):
        await a.get_or_set_many(
            ["m:2"], lambda keys: _failing(dict.fromkeys(keys, LookupError()))
        )
    broken.clear()
    assert await market(2) == "market 2"


async def _failing(values):
    return values


_LITERALS = st.text(":-_|/.%~ ,1a2C", max_size=3)
_VALUES = st.integers(-12, 112) | st.text(":-_|/.%~ ,1a2C5", min_size=1, max_size=4)
_TUPLES = st.tuples(_VALUES, _VALUES, _VALUES)


@pytest.mark.errors
@given(
    literals=st.lists(_LITERALS, min_size=4, max_size=4),
    fields=st.permutations(["a", "b", "c"]),
    used=st.integers(1, 3),
    one=_TUPLES,
    two=_TUPLES,
)
def test_two_tuples_of_arguments_share_no_key(literals, fields, used, one, two):
    """Whatever stands between the fields, other arguments have another key."""
    fields = fields[:used]
    text = "".join(f"{{{f}}}{lit}" for f, lit in zip(fields, literals, strict=False))

    async def load(a: object, b: object, c: object) -> int:
        return 1

    cache = Cache(Client.from_url("redis://localhost"), [Namespace(name="n", type=int)])
    try:
        cached = cache.cached(ttl=1, key=f"n:{text}")(load)
    except InvalidKey:
        event("refused")
        assert used > 1
        return
    texts = [
        tuple(str(value["abc".index(field)]) for field in fields)
        for value in (one, two)
    ]
    assert (cached.key(*one) == cached.key(*two)) == (texts[0] == texts[1])


@pytest.mark.errors
@pytest.mark.parametrize("between", [":", "|", "/", "-:-", ", "])
def test_a_separator_in_an_argument_is_escaped(between):
    """Each character that may separate two fields may stand in them."""
    cache = Cache(Client.from_url("redis://localhost"), [Namespace(name="n", type=int)])

    @cache.cached(ttl=1, key="n:{a}" + between + "{b}")
    async def load(a: str, b: str) -> int:
        return 1

    assert load.key("x" + between + "y", "z") != load.key("x", "y" + between + "z")
    assert load.key("x", "y") == f"n:x{between}y"
    for unsafe in ("n:{a}{b}", "n:{a}-{b}", "n:{a}_{b}", "n:{a}1{b}", "n:{a}%{b}"):
        with pytest.raises(InvalidKey, match="put a colon"):
            cache.cached(ttl=1, key=unsafe)(load.__wrapped__)


@pytest.mark.errors
@pytest.mark.parametrize(
    "text", ["n:{a", "n:a}", "n:{a}:{", "n:{{a}", "n:{a!r}", "n:{}"]
)
def test_a_template_that_is_none_is_named(text):
    """Braces that do not match, and Python's formats, are an `InvalidKey`."""
    cache = Cache(Client.from_url("redis://localhost"), [Namespace(name="n", type=int)])

    async def load(a: str) -> int:
        return 1

    with pytest.raises(InvalidKey, match="n:"):
        cache.cached(ttl=1, key=text)(load)


@pytest.mark.basic
async def test_a_decorated_function_is_called_once(fleet):
    """A decorated function returns what it returned, with its own type."""
    a, b = await fleet.cache(), await fleet.cache()
    calls = []

    def decorate(cache):
        @cache.cached(ttl=30, key="m:{market_id}:{book}", tags=("m:{market_id}",))
        async def fetch(market_id: int, *, book: bool = False) -> Market:
            """Fetch it."""
            calls.append(market_id)
            return Market(market_id, "?" if book else "!")

        return fetch

    def decorate_plain(cache):
        @cache.cached(ttl=30, key="m:{market_id}", tags=("m:{market_id}",))
        async def fetch(market_id: int, note: str = "x") -> Market:
            """Fetch it."""
            calls.append(market_id)
            return Market(market_id)

        return fetch

    with pytest.raises(InvalidKey, match="bool"):
        await decorate(a)(1)
    one, two = decorate_plain(a), decorate_plain(b)
    assert await one(7) == await two(market_id=7) == await one(7, "y") == Market(7)
    assert calls == [7]
    assert inspect.signature(one) == inspect.signature(one.__wrapped__)
    assert one.__doc__ == "Fetch it."
    assert one.key(7) == "m:7"
    await fleet.believed(a)
    assert one.peek(7) == Market(7)
    assert await two.invalidate(7)
    await eventually(lambda: one.peek(7) is None)
    await one.prime(Market(7, "primed"), 7)
    assert await two(7) == Market(7, "primed")
    assert await two.refresh(7) == Market(7)
    assert await two(7) == Market(7)
    await one(8)
    await a.invalidate_tags("m:7")
    await eventually(lambda: two.peek(7) is None)  # the other process hears of it
    await two(7)
    await two(8)
    assert calls == [7, 7, 8, 7]


@pytest.mark.advanced
async def test_a_decorated_method_is_cached_too(fleet):
    """On a class it is a method, with the same extras."""
    a = await fleet.cache()

    class Source:
        calls = 0

        @a.cached(key="m:{number}")
        async def fetch(self, number: int) -> int:
            self.calls += 1
            return number * 2

    source = Source()
    assert await source.fetch(4) == await source.fetch(number=4) == 8
    assert source.calls == 1
    assert await source.fetch.invalidate(4)
    assert await source.fetch(4) == 8
    assert source.calls == 2


@pytest.mark.errors
async def test_arguments_never_share_a_key(fleet):
    """Whatever texts the arguments are, two calls that differ have two keys."""
    a = await fleet.cache()

    @a.cached(key="m:{x}:{y}")
    async def pair(x: str, y: str) -> str:
        return f"{x}|{y}"

    assert await pair("1:2", "3") == "1:2|3"
    assert await pair("1", "2:3") == "1|2:3"
    assert await pair("1%3A2", "3") == "1%3A2|3"
    for wrong in (None, 1.5, True, "", b"x"):
        with pytest.raises(InvalidKey):
            await pair("1", wrong)
    with pytest.raises(TypeError, match="y"):
        await pair("1")


@pytest.mark.errors
async def test_a_misspelt_option_is_refused_whether_the_value_is_in_memory_or_not(
    fleet,
):
    """An option that does not exist is a `TypeError` that names it, and loads nothing.

    Also where memory has the value: the first program without it there would fail.
    """
    a, loader = await fleet.cache(), Loader()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"no option 'ttll'; there are .*\bttl\b"):
            await a.get_or_set("m:1", loader, ttll=5)
        await a.get_or_set("m:1", loader, ttl=5)
        await fleet.believed(a)
    assert a.stats().l1_hits == 1


@pytest.mark.errors
async def test_wrong_decorations_fail_at_once(fleet):
    """A template that does not fit is an error where it is written."""
    a = await fleet.cache()

    async def fetch(market_id: int, *rest: int) -> int:
        return market_id

    for key in (
        "m:{nothing}",
        "m:{market_id!r}",
        "m:{market_id:>5}",
        "{market_id}",
        "m:{rest}",
    ):
        with pytest.raises(InvalidKey):
            a.cached(key=key)(fetch)
    with pytest.raises(SettingsError):
        a.cached(key="m:{market_id}", ttl=0)


@pytest.mark.basic
async def test_warming_loads_what_is_missing(fleet):
    """Warming loads what is not there, once in the fleet, and reports failures."""
    a, b = await fleet.cache(), await fleet.cache()
    loads = []

    def loader(number):
        async def load():
            loads.append(number)
            if number == 5:
                raise OSError("down")
            return number

        return load

    await a.set("m:1", 1)
    items = [(f"m:{n}", loader(n)) for n in range(10)]
    report = await a.warm(items, concurrency=3, ttl=60)
    again = await b.warm([item for item in items if item[0] != "m:5"])
    assert report.present == 9
    assert {key: str(error) for key, error in report.failed.items()} == {"m:5": "down"}
    assert again.present == 9
    assert sorted(loads) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.integration
@pytest.mark.requirement("K6")
async def test_the_wire_has_a_cache_on_a_server_of_its_own():
    """`Wire.cache` uses `cache_url`, and leaves nothing on the other server."""
    async with EmbeddedServer() as main, EmbeddedServer() as other:
        async with oddswire.connect(
            url=main.url,
            cache_url=other.url,
            side_timeout=5.0,
            namespaces=[Namespace(name="m", type=Market, ttl=7)],
        ) as wire:
            await wire.cache.set("m:1", Market(1))
            assert await wire.cache.get("m:1") == Market(1)
            assert 6 <= (await wire.cache.get_entry("m:1")).ttl <= 7
            assert await wire.client.dbsize() == 0
            async with Client.from_url(other.url) as client:
                assert await client.dbsize() >= 3
        async with oddswire.connect(url=main.url, side_timeout=5.0) as wire:
            load = Loader("value")
            assert await wire.cache.get_or_set("m:1", load) == "value"
            assert await wire.client.dbsize() >= 3


@pytest.mark.errors
@pytest.mark.requirement("K5")
@pytest.mark.parametrize(
    "kind", [dict, dict[str, Any], dict[str, object], Any, None], ids=str
)
async def test_a_function_that_names_no_types_changes_none(fleet, kind):
    """Decimals of a function annotated ``-> dict`` are refused, never made text."""
    a = await fleet.cache()
    values = [{"price": 0.5}, {"price": Decimal("0.5")}]

    async def fetch(n: int):
        return values[n]

    if kind is not None:
        fetch.__annotations__["return"] = kind
    cached = a.cached(key="m:{n}")(fetch)

    assert await cached(0) == values[0]
    for _ in range(2):
        with pytest.raises(CodecError, match=r"price'\] is a Decimal"):
            await cached(1)
    fetch.__annotations__["return"] = dict[str, Decimal]
    assert await a.cached(key="n:{n}")(fetch)(1) == values[1]
