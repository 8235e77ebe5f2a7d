"""Adapters that are given something else: each says so when it is made."""

from __future__ import annotations

from datetime import timedelta

import pytest

from oddswire.adapters.aiogram import SendLimits, Storage, Throttle
from oddswire.adapters.aiohttp import UpstreamLimits
from oddswire.adapters.asgi import RateLimits
from oddswire.adapters.ptb import RateLimiter as PtbLimiter
from oddswire.adapters.upstream import Upstream
from oddswire.errors import RuleError, SettingsError
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

pytestmark = pytest.mark.errors

ALL = Rule("all", SlidingWindow(20, 1.0), key="bot")
USER = Rule("user", SlidingWindow(20, 1.0), key="user")
CALLER = Rule("caller", SlidingWindow(20, 1.0), key="client")
BOOKS = Rule("books", SlidingWindow(20, 1.0))


@pytest.fixture
async def limiter(client, prefix):
    """Return a limiter."""
    async with RateLimiter(client, [BOOKS], prefix=prefix) as limiter:
        yield limiter


def test_what_is_no_limiter_is_named(client):
    """A client in the limiter's place is told where the limiter is."""
    for wrong in (None, client, "redis://:secret@host"):
        for make in (
            lambda given: Throttle(given, USER),
            lambda given: SendLimits(given, overall=ALL),
            lambda given: PtbLimiter(given, bot_id=1, overall=ALL),
            lambda given: RateLimits(print, given, CALLER),
            lambda given: Upstream(given, retry_after=print),
            lambda given: UpstreamLimits(given, print),
        ):
            with pytest.raises(SettingsError, match="limiter must be") as caught:
                make(wrong)
            assert "secret" not in str(caught.value)


def test_what_is_no_rule_or_function_is_named(limiter, client):
    """Names in the place of rules, and what cannot be called, are refused at once."""
    for make in (
        lambda: Throttle(limiter, "user"),
        lambda: SendLimits(limiter, overall="all"),
        lambda: SendLimits(limiter, overall=ALL, chat="chat"),
        lambda: PtbLimiter(limiter, bot_id=1, overall=5),
        lambda: RateLimits(print, limiter, "caller"),
    ):
        with pytest.raises(SettingsError, match="a rule must be"):
            make()
    with pytest.raises(SettingsError, match="needs a rule"):
        Throttle(limiter)
    for name, make in {
        "on_limited": lambda: Throttle(limiter, USER, on_limited=5),
        "client": lambda: RateLimits(print, limiter, CALLER, client="ip"),
        "application": lambda: RateLimits(None, limiter, CALLER),
        "retry_after": lambda: Upstream(limiter, retry_after=5),
        "pick": lambda: UpstreamLimits(limiter, [BOOKS]),
    }.items():
        with pytest.raises(SettingsError, match=f"{name} must be a function"):
            make()
    for wrong in (5, True, b"fsm"):
        with pytest.raises(SettingsError, match="legacy_prefix"):
            Storage(client, legacy_prefix=wrong)


@pytest.mark.parametrize("wrong", ["5", timedelta(seconds=5), True, [5]])
async def test_a_retry_after_that_is_no_number_is_named(limiter, wrong):
    """It says what was returned, and what the service raised is not lost."""

    async def fetch():
        raise KeyError("the refusal")

    upstream = Upstream(limiter, retry_after=lambda _: wrong)
    with pytest.raises(RuleError, match="retry_after returned") as caught:
        await upstream.call(fetch, "books")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_what_cannot_be_called_is_refused_before_it_counts(limiter):
    """A coroutine in the place of its function takes nothing from the limit."""
    upstream = Upstream(limiter, retry_after=lambda _: None)

    async def fetch():
        return 1

    coroutine = fetch()
    with pytest.raises(SettingsError, match="fetch must be a function"):
        await upstream.call(coroutine, "books")
    coroutine.close()
    assert (await limiter.peek("books")).remaining == 20
