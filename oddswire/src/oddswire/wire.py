"""`Wire`: the parts of the library, opened and closed in order."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import msgspec

from oddswire.cache import Cache
from oddswire.client import Client
from oddswire.embedded import EmbeddedServer
from oddswire.errors import ClosedError
from oddswire.events import Events
from oddswire.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from oddswire.cache import Namespace

_log = logging.getLogger("oddswire.wire")


def connect(
    settings: Settings | None = None,
    *,
    namespaces: Iterable[Namespace] = (),
    **overrides: Any,
) -> Wire:
    """Return a `Wire`; entering it connects.

    Args:
        settings: Where and how; default: development settings, with a server of our
            own started for as long as the wire is open.
        namespaces: Of the cache.
        **overrides: Fields of `Settings` that replace those of `settings`.

    Raises:
        SettingsError: A setting is wrong.

    Example:
        >>> async with oddswire.connect(url="redis://localhost:6379") as wire:
        ...     await wire.client.set("greeting", "hello")
    """
    if settings is None:
        settings = Settings(**overrides)
    elif overrides:
        settings = msgspec.structs.replace(settings, **overrides)
    return Wire(settings, namespaces=namespaces)


class Wire:
    """Everything a process needs of Redis, behind one `async with`. Single use.

    Attributes:
        settings: What it was opened with; with an embedded server, `url` is filled in.
        events: Where changes of state can be subscribed to, before it is entered too.
        client: The `Client`.
        cache: The `Cache`, on the server of `cache_url` where that is set.
    """

    settings: Settings
    client: Client
    cache: Cache

    def __init__(
        self, settings: Settings, *, namespaces: Iterable[Namespace] = ()
    ) -> None:
        self.settings = settings
        self._namespaces = tuple(namespaces)
        self.events = Events()
        self._stack = AsyncExitStack()
        self._opened = False

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ClosedError("a Wire is used once; call connect() for another")
        self._opened = True
        for warning in self.settings.warnings:
            _log.warning("%s", warning)
        # On failure or cancellation half way, what was opened is closed again.
        async with AsyncExitStack() as stack:
            if self.settings.url is None:
                server = await stack.enter_async_context(
                    EmbeddedServer(binary=self.settings.server_bin)
                )
                _log.warning(
                    "no REDIS_URL: started a server of our own for this process; "
                    "its data ends with it"
                )
                self.settings = msgspec.structs.replace(
                    self.settings, url=server.url, password=None, database=None
                )
            self.client = Client.from_settings(self.settings, events=self.events)
            stack.push_async_callback(self.client.aclose)
            await self.client.ping()
            self.cache = await stack.enter_async_context(self._cache(stack))
            self._stack = stack.pop_all()
        return self

    def _cache(self, stack: AsyncExitStack) -> Cache:
        settings = self.settings
        client = self.client
        if settings.cache_url is not None:
            # Its own credentials are in its URL.
            client = Client.from_settings(
                msgspec.structs.replace(
                    settings,
                    url=settings.cache_url,
                    username=None,
                    password=None,
                    database=None,
                    sentinels=None,
                    sentinel_password=None,
                ),
                events=self.events,
            )
            stack.push_async_callback(client.aclose)
        return Cache(
            client,
            self._namespaces,
            prefix=settings.prefix,
            ttl=settings.cache_ttl,
            timeout=settings.side_timeout,
            heartbeat=settings.heartbeat_tracked,
            coherence=4 * settings.heartbeat_tracked,
            compress_above=settings.cache_compress_above,
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
