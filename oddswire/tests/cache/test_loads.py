"""One load, whoever asks; stale, early, negative, timed out, failed: K3."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from time import monotonic

import pytest

from oddswire import Client
from oddswire.cache import Adaptive, Cache, Namespace
from oddswire.errors import (
    CacheLoadTimeout,
    ClosedError,
    CodecError,
    OddswireError,
    SettingsError,
)
from oddswire.scripts import load
from oddswire.testing import FaultProxy
from support import eventually
from support.hooks import limit, read_from_redis, told
from support.keys import entry_key, lease_key

from .conftest import Loader, Market

pytestmark = pytest.mark.requirement("K3")


def spawn(work):
    """Start it beside the test."""
    return asyncio.get_running_loop().create_task(work)


async def process(name, *args):
    """Start a process of its own and wait until it says that it is ready."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name(f"{name}.py"),
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await started.stdout.readline() == b"ready\n"
    return started


@pytest.mark.integration
async def test_four_processes_of_a_hundred_tasks_load_once(server, prefix):
    """A cold key that 400 callers in four processes want is loaded once."""
    processes = await asyncio.gather(
        *(process("loads_once", server.url, prefix) for _ in range(4))
    )
    for each in processes:
        each.stdin.write(b"go\n")
    for each in processes:
        assert await each.stdout.readline() == b"100\n"
        assert await each.wait() == 0
    async with Client.from_url(server.url) as client:
        assert await client.get(prefix + "loads") == b"1"


@pytest.mark.integration
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_load_of_a_process_that_died_is_taken_over(fleet, how):
    """A leader that is killed or frozen holds the others up for one lease."""
    a = await fleet.cache(load_lease=0.4)
    leader = await process("leader", fleet.url, fleet.prefix)
    os.kill(leader.pid, how)
    started = monotonic()
    assert await a.get_or_set("m:1", Loader("taken over")) == "taken over"
    assert monotonic() - started < 5.0
    if how == signal.SIGSTOP:
        leader.kill()
    await leader.wait()


@pytest.mark.advanced
async def test_a_load_that_outlives_its_lease_is_waited_for(fleet):
    """2.16: the lease is renewed while the loader lives, so nobody else loads."""
    a, b = await fleet.cache(load_lease=1.0), await fleet.cache(load_lease=1.0)
    slow = Loader("slow", held=True)
    first = spawn(a.get_or_set("m:1", slow))
    await slow.started.wait()
    other = Loader("other")
    second = spawn(b.get_or_set("m:1", other))
    lease = lease_key(fleet.prefix, "m:1")
    holders = set()
    while len(holders) < 4:  # renewed three times: longer than one lease
        holders.add(await a.client.get(lease))
        await asyncio.sleep(0.01)
    assert None not in holders
    slow.go.set()
    assert await first == await second == "slow"
    assert other.calls == 0
    assert b.stats().waits == 1


@pytest.mark.advanced
async def test_lease_of_a_dead_loader_under_a_clock_that_went_back(fleet):
    """2.16: a lease nobody renews is taken, whatever time the server thinks it has."""
    a = await fleet.cache(load_lease=0.3)
    await a.client.set(lease_key(fleet.prefix, "m:1"), b"x" * 16, px=600_000)
    assert await a.get_or_set("m:1", Loader("mine")) == "mine"
    assert await a.get("m:1") == "mine"


@pytest.mark.advanced
async def test_waiters_are_woken_by_the_server(fleet, monkeypatch):
    """Who waits for another process's load is told of its end, and does not poll."""
    limit(monkeypatch, "look at a load", 30.0)
    a, b = await fleet.cache(), await fleet.cache()
    slow = Loader("slow", held=True)
    first = spawn(a.get_or_set("m:1", slow))
    await slow.started.wait()
    second = spawn(b.get_or_set("m:1", Loader("other")))
    await eventually(lambda: b.stats().waits == 1)
    slow.go.set()
    async with asyncio.timeout(5):
        assert await first == await second == "slow"


@pytest.mark.advanced
async def test_last_waiter_ends_the_load_and_gives_the_lease_back(fleet):
    """A caller that leaves harms no other; when all have left the load is ended."""
    a, b = await fleet.cache(), await fleet.cache()
    slow = Loader("slow", held=True)
    first, second = (spawn(a.get_or_set("m:1", slow)) for _ in range(2))
    await slow.started.wait()
    await eventually(lambda: a.stats().shared == 1)
    first.cancel()
    await asyncio.wait([first])
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])
    async with asyncio.timeout(4):  # sooner than the lease would end by itself
        assert await b.get_or_set("m:1", Loader("other")) == "other"
    assert slow.calls == 1


@pytest.mark.advanced
@pytest.mark.requirement("C7")
async def test_leader_that_times_out_leaves_its_followers_alone(fleet):
    """Cashews' fault: the deadline of the first caller is not that of the others."""
    a = await fleet.cache()
    slow = Loader("slow", held=True)
    # In one turn of the loop, so that the second joins long before the first leaves.
    first = spawn(a.get_or_set("m:1", slow, hard_timeout=2))
    second = spawn(a.get_or_set("m:1", slow))
    await eventually(lambda: a.stats().shared == 1)
    with pytest.raises(CacheLoadTimeout, match=r"m:1.*2 s"):
        await first
    slow.go.set()
    assert await second == "slow"
    assert slow.calls == 1
    assert a.stats().load_timeouts == 1


@pytest.mark.basic
async def test_stale_value_serves_at_once_and_is_refreshed_once(fleet):
    """Within the stale window nobody waits, and one refresh runs for all."""
    a, b = await fleet.cache(), await fleet.cache()
    await a.get_or_set("m:1", Loader("first"), stale=100)
    await a.expire("m:1")
    slow = Loader("second", held=True)
    got = [await cache.get_or_set("m:1", slow, stale=100) for cache in (a, b, a, b)]
    assert got == ["first"] * 4
    assert await a.get("m:1", "not fresh") == "not fresh"
    assert (await a.get_entry("m:1")).stale
    await slow.started.wait()
    slow.go.set()
    await eventually(lambda: a.stats().writes + b.stats().writes == 2)
    await told(a, b)
    assert await b.get_or_set("m:1", slow, stale=100) == "second"
    assert slow.calls == 1
    assert a.stats().stale >= 2


@pytest.mark.basic
async def test_stale_value_serves_while_loading_fails(fleet):
    """Stale on error: the caller does not notice, and the source is spared."""
    a = await fleet.cache()
    await a.get_or_set("m:1", Loader("first"), stale=100)
    await a.expire("m:1")

    def fails():
        raise OSError("down")

    broken = Loader(fails)
    got = await a.get_or_set("m:1", broken, stale=100, soft_timeout=5)
    for _ in range(10):
        assert await a.get_or_set("m:1", broken, stale=100, soft_timeout=5) == got
    assert got == "first"
    assert broken.calls == 1
    assert a.stats().stale_on_error == 11
    assert a.stats().load_errors == 1


@pytest.mark.basic
async def test_soft_timeout_waits_for_the_refresh_so_long(fleet):
    """With a soft timeout a refresh that is in time serves, a slow one does not."""
    a = await fleet.cache()
    await a.set("m:1", "first", stale=100)
    await a.expire("m:1")
    quick = Loader("second")
    assert await a.get_or_set("m:1", quick, soft_timeout=5) == "second"
    await a.set("m:1", "first", stale=100)
    await a.expire("m:1")
    slow = Loader("third", held=True)
    assert await a.get_or_set("m:1", slow, soft_timeout=0.02) == "first"
    slow.go.set()  # it went on in the background
    await eventually(lambda: a.stats().writes == 4)
    assert await a.get("m:1") == "third"


@pytest.mark.advanced
async def test_a_value_is_refreshed_before_its_time(fleet):
    """Early refresh: near its end a costly value is loaded by one of its readers."""
    a = await fleet.cache(Namespace(name="m", early=100.0))

    async def costly():
        await asyncio.sleep(0.05)
        return "value"

    again = Loader("again")
    await a.get_or_set("m:1", costly, ttl=2.0)
    for _ in range(200):
        await a.get_or_set("m:1", again, ttl=2.0)
        await told(a)  # lets the refresh begin
        if again.calls:
            break
    assert again.calls == 1
    assert a.stats().misses == 1  # nobody waited for it


@pytest.mark.basic
async def test_negative_ttl_is_the_time_of_a_none(fleet):
    """A None is kept for its own time; for 0 not at all."""
    a = await fleet.cache()
    none = Loader(lambda: None)
    assert await a.get_or_set("m:1", none, negative_ttl=0) is None
    assert await a.get_or_set("m:1", none, negative_ttl=5) is None
    entry = await a.get_entry("m:1")
    assert none.calls == 2
    assert 4 <= entry.ttl <= 5


@pytest.mark.basic
async def test_plain_functions_and_loaders_that_look_at_the_old_value(fleet):
    """A loader may be a plain function, and may ask for what is there."""
    a = await fleet.cache()
    assert await a.get_or_set("m:1", lambda: 41, stale=100) == 41
    await a.expire("m:1")
    seen = []

    async def refresh(load):
        seen.append((load.found, load.value))
        load.ttl = 7.0
        return load.not_modified()

    assert await a.get_or_set("m:1", refresh, soft_timeout=5) == 41
    assert seen == [(True, 41)]
    assert 6 <= (await a.get_entry("m:1")).ttl <= 7


@pytest.mark.errors
@pytest.mark.parametrize("waiters", [1, 5])
async def test_what_a_loader_raises_reaches_every_caller(fleet, waiters):
    """An error is nobody's value: it is raised, nothing is stored, the next loads."""
    a = await fleet.cache()

    def fails():
        raise KeyError("no such market")

    calls = [a.get_or_set("m:1", Loader(fails)) for _ in range(waiters)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [KeyError] * waiters
    assert await a.get("m:1") is None
    async with asyncio.timeout(4):
        assert await a.get_or_set("m:1", Loader("now")) == "now"


@pytest.mark.errors
async def test_loader_that_lets_a_cancellation_out_cancels_nobody(fleet):
    """A cancelled task inside a loader is its failure, not its callers' end."""
    a = await fleet.cache()

    def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(CacheLoadTimeout, match="was cancelled"):
        await a.get_or_set("m:1", Loader(cancelled))
    assert await a.get_or_set("m:1", Loader("now")) == "now"


@pytest.mark.errors
async def test_loader_that_hangs_is_given_up(fleet):
    """After `max_load` a loader is ended, and its callers are told."""
    a = await fleet.cache(max_load=0.05)
    with pytest.raises(CacheLoadTimeout, match=r"within 0\.05 s"):
        await a.get_or_set("m:1", Loader(held=True))
    assert await a.get_or_set("m:1", Loader("now")) == "now"


@pytest.mark.errors
async def test_what_is_not_of_the_type_is_refused_and_not_stored(fleet):
    """Wrong type, too large, not encodable: `CodecError`, and nothing is stored."""
    a = await fleet.cache(Namespace(name="m", type=int, max_size=100))
    for value in ("text", [1], object()):
        with pytest.raises(CodecError):
            await a.get_or_set("m:1", Loader(value))
    with pytest.raises(CodecError, match="limit"):
        await a.get_or_set("m:1", Loader("x" * 1000), type=str)
    assert await a.get("m:1") is None
    assert await a.get_or_set("m:1", Loader(5)) == 5


@pytest.mark.errors
async def test_without_redis_each_process_loads_by_itself(own_fleet):
    """A server that is away: reads raise, loads go on, briefly remembered."""
    a = await own_fleet.cache(timeout=0.5)
    await a.set("m:1", "stored")
    own_fleet.server.kill()
    await own_fleet.server.wait_exit()
    load = Loader("loaded")
    with pytest.raises(OddswireError):
        await a.get("m:2")
    with pytest.raises(OddswireError):
        await a.delete("m:1")
    assert a.peek("m:1") is None
    got = await asyncio.gather(*(a.get_or_set("m:1", load) for _ in range(50)))
    assert got == ["loaded"] * 50
    assert await a.get_or_set("m:1", load) == "loaded"
    assert load.calls == 1
    assert a.stats().bypassed >= 1
    # What was invalidated meanwhile, also in vain, is loaded again.
    with pytest.raises(OddswireError):
        await a.invalidate_tags("t")
    assert await a.get_or_set("m:1", load) == "loaded"
    assert load.calls == 2


@pytest.mark.errors
async def test_lost_fill_is_still_the_callers_value(own_fleet):
    """The link breaks while the loader runs: its value is returned all the same."""
    async with FaultProxy(own_fleet.url) as proxy:
        a = await own_fleet.cache(url=proxy.url, timeout=1.0)

        async def load():
            proxy.refuse()
            proxy.reset()
            return "value"

        assert await a.get_or_set("m:1", load) == "value"
        assert a.stats().bypassed == 1
        proxy.accept()


@pytest.mark.basic
@pytest.mark.requirement("K1")
def test_adaptive_time_follows_the_changes():
    """What changes at every load is kept for the least, what never does for long."""
    adaptive = Adaptive(low=5.0, high=600.0)
    assert adaptive.ttl(0, 0, 0.0) == 5.0
    assert adaptive.ttl(20, 20, 10.0) == 5.0
    assert adaptive.ttl(20, 0, 600.0) == 600.0
    middle = adaptive.ttl(20, 2, 300.0)
    assert 5.0 < middle < 600.0
    assert adaptive.ttl(20, 4, 300.0) < middle


@pytest.mark.advanced
@pytest.mark.requirement("K1")
async def test_adaptive_counts_are_shared_by_the_fleet(fleet):
    """Refreshes by different processes count together, in the entry itself."""
    spaces = [Namespace(name="m", stale=100, adaptive=Adaptive(low=5, high=600))] * 2
    a, b = [await fleet.cache(each) for each in spaces]
    await a.get_or_set("m:1", Loader(0))
    for cache, value in ((b, 1), (a, 2), (b, 2)):
        await cache.expire("m:1")
        await cache.get_or_set("m:1", Loader(value), soft_timeout=5)
    details = (await read_from_redis(a, "m:1")).details
    assert (details.refreshes, details.changes) == (3, 2)


@pytest.mark.errors
async def test_closing_ends_loads_and_gives_leases_back(fleet):
    """What is under way when a cache is closed ends; others need not wait for it."""
    b = await fleet.cache()
    async with Client.from_url(fleet.url) as client:
        async with Cache(client, prefix=fleet.prefix, timeout=5.0) as a:
            slow = Loader(held=True)
            task = spawn(a.get_or_set("m:1", slow))
            await slow.started.wait()
        with pytest.raises(ClosedError):
            await task
        async with asyncio.timeout(4):
            assert await b.get_or_set("m:1", Loader("other")) == "other"
        with pytest.raises(OddswireError, match="closed"):
            await a.get_or_set("m:1", Loader())


@pytest.mark.errors
async def test_closing_does_not_wait_for_a_load_that_was_replaced(fleet):
    """A loader whose value nobody can use any more does not hold the closing up."""
    async with Client.from_url(fleet.url) as client:
        async with Cache(client, prefix=fleet.prefix, timeout=5.0) as a:
            slow = Loader(held=True)
            task = spawn(a.get_or_set("m:1", slow))
            await slow.started.wait()
            await a.delete("m:1")
            assert await a.get_or_set("m:1", Loader("new")) == "new"
        with pytest.raises(ClosedError):
            await task


@pytest.mark.errors
async def test_closing_ends_a_load_that_has_not_begun_to_run(fleet):
    """Who asked in the turn in which the cache is closed does not wait for ever."""
    async with Client.from_url(fleet.url) as client:
        async with Cache(client, prefix=fleet.prefix, timeout=5.0) as a:
            # A miss: the next call begins its load without a look in Redis before.
            await a.get_or_set("m:1", Loader())
            loader = Loader()
            task = spawn(a.get_or_set("m:2", loader))
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            with pytest.raises(ClosedError):
                await task
        assert loader.calls == 0


@pytest.mark.errors
async def test_closing_begins_no_load_for_who_waits_for_redis(fleet):
    """A lookup that ends because the cache is closed is no outage: no loader runs."""
    async with (
        FaultProxy(fleet.url) as link,
        Client.from_url(link.url, drain_timeout=0.1) as client,
    ):
        async with Cache(client, prefix=fleet.prefix, timeout=30.0) as a:
            await a.set("m:1", "there")  # no miss: the call looks in Redis first
            link.blackhole()
            loader = Loader()
            task = spawn(a.get_or_set("m:2", loader))
            await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await task
        assert loader.calls == 0


@pytest.mark.advanced
async def test_two_types_of_one_key_share_a_load(fleet):
    """Who wants another type of a key that is being loaded waits for that load."""
    a = await fleet.cache()
    slow, other = Loader({"id": 1}, held=True), Loader({"id": 2})
    first = spawn(a.get_or_set("m:1", slow, type=dict))
    await slow.started.wait()
    second = spawn(a.get_or_set("m:1", other, type=Market))
    await eventually(lambda: a.stats().waits == 1)
    slow.go.set()
    assert await first == {"id": 1}
    assert await second == Market(1)
    assert other.calls == 0


@pytest.mark.advanced
@pytest.mark.requirement("K1")
async def test_a_value_may_be_too_old_for_one_caller(fleet):
    """Older than `max_age` it serves that caller as a stale one, others as fresh."""
    a = await fleet.cache()
    load = Loader()

    async def loaded(keys):
        return dict.fromkeys(keys, await load())

    assert await a.get_or_set_many(["m:1"], loaded, ttl=60, stale=60) == {"m:1": 1}
    assert await a.get_or_set_many(["m:1"], loaded, max_age=60) == {"m:1": 1}
    assert load.calls == 1
    assert await a.get_or_set_many(["m:1"], loaded, max_age=0) == {"m:1": 1}
    await eventually(lambda: a.peek("m:1") == 2)
    assert load.calls == 2
    with pytest.raises(SettingsError, match="max_age"):
        await a.get_or_set_many(["m:1"], loaded, max_age=-1)


async def commands(client):
    """Return the commands that the server ran; some log those of scripts, too."""
    entries = await client.execute_command("SLOWLOG", "GET", 1000)
    return [b" ".join(command) for _, _, _, command, *_ in entries]


@pytest.mark.performance
@pytest.mark.requirement("K3")
async def test_a_cold_load_takes_two_round_trips(own_fleet):
    """After a miss, a load with a known tag is the claim and the store, no more."""
    a = await own_fleet.cache()
    await a.get_or_set("m:1", Loader("first"), tags=("t",))
    await a.client.config_set("slowlog-log-slower-than", 0)
    await a.client.execute_command("SLOWLOG", "RESET")
    assert await a.get_or_set("m:2", Loader("second"), tags=("t",)) == "second"
    ran = await commands(a.client)
    entry = entry_key("own:", "m:2").encode()
    assert sum(each.startswith(b"EVALSHA") for each in ran) == 2
    # The claim reads the entry, and no other command does.
    assert sum(each == b"GET " + entry for each in ran) <= 1
    stats = a.stats("m")
    assert (stats.misses, stats.loads, stats.writes) == (2, 2, 2)


@pytest.mark.advanced
@pytest.mark.requirement("K3")
async def test_an_entry_that_is_there_after_a_miss_is_served(own_fleet):
    """A load that begins with the claim serves what is there, and loads nothing."""
    a, b = await own_fleet.cache(), await own_fleet.cache()
    assert await b.get("m:1") is None
    await a.set("m:2", "there", stale=100)
    await a.set("m:3", "there", stale=100)
    await a.expire("m:3")
    never = Loader("never")
    assert await b.get_or_set("m:2", never) == "there"
    assert await b.get("m:4") is None

    behind = Loader("new", held=True)
    assert await b.get_or_set("m:3", behind) == "there"
    await behind.started.wait()
    behind.go.set()
    await eventually(lambda: b.stats("m").writes == 1)
    assert never.calls == 0
    stats = b.stats("m")
    assert (stats.l2_hits, stats.misses, stats.stale) == (2, 2, 1)


@pytest.mark.advanced
async def test_an_age_is_asked_of_what_memory_has(fleet):
    """With `max_age`, a value that is older is refreshed, fresh as it is for others."""
    a = await fleet.cache()

    @a.cached(key="m:{number}", max_age=0)
    async def fetch(number: int) -> int:
        return number

    await a.set("m:1", "old")
    await fleet.believed(a)
    assert await a.get("m:1") == "old"
    load = Loader("new")
    assert await a.get_or_set("m:1", load, max_age=0) == "old"
    await eventually(lambda: load.calls == 1)
    await fetch(2)
    await eventually(lambda: a.peek("m:2") == 2)
    before = a.stats().loads
    assert await fetch(2) == 2
    await eventually(lambda: a.stats().loads == before + 1)


@pytest.mark.errors
async def test_a_lease_granted_after_the_last_caller_left_is_given_back(own_fleet):
    """A caller that gives up before the server answers keeps no other process out."""
    async with FaultProxy(own_fleet.url) as proxy:
        a = await own_fleet.cache(url=proxy.url, load_lease=60.0)
        b = await own_fleet.cache(load_lease=60.0)
        assert await a.get_or_set("m:0", Loader("warm")) == "warm"
        proxy.down.hold = True
        with pytest.raises(CacheLoadTimeout):
            await a.get_or_set("m:1", Loader("never"), hard_timeout=0.1)
        proxy.heal()
        async with asyncio.timeout(30):
            assert await b.get_or_set("m:1", Loader("b")) == "b"
            assert await a.get_or_set("m:1", Loader("a")) == "b"


@pytest.mark.errors
async def test_a_renewal_that_failed_is_tried_again_in_time(own_fleet):
    """A server that refuses one renewal does not end the lease of a running load."""
    a = await own_fleet.cache(load_lease=3.0)
    slow = Loader("slow", held=True)
    load = spawn(a.get_or_set("m:1", slow))
    await slow.started.wait()
    async with Client.from_url(own_fleet.url) as admin:
        key = lease_key(own_fleet.prefix, "m:1")
        first = await admin.get(key)
        await admin.execute_command("ACL", "SETUSER", "default", "-evalsha")

        async def refused():
            return (await admin.info("commandstats"))["cmdstat_evalsha"][
                "rejected_calls"
            ]

        await eventually(refused)
        await admin.execute_command("ACL", "SETUSER", "default", "+@all")

        async def changed():
            return await admin.get(key) != first

        await eventually(changed)
        assert await admin.get(key) is not None  # renewed, not expired
    slow.go.set()
    assert await load == "slow"


@pytest.mark.errors
async def test_a_caller_that_joins_a_refresh_as_it_gives_up_waits_for_the_value(
    own_fleet,
):
    """A refresh that leaves a key to another process leaves no caller without it."""
    options = {"coherence": 30.0, "heartbeat": 10.0, "load_lease": 60.0}
    async with (
        FaultProxy(own_fleet.url) as proxy,
        Client.from_url(own_fleet.url) as admin,
    ):
        a = await own_fleet.cache(url=proxy.url, **options)
        b = await own_fleet.cache(**options)
        slow = Loader("of b", held=True)
        ours = Loader("of a")
        await b.get_or_set("m:1", Loader("old"), ttl=0.1, stale=3.0)
        assert await a.get("m:1") == "old"
        while not slow.started.is_set():
            assert await b.get_or_set("m:1", slow, ttl=0.1, stale=3.0) == "old"
            await asyncio.sleep(0.01)
        # The look of the refresh is answered; the nonce of its tag takes a second call.
        await admin.script_flush()
        await admin.script_load(load("cache_look").source)
        proxy.down.hold = True
        first = await a.get_or_set("m:1", ours, tags=("new",), stale=3.0)
        assert first == "old"  # and a refresh begins behind its back

        async def expired():
            return not await admin.exists(entry_key(own_fleet.prefix, "m:1"))

        await eventually(expired)
        # The copy of `a` ends later, by as much as the answer that brought it took.
        await asyncio.sleep(0.3)
        second = spawn(a.get_or_set("m:1", ours, stale=3.0))
        await asyncio.sleep(0.05)  # it joins in its first steps: nothing tells of it
        proxy.up.hold = True
        proxy.down.hold = False
        await asyncio.sleep(0.2)
        proxy.heal()
        slow.go.set()
        assert await second == "of b"
        assert ours.calls == 0
