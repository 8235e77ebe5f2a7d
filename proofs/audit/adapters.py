"""The caches that are audited, each behind the same two calls."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

TTL = 60


class Adapter(Protocol):
    """A cache as it would be used: read with a loader, invalidate."""

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Return the value of a key."""

    async def invalidate(self, key: str) -> None:
        """Return when the key is invalidated; raise if that is not certain."""


class Oddswire:
    """Ours: two tiers; keys are invalidated by name, by tag, and softly by tag."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, url: str, sentinels: str = "", password: str = ""
    ) -> Oddswire:
        """Connect; to the primary that the sentinels name, where there are any."""
        from oddswire import Client
        from oddswire.cache import Cache, Namespace

        options = (
            {
                "sentinels": sentinels,
                "sentinel_password": password,
                "reconnect_delay": 0.02,
            }
            if sentinels
            else {}
        )
        client = Client.from_url(url, **options)
        stack.push_async_callback(client.aclose)
        space = Namespace(name="m", type=int, ttl=TTL)
        cache = Cache(client, [space], timeout=0.25)
        return cls(await stack.enter_async_context(cache))

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Read; what is made stale softly may serve, so who minds asks for fresh."""
        name, tags = f"m:{key}", (f"tag:{key}",)
        value: int | None = None
        if int(key) % 3 == 2:
            value = await self._cache.get(name)
            if value is None:
                value = await self._cache.refresh(name, loader, tags=tags)
        else:
            value = await self._cache.get_or_set(name, loader, tags=tags)
        assert value is not None
        return value

    async def invalidate(self, key: str) -> None:
        """By key, by tag or softly."""
        if int(key) % 3:
            soft = int(key) % 3 == 2
            await self._cache.invalidate_tags(f"tag:{key}", soft=soft)
        else:
            await self._cache.delete(f"m:{key}")


class Cashews:
    """cashews with its client side cache, its decorator's lock on."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> Cashews:
        """Connect; RESP2, for with RESP3 it gets no invalidations at all."""
        from cashews import Cache

        cache = Cache()
        joined = "&" if "?" in url else "?"
        cache.setup(f"{url}{joined}protocol=2", client_side=True, suppress=False)
        await cache.init()
        stack.push_async_callback(cache.close)
        return cls(cache)

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Read."""

        @self._cache(ttl=TTL, key="m:{key}", lock=True)
        async def load(key: str) -> int:
            return await loader()

        value: int = await load(key)
        return value

    async def invalidate(self, key: str) -> None:
        """By key."""
        await self._cache.delete(f"m:{key}")


class Aiocache:
    """aiocache's Redis cache, read and filled as its decorator does."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> Aiocache:
        """Connect."""
        from urllib.parse import unquote, urlsplit

        from aiocache import RedisCache
        from aiocache.serializers import JsonSerializer

        parts = urlsplit(url)
        cache = RedisCache(
            serializer=JsonSerializer(),
            endpoint=parts.hostname,
            port=parts.port,
            password=unquote(parts.password or "") or None,
            timeout=0.5,
        )
        stack.push_async_callback(cache.close)
        return cls(cache)

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Read."""
        value = await self._cache.get(f"m:{key}")
        if value is None:
            value = await loader()
            await self._cache.set(f"m:{key}", value, ttl=TTL)
        return int(value)

    async def invalidate(self, key: str) -> None:
        """By key."""
        await self._cache.delete(f"m:{key}")


class Dogpile:
    """dogpile.cache on Redis with its distributed lock, in threads."""

    def __init__(self, region: Any) -> None:
        self._region = region

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> Dogpile:
        """Connect."""
        from dogpile.cache import make_region

        region = make_region().configure(
            "dogpile.cache.redis",
            arguments={
                "url": url,
                "redis_expiration_time": TTL,
                "distributed_lock": True,
                "thread_local_lock": False,
                "lock_timeout": 5,
                "socket_timeout": 0.25,
            },
        )
        return cls(region)

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Read."""
        loop = asyncio.get_running_loop()

        def create() -> int:
            return asyncio.run_coroutine_threadsafe(_awaited(loader), loop).result()

        value: int = await asyncio.to_thread(
            self._region.get_or_create, f"m:{key}", create
        )
        return value

    async def invalidate(self, key: str) -> None:
        """By key."""
        await asyncio.to_thread(functools.partial(self._region.delete, f"m:{key}"))


class RedisPyCluster:
    """redis-py's client of a cluster, with the cache that one writes around it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> RedisPyCluster:
        """Connect by the first node of the URL."""
        from redis.asyncio import RedisCluster

        first = url.replace("cluster://", "redis://").partition(",")[0]
        client = RedisCluster.from_url(first, socket_timeout=0.5)
        stack.push_async_callback(client.aclose)
        return cls(client)

    async def read(self, key: str, loader: Callable[[], Awaitable[int]]) -> int:
        """Read."""
        value = await self._client.get(f"m:{key}")
        if value is None:
            value = await loader()
            await self._client.set(f"m:{key}", value, ex=TTL)
        return int(value)

    async def invalidate(self, key: str) -> None:
        """By key."""
        await self._client.delete(f"m:{key}")


async def _awaited(loader: Callable[[], Awaitable[int]]) -> int:
    return await loader()


ADAPTERS: dict[str, Any] = {
    "oddswire": Oddswire,
    "cashews": Cashews,
    "aiocache": Aiocache,
    "dogpile": Dogpile,
}
ON_CLUSTER: dict[str, Any] = {"oddswire": Oddswire, "redis-py": RedisPyCluster}
