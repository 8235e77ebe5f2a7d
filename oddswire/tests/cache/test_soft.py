"""`invalidate_tags(soft=True)` and `expire`: stale, not gone."""

from __future__ import annotations

import pytest

from oddswire import Client, EmbeddedServer, scripts
from oddswire.cache import Cache
from oddswire.errors import InvalidationNotConfirmed
from support import eventually
from support.hooks import told
from support.keys import tag_pattern

from .conftest import Loader
from .test_fences import spawn

pytestmark = pytest.mark.requirement("K1", "K3")


async def by_tag(cache):
    """Every entry that carries it."""
    await cache.invalidate_tags("t", soft=True)


async def by_key(cache):
    """One entry."""
    assert await cache.expire("m:1") == 1


@pytest.mark.basic
@pytest.mark.parametrize("tier", ["l1", "l2"])
@pytest.mark.parametrize("how", [by_tag, by_key])
async def test_a_stale_value_serves_until_it_is_refreshed(fleet, how, tier):
    """Stale in every process at once: no `get` returns it, `get_or_set` refreshes."""
    a, b = await fleet.cache(), await fleet.cache(l1_bytes=0 if tier == "l2" else 10**6)
    await a.set("m:1", "old", tags=("t", "u"), stale=100)
    await a.set("m:2", "other", tags=("u",))
    assert await b.get("m:1") == "old"
    await how(a)
    assert a.peek("m:1") is None
    assert await a.get("m:1") is None
    await told(b)
    assert b.peek("m:1") is None
    entry = await b.get_entry("m:1")
    assert (entry.value, entry.stale) == ("old", True)
    assert await b.get_many(["m:1", "m:2"]) == {"m:2": "other"}
    load = Loader("new")
    assert await b.get_or_set("m:1", load, tags=("t", "u"), stale=100) == "old"
    await eventually(lambda: b.stats().writes == 1)
    assert load.calls == 1
    assert await b.get("m:1") == "new"
    await told(a)
    assert await a.get("m:1") == "new"


@pytest.mark.errors
@pytest.mark.parametrize("how", [by_tag, by_key])
async def test_a_stale_value_serves_when_the_load_fails(fleet, how):
    """The loader raises: what was made stale is better than nothing."""
    a = await fleet.cache()
    await a.set("m:1", "old", tags=("t",), stale=100)
    await how(a)

    async def fail():
        raise LookupError("away")

    got = await a.get_or_set("m:1", fail, tags=("t",), stale=100, soft_timeout=5)
    assert got == "old"
    assert a.stats().stale_on_error == 1


@pytest.mark.advanced
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_load_that_began_before_is_stale_when_it_is_stored(fleet, where):
    """KG4: what was asked for before the tag was softened is not served as fresh."""
    a, b = await fleet.cache(), await fleet.cache()
    slow = Loader("old", held=True)
    loading = spawn(a.get_or_set("m:1", slow, tags=("t",), stale=100))
    await slow.started.wait()
    await by_tag(a if where == "here" else b)
    slow.go.set()
    assert await loading == "old"
    await told(a)
    for cache in (a, b):
        assert await cache.get("m:1") is None
        assert (await cache.get_entry("m:1")).stale
    assert a.stats().fenced == 0


@pytest.mark.advanced
async def test_who_comes_after_gets_a_load_that_began_after(fleet):
    """KG1: a load from before is not joined; the new one is what is kept."""
    a = await fleet.cache()
    old, new = Loader("old", held=True), Loader("new")
    first = spawn(a.get_or_set("m:1", old, tags=("t",)))
    await old.started.wait()
    await by_tag(a)
    assert await a.get_or_set("m:1", new, tags=("t",)) == "new"
    old.go.set()
    assert await first == "old"
    assert await a.get("m:1") == "new"


@pytest.mark.advanced
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_softened_faster_than_it_loads_it_is_loaded_all_the_same(fleet, where):
    """Readers who are served what is stale void no refresh that is under way."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", "old", tags=("t",), stale=100)
    slow = Loader("new", held=True)
    for _ in range(5):
        await by_tag(a if where == "here" else b)
        await told(a)
        assert await a.get_or_set("m:1", slow, tags=("t",), stale=100) == "old"
        await slow.started.wait()
    assert slow.calls == 1
    slow.go.set()
    await eventually(lambda: a.stats().writes == 2)
    entry = await b.get_entry("m:1")
    assert (entry.value, entry.stale) == ("new", True)
    assert await b.get_or_set("m:1", Loader("newest"), tags=("t",), stale=100) == "new"
    await eventually(lambda: b.stats().writes == 1)
    assert await b.get("m:1") == "newest"


@pytest.mark.advanced
async def test_a_repeated_call_revives_nothing(fleet):
    """2.3, 2.16: the same bytes sent again make another nonce, never an old one."""
    a = await fleet.cache()
    await a.set("m:1", 1, tags=("t",))
    pattern = tag_pattern(fleet.prefix)
    (name,) = [name async for name in a.client.scan_iter(pattern)]
    soften = scripts.load("cache_soften")
    seen = {await a.client.get(name)}
    for number in range(20):
        assert await soften.run(a.client, [name], [b"the same"]) == 1
        seen.add(await a.client.get(name))
        await told(a)
        assert await a.get("m:1") is None
        await a.set("m:1", number, tags=("t",))
        assert await a.get("m:1") == number
    assert len(seen) == 21
    assert len({nonces[:8] for nonces in seen}) == 1
    assert await a.client.pttl(name) > 0


@pytest.mark.advanced
async def test_a_hard_invalidation_ends_what_a_soft_one_left(fleet):
    """Stale, and then gone; softening what nobody uses makes no key."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.set("m:1", 1, tags=("t",), stale=100)
    await a.invalidate_tags("t", soft=True)
    assert (await b.get_entry("m:1")).stale
    await a.invalidate_tags("t")
    await told(b)
    assert await b.get_entry("m:1") is None
    await a.invalidate_tags("t", "never used", soft=True)
    assert not [name async for name in a.client.scan_iter(f"{fleet.prefix}cache-tag*")]


@pytest.mark.errors
async def test_where_memory_is_full_what_is_softened_is_gone(own_fleet):
    """A server that takes no write cannot keep it as stale, and still voids it."""
    a = await own_fleet.cache()
    await a.set_many({"m:1": 1, "m:2": 2}, tags=("t", "u"), stale=100)
    await a.client.config_set("maxmemory", 1)
    await a.invalidate_tags("t", "u", soft=True)
    await a.client.config_set("maxmemory", 0)
    assert await a.get_entry("m:1") is None
    assert await a.get_entry("m:2") is None


@pytest.mark.errors
async def test_an_unconfirmed_soft_invalidation_is_said():
    """Redis away: `InvalidationNotConfirmed`, as for a hard one."""
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url) as client,
        Cache(client, timeout=1.0) as cache,
    ):
        await cache.set("m:1", 1, tags=("t",))
        server.kill()
        await server.wait_exit()
        with pytest.raises(InvalidationNotConfirmed):
            await cache.invalidate_tags("t", soft=True)
