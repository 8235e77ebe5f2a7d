"""What throttled-py's tests get from elsewhere: a store, of a server and not a fake."""

from __future__ import annotations

import pytest
from throttled.asyncio import RedisStore


@pytest.fixture(name="redis_store")
async def fixture_redis_store():
    store = RedisStore(server="redis://localhost:6379/0")
    yield store
    client = store._backend.get_client()
    await client.flushall()
    await client.aclose()


@pytest.fixture(params=["redis"])
def store(request, redis_store):
    return redis_store
