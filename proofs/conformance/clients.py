"""The four clients behind one face, for `repros.py`.

Each `open_*` returns a client with `get`, `set`, `incr`, `ping` and `whoami`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import coredis
import glide
import redis.asyncio as aredis
from coredis.credentials import AbstractCredentialProvider, UserPass
from coredis.retry import NoRetryPolicy
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from oddswire.client import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack


class Target(NamedTuple):
    """Where to connect, and how patiently.

    Attributes:
        host: Address.
        port: TCP port.
        password: Of `user`.
        user: ACL user; None: the default one.
        timeout: Seconds for a command; None: the client's default.
        retries: False turns the client's retries off.
        credentials: Asked for (user, password) at each connection, in place of those.
    """

    host: str
    port: int
    password: str | None = None
    user: str | None = None
    timeout: float | None = None
    retries: bool = True
    credentials: Callable[[], Awaitable[tuple[str, str]]] | None = None


class NotOffered(Exception):
    """The client has nothing like it."""


class _Provider(CredentialProvider):
    def __init__(self, ask: Callable[[], Awaitable[tuple[str, str]]]) -> None:
        self._ask = ask

    async def get_credentials_async(self) -> tuple[str, str]:
        return await self._ask()


class _CoredisProvider(AbstractCredentialProvider):
    def __init__(self, ask: Callable[[], Awaitable[tuple[str, str]]]) -> None:
        self._ask = ask

    async def get_credentials(self) -> UserPass:
        return UserPass(*await self._ask())


def _redis_py_options(target: Target) -> dict[str, Any]:
    options: dict[str, Any] = {"host": target.host, "port": target.port}
    if target.credentials is not None:
        return options | {"credential_provider": _Provider(target.credentials)}
    return options | {"username": target.user, "password": target.password}


class RedisPy:
    """redis-py, or what has its methods."""

    def __init__(self, client: aredis.Redis) -> None:
        self.client = client
        self.get, self.set, self.incr = client.get, client.set, client.incr
        self.ping, self.whoami = client.ping, client.acl_whoami


async def open_redis_py(stack: AsyncExitStack, target: Target) -> RedisPy:
    """Open redis-py's client."""
    options = _redis_py_options(target)
    if target.timeout is not None:
        options["socket_timeout"] = target.timeout
    if not target.retries:
        options["retry"] = Retry(NoBackoff(), 0)
    client = aredis.Redis(**options)
    stack.push_async_callback(client.aclose)
    return RedisPy(client)


async def open_ours(stack: AsyncExitStack, target: Target) -> RedisPy:
    """Open ours."""
    options = _redis_py_options(target)
    if target.timeout is not None:
        options["command_timeout"] = target.timeout
    if not target.retries:
        options["retries"] = 0
    client = Client(**options)
    stack.push_async_callback(client.aclose)
    return RedisPy(client)


class Coredis(RedisPy):
    """coredis: the same names."""


async def open_coredis(stack: AsyncExitStack, target: Target) -> Coredis:
    """Open coredis."""
    options: dict[str, Any] = {"username": target.user, "password": target.password}
    if target.credentials is not None:
        options = {"credential_provider": _CoredisProvider(target.credentials)}
    if not target.retries:
        options["retry_policy"] = NoRetryPolicy()
    client = coredis.Redis(
        target.host, target.port, stream_timeout=target.timeout, **options
    )
    await stack.enter_async_context(client)
    return Coredis(client)


class Glide:
    """valkey-glide."""

    def __init__(self, client: glide.GlideClient) -> None:
        self.client = client
        self.get, self.set, self.incr = client.get, client.set, client.incr
        self.ping = client.ping

    async def whoami(self) -> Any:
        """Return the ACL user."""
        return await self.client.custom_command(["ACL", "WHOAMI"])


async def open_glide(stack: AsyncExitStack, target: Target) -> Glide:
    """Open valkey-glide."""
    if target.credentials is not None:
        raise NotOffered("has no credential provider")
    glide.Logger.set_logger_config(glide.LogLevel.OFF)
    credentials = None
    if target.password is not None:
        credentials = glide.ServerCredentials(target.password, target.user)
    options: dict[str, Any] = {}
    if target.timeout is not None:
        options["request_timeout"] = round(target.timeout * 1000)
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress(target.host, target.port)],
            credentials=credentials,
            **options,
        )
    )
    stack.push_async_callback(client.close)
    return Glide(client)


OPEN = {
    "oddswire": open_ours,
    "redis-py": open_redis_py,
    "coredis": open_coredis,
    "valkey-glide": open_glide,
}
