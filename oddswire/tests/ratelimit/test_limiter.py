"""The limiter as it is used: decisions, corrections, mistakes, counts."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddswire import Client
from oddswire.errors import (
    ClosedError,
    InvalidKey,
    OddswireError,
    RateLimited,
    RuleError,
)
from oddswire.keys import RATE_BLOCK, RATE_CHANGE, RATE_LIMIT, KeySpace
from oddswire.ratelimit import (
    Concurrency,
    Decision,
    RateLimiter,
    Rule,
    SlidingWindow,
    TokenBucket,
)
from support.hooks import limit_of

USER = Rule("user", SlidingWindow(3, 30.0), key="user")
ALL = Rule("all", SlidingWindow(100, 30.0))


@pytest.mark.basic
@pytest.mark.requirement("R1", "R2")
async def test_a_decision_says_all_there_is_to_say(limiter_of):
    """Allowed until the limit, then denied with the time to wait; one trip each."""
    limiter = limiter_of(USER, ALL)
    for remaining in (2, 1, 0):
        decision = await limiter.hit("user", "all", user=42)
        assert (decision.allowed, decision.rule) == (True, "user")
        assert (decision.limit, decision.remaining) == (3, remaining)
        assert decision.retry_after == 0.0
        assert 29.0 < decision.reset <= 31.6
    denied = await limiter.hit("user", "all", user=42)
    assert (denied.allowed, denied.rule, denied.source) == (False, "user", "redis")
    assert 29.0 < denied.retry_after <= 31.6
    assert not denied.degraded
    # Another subject, and what was denied cost the other rule nothing.
    assert (await limiter.hit("user", "all", user=43)).allowed
    assert (await limiter.peek("all")).remaining == 96
    assert limiter.stats().asked == 6


def _decision(**fields):
    return Decision(rule="user", limit=30, source="redis", **fields)


@pytest.mark.basic
@pytest.mark.requirement("R2")
def test_headers_are_whole_seconds_rounded_up():
    """Retry-After is never too short, and there is none where waiting is no help."""
    denied = _decision(
        allowed=False, remaining=0, reset=7.2, retry_after=0.001, window=59.5
    )
    assert denied.headers() == {
        "RateLimit-Policy": '"user";q=30;w=60',
        "RateLimit": '"user";r=0;t=8',
        "Retry-After": "1",
    }
    allowed = _decision(
        allowed=True, remaining=12, reset=7.0, retry_after=0.0, window=60.0
    )
    assert allowed.headers() == {
        "RateLimit-Policy": '"user";q=30;w=60',
        "RateLimit": '"user";r=12;t=7',
    }
    never = _decision(
        allowed=False, remaining=0, reset=7.0, retry_after=math.inf, window=1
    )
    assert "Retry-After" not in never.headers()


@pytest.mark.advanced
@pytest.mark.requirement("R2")
async def test_who_waits_for_retry_after_is_admitted(limiter_of, client):
    """On the server's own clock: after retry-after the same request is let in."""
    limiter = limiter_of(
        Rule("w", SlidingWindow(20, 0.1)), Rule("b", TokenBucket(50, 3)), remember=0.0
    )
    for name in ("w", "b"):
        for _ in range(6):
            decision = await limiter.hit(name, cost=3)
            while decision.allowed:
                decision = await limiter.hit(name, cost=3)
            seconds, micros = await client.time()
            wanted = seconds * 10**6 + micros + math.ceil(decision.retry_after * 1e6)
            while (now := await client.time())[0] * 10**6 + now[1] < wanted:
                pass
            assert (await limiter.hit(name, cost=3)).allowed


@pytest.mark.advanced
@pytest.mark.requirement("R2")
async def test_a_denial_is_remembered_and_costs_no_trip(limiter_of, client):
    """A flood is answered from memory; a cheaper request is asked for."""
    limiter = limiter_of(USER)
    await limiter.hit("user", user=1, cost=2)
    assert not (await limiter.hit("user", user=1, cost=2)).allowed
    asked = limiter.stats().asked
    before = client.stats().calls["EVALSHA"]
    flood = [await limiter.hit("user", user=1, cost=2) for _ in range(500)]
    assert {each.source for each in flood} == {"memory"}
    assert not any(each.allowed for each in flood)
    waits = [each.retry_after for each in flood]
    assert waits == sorted(waits, reverse=True)
    assert client.stats().calls["EVALSHA"] == before
    assert limiter.stats().asked == asked
    assert (await limiter.hit("user", user=1, cost=1)).source == "redis"


@pytest.mark.advanced
@pytest.mark.requirement("R2")
async def test_a_denial_is_asked_again_when_it_was_remembered_long_enough(
    client, prefix
):
    """A limit that another process resets is noticed within `remember` seconds."""
    time = [1000.0]
    here = RateLimiter(
        client, [USER], prefix=prefix, deadline=2.0, remember=1.0, now=lambda: time[0]
    )
    there = RateLimiter(client, [USER], prefix=prefix, deadline=2.0)
    await here.hit("user", user=1, cost=3)
    assert not (await here.hit("user", user=1)).allowed
    await there.reset("user", user=1)
    time[0] += 0.999
    assert (await here.hit("user", user=1)).source == "memory"
    time[0] += 0.002
    assert (await here.hit("user", user=1)).allowed
    await here.aclose()
    await there.aclose()


@pytest.mark.errors
async def test_memory_of_denials_ends_with_the_data(own):
    """A server that lost its data denies nothing, so nothing is denied for it."""
    from oddswire.events import DataReset

    async with Client.from_url(own.url) as client:
        limiter = RateLimiter(client, [USER], deadline=2.0, remember=30.0)
        await limiter.hit("user", user=1, cost=3)
        assert not (await limiter.hit("user", user=1)).allowed
        told = asyncio.Event()
        client.events.subscribe(lambda _: told.set(), DataReset)
        await own.restart()
        async with asyncio.timeout(10):
            while not told.is_set():
                with suppress(OddswireError):
                    await client.ping()
        assert (await limiter.hit("user", user=1)).allowed
        await limiter.aclose()


@pytest.mark.basic
@pytest.mark.requirement("R2")
async def test_peek_counts_nothing(limiter_of):
    """Looking as often as one likes leaves the limit where it is."""
    limiter = limiter_of(
        USER, Rule("s", Concurrency(2, 5.0)), Rule("b", TokenBucket(1, 2))
    )
    for name in ("user", "s", "b"):
        for _ in range(5):
            seen = await limiter.peek(name, user=1)
            assert (seen.allowed, seen.reservation) == (True, None)
        assert seen.remaining == seen.limit
    await limiter.hit("user", user=1, cost=3)
    assert not (await limiter.peek("user", user=1)).allowed


@pytest.mark.basic
@pytest.mark.requirement("R2")
async def test_a_refund_is_made_once(limiter_of):
    """The second refund of one decision, and that of a denial, do nothing."""
    limiter = limiter_of(USER)
    first = await limiter.hit("user", user=1, cost=2)
    second = await limiter.hit("user", user=1)
    denied = await limiter.hit("user", user=1)
    assert await limiter.refund(denied) == 0
    assert await limiter.refund(first) == 2
    assert await limiter.refund(first) == 0
    # The denial that was remembered is over with it.
    assert (await limiter.hit("user", user=1, cost=2)).allowed
    assert await limiter.refund(second) == 1


@pytest.mark.basic
@pytest.mark.requirement("R2")
async def test_reset_forgets_what_was_used_and_the_penalty(limiter_of):
    """After a reset the subject has its whole limit, and only that subject."""
    limiter = limiter_of(USER)
    for user in (1, 2):
        await limiter.hit("user", user=user, cost=3)
        await limiter.penalize("user", 20.0, user=user)
    await limiter.reset("user", user=1)
    assert (await limiter.hit("user", user=1, cost=3)).allowed
    assert not (await limiter.hit("user", user=2)).allowed


@pytest.mark.advanced
@pytest.mark.requirement("R2")
async def test_a_penalty_holds_in_every_process(limiter_of):
    """A 429 that one limiter was told of denies at the other, by its own key."""
    here, there = limiter_of(USER, ALL), limiter_of(USER, ALL)
    assert (await there.hit("all")).allowed
    await here.penalize("all", 15.0)
    for limiter in (here, there):
        denied = await limiter.hit("user", "all", user=1)
        assert (denied.allowed, denied.rule) == (False, "all")
        assert 14.0 < denied.retry_after <= 15.1
    await here.penalize("all", 0.5)
    assert (await there.peek("all")).retry_after > 13.0
    # What was used stayed as it was.
    await there.reset("all")
    assert (await there.peek("all")).remaining == 100


@pytest.mark.advanced
@pytest.mark.requirement("R2")
async def test_a_limit_is_changed_in_every_process(limiter_of):
    """The changed limit counts what was used, until it ends or is taken back."""
    here, there = limiter_of(USER), limiter_of(USER)
    await here.hit("user", user=1, cost=3)
    assert not (await here.hit("user", user=1)).allowed
    await here.set_limit("user", SlidingWindow(5, 30.0))
    decision = await here.hit("user", user=1)
    assert (decision.allowed, decision.limit, decision.remaining) == (True, 5, 1)
    assert (await there.hit("user", user=1)).allowed
    await here.set_limit("user", SlidingWindow(1, 30.0))
    never = await here.hit("user", user=2, cost=2)
    assert (never.allowed, never.retry_after) == (False, math.inf)
    with pytest.raises(RateLimited, match="never admitted"):
        await here.acquire("user", user=3, cost=2)
    await here.set_limit("user", None)
    assert (await there.hit("user", user=3, cost=3)).allowed
    await here.set_limit("user", SlidingWindow(1, 30.0), ttl=0.001)
    while (await there.peek("user", user=4)).limit == 1:
        pass
    assert (await there.peek("user", user=4)).limit == 3


@pytest.mark.basic
@pytest.mark.requirement("R2")
async def test_a_shadow_tells_and_does_not_deny(limiter_of):
    """A rule that is tried out is counted, and nobody is denied by it."""
    limiter = limiter_of(ALL, Rule("new", SlidingWindow(2, 30.0), shadow=True))
    decisions = [await limiter.hit("all", "new") for _ in range(5)]
    assert all(each.allowed for each in decisions)
    assert [each.shadow for each in decisions] == [(), (), *[("new",)] * 3]
    assert limiter.stats().rules["new"].would_deny == 3
    # A refund gives back what it counted, and no more.
    assert await limiter.refund(decisions[-1]) == 1
    assert (await limiter.peek("new")).remaining == 0


@pytest.mark.errors
@pytest.mark.requirement("R2")
async def test_a_penalty_of_a_shadow_is_told_and_denies_nobody(limiter_of):
    """As for its limit: in the process that heard of it, and in any other."""
    rule = Rule("new", SlidingWindow(2, 30.0), shadow=True)
    limiter, other = limiter_of(ALL, rule), limiter_of(ALL, rule)
    await limiter.penalize("new", 60.0)
    for each in (limiter, other):
        decision = await each.hit("all", "new")
        assert (decision.allowed, decision.shadow) == (True, ("new",))
        assert (await each.acquire("all", "new", timeout=0)).allowed


@pytest.mark.basic
@pytest.mark.requirement("R1")
async def test_every_key_ends_by_itself(limiter_of, client, prefix):
    """Whatever a limiter writes has a time to live, not much above what it is for."""
    limiter = limiter_of(
        Rule("w", SlidingWindow(3, 2.0), key="chat"),
        Rule("b", TokenBucket(2, 4), key="chat"),
        Rule("s", Concurrency(3, 2.0), key="chat"),
    )
    for name in "wbs":
        first = await limiter.hit(name, chat="x", cost=2)
        assert first.allowed
        await limiter.hit(name, chat="x")
        await limiter.hit(name, chat="x")
        await limiter.refund(first)
        await limiter.penalize(name, 2.0, chat="x")
    await limiter.set_limit("w", SlidingWindow(2, 2.0), ttl=2.0)
    keys = [key async for key in client.scan_iter(match=prefix + "*")]
    assert len(keys) == 7
    for key in keys:
        assert 0 < await client.pttl(key) <= 2_200, key


@pytest.mark.basic
@pytest.mark.requirement("R6")
async def test_counts_are_those_of_what_was_told(limiter_of):
    """Counts by rule against a count of every decision that was returned."""
    limiter = limiter_of(USER, ALL, Rule("try", SlidingWindow(5, 30.0), shadow=True))
    told = {name: dict.fromkeys(("admitted", "denied", "would", "memory"), 0)
            for name in ("user", "all", "try")}  # fmt: skip

    async def one(user):
        names = ("user", "all", "try") if user % 2 else ("user", "all")
        decision = await limiter.hit(*names, user=user)
        if decision.allowed:
            for name in names:
                told[name]["admitted"] += 1
        else:
            told[decision.rule]["denied"] += 1
            told[decision.rule]["memory"] += decision.source == "memory"
        for name in decision.shadow:
            told[name]["would"] += 1
        return decision.source == "redis"

    asked = sum(await asyncio.gather(*(one(n % 37) for n in range(400))))
    counted = limiter.stats()
    for name, truth in told.items():
        rule = counted.rules[name]
        assert rule.admitted == truth["admitted"]
        assert rule.denied == truth["denied"]
        assert rule.remembered == truth["memory"]
        assert rule.would_deny == truth["would"]
        assert (rule.waited, rule.degraded) == (0, 0)
    assert told["all"]["admitted"] == 100
    assert told["all"]["denied"] + told["user"]["denied"] == 300
    assert (counted.asked, counted.failed, counted.redis_down) == (asked, 0, False)


@pytest.mark.basic
async def test_a_function_is_limited_by_its_arguments(limiter_of):
    """The decorator takes the subject from the call, and raises instead of calling."""
    limiter = limiter_of(USER)
    calls = []

    @limiter.limited("user", user=lambda message, **_: message["from"])
    async def answer(message, *, text):
        calls.append(text)
        return len(calls)

    assert [await answer({"from": 1}, text=each) for each in "abc"] == [1, 2, 3]
    with pytest.raises(RateLimited, match="'user'") as caught:
        await answer({"from": 1}, text="d")
    assert 29.0 < caught.value.retry_after <= 31.6
    assert await answer({"from": 2}, text="e") == 4
    assert answer.__name__ == "answer"


# --- mistakes

WRONG = {
    "limit 0": lambda: SlidingWindow(0, 1.0),
    "limit negative": lambda: SlidingWindow(-1, 1.0),
    "limit no whole number": lambda: SlidingWindow(1.5, 1.0),
    "limit NaN": lambda: SlidingWindow(math.nan, 1.0),
    "limit True": lambda: SlidingWindow(limit=True, per=1.0),
    "limit too large": lambda: SlidingWindow(10**9 + 1, 1.0),
    "per 0": lambda: SlidingWindow(1, 0.0),
    "per negative": lambda: SlidingWindow(1, -1.0),
    "per NaN": lambda: SlidingWindow(1, math.nan),
    "per endless": lambda: SlidingWindow(1, math.inf),
    "per a text": lambda: SlidingWindow(1, "1"),
    "rate 0": lambda: TokenBucket(0, 1),
    "rate NaN": lambda: TokenBucket(math.nan, 1),
    "rate too large": lambda: TokenBucket(1e7, 1),
    "burst 0": lambda: TokenBucket(1.0, 0),
    "a year to fill": lambda: TokenBucket(1e-3, 10**6),
    "slots 0": lambda: Concurrency(0, 1.0),
    "ttl 0": lambda: Concurrency(1, 0.0),
    "name empty": lambda: Rule("", SlidingWindow(1, 1.0)),
    "name with a colon": lambda: Rule("a:b", SlidingWindow(1, 1.0)),
    "name with a control byte": lambda: Rule("a\n", SlidingWindow(1, 1.0)),
    "name too long": lambda: Rule("a" * 65, SlidingWindow(1, 1.0)),
    "no limit": lambda: Rule("a", 5),
    "key no name": lambda: Rule("a", SlidingWindow(1, 1.0), key="a b"),
    "key an argument": lambda: Rule("a", SlidingWindow(1, 1.0), key="cost"),
    "cost 0": lambda: Rule("a", SlidingWindow(1, 1.0), cost=0),
    "cost above the limit": lambda: Rule("a", SlidingWindow(1, 1.0), cost=2),
    "no such policy": lambda: Rule("a", SlidingWindow(1, 1.0), on_error="shut"),
    "reserve 1": lambda: Rule("a", SlidingWindow(1, 1.0), reserve=1.0),
    "reserve NaN": lambda: Rule("a", SlidingWindow(1, 1.0), reserve=math.nan),
}


@pytest.mark.errors
@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_refused_with_what_is_accepted(make):
    """A rule that makes no sense never comes into being."""
    with pytest.raises(RuleError, match=r"accepted|is|would"):
        make()


MISTAKES = {
    "no rule": (lambda r: r.hit(user=1), "name 1 to 32"),
    "unknown rule": (lambda r: r.hit("usr", user=1), "there are: all, user"),
    "unhashable rule": (lambda r: r.hit(["user"], user=1), "no rule|unhashable"),
    "a rule twice": (lambda r: r.hit("user", "user", user=1), "different rules"),
    "no subject": (lambda r: r.hit("user"), "give user="),
    "no subject to a global and a counted rule": (
        lambda r: r.hit("all", "user"),
        "give user=",
    ),
    "subject None": (lambda r: r.hit("user", user=None), "a text or a whole number"),
    "subject True": (lambda r: r.hit("user", user=True), "a text or a whole number"),
    "subject a list": (lambda r: r.hit("user", user=[1]), "a text or a whole number"),
    "cost 0": (lambda r: r.hit("user", user=1, cost=0), "whole number from 1"),
    "cost negative": (lambda r: r.hit("user", user=1, cost=-1), "whole number from 1"),
    "cost NaN": (lambda r: r.hit("user", user=1, cost=math.nan), "whole number"),
    "cost a text": (lambda r: r.hit("user", user=1, cost="1"), "whole number"),
    "cost above the limit": (
        lambda r: r.hit("user", user=1, cost=4),
        "never be admitted",
    ),
    "the same, waiting": (
        lambda r: r.acquire("user", user=1, cost=4),
        "never be admitted",
    ),
    "timeout negative": (lambda r: r.acquire("all", timeout=-1), "seconds from 0"),
    "penalty of 0": (lambda r: r.penalize("all", 0.0), "seconds from"),
    "penalty NaN": (lambda r: r.penalize("all", math.nan), "seconds from"),
    "penalty of an unknown rule": (lambda r: r.penalize("al", 1.0), "no rule 'al'"),
    "another kind": (
        lambda r: r.set_limit("all", TokenBucket(1.0, 1)),
        "another kind needs a rule of its own",
    ),
}


@pytest.mark.errors
@pytest.mark.parametrize(("call", "says"), MISTAKES.values(), ids=MISTAKES)
async def test_a_mistake_is_named_and_costs_nothing(limiter_of, call, says):
    """A wrong call says what to do, sends nothing, and leaves the limits alone."""
    limiter = limiter_of(USER, ALL)
    with pytest.raises(RuleError, match=says):
        await call(limiter)
    assert limiter.stats().asked == 0
    assert (await limiter.peek("all")).remaining == 100


@pytest.mark.errors
async def test_a_subject_of_a_bad_length_or_text_is_refused(limiter_of):
    """Too long for a key, or no valid Unicode: InvalidKey, and nothing was sent."""
    limiter = limiter_of(USER)
    for user in ("x" * 600, "\ud800"):
        with pytest.raises(InvalidKey):
            await limiter.hit("user", user=user)
    assert limiter.stats().asked == 0


@pytest.mark.errors
async def test_control_bytes_and_colons_are_subjects_like_any_other(limiter_of, client):
    """No subject reaches another's key, however it is spelt; 7 and "7" are one."""
    limiter = limiter_of(USER)
    subjects = ["", "%", ":", "{", "}", "a:b", "a%3Ab", "\r\n", "\x00", "é", "*", "7"]
    for user in subjects:
        assert (await limiter.hit("user", user=user, cost=3)).remaining == 0
    assert not (await limiter.hit("user", user=7)).allowed


@pytest.mark.errors
async def test_two_rules_of_one_name_are_refused(limiter_of):
    """The same rule again is fine; another under its name is refused, with the rest."""
    limiter = limiter_of(USER)
    limiter.add(USER, USER)
    with pytest.raises(RuleError, match="another rule 'user'"):
        limiter.add(ALL, Rule("user", SlidingWindow(4, 30.0), key="user"))
    with pytest.raises(RuleError, match="no rule 'all'"):
        await limiter.hit("all")


@pytest.mark.errors
@given(
    numbers=st.one_of(st.none(), st.floats(), st.integers(), st.text(), st.booleans()),
)
def test_any_number_is_a_limit_or_a_rule_error(numbers):
    """Nothing else comes out of making a rule, whatever goes in."""
    for make in (
        lambda x: SlidingWindow(x, 1.0),
        lambda x: SlidingWindow(5, x),
        lambda x: TokenBucket(x, 5),
        lambda x: TokenBucket(5.0, x),
        lambda x: Concurrency(5, x),
        lambda x: Rule("a", SlidingWindow(5, 1.0), cost=x),
        lambda x: Rule("a", SlidingWindow(5, 1.0), reserve=x),
    ):
        try:
            made = make(numbers)
        except RuleError:
            continue
        limit = made.limit if isinstance(made, Rule) else made
        assert 1 <= limit.most <= 10**9
        assert limit.width >= 1


@pytest.mark.performance
@pytest.mark.requirement("R1")
async def test_ten_thousand_subjects_are_remembered_and_no_more(limiter_of):
    """A flood of ever new subjects does not grow the process without end."""
    limiter = limiter_of(Rule("u", SlidingWindow(1, 30.0), key="user"))
    rule = limit_of(limiter, "u")
    for user in range(35_000):
        state = rule.subject({"user": user}, monotonic())
        # As if it had been denied for a long time.
        state.denied_until = monotonic() + 1_000
        state.waiters = user == 5
    assert len(rule.subjects) <= 20_010
    assert 34_999 in rule.subjects
    # A subject with a waiter is not forgotten.
    assert rule.subjects[5].waiters


@pytest.mark.errors
async def test_a_closed_limiter_lets_nobody_wait(client, prefix):
    """A waiting call ends with ClosedError; hit still works."""
    limiter = RateLimiter(client, [USER], prefix=prefix, deadline=2.0)
    await limiter.hit("user", user=1, cost=3)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_closed(limiter))
        async with asyncio.timeout(5):
            while limiter.stats().waiting == 0:
                await asyncio.wait([waiting], timeout=0.001)
        await limiter.aclose()
    with pytest.raises(ClosedError):
        await limiter.acquire("user", user=1)
    assert (await limiter.hit("user", user=2)).allowed


async def _closed(limiter):
    with pytest.raises(ClosedError):
        await limiter.acquire("user", user=1)


@pytest.mark.errors
@pytest.mark.requirement("X4")
@pytest.mark.parametrize("junk", ["junk", "", "1", "9" * 400 + " 1", "1 0", "0 0"])
async def test_what_somebody_else_wrote_is_no_state_of_a_rule(
    limiter_of, client, prefix, junk
):
    """Junk in the place of a count, a penalty or a changed limit decides nothing."""
    space = KeySpace(prefix)
    limiter = limiter_of(USER)
    await limiter.hit("user", user=1)
    await client.set(space.key(RATE_BLOCK, "user", "1"), junk)
    await client.set(space.key(RATE_CHANGE, "user"), junk)
    await client.set(space.key(RATE_LIMIT, "user", "1"), junk)
    assert await limiter_of(USER).hit("user", user=1)
    await limiter.penalize("user", 30.0, user=1)
    assert not await limiter_of(USER).hit("user", user=1)
