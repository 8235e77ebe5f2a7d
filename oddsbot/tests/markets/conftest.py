"""A cache and a limiter on the real server, before a Polymarket that counts."""

from __future__ import annotations

from collections import Counter

import aiohttp
import pytest

from oddsbot import limits, markets, wallets
from oddsbot.polymarket import Clob, Data, Gamma
from oddswire.cache import Cache
from oddswire.ratelimit import RateLimiter

# The deadline of a cache that spares a busy test machine.
PATIENT = 2.0


@pytest.fixture
async def cache(client, prefix):
    """A cache with everything that the bot keeps in it."""
    spaces = markets.NAMESPACES + wallets.NAMESPACES
    async with Cache(client, spaces, prefix=prefix, timeout=PATIENT) as cache:
        yield cache


@pytest.fixture
async def limiter(client, prefix):
    """A limiter with Polymarket's rules."""
    rules = limits.POLYMARKET
    async with RateLimiter(client, rules, prefix=prefix, deadline=PATIENT) as limiter:
        yield limiter


@pytest.fixture
async def asked():
    """How often each path was asked for."""
    return Counter()


@pytest.fixture
async def session(asked):
    """A session that counts."""
    trace = aiohttp.TraceConfig()

    async def count(_session, _context, params):
        asked[params.url.path] += 1

    trace.on_request_start.append(count)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        yield session


@pytest.fixture
def known(session, cache, limiter):
    """Make `Markets` and `Wallets` of the Polymarket at an address."""

    def make(url, *, cache=cache, watch=lambda gamma: gamma, **options):
        gamma = watch(Gamma(session, url))
        upstream = limits.Upstream(limiter)
        return (
            markets.Markets(cache, gamma, Clob(session, url), upstream, **options),
            wallets.Wallets(cache, gamma, Data(session, url), upstream),
        )

    return make
