"""Where the primary is, by what the sentinels say, and when it moves."""

from __future__ import annotations

import asyncio
import copy
import re
import weakref
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from oddswire.connection.pool import WirePool, whole
from oddswire.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio as aredis

    from oddswire.settings import Settings

    Address = tuple[str, int]

# Seconds that one sentinel may take to answer before the next is asked.
_ANSWER = 1.0

# Seconds of silence after which the sentinels are asked: an announcement can be missed.
_ASK_AGAIN = 5.0


class Primary:
    """The address of the primary of one name.

    Args:
        manager: The sentinels.
        name: The name under which they know it.

    Attributes:
        named: The address that the exclusive wires were last left for.
    """

    def __init__(self, manager: Sentinel, name: str) -> None:
        self.name = name
        self.named: Address | None = None
        self._manager = manager

    async def address(self) -> Address:
        """Ask until one of the sentinels answers; the one that did is asked first next.

        Raises:
            Unavailable: None answered, or none knows a primary of that name.
        """
        # It swaps the list while it asks; two at a time would lose a sentinel.
        asked = copy.copy(self._manager)
        asked.sentinels = list(self._manager.sentinels)
        try:
            host, port = await asked.discover_master(self.name)
        except (RedisError, OSError) as error:
            raise Unavailable(
                f"the sentinels name no primary {self.name!r}: {_briefly(error)}"
            ) from error
        self._manager.sentinels = asked.sentinels
        return str(host), int(port)

    async def aclose(self) -> None:
        """Close the connections to the sentinels."""
        loop = asyncio.get_running_loop()
        # Each in a task of its own, which no cancellation reaches.
        closing = [
            loop.create_task(sentinel.aclose(), name="oddswire sentinel closing")
            for sentinel in self._manager.sentinels
        ]
        await asyncio.wait(closing)

    async def watch(self, moved: Callable[[Address], None]) -> None:
        """Tell of each address that the sentinels announce; ends by cancellation.

        It listens to one sentinel at a time for ``+switch-master``. An announcement
        made while nobody listened is made up for by asking, after each subscription
        and every few seconds of silence.

        Args:
            moved: Called with the address of the primary, also when it has not changed.
        """
        turn = 0
        while True:
            sentinel = self._manager.sentinels[turn % len(self._manager.sentinels)]
            try:
                await self._listen(sentinel, moved)
            except (RedisError, OSError, Unavailable):
                turn += 1
                await asyncio.sleep(_ANSWER)

    async def _listen(
        self, sentinel: aredis.Redis, moved: Callable[[Address], None]
    ) -> None:
        async with sentinel.pubsub() as pubsub:
            await pubsub.subscribe("+switch-master")
            while True:
                moved(await self.address())
                message = await pubsub.get_message(timeout=_ASK_AGAIN)
                while message is not None:
                    if message["type"] == "message":
                        self._announced(_text(message["data"]), moved)
                    message = await pubsub.get_message(timeout=_ASK_AGAIN)

    def _announced(self, text: str, moved: Callable[[Address], None]) -> None:
        parts = text.split(" ")
        # Whatever else is said there must not end the watch.
        if len(parts) == 5 and parts[0] == self.name and parts[4].isdecimal():
            moved((parts[3], int(parts[4])))


class SentinelPool(WirePool):
    """Exclusive wires to whoever is the primary when they are opened.

    Args:
        primary: Where it is.
        **arguments: Of `WirePool` and of its connections.
    """

    is_master = True
    check_connection = False

    def __init__(self, primary: Primary, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.primary = primary
        # As redis-py's own pool does: its connection asks it for the address.
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)

    async def get_master_address(self) -> Address:
        """Return where the primary is (redis-py's name for it)."""
        return await self.primary.address()

    async def aclose(self) -> None:
        """Close every wire, and those to the sentinels."""
        try:
            await super().aclose()
        finally:
            await self.primary.aclose()


def sentinel_pool(settings: Settings, arguments: dict[str, Any]) -> SentinelPool:
    """Return a pool that asks the sentinels of the settings.

    Args:
        settings: Their addresses and password; the URL's host is the primary's name.
        arguments: Of the pool and of its connections; host and port are not used.
    """
    arguments = dict(arguments)
    name = arguments.pop("host")
    arguments.pop("port", None)
    secure = issubclass(arguments["connection_class"], SSLConnection)
    tls = {key: v for key, v in arguments.items() if key.startswith("ssl_")}
    manager = Sentinel(
        addresses(settings.sentinels or ""),
        sentinel_kwargs={
            "username": settings.sentinel_username,
            "password": settings.sentinel_password,
            "socket_timeout": _ANSWER,
            "socket_connect_timeout": _ANSWER,
            "retry": Retry(NoBackoff(), 0),
            **({"ssl": True, **tls} if secure else {}),
        },
    )
    for sentinel in manager.sentinels:
        pool = sentinel.connection_pool
        pool.connection_class = whole(pool.connection_class)  # type: ignore[arg-type]
    arguments["connection_class"] = (
        SentinelManagedSSLConnection if secure else SentinelManagedConnection
    )
    return SentinelPool(Primary(manager, name), **arguments)


def addresses(text: str) -> list[Address]:
    """Return the addresses in ``host:port,host:port``; the port may be left out."""
    found = []
    for each in text.split(","):
        host, _, port = each.strip().rpartition(":")
        found.append((host, int(port)) if host else (port, 26379))
    return found


def primary_of(pool: aredis.ConnectionPool) -> Primary | None:
    """Return where a pool's primary is asked for, if its address is not fixed.

    redis-py's own Sentinel pool will do too: ``Sentinel.master_for(name,
    redis_class=oddswire.Client)``.
    """
    if isinstance(pool, SentinelPool):
        return pool.primary
    manager = getattr(pool, "sentinel_manager", None)
    return None if manager is None else Primary(manager, pool.service_name)  # type: ignore[attr-defined]


# redis-py names a sentinel by the whole of its client, some 700 characters.
_ITS_CLIENT = re.compile(r"<redis\.asyncio\.client\.Redis\(.*?\)>\)>\)>", re.DOTALL)
_ITS_ADDRESS = re.compile(r"\bhost=([^,]+),port=(\d+)")


def _briefly(error: Exception) -> str:
    """Return what redis-py says of the sentinels, each by its address."""

    def address(its_client: re.Match[str]) -> str:
        found = _ITS_ADDRESS.search(its_client[0])
        return ":".join(found.groups()) if found else "a sentinel"

    return _ITS_CLIENT.sub(address, str(error))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
