"""What aiohttp-session's tests get from a container: a client of its server."""

from __future__ import annotations

import pytest
import redis.asyncio


@pytest.fixture(name="redis")
async def fixture_redis():
    # As its conftest makes it.
    pool = redis.asyncio.ConnectionPool.from_url("redis://localhost:6379")
    client = redis.asyncio.Redis(connection_pool=pool)
    yield client
    await client.aclose()
    await pool.disconnect()
