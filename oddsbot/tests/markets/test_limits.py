"""`Upstream`: Polymarket's limits are kept, and a 429 is heard by every process."""

from __future__ import annotations

import asyncio

import pytest

from oddsbot.limits import COMMANDS, POLYMARKET, TELEGRAM, Upstream
from oddsbot.polymarket import RateLimitedUpstream
from oddswire import Client
from oddswire.adapters.aiogram import SendLimits
from oddswire.errors import RateLimited
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow


def refusing(retry_after):
    """Return a call that Polymarket answers with 429."""

    async def refuse():
        raise RateLimitedUpstream("429", retry_after=retry_after)

    return refuse


async def answer():
    """Be a call that succeeds."""
    return "answer"


@pytest.mark.requirement("R4")
@pytest.mark.integration
async def test_a_429_holds_back_every_process(server, prefix):
    """After one was refused another does not ask there, elsewhere it may."""
    async with (
        Client.from_url(server.url) as here,
        Client.from_url(server.url) as there,
        RateLimiter(here, POLYMARKET, prefix=prefix, deadline=2.0) as first,
        RateLimiter(there, POLYMARKET, prefix=prefix, deadline=2.0) as second,
    ):
        with pytest.raises(RateLimitedUpstream):
            await Upstream(first).call("gamma", "markets", refusing(30.0))
        upstream = Upstream(second, timeout=0.0)
        with pytest.raises(RateLimited) as caught:
            await upstream.call("gamma", "markets", answer)

        assert 25.0 < caught.value.retry_after <= 30.0
        assert await upstream.call("gamma", "events", answer) == "answer"


@pytest.mark.requirement("R4")
@pytest.mark.errors
async def test_a_429_is_heard_of_although_redis_is_away(prefix):
    """The caller gets the 429, not Redis' error, and this process keeps to it."""
    async with (
        Client.from_url("redis://127.0.0.1:9", connect_timeout=0.2) as client,
        RateLimiter(client, POLYMARKET, prefix=prefix) as limiter,
    ):
        upstream = Upstream(limiter, timeout=0.0)
        with pytest.raises(RateLimitedUpstream):
            await upstream.call("data", "", refusing(30.0))
        with pytest.raises(RateLimited):
            await upstream.call("data", "", answer)


@pytest.mark.requirement("R4")
@pytest.mark.integration
async def test_calls_wait_for_their_turn(server, prefix):
    """Above the limit calls wait in line instead of being sent; none is lost."""
    rules = (
        Rule("gamma", SlidingWindow(1_000, 1.0)),
        Rule("gamma.markets", SlidingWindow(20, 0.2)),
    )
    sent = []
    loop = asyncio.get_running_loop()

    async def send():
        sent.append(loop.time())

    async with (
        Client.from_url(server.url) as client,
        RateLimiter(client, rules, prefix=prefix, deadline=2.0) as limiter,
    ):
        upstream = Upstream(limiter)
        await asyncio.gather(
            *(upstream.call("gamma", "markets", send) for _ in range(60))
        )

    assert len(sent) == 60
    assert sent[-1] - sent[0] > 0.35  # three windows of 20


@pytest.mark.basic
@pytest.mark.parametrize("rules", [POLYMARKET, TELEGRAM, COMMANDS])
def test_presets_are_below_what_is_published(rules):
    """No preset has the name of another, and Polymarket's leave a tenth unused."""
    names = [rule.name for rule in (*POLYMARKET, *TELEGRAM, *COMMANDS)]
    by_name = {rule.name: rule.limit for rule in rules}

    assert len(set(names)) == len(names)
    if rules is POLYMARKET:
        assert by_name["gamma.markets"] == SlidingWindow(270, 10.0)
        assert by_name["clob"] == SlidingWindow(8_100, 10.0)
    if rules is TELEGRAM:
        assert by_name["telegram"].limit < 30


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_telegrams_limits_are_what_outgoing_takes(server, prefix):
    """The preset goes to the outgoing limiter as it is, and is what then holds."""
    async with (
        Client.from_url(server.url) as client,
        RateLimiter(client, TELEGRAM, prefix=prefix, deadline=2.0) as limiter,
    ):
        SendLimits(limiter, **TELEGRAM._asdict())
        SendLimits(
            limiter, overall=TELEGRAM[0], chat=TELEGRAM[1], group=TELEGRAM[2], retries=0
        )
        await limiter.hit(*(rule.name for rule in TELEGRAM), bot=42, chat="42:7")
        used = await limiter.peek("telegram", bot=42)

    assert used.limit - used.remaining == 1


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_a_429_of_a_month_blocks_ten_minutes(server, prefix):
    """A mistaken or hostile Retry-After does not silence the bot for a month."""
    async with (
        Client.from_url(server.url) as client,
        RateLimiter(client, POLYMARKET, prefix=prefix, deadline=2.0) as limiter,
    ):
        upstream = Upstream(limiter, timeout=0.0)
        with pytest.raises(RateLimitedUpstream):
            await upstream.call("clob", "books", refusing(2_600_000.0))
        with pytest.raises(RateLimited) as caught:
            await upstream.call("clob", "books", answer)

    assert 590.0 < caught.value.retry_after <= 600.0
