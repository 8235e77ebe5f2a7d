"""The clients that are compared, each at its defaults unless a setting makes it faster.

A peer gives, for one of `COMMANDS` and a task's number, a function without arguments
that returns the awaitable call: its own typed method with the arguments bound to it, so
that nothing of the benchmark runs between the calls.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import coredis
import glide
import redis.asyncio as aredis
from redis.asyncio import BlockingConnectionPool, ConnectionPool

from oddswire.client import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from oddswire.embedded import EmbeddedServer

    Call = Callable[[], Awaitable[Any]]

COMMANDS = ("get", "set ex", "hget", "incr", "evalsha")
TASKS = 100
VALUE = b"v" * 100
SCRIPT = "return redis.call('GET', KEYS[1])"


def key(kind: str, task: int) -> str:
    """Return the key of a task; no two kinds share one."""
    return f"bench:{kind}:{task}"


_BATCH = tuple(key("get", task) for task in range(100))


async def fill(client: aredis.Redis) -> str:
    """Write what is read later; return the script's hash."""
    await client.flushall()
    for task in range(TASKS):
        await client.set(key("get", task), VALUE)
        await client.hset(key("hash", task), "field", VALUE)
    return str(await client.script_load(SCRIPT))


class Peer(Protocol):
    """A client under test."""

    name: str

    def call(self, command: str, task: int) -> Call:
        """Return the call of a command, as often as wanted."""

    async def batch(self) -> list[Any]:
        """Send 100 GETs as one explicit pipeline."""


class RedisPy:
    """redis-py's asyncio client, or ours: they have the same methods."""

    def __init__(self, name: str, client: aredis.Redis, sha: str) -> None:
        self.name = name
        self.client = client
        self._sha = sha

    def call(self, command: str, task: int) -> Call:
        """See `Peer`."""
        client = self.client
        calls: dict[str, Call] = {
            "get": partial(client.get, key("get", task)),
            "set ex": partial(client.set, key("set", task), VALUE, ex=100),
            "hget": partial(client.hget, key("hash", task), "field"),
            "incr": partial(client.incr, key("incr", task)),
            "evalsha": partial(client.evalsha, self._sha, 1, key("get", task)),
        }
        return calls[command]

    async def batch(self) -> list[Any]:
        """See `Peer`."""
        pipe = self.client.pipeline(transaction=False)
        for each in _BATCH:
            pipe.get(each)
        return await pipe.execute()


class Coredis:
    """coredis: structured concurrency, one multiplexed connection in effect."""

    name = "coredis"

    def __init__(self, client: coredis.Redis[bytes], sha: str) -> None:
        self._client = client
        self._sha = sha

    def call(self, command: str, task: int) -> Call:
        """See `Peer`."""
        client = self._client
        calls: dict[str, Call] = {
            "get": partial(client.get, key("get", task)),
            "set ex": partial(client.set, key("set", task), VALUE, ex=100),
            "hget": partial(client.hget, key("hash", task), "field"),
            "incr": partial(client.incr, key("incr", task)),
            "evalsha": partial(client.evalsha, self._sha, [key("get", task)]),
        }
        return calls[command]

    async def batch(self) -> list[Any]:
        """See `Peer`."""
        async with self._client.pipeline(transaction=False) as pipe:
            requests = [pipe.get(each) for each in _BATCH]
        return [await request for request in requests]


class Glide:
    """valkey-glide: one multiplexed connection in Rust."""

    name = "valkey-glide"

    def __init__(self, client: glide.GlideClient) -> None:
        self._client = client
        self._script = glide.Script(SCRIPT)
        self._expiry = glide.ExpirySet(glide.ExpiryType.SEC, 100)

    def call(self, command: str, task: int) -> Call:
        """See `Peer`."""
        client = self._client
        calls: dict[str, Call] = {
            "get": partial(client.get, key("get", task)),
            "set ex": partial(client.set, key("set", task), VALUE, expiry=self._expiry),
            "hget": partial(client.hget, key("hash", task), "field"),
            "incr": partial(client.incr, key("incr", task)),
            "evalsha": partial(client.invoke_script, self._script, [key("get", task)]),
        }
        return calls[command]

    async def batch(self) -> list[Any]:
        """See `Peer`."""
        batch = glide.Batch(is_atomic=False)
        for each in _BATCH:
            batch.get(each)
        return await self._client.exec(batch, raise_on_error=True) or []


def redis_py_settings(url: str) -> dict[str, aredis.Redis]:
    """Return redis-py's client by the pool settings that are tried."""
    settings = {
        "ConnectionPool(100)": aredis.Redis(
            connection_pool=ConnectionPool.from_url(url, max_connections=TASKS)
        ),
        "single_connection_client": aredis.Redis.from_url(
            url, single_connection_client=True
        ),
    }
    for size in (1, 2, 5, 10, 20, 50, 100):
        pool = BlockingConnectionPool.from_url(url, max_connections=size)
        name = f"BlockingConnectionPool({size})"
        settings[name] = aredis.Redis(connection_pool=pool)
    return settings


async def ours(stack: AsyncExitStack, server: EmbeddedServer, sha: str) -> RedisPy:
    """Open our client with everything on, which is the default."""
    client = Client.from_url(server.url)
    stack.push_async_callback(client.aclose)
    return RedisPy("oddswire", client, sha)


async def open_coredis(
    stack: AsyncExitStack, server: EmbeddedServer, sha: str
) -> Coredis:
    """Open coredis at its defaults."""
    client = coredis.Redis(server.host, server.port, password=server.password)
    await stack.enter_async_context(client)
    return Coredis(client, sha)


async def open_glide(stack: AsyncExitStack, server: EmbeddedServer) -> Glide:
    """Open valkey-glide at its defaults, but for a timeout that a busy loop keeps."""
    glide.Logger.set_logger_config(glide.LogLevel.ERROR)
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress(server.host, server.port)],
            credentials=glide.ServerCredentials(server.password),
            request_timeout=5_000,
        )
    )
    stack.push_async_callback(client.close)
    return Glide(client)
