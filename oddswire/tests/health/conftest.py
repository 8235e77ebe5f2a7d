"""What the tests of health share: a server to hurt, and waiting for what one did."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client, EmbeddedServer


@pytest.fixture
async def own():
    """A server of the test's own."""
    async with EmbeddedServer() as server:
        yield server


@pytest.fixture
async def client(own):
    """A client of the test's own server."""
    async with Client.from_url(own.url) as client:
        yield client


async def until(look, wanted):
    """Await `look()` again and again until `wanted` is true of what it returns."""
    async with asyncio.timeout(15):
        while not wanted(found := await look()):  # noqa: ASYNC110 - it asks a server
            await asyncio.sleep(0.02)
    return found


@pytest.fixture(name="until")
def _until():
    return until
