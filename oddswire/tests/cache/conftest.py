"""What the tests of the cache share: caches as of several processes, loaders."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from oddswire import Client
from oddswire.cache import Cache
from support.hooks import believed


class Market(msgspec.Struct, frozen=True):
    """A value."""

    id: int
    question: str = "?"


class Loader:
    """Counts its calls, and returns when it is let."""

    def __init__(self, value=None, *, held=False):
        self.calls = 0
        self.value = value
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self):
        """Load."""
        self.calls += 1
        value = self.calls if self.value is None else self.value
        self.started.set()
        await self.go.wait()
        return value() if callable(value) else value


class Fleet:
    """Caches, each with a client and wires of its own, as in processes."""

    def __init__(self, stack, url, prefix):
        self._stack = stack
        self.url = url
        self.prefix = prefix

    async def cache(self, *namespaces, url=None, **options):
        """Return one more."""
        client = Client.from_url(url or self.url)
        self._stack.push_async_callback(client.aclose)
        # Tests share the machine; the deadline is not what they are about.
        options = {"timeout": 5.0, "prefix": self.prefix} | options
        cache = await self._stack.enter_async_context(
            Cache(client, namespaces, **options)
        )
        cache.client = client
        return cache

    async def believed(self, *caches):
        """Wait until each believes its memory."""
        await believed(*caches)


@pytest.fixture
async def fleet(server, prefix):
    """Makes caches on the shared server."""
    async with AsyncExitStack() as stack:
        yield Fleet(stack, server.url, prefix)


@pytest.fixture
async def own_fleet(own):
    """Makes caches on a server of this test; `.server` is it."""
    async with AsyncExitStack() as stack:
        made = Fleet(stack, own.url, "own:")
        made.server = own
        yield made
