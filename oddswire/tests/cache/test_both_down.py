"""Neither Redis nor the source answers: what a stale value in memory is for: K3."""

from __future__ import annotations

import asyncio
import signal

import pytest

from oddswire.cache import Namespace
from oddswire.clock import SystemClock
from oddswire.errors import InvalidationNotConfirmed, OddswireError
from support import eventually
from support.hooks import believed_until, told

from .conftest import Loader

pytestmark = [pytest.mark.requirement("K3"), pytest.mark.requirement("K5")]

STALE = Namespace(name="m", ttl=0.05, stale=600.0)


class Down:
    """A source that fails, and counts how often it was asked."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, *_):
        """Fail."""
        self.calls += 1
        raise ZeroDivisionError


async def ended(server, *caches):
    """Kill the server; wait until each cache has heard of it."""
    server.kill()
    await server.wait_exit()
    for cache in caches:
        # Until then it believes its memory, and need not ask anybody.
        await eventually(lambda cache=cache: cache.stats().generations)


async def stale(cache, key):
    """Wait until a value is not fresh any more."""
    await eventually(lambda: cache.peek(key) is None)


@pytest.mark.errors
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_stale_value_bridges_an_outage_of_both(own_fleet, how):
    """For one key, many and a function; the source is asked again with pauses."""
    a = await own_fleet.cache(STALE, timeout=0.5, coherence=0.3, heartbeat=0.05)
    down = Down()

    @a.cached(key="m:f:{number}", tags=("t:{number}",))
    async def function(number: int) -> int:
        if down.calls:
            await down()
        return number

    await a.get_or_set("m:1", Loader("old"), tags=("t",))
    assert await function(7) == 7
    await stale(a, "m:1")
    await stale(a, "m:f:7")
    if how == "killed":
        await ended(own_fleet.server, a)
    else:
        own_fleet.server.kill(signal.SIGSTOP)
        # Until memory is not believed any more.
        now = SystemClock().boottime
        await eventually(lambda: believed_until(a) < now())
    down.calls = 1
    for _ in range(20):
        assert await a.get_or_set("m:1", down) == "old"
    assert await a.get_or_set_many(["m:1"], down) == {"m:1": "old"}
    assert await function(7) == 7

    assert down.calls < 12
    assert a.stats().stale_on_error >= 22
    with pytest.raises(OddswireError):
        await a.get("m:1")
    with pytest.raises(ZeroDivisionError):
        await a.get_or_set("m:2", down)
    if how == "frozen":
        own_fleet.server.kill(signal.SIGCONT)


@pytest.mark.errors
@pytest.mark.parametrize(
    "why",
    [
        "no stale",
        "too old",
        "another type",
        "deleted",
        "expired",
        "tag",
        "namespace",
        "tag before",
        "namespace before",
        "elsewhere before",
    ],
)
@pytest.mark.requirement("C7")
async def test_what_must_not_bridge_it(own_fleet, why):
    """What the caller did not allow, and what this process knows to be invalid."""
    late = Namespace(name="m", ttl=0.05, stale=0.2) if why == "too old" else STALE
    a = await own_fleet.cache(late, timeout=0.5)
    b = await own_fleet.cache(late)
    await a.get_or_set("m:1", Loader("old"), tags=("t",))
    await own_fleet.believed(a)
    if why == "tag before":
        await a.invalidate_tags("t")
    elif why == "namespace before":
        await a.clear("m")
    elif why == "elsewhere before":
        await b.invalidate_tags("t")
        await told(a)
    await stale(a, "m:1")
    await ended(own_fleet.server, a)
    for call in {
        "deleted": [lambda: a.delete("m:1")],
        "expired": [lambda: a.expire("m:1")],
        "tag": [lambda: a.invalidate_tags("t")],
        "namespace": [lambda: a.clear("m")],
    }.get(why, []):
        with pytest.raises(InvalidationNotConfirmed):
            await call()
    if why == "too old":
        await asyncio.sleep(0.25)
    options = {"no stale": {"stale": 0}, "another type": {"type": str}}.get(why, {})

    with pytest.raises(ZeroDivisionError):
        await a.get_or_set("m:1", Down(), **options)


@pytest.mark.errors
async def test_once_redis_is_back_its_word_holds(own_fleet):
    """What was invalidated elsewhere is not served again, whatever the source says."""
    a = await own_fleet.cache(STALE, timeout=0.5)
    await a.get_or_set("m:1", Loader("old"))
    await stale(a, "m:1")
    await ended(own_fleet.server, a)
    assert await a.get_or_set("m:1", Down()) == "old"
    await own_fleet.server.restart()  # with nothing: as if all had been deleted

    async def asked():
        try:
            await a.get_or_set("m:1", Down())
        except ZeroDivisionError:
            return True
        return False

    await eventually(asked, pause=0.1)
    assert await a.get_or_set("m:1", Loader("new")) == "new"


@pytest.mark.errors
async def test_callers_that_wait_together_are_bridged_by_one_failure(own_fleet):
    """The source is asked once, and each of them gets the old value."""
    a = await own_fleet.cache(STALE, timeout=0.5)
    await a.get_or_set("m:1", Loader("old"))
    await stale(a, "m:1")
    await ended(own_fleet.server, a)
    slow = Loader(held=True)

    async def fail():
        await slow()
        raise ZeroDivisionError

    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(a.get_or_set("m:1", fail)) for _ in range(5)]
        await slow.started.wait()
        slow.go.set()
    assert [each.result() for each in waiting] == ["old"] * 5
    assert slow.calls == 1
