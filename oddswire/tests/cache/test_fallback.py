"""Coherence where CLIENT TRACKING is refused: writes tell of themselves. K2."""

from __future__ import annotations

import asyncio
import random

import pytest

from oddswire import Client, OddswireError
from oddswire.clock import ManualClock, SystemClock
from oddswire.testing import FaultProxy, frozen
from support import eventually
from support.hooks import (
    beat,
    believed_until,
    held,
    told,
    tracking_connection,
    tracking_id,
)

from .conftest import Loader
from .test_coherence import stress

pytestmark = pytest.mark.requirement("K2")


async def hosted(fleet, *rules):
    """Return the URL of a user who may not have CLIENT TRACKING."""
    admin = await fleet.cache()
    await admin.client.execute_command(
        *("ACL", "SETUSER", "hosted", "reset", "on", ">secret", "~*", "&*", "+@all"),
        *("-client|tracking", *rules),
    )
    return f"redis://hosted:secret@127.0.0.1:{fleet.server.port}"


async def pair(fleet, **options):
    """Return two caches of users without tracking."""
    options = {"url": await hosted(fleet), "fallback": "pubsub"} | options
    return await fleet.cache(**options), await fleet.cache(**options)


@pytest.mark.advanced
@pytest.mark.parametrize("how", ["delete", "set", "expire", "tag", "soft", "namespace"])
@pytest.mark.parametrize("who", ["refused", "tracked"])
async def test_a_process_without_tracking_hears_of_every_invalidation(
    own_fleet, how, who
):
    """KG2: what another process invalidates, refused or not, leaves memory."""
    a, b = await pair(own_fleet)
    if who == "tracked":
        b = await own_fleet.cache(fallback="pubsub")
    assert a.stats().coherence == "pubsub"
    assert b.stats().coherence == {"refused": "pubsub", "tracked": "tracking"}[who]
    await a.set("m:1", 1, tags=("t",))
    await own_fleet.believed(a, b)
    assert a.peek("m:1") == 1  # its own write is held, without asking again
    assert await b.get("m:1") == 1
    await {
        "delete": lambda: b.delete("m:1"),
        "set": lambda: b.set("m:1", 2),
        "expire": lambda: b.expire("m:1"),
        "tag": lambda: b.invalidate_tags("t"),
        "soft": lambda: b.invalidate_tags("t", soft=True),
        "namespace": lambda: b.clear("m"),
    }[how]()
    await eventually(lambda: a.peek("m:1") is None)
    assert await a.get("m:1") == (2 if how == "set" else None)
    await a.set("m:1", 3, tags=("t",))
    await eventually(lambda: b.peek("m:1") is None)
    assert await b.get("m:1") == 3


@pytest.mark.advanced
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("how", ["delete", "tag", "namespace"])
async def test_loads_are_fenced_without_tracking_too(own_fleet, how, where):
    """KG4: a slow loader of a process without tracking brings nothing back."""
    a, b = await pair(own_fleet)
    slow = Loader("old", held=True)
    loading = asyncio.get_running_loop().create_task(
        a.get_or_set("m:1", slow, tags=("t",))
    )
    await slow.started.wait()
    other = a if where == "here" else b
    await {
        "delete": lambda: other.delete("m:1"),
        "tag": lambda: other.invalidate_tags("t"),
        "namespace": lambda: other.clear("m"),
    }[how]()
    if where == "elsewhere":
        await told(a)
    assert await a.get_or_set("m:1", Loader("new"), tags=("t",)) == "new"
    slow.go.set()
    assert await loading == "old"
    assert await a.get("m:1") == await b.get("m:1") == "new"


@pytest.mark.advanced
async def test_random_writes_are_never_older_than_acknowledged(own_fleet):
    """Three processes without tracking, random writes and cancellations: none old."""
    a, b = await pair(own_fleet)
    c = await own_fleet.cache(url=await hosted(own_fleet), fallback="pubsub")
    await own_fleet.believed(a, b, c)
    assert await stress([a, b, c], random.Random(1)) == 0
    assert all(map(held, (a, b, c)))


@pytest.mark.errors
async def test_a_lost_subscription_drops_everything_held(own_fleet):
    """Pub/sub forgets who is away: a connection that ends empties memory at once."""
    a, b = await pair(own_fleet)
    await a.set_many({"m:1": 1, "m:2": 1})
    await own_fleet.believed(a)
    assert a.peek("m:1") == a.peek("m:2") == 1
    number = await tracking_id(a)
    before = a.stats().generations
    await b.client.client_kill_filter(_id=number)
    await eventually(lambda: a.stats().generations > before)
    assert a.peek("m:1") is None
    await b.set_many({"m:1": 2, "m:2": 2})
    assert await a.get("m:1") == 2
    await own_fleet.believed(a)
    assert a.peek("m:1") == 2
    assert a.peek("m:2") is None
    # It is subscribed again.
    await b.set("m:1", 3)
    await eventually(lambda: a.peek("m:1") is None)


@pytest.mark.errors
async def test_a_link_that_is_silently_cut_ends_the_belief(own_fleet):
    """KG3: where messages cannot come any more, memory is believed 2 s at most."""
    url = await hosted(own_fleet)
    async with FaultProxy(own_fleet.url) as proxy:
        cut = url.replace(str(own_fleet.server.port), proxy.url.rpartition(":")[2])
        a = await own_fleet.cache(
            url=cut, fallback="pubsub", coherence=0.6, heartbeat=0.1, timeout=0.2
        )
        b = await own_fleet.cache(url=url, fallback="pubsub")
        await a.set("m:1", "old")
        await own_fleet.believed(a)
        assert a.peek("m:1") == "old"
        proxy.down.blackhole = True
        cut_at = SystemClock().boottime()
        await b.set("m:1", "new")
        await eventually(lambda: a.peek("m:1") is None)
        assert believed_until(a) <= cut_at + 0.6
        with pytest.raises(OddswireError):
            await a.get("m:1")


@pytest.mark.advanced
async def test_what_nobody_told_of_is_served_for_five_seconds_at_most(own_fleet):
    """The weaker bound: a change by other means is seen when memory is emptied."""
    clock = ManualClock()
    a, b = await pair(own_fleet, clock=clock)
    await a.set("m:1", 1)
    await beat(a)
    await b.client.flushdb()
    clock.suspend(4.9)
    await beat(a)
    assert a.peek("m:1") == 1
    clock.suspend(0.2)
    assert a.peek("m:1") == 1
    await beat(a)
    assert a.peek("m:1") is None
    assert await a.get("m:1") is None


@pytest.mark.errors
@pytest.mark.parametrize("rule", ["-subscribe", "resetchannels"])
async def test_where_neither_is_allowed_memory_is_off(own_fleet, rule):
    """A user who may not subscribe either has one tier; what it cannot tell is said."""
    url = await hosted(own_fleet, rule)
    a = await own_fleet.cache(url=url, fallback="pubsub")
    assert a.stats().coherence == "off"
    if rule == "-subscribe":
        await a.set("m:1", 1)
        assert await a.get("m:1") == 1
    else:
        # Stored, but others were not told: no success.
        with pytest.raises(OddswireError):
            await a.set("m:1", 1)
    assert a.peek("m:1") is None


@pytest.mark.advanced
@pytest.mark.requirement("K3")
@pytest.mark.parametrize("fallback", ["off", "pubsub"])
@pytest.mark.parametrize("how", ["delete", "tag", "namespace"])
async def test_a_read_after_an_invalidation_joins_no_older_load(
    own_fleet, how, fallback
):
    """KG1 without tracking: a load that began before the invalidation serves nobody."""
    a = await own_fleet.cache(url=await hosted(own_fleet), fallback=fallback)
    slow = Loader("old", held=True)
    loading = asyncio.get_running_loop().create_task(
        a.get_or_set("m:1", slow, tags=("t",))
    )
    await slow.started.wait()
    await {
        "delete": lambda: a.delete("m:1"),
        "tag": lambda: a.invalidate_tags("t"),
        "namespace": lambda: a.clear("m"),
    }[how]()
    assert await a.get_or_set("m:1", Loader("new"), tags=("t",)) == "new"
    slow.go.set()
    assert await loading == "old"
    assert await a.get("m:1") == "new"


@pytest.mark.errors
@pytest.mark.requirement("C14")
@pytest.mark.parametrize("fallback", ["off", "pubsub"])
async def test_tracking_that_failed_once_is_tried_again(own_fleet, fallback):
    """A refusal that passes weakens a process for half a minute, not for good."""
    clock = ManualClock()
    url = await hosted(own_fleet)
    a = await own_fleet.cache(url=url, fallback=fallback, clock=clock)
    assert a.stats().coherence == {"off": "off", "pubsub": "pubsub"}[fallback]
    admin = await own_fleet.cache()
    await admin.client.execute_command("ACL", "SETUSER", "hosted", "+client|tracking")

    async def tracked():
        await a.set("m:1", 1)
        await a.get("m:1")
        await clock.advance(1.0)
        await asyncio.sleep(0)
        return a.stats().coherence == "tracking"

    await eventually(tracked)
    assert await a.get("m:1") == 1


@pytest.mark.errors
async def test_a_try_that_is_cancelled_leaves_no_connection(own):
    """A cache that closes while tracking is tried again closes that connection too."""
    async with Client.from_url(own.url) as admin:
        async with Client.from_url(own.url) as client:
            await client.ping()
            tracking = tracking_connection(client, timeout=5.0)
            with frozen(own):
                trying = asyncio.get_running_loop().create_task(
                    tracking.retry_tracking(5.0)
                )
                # It has begun to connect, and waits for the server.
                await asyncio.wait([trying], timeout=0.1)
                trying.cancel()
                await asyncio.wait([trying])
            await tracking.aclose()

        async def connections():
            return len(await admin.client_list())

        await eventually(connections, holds=lambda now: now == 1)


@pytest.mark.errors
async def test_messages_that_do_not_arrive_are_found_at_the_start(
    own_fleet, monkeypatch
):
    """The test at the start covers the second way too: nothing heard, nothing held."""
    monkeypatch.setattr(
        "oddswire.cache._tracking.TrackingConnection._on_message",
        lambda self, message: None,
    )
    a, _ = await pair(own_fleet)
    assert a.stats().coherence == "off"
    await a.set("m:1", 1)
    assert a.peek("m:1") is None
    assert await a.get("m:1") == 1
