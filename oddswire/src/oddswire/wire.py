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
from oddswire.queue import Queue
from oddswire.settings import Settings

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger("oddswire.wire")


def connect(
    settings: Settings | None = None,
    *,
    queue: type[Any] | None = None,
    **overrides: Any,
) -> Wire:
    """Return a `Wire`; entering it connects.

    Args:
        settings: Where and how; default: development settings, with a server of our
            own started for as long as the wire is open.
        queue: The type of the messages of `Wire.queue`; None: there is none.
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
    return Wire(settings, queue=queue)


class Wire:
    """Everything a process needs of Redis, behind one `async with`. Single use.

    Attributes:
        settings: What it was opened with; with an embedded server, `url` is filled in.
        events: Where changes of state can be subscribed to, before it is entered too.
        client: The `Client`.
    """

    settings: Settings
    client: Client

    def __init__(self, settings: Settings, *, queue: type[Any] | None = None) -> None:
        self.settings = settings
        self._queue_type = queue
        self.events = Events()
        self._stack = AsyncExitStack()
        self._opened = False
        self._queue: Queue[Any] | None = None

    @property
    def queue(self) -> Queue[Any]:
        """The queue named ``messages``, of the type that `connect` was given.

        Raises:
            ClosedError: None was given, or the `Wire` was not entered yet.
        """
        if self._queue is None:
            raise ClosedError(
                "this Wire has no queue: give connect(queue=...) the type of its "
                "messages, and enter it"
            )
        return self._queue

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
            if self._queue_type is not None:
                self._queue = Queue(
                    self.client,
                    "messages",
                    self._queue_type,
                    prefix=self.settings.prefix,
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
