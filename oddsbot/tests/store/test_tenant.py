"""Two bots on one database or one Redis: the second one is refused."""

from __future__ import annotations

import asyncio

import pytest

from oddsbot.store import Tenant
from oddswire import Client
from oddswire.errors import OddswireError

pytestmark = [pytest.mark.integration, pytest.mark.requirement("B6")]


async def test_the_first_bot_has_the_data(engine, client, prefix):
    """Of two that begin at once one gets both; it may begin again, the other may not.

    The sentence names both bots and what to do; adopted, the other one has the data.
    """
    tenant = Tenant(engine, client, prefix)
    assert await tenant.other_than(42) == ""
    refused = await asyncio.gather(*(tenant.claim(bot) for bot in (42, 43)))
    assert sum(map(bool, refused)) == 1
    first, other = (42, 43) if refused[1] else (43, 42)
    assert await tenant.claim(first) == ""
    said = await tenant.claim(other)
    assert said.startswith(f"DATABASE_URL belongs to the bot {first}")
    assert "oddsbot db adopt" in said
    assert await tenant.other_than(first) == ""
    await tenant.adopt(other)
    assert await tenant.claim(other) == ""
    assert f"the bot {other}" in await tenant.other_than(first)


async def test_who_has_the_database_gets_redis(engine, client, prefix):
    """A bot wrote itself into the database and did not get to Redis: nobody else does.

    The bot that came between is refused for the database and takes nothing; the first
    one begins as soon as it can ask Redis.
    """
    async with Client.from_url("redis://127.0.0.1:1") as nowhere:
        with pytest.raises(OddswireError):
            await Tenant(engine, nowhere, prefix).claim(42)
    tenant = Tenant(engine, client, prefix)
    assert (await tenant.claim(43)).startswith("DATABASE_URL belongs to the bot 42")
    assert await tenant.claim(42) == ""
    assert await tenant.other_than(43) != ""


async def test_one_redis_under_two_databases_is_seen(engine, client, prefix):
    """Each has a database of its own, and Redis is shared: the second is refused."""
    tenant = Tenant(engine, client, prefix)
    await client.set(f"{prefix}tenant", "41")
    said = await tenant.claim(42)
    assert said.startswith("REDIS_URL belongs to the bot 41")
    await client.set(f"{prefix}tenant", "no number")
    assert await tenant.claim(42) == ""
