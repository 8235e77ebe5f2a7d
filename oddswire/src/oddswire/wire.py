"""`Wire`: the parts of the library, opened and closed in order."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import msgspec

from oddswire.client import Client
from oddswire.embedded import EmbeddedServer
from oddswire.errors import ClosedError
from oddswire.events import Events
from oddswire.pubsub import PubSub
from oddswire.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from oddswire.pubsub import Topic

_log = logging.getLogger("oddswire.wire")


def connect(
    settings: Settings | None = None,
    *,
    topics: Iterable[Topic[Any]] = (),
    **overrides: Any,
) -> Wire:
    """Return a `Wire`; entering it connects.

    Args:
        settings: Where and how; default: development settings, with a server of our
            own started for as long as the wire is open.
        topics: Those that may be published and subscribed to; none: any.
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
    return Wire(settings, topics=topics)


class Wire:
    """Everything a process needs of Redis, behind one `async with`. Single use.

    Attributes:
        settings: What it was opened with; with an embedded server, `url` is filled in.
        events: Where changes of state can be subscribed to, before it is entered too.
        client: The `Client`.
        pubsub: The topics.
    """

    settings: Settings
    client: Client
    pubsub: PubSub

    def __init__(
        self, settings: Settings, *, topics: Iterable[Topic[Any]] = ()
    ) -> None:
        self.settings = settings
        self._topics = tuple(topics)
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
            self.pubsub = await stack.enter_async_context(
                PubSub(self.client, prefix=self.settings.prefix, topics=self._topics)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
