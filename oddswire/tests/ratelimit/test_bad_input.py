"""Arguments of another type: each is a `RuleError` that names it."""

from __future__ import annotations

import asyncio

import pytest

from oddswire.errors import LockHeld, RateLimited, RuleError
from oddswire.ratelimit import Concurrency, RateLimiter, Rule, SlidingWindow

pytestmark = pytest.mark.errors

RULE = Rule("user", SlidingWindow(3, 10.0), key="user")


@pytest.fixture
async def limiter(client, prefix):
    """Return a limiter with one rule."""
    async with RateLimiter(client, [RULE], prefix=prefix) as limiter:
        yield limiter


async def test_what_is_no_priority_is_named(limiter):
    """A number that is no priority is a `RuleError`, and nothing is counted."""
    for wrong in (None, 3, -1, "HIGH"):
        with pytest.raises(RuleError, match="priority"):
            await limiter.acquire("user", user=1, priority=wrong)
    assert (await limiter.peek("user", user=1)).remaining == 3


async def test_a_refund_is_of_a_decision(limiter):
    """What is no decision is named."""
    for wrong in (None, "user", 5, True):
        with pytest.raises(RuleError, match="of the Decision of a hit"):
            await limiter.refund(wrong)


async def test_what_is_decorated_is_a_function(limiter):
    """Generators and subjects that are no functions are named where they are given."""

    def generator(user):
        yield user

    async def async_generator(user):
        yield user

    for wrong in (generator, async_generator, None):
        with pytest.raises(RuleError, match="what is limited must be a function"):
            limiter.limited("user", user=lambda user: user)(wrong)
    for subject in (5, "42", None):
        with pytest.raises(RuleError, match="a subject of limited is a function"):
            limiter.limited("user", user=subject)


async def test_wrong_arguments_of_a_limiter_are_named(client):
    """A single rule, what is no clock, and a shadow that is no bool."""
    for rules in (RULE, 5, None):
        with pytest.raises(RuleError, match="rules must be a list"):
            RateLimiter(client, rules)
    with pytest.raises(RuleError, match="'user' is no Rule"):
        RateLimiter(client, ["user"])
    for now in (0, None, "now"):
        with pytest.raises(RuleError, match="now must be a function"):
            RateLimiter(client, now=now)
    for shadow in ("no", 0, None):
        with pytest.raises(RuleError, match="shadow"):
            Rule("x", SlidingWindow(1, 1.0), shadow=shadow)


async def test_a_task_does_not_wait_for_its_own_slots(client, prefix):
    """A task that has every slot is told; others wait for it, and it may go on."""
    rules = [
        Rule("jobs", Concurrency(2, 30.0)),
        Rule("by", Concurrency(1, 30.0), key="by"),
    ]
    async with (
        asyncio.timeout(20),
        RateLimiter(client, rules, prefix=prefix) as limiter,
    ):

        async def other():
            async with limiter.slot("jobs"):
                return "after"

        async with limiter.slot("jobs"), limiter.slot("jobs"):
            with pytest.raises(LockHeld, match="has 2 of its 2 slots"):
                async with limiter.slot("jobs"):
                    pass
            with pytest.raises(RateLimited):
                async with limiter.slot("jobs", timeout=0.05):
                    pass
            waiting = asyncio.get_running_loop().create_task(other())
            async with limiter.slot("by", by=1), limiter.slot("by", by=2):
                with pytest.raises(LockHeld, match="has 1 of its 1 slots"):
                    async with limiter.slot("by", by=1):
                        pass
            assert not waiting.done()
        assert await waiting == "after"
        async with limiter.slot("jobs"), limiter.slot("jobs"):
            pass
