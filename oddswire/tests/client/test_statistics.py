"""What the client counts is what the server saw."""

from __future__ import annotations

import asyncio
import signal
from time import monotonic

import pytest
import uvloop

from oddswire import Client
from oddswire.errors import CommandTimeout, ConnectionLost, NotShared, WrongType
from support.hooks import commands_known, failures_of


@pytest.mark.requirement("C10")
@pytest.mark.integration
async def test_calls_are_those_the_server_counted(own):
    """Calls by command agree with INFO commandstats, on every kind of connection."""
    async with Client.from_url(own.url) as client, Client.from_url(own.url) as watch:
        await watch.config_resetstat()
        await client.mset({"a": 1, "b": 2})
        await asyncio.gather(*(client.get("a") for _ in range(250)))
        await client.execute_command("get", "b")
        await client.execute_command(b"GET", "b")
        await client.config_get("maxmemory")
        await client.pipeline(transaction=False).get("a").incr("a").execute()
        await client.pipeline().get("a").incr("a").execute()
        await client.blpop("none", 0.01)
        await client.hset("h", "f", 1)
        server = {
            name: entry["calls"]
            for name, entry in (await watch.info("commandstats")).items()
        }
        ours = client.stats().calls

    named = {
        "cmdstat_mset": "MSET",
        "cmdstat_get": "GET",
        "cmdstat_incrby": "INCRBY",
        "cmdstat_config|get": "CONFIG GET",
        "cmdstat_blpop": "BLPOP",
        "cmdstat_hset": "HSET",
    }
    assert {name: ours[name] for name in named.values()} == {
        name: server[theirs] for theirs, name in named.items()
    }
    assert ours["GET"] == 254


@pytest.mark.requirement("C10")
@pytest.mark.integration
async def test_failures_are_counted_once_by_class(server, prefix, through, cutter):
    """Every failed call is counted once, under the class of its error."""
    one = through(retries=0)
    await one.set(f"{prefix}k", "v", ex=60)
    for call in (one.lpush(f"{prefix}k", 1), one.blpop(f"{prefix}k", 1)):
        with pytest.raises(WrongType):
            await call
    with pytest.raises(NotShared):
        await one.select(1)
    pipe = one.pipeline()
    pipe.lpush(f"{prefix}k", 1).get(f"{prefix}k").lpush(f"{prefix}k", 2)
    with pytest.raises(WrongType):
        await pipe.execute()
    cutter.plan = [(f"{prefix}cut".encode(), "before")]
    with pytest.raises(ConnectionLost):
        await one.get(f"{prefix}cut")
    cutter.plan = [(f"{prefix}mute".encode(), "mute")]
    with pytest.raises(CommandTimeout):
        await one.bounded(1.0).get(f"{prefix}mute")
    seen = one.stats()

    assert seen.failures == {
        "WrongType": 4,
        "NotShared": 1,
        "ConnectionLost": 1,
        "CommandTimeout": 1,
    }
    assert seen.timeouts == 1
    assert seen.failure_rate == 7 / seen.total
    assert seen.recent.failures == seen.failures
    assert seen.recent.failure_rate == sum(seen.failures.values()) / seen.recent.calls


@pytest.mark.requirement("C10")
@pytest.mark.integration
async def test_response_times_hold_what_was_measured(server, prefix):
    """Latencies are ordered, count every reply, and lie within the time that passed."""
    async with Client.from_url(server.url) as client:
        await client.ping()
        loop = asyncio.get_running_loop()
        before = client.stats()
        started = loop.time()
        await asyncio.gather(*(client.get(f"{prefix}k") for _ in range(500)))
        took = loop.time() - started
        after = client.stats()

    seen = after.latency
    assert seen.count - before.latency.count == 500
    assert 0 < seen.least <= seen.p50 <= seen.p95 <= seen.p99 <= seen.most
    assert seen.most <= took + before.latency.most
    assert after.writes - before.writes < 50
    assert after.bytes_out > before.bytes_out
    assert after.bytes_in > before.bytes_in


@pytest.mark.requirement("C10")
@pytest.mark.advanced
def test_response_times_are_as_fine_on_uvloop(server, prefix):
    """A reply within a millisecond is measured in microseconds on uvloop too."""

    async def main():
        async with Client.from_url(server.url) as client:
            for _ in range(200):
                await client.get(f"{prefix}k")
            return client.stats().latency

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(main())
    # Its own clock has steps of 1 ms: everything would be 0 or a millisecond.
    assert seen.least > 0
    assert seen.least * 1000 != round(seen.least * 1000)


@pytest.mark.requirement("C10")
@pytest.mark.advanced
async def test_recent_failures_leave_the_window(client, prefix):
    """The failure rate of the last minute forgets what is older; the total does not."""
    await client.set(f"{prefix}k", "v", ex=60)
    with pytest.raises(WrongType):
        await client.lpush(f"{prefix}k", 1)
    window = failures_of(client, "WrongType")

    now = monotonic()
    assert client.stats().recent.failures == {"WrongType": 1}
    assert window.counts(now + 30)[1] == 1
    assert window.counts(now + 61)[1] == 0
    assert client.stats().failures == {"WrongType": 1}


@pytest.mark.requirement("C10")
@pytest.mark.advanced
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_failure_rate_of_nothing_but_failures_is_one(server, prefix, transport):
    """However calls are carried, failures are never more than the calls."""
    async with Client.from_url(server.url, transport=transport) as client:
        await client.set(f"{prefix}k", "v", ex=60)
        for _ in range(20):
            with pytest.raises(WrongType):
                await client.lpush(f"{prefix}k", 1)
        recent = client.stats().recent
        assert recent.failures == {"WrongType": 20}
        assert 0.8 < recent.failure_rate <= 1.0
        if transport == "multiplexed":
            pipe = client.pipeline(transaction=False)
            for _ in range(50):
                pipe.lpush(f"{prefix}k", 1)
            await pipe.execute(raise_on_error=False)
            assert 0.8 < client.stats().recent.failure_rate <= 1.0


@pytest.mark.requirement("C10")
@pytest.mark.advanced
async def test_late_loop_is_measured(client, prefix):
    """How late the event loop came to a deadline is in the statistics."""

    async def stall():
        await asyncio.sleep(0)
        until = monotonic() + 0.2
        while monotonic() < until:
            pass

    await client.ping()
    judged = asyncio.Event()
    call = client.bounded(0.05).get(f"{prefix}k")
    # Behind the timer of the call, so that it has fired by then, late as it was.
    asyncio.get_running_loop().call_later(0.1, judged.set)
    await asyncio.gather(call, stall())
    await judged.wait()
    assert client.stats().loop_lag.most > 0.1
    assert client.stats().timeouts == 0


@pytest.mark.requirement("C10")
@pytest.mark.integration
async def test_slow_replies_are_counted_by_command(own):
    """A reply that takes more than 0.1 s is counted under its command."""
    async with Client.from_url(own.url) as client:
        await client.get("a")
        before = client.stats().slow  # of a slow machine
        own.kill(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.15, own.kill, signal.SIGCONT)
        await client.strlen("a")
        seen = client.stats().slow

    assert seen == {**before, "STRLEN": 1}


@pytest.mark.advanced
async def test_views_share_and_tracking_connections_count_their_own(client, prefix):
    """`bounded` counts with its client; `tracked` counts for itself."""
    await client.bounded(1.0).get(f"{prefix}a")
    tracked = client.tracked(lambda push: None)
    await tracked.get(f"{prefix}b")
    await tracked.get(f"{prefix}b")

    assert client.stats().calls["GET"] == 1
    assert tracked.stats().calls["GET"] == 2
    await tracked.aclose()


@pytest.mark.advanced
async def test_names_of_commands_do_not_grow_without_bound(client):
    """A program that makes up names of commands does not fill the memory."""
    for n in range(2_500):
        client.command_spec(f"MADE-UP-{n}")

    assert commands_known(client) <= 2_000
    assert await client.ping()
