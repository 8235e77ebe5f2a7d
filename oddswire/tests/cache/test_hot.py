"""The memory of hot keys: a process that starts warms what others use. K5."""

from __future__ import annotations

import pytest

from oddswire.clock import ManualClock
from support.hooks import beat, limit, remember_use

pytestmark = pytest.mark.requirement("K5")


async def hot(cache, fleet):
    """Return the keys that are remembered, those used most first."""
    names = await cache.client.zrevrange(f"{fleet.prefix}cache-hot:m", 0, -1)
    return [name.decode() for name in names]


async def used(fleet):
    """Return a cache that has used m:0 to m:4 of twenty keys, and remembered it."""
    clock = ManualClock()
    a = await fleet.cache(clock=clock)
    await a.set_many({f"m:{number}": number for number in range(20)})
    await beat(a)
    for number in range(5):
        for _ in range(number + 1):
            assert await a.get(f"m:{number}") == number
    clock.suspend(61)
    await beat(a)
    return a


@pytest.mark.advanced
async def test_a_new_process_warms_what_others_use_most(fleet):
    """The hottest keys come into memory without a load; what nobody used does not."""
    await used(fleet)
    b = await fleet.cache()
    report = await b.warm_hot("m", limit=3)
    assert (report.present, report.failed) == (3, {})
    await fleet.believed(b)
    # The uses of a key are counted up to three.
    assert {b.peek(f"m:{number}") for number in (2, 3, 4)} == {2, 3, 4}
    assert await hot(b, fleet) == ["m:4", "m:3", "m:2", "m:1", "m:0"]
    assert b.stats("m").loads == 0
    assert b.peek("m:7") is None


@pytest.mark.advanced
async def test_what_was_hot_and_is_gone_is_loaded(fleet):
    """With a loader the missing ones are loaded, without one they are reported."""
    a = await used(fleet)
    await a.delete("m:3", "m:4")
    b = await fleet.cache()
    report = await b.warm_hot("m")
    assert report.present == 3
    assert set(report.failed) == {"m:3", "m:4"}
    report = await b.warm_hot("m", lambda key: f"loaded {key}", ttl=60)
    assert (report.present, report.failed) == (5, {})
    assert await a.get("m:4") == "loaded m:4"
    assert b.stats("m").loads == 2


@pytest.mark.advanced
async def test_the_memory_of_hot_keys_is_bounded_and_ends(fleet, monkeypatch):
    """So many keys and no more, old uses make room, and a day later it is gone."""
    limit(monkeypatch, "hot keys", 3)
    a = await used(fleet)
    assert await hot(a, fleet) == ["m:4", "m:3", "m:2"]
    assert 0 < await a.client.pttl(f"{fleet.prefix}cache-hot:m") <= 86_400_000
    for _ in range(60):
        await remember_use(a, "m:0")
    assert (await hot(a, fleet))[0] == "m:0"
