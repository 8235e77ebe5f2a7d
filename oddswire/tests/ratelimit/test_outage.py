"""Redis down: each rule decides by its own choice, and the usage is reported."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Client, EmbeddedServer
from oddswire.clock import LoopLag, SystemClock
from oddswire.errors import OddswireError
from oddswire.ratelimit import (
    Concurrency,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)
from oddswire.ratelimit._local_quota import TokenQuota, WindowQuota
from oddswire.testing import FaultProxy, frozen
from support import eventually

RULES = (
    Rule("open", SlidingWindow(2, 60.0), on_error="open"),
    Rule("closed", SlidingWindow(9, 60.0), on_error="closed"),
    Rule("local", SlidingWindow(8, 60.0)),
    Rule("bucket", TokenBucket(0.1, 8)),
    Rule("slots", Concurrency(8, 30.0)),
)


def worst(admitted, window):
    """Return the most that was admitted in a closed interval of that length."""
    admitted = sorted(admitted)
    return max(
        sum(cost for at, cost in admitted if begin <= at <= begin + window)
        for begin, _ in admitted
    )


async def gone(limiter):
    """Kill nothing, wait until the limiter knows that Redis is away."""
    async with asyncio.timeout(10):
        while not limiter.stats().redis_down:
            await limiter.hit("open")


async def back(limiter, client, rule="open"):
    """Wait until the limiter asks Redis again."""
    async with asyncio.timeout(20):
        while (await limiter.peek(rule)).degraded:
            with suppress(OddswireError):
                await client.ping()
            await asyncio.sleep(0.01)


@pytest.mark.errors
@pytest.mark.requirement("R3")
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_each_rule_decides_by_its_own_policy(own, how):
    """Open admits, closed denies, local keeps to its quota; and each says so."""
    async with Client.from_url(own.url, reconnect_delay=0.01) as client:
        limiter = RateLimiter(client, RULES, processes=2, deadline=1.0)
        for rule in RULES:
            await limiter.hit(rule.name, cost=2)
        with frozen(own):
            if how == "killed":
                own.kill(signal.SIGKILL)
                await own.wait_exit()
            await gone(limiter)
            opened = [await limiter.hit("open") for _ in range(20)]
            closed = [await limiter.hit("closed") for _ in range(20)]
            assert all(each.allowed for each in opened)
            assert not any(each.allowed for each in closed)
            assert all(0 < each.retry_after < 1 for each in closed)
            # Of 8, 2 are used, so this one of two processes has 3 of the other 6.
            local = [await limiter.hit("local") for _ in range(20)]
            assert [each.allowed for each in local] == [True] * 3 + [False] * 17
            assert local[-1].retry_after > 0
            bucket = [await limiter.hit("bucket") for _ in range(20)]
            assert sum(each.allowed for each in bucket) == 3
            # Slots are half of 8, of which it holds 2.
            slots = [await limiter.hit("slots") for _ in range(20)]
            assert sum(each.allowed for each in slots) == 2
            together = await limiter.hit("open", "closed")
            assert (together.allowed, together.rule) == (False, "closed")
            for each in (*opened, *closed, *local, *bucket, *slots, together):
                assert each.degraded
        await limiter.aclose()


@pytest.mark.performance
@pytest.mark.requirement("R3")
async def test_a_decision_takes_no_longer_than_its_deadline(own):
    """While the server is killed and gone, p99 of a decision is at most 60 ms.

    The time for which the event loop itself is late does not count.
    """
    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, RULES)
        times = []
        stop = asyncio.Event()

        async def one():
            while not stop.is_set():
                started = time.monotonic()
                await limiter.hit("open", "local")
                times.append((started, time.monotonic()))
                await asyncio.sleep(0.002)

        with LoopLag() as lag:
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(one())
                await eventually(lambda: len(times) > 200)
                own.kill(signal.SIGKILL)
                await own.wait_exit()
                times.clear()
                await eventually(lambda: len(times) > 3_000)
                stop.set()
        slow = [(at, end) for at, end in times if end - at > 0.060]
        late = [1 for at, end in slow if end - at - lag.between(at, end) > 0.060]
        assert len(late) <= 0.01 * len(times)
        await limiter.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_a_process_alone_stays_exact_through_an_outage():
    """Before, while and after the server is killed: never above the limit."""
    limit, per = 30, 0.2
    admitted = []
    async with (
        EmbeddedServer(aof=True, args=("--appendfsync", "always")) as server,
        Client.from_url(server.url, reconnect_delay=0.01) as client,
    ):
        rules = [
            Rule("w", SlidingWindow(limit, per)),
            Rule("open", SlidingWindow(10**6, 1.0), on_error="open"),
        ]
        limiter = RateLimiter(client, rules, remember=0.0)
        # Both clocks of this machine go at the same speed.
        clock = SystemClock()
        offset = clock.now() - clock.monotonic()
        stop = asyncio.Event()
        sources = set()

        async def one():
            while not stop.is_set():
                decision = await limiter.hit("w")
                if decision.allowed:
                    at = decision.reservation.at
                    at = at if decision.degraded else at / 1e6 - offset
                    admitted.append((at, 1))
                    sources.add(decision.source)
                await asyncio.sleep(0.001)

        async def more(count, source):
            sources.clear()
            wanted = len(admitted) + count
            await eventually(lambda: len(admitted) >= wanted and source in sources)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(one())
            for _ in range(2):
                await more(20, "redis")
                server.kill(signal.SIGKILL)
                await server.wait_exit()
                await more(40, "local")
                await server.restart()
            await more(40, "redis")
            stop.set()
        await limiter.aclose()
    # A millisecond for two clocks that are read one after the other.
    assert worst(admitted, per - 0.001) <= limit


@pytest.mark.errors
@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    "limit",
    [SlidingWindow(20, 600.0), TokenBucket(20 / 600, burst=20)],
    ids=["window", "bucket"],
)
async def test_a_quota_begins_where_the_last_one_ended(own, limit):
    """Three outages in a window, ended by another subject: the limit, once."""
    rules = [Rule("chat", limit, key="user")]
    async with (
        Client.from_url(own.url) as client,
        RateLimiter(client, rules, deadline=0.2) as limiter,
    ):
        admitted = []
        for _ in range(3):
            with frozen(own):
                for cost in (1, 1, 8, 1, 9, 1, 1):
                    decision = await limiter.hit("chat", user="a", cost=cost)
                    admitted += [cost] * decision.allowed

            async def asked():
                return not (await limiter.peek("chat", user="b")).degraded

            await eventually(asked)
        assert sum(admitted) == 20
        assert (await limiter.peek("chat", user="a")).remaining == 0


@pytest.mark.errors
async def test_a_quota_stays_however_many_subjects_come(own, monkeypatch):
    """A flood of others in an outage does not give a subject its limit again."""
    monkeypatch.setattr("oddswire.ratelimit._state.SUBJECTS", 10)
    rules = [Rule("chat", SlidingWindow(2, 600.0), key="user")]
    async with (
        Client.from_url(own.url) as client,
        RateLimiter(client, rules, deadline=0.2) as limiter,
    ):
        with frozen(own):
            found = [await limiter.hit("chat", user="a") for _ in range(3)]
            for user in range(200):
                await limiter.hit("chat", user=user)
            found += [await limiter.hit("chat", user="a") for _ in range(3)]
    assert [each.allowed for each in found] == [True, True, *[False] * 4]


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_an_answer_on_its_way_is_counted_by_the_quota(own):
    """What may still be admitted by Redis is not admitted a second time alone."""
    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, [Rule("w", SlidingWindow(2, 60.0))], deadline=0.4)
        await limiter.peek("w")
        loop = asyncio.get_running_loop()
        with frozen(own):
            first = loop.create_task(limiter.hit("w"))
            await asyncio.wait([first], timeout=0.3)
            second = loop.create_task(limiter.hit("w"))
            decisions = [await first]
            decisions += [await limiter.hit("w") for _ in range(5)]
        decisions.append(await second)
        assert decisions[0].degraded
        assert sum(each.allowed for each in decisions) == 2
        await limiter.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_what_was_used_without_redis_is_reported(own):
    """When it is back, everybody sees what this process used meanwhile."""
    async with (
        Client.from_url(own.url) as client,
        Client.from_url(own.url) as another,
    ):
        limiter = RateLimiter(client, RULES, deadline=1.0)
        other = RateLimiter(another, RULES, deadline=2.0)
        with frozen(own):
            await gone(limiter)
            assert (await limiter.hit("local", cost=5)).degraded
            assert (await limiter.hit("bucket", cost=5)).degraded
            unreported = await limiter.hit("local", cost=2)
            assert await limiter.refund(unreported) == 2
        await back(limiter, client)
        assert (await limiter.peek("local")).remaining == 3
        assert (await other.peek("local")).remaining == 3
        assert (await other.peek("bucket")).remaining == 3
        assert not limiter.stats().redis_down
        await limiter.aclose()
        await other.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_who_comes_while_an_outage_is_reported_is_counted_too(own):
    """Users come between any two commands of a report; Redis counts each once."""
    rule = Rule("user", SlidingWindow(9, 60.0), key="user")
    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, [rule, RULES[0]], deadline=1.0)
        users = [f"{bot}:1" for bot in range(20)]
        own.kill(signal.SIGKILL)
        await own.wait_exit()
        await gone(limiter)
        for user in users:
            assert (await limiter.hit("user", user=user)).degraded
        await own.restart()

        async def come():
            degraded = True
            while degraded:
                user = f"0:{len(users)}"
                users.append(user)
                degraded = (await limiter.hit("user", user=user)).degraded
                await asyncio.sleep(0.0005)

        # The first that asks Redis again reports, while the others decide locally.
        await asyncio.gather(come(), come(), come())
        left = {(await limiter.peek("user", user=user)).remaining for user in users}
        assert left == {8}
        await limiter.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3")
@pytest.mark.parametrize("how", ["slow", "cut"])
async def test_a_report_that_is_slow_or_breaks_off_counts_nothing_twice(own, how):
    """600 users: beside a slow report no other begins; a cut one is continued."""
    rule = Rule("user", SlidingWindow(9, 60.0), key="user")
    async with (
        FaultProxy(own.url) as proxy,
        Client.from_url(proxy.url, reconnect_delay=0.01) as client,
        RateLimiter(client, [rule, RULES[0]], deadline=1.0) as limiter,
    ):
        await limiter.hit("open")
        proxy.refuse()
        proxy.reset()
        await gone(limiter)
        for user in range(600):
            assert (await limiter.hit("user", user=user)).degraded
        if how == "slow":
            proxy.down.latency = 0.04
        else:
            proxy.up.cut_after = 40_000
        proxy.accept()
        await asyncio.gather(*(back(limiter, client) for _ in range(3)))
        assert proxy.up.cut_after is None
        proxy.heal()
        left = {
            (await limiter.peek("user", user=user)).remaining for user in range(600)
        }
        assert left == {8}


@pytest.mark.errors
@pytest.mark.requirement("R3", "R6")
async def test_degraded_decisions_are_counted(own):
    """Counted by rule as degraded, not as denied by a limit alone."""
    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, RULES, deadline=1.0)
        for _ in range(3):
            await limiter.hit("local")
        with frozen(own):
            await gone(limiter)
            told = [await limiter.hit("local") for _ in range(30)]
            shut = [await limiter.hit("closed") for _ in range(5)]
        counted = limiter.stats()
        assert counted.rules["local"].degraded == len(told)
        assert counted.rules["local"].admitted == 3 + sum(d.allowed for d in told)
        assert counted.rules["local"].denied == sum(not d.allowed for d in told)
        assert counted.rules["closed"].degraded == len(shut)
        assert counted.rules["closed"].denied == len(shut)
        assert counted.redis_down
        assert counted.failed >= 1
        await limiter.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_a_full_server_degrades_and_recovers(own):
    """A server that refuses writes for want of memory is away for the limits."""
    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, RULES, deadline=2.0)
        await client.config_set("maxmemory", 1)
        assert (await limiter.hit("local")).degraded
        assert not (await limiter.hit("closed")).allowed
        await client.config_set("maxmemory", 0)
        await back(limiter, client)
        assert (await limiter.peek("local")).remaining == 7
        await limiter.aclose()


@pytest.mark.errors
@pytest.mark.requirement("R3", "R5")
async def test_who_waits_goes_on_when_redis_is_back(own):
    """A closed rule keeps its waiters through the outage, and lets them in after it."""
    async with (
        Client.from_url(own.url) as client,
        RateLimiter(client, RULES) as limiter,
    ):
        with frozen(own):
            await gone(limiter)
            waiting = asyncio.get_running_loop().create_task(limiter.acquire("closed"))
            await eventually(lambda: limiter.stats().waiting == 1)
        async with asyncio.timeout(20):
            decision = await waiting
        assert (decision.allowed, decision.degraded) == (True, False)


@pytest.mark.advanced
@pytest.mark.requirement("R3")
@given(
    steps=st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 3)), max_size=60),
    known=st.integers(0, 10),
    until=st.floats(0.0, 1.2),
)
def test_a_quota_of_a_window_is_exact(steps, known, until):
    """With what Redis knew, never above the limit; its retry is sufficient."""
    limit = SlidingWindow(10, 1.0)
    quota = WindowQuota(limit, 1, known, 100.0 + until, 100.0)
    admitted = [(100.0, known)] if known else []
    now = 100.0
    for pause, cost in steps:
        now += pause
        if quota.free(now) >= cost:
            quota.take(now, cost)
            admitted.append((now, cost))
        else:
            wait = quota.retry(now, cost)
            assert 0 < wait < 1.3
            assert quota.free(now + wait) >= cost
    # What Redis knew counts until it said, however long before that was.
    inside = [(at, cost) for at, cost in admitted if at > 100.0 or not known]
    assert not inside or worst(inside, 1.0) <= 10
    early = sum(cost for at, cost in inside if at < 100.0 + until)
    assert early <= 10 - known


@pytest.mark.advanced
@pytest.mark.requirement("R3")
@given(
    steps=st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 3)), max_size=60),
    processes=st.integers(1, 4),
)
def test_a_quota_of_a_bucket_is_its_part(steps, processes):
    """At most its part of the burst and of the rate, in any interval."""
    limit = TokenBucket(10.0, 12)
    quota = TokenQuota(limit, processes, 0.0, 100.0)
    admitted, now = [], 100.0
    for pause, cost in steps:
        now += pause
        if quota.free(now) >= cost:
            quota.take(now, cost)
            admitted.append((now, cost))
        else:
            assert quota.free(now + quota.retry(now, cost)) >= cost
    for number, (begin, _) in enumerate(admitted):
        used = 0
        for end, cost in admitted[number:]:
            used += cost
            allowed = 12 // processes + 10.0 / processes * (end - begin)
            assert used <= allowed + 1e-6


@pytest.mark.errors
@pytest.mark.requirement("R3")
async def test_slots_taken_in_outages_are_never_more_than_the_limit(own):
    """Three outages, slots held from each: the limit, once; then all are free."""
    rules = [Rule("slots", Concurrency(5, 60.0))]
    async with (
        Client.from_url(own.url) as client,
        RateLimiter(client, rules, deadline=0.2) as limiter,
    ):
        held = []
        for outage in range(3):
            with frozen(own):
                held += [await limiter.hit("slots") for _ in range(3)]
                if outage == 0:
                    await limiter.refund(held.pop())
            await back(limiter, client, "slots")
            held += [await limiter.hit("slots") for _ in range(3)]
            assert sum(each.allowed for each in held) == 5
        for each in held:
            await limiter.refund(each)
        assert (await limiter.peek("slots")).remaining == 5
