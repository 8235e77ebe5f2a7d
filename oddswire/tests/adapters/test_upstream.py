"""`Upstream`: calls that are neither aiohttp's nor a bot's keep to their limits."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client
from oddswire.adapters.upstream import Upstream
from oddswire.errors import RateLimited, RuleError, SettingsError
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

BOOKS = Rule("books", SlidingWindow(100, 60.0))
ALL = Rule("all", SlidingWindow(100, 60.0))


class Refused(Exception):
    """The service's 429."""


def asked(error):
    """Return the seconds that a refusal asks for."""
    return error.args[0] if isinstance(error, Refused) else None


def answers(*values):
    """Return a call that raises or returns these in turn, and how often it ran."""
    left = list(values)

    async def call():
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return call, left


@pytest.fixture
def upstream_of(limiter):
    """`upstream_of(**options)`: within two rules."""
    limiter.add(BOOKS, ALL)
    return lambda **options: Upstream(limiter, retry_after=asked, **options)


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_a_refusal_blocks_the_first_rule_in_every_process(
    server, prefix, upstream_of
):
    """Another process waits for it too; what has other rules goes on."""
    call, _ = answers(Refused(30.0))
    with pytest.raises(Refused):
        await upstream_of().call(call, "books", "all")
    async with (
        Client.from_url(server.url) as there,
        RateLimiter(there, (BOOKS, ALL), prefix=prefix, deadline=2.0) as limiter,
    ):
        other = Upstream(limiter, retry_after=asked, timeout=0.0)
        call, left = answers("answer")
        with pytest.raises(RateLimited) as caught:
            await other.call(call, "books", "all")
        assert 25 < caught.value.retry_after <= 30
        assert await other.call(call, "all") == "answer"
    assert left == []


@pytest.mark.advanced
async def test_a_refused_call_is_sent_again_after_the_pause(upstream_of):
    """As often as `retries` says; what the last try raises is raised."""
    call, left = answers(Refused(0.1), Refused(0.0), "answer")
    assert await upstream_of(retries=2).call(call, "books") == "answer"
    call, left = answers(Refused(0.1), Refused(0.1), "answer")
    with pytest.raises(Refused):
        await upstream_of(retries=3).call(call, "books", retries=1)
    assert left == ["answer"]


@pytest.mark.advanced
async def test_costs_are_given_for_all_rules_or_for_each(limiter, upstream_of):
    """A call that is much for one rule may be little for another."""
    call, _ = answers(1, 2)
    upstream = upstream_of()
    await upstream.call(call, "books", "all", cost=3)
    await upstream.call(call, "books", "all", cost={"books": 10, "all": 1})

    assert (await limiter.peek("books")).remaining == 87
    assert (await limiter.peek("all")).remaining == 96
    for cost in ({"books": 1}, {"books": 1, "all": 0}, {"books": 1, "other": 1}):
        with pytest.raises(RuleError):
            await upstream.call(call, "books", "all", cost=cost)


@pytest.mark.errors
async def test_a_call_without_rules_waits_for_its_own_refusal_alone(upstream_of):
    """It goes out at once; what it was asked to wait stops the rule that it names."""
    upstream = upstream_of(timeout=1.0, retries=2)
    call, _ = answers(Refused(0.1), "answer")
    assert await upstream.call(call, blocks="books") == "answer"
    call, left = answers(Refused(0.3), "answer")
    began = asyncio.get_running_loop().time()
    assert await upstream.call(call, "all", blocks="books") == "answer"
    assert asyncio.get_running_loop().time() - began > 0.25
    call, left = answers(Refused(30.0), "answer")
    with pytest.raises(Refused):
        await upstream.call(call, blocks="books")
    assert left == ["answer"]
    with pytest.raises(RateLimited):
        await upstream.call(call, "books")


@pytest.mark.errors
def test_wrong_options_are_named(limiter):
    """Numbers out of range raise at once, with what is accepted."""
    for name, value in (("longest", 0.0), ("timeout", -1.0), ("retries", -1)):
        with pytest.raises(SettingsError, match=name):
            Upstream(limiter, retry_after=asked, **{name: value})
