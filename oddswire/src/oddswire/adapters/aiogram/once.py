"""`Once`: a middleware that handles each update once."""

from __future__ import annotations

import logging
from math import ceil
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware
from aiogram.types import Update

from oddswire.client import keyspace
from oddswire.errors import OddswireError, SettingsError
from oddswire.keys import UPDATE_SEEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram.types import TelegramObject

    from oddswire.client import Client

_log = logging.getLogger("oddswire.adapters")


class Once(BaseMiddleware):
    """Drops an update that another process has, or had, by bot and update id.

    ``dispatcher.update.outer_middleware(Once(client))``. A handler that raises gives
    the update back, so that a webhook's second delivery is handled. While Redis is away
    every update is handled, perhaps twice.

    Args:
        client: Where it is noted.
        prefix: What the keys begin with; None: as its settings say.
        ttl: Seconds an update that was handled is known; Telegram keeps undelivered
            ones for a day.
        lease: Seconds after which an update is free again whose process died while it
            was handled; longer than any handler runs.
        deadline: Seconds that asking may take.

    Raises:
        SettingsError: One of them is out of range.

    Attributes:
        dropped: Updates that were not handled here.
        unchecked: Updates that were handled without asking.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None = None,
        ttl: float = 86_400.0,
        lease: float = 60.0,
        deadline: float = 0.5,
    ) -> None:
        if not 0.001 <= lease <= ttl < 31 * 86_400.0:
            raise SettingsError(
                f"lease {lease!r} and ttl {ttl!r}: accepted are seconds above 0, the "
                "lease at most the ttl, the ttl below 31 days"
            )
        if not deadline > 0:
            raise SettingsError(f"deadline {deadline!r}: accepted are seconds above 0")
        self._keys = keyspace(client, prefix)
        self._client = client.bounded(deadline)
        self._ttl = ceil(ttl * 1000)
        self._lease = ceil(lease * 1000)
        self.dropped = 0
        self.unchecked = 0

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Handle an update, unless it was or is handled. Other events pass."""
        if not isinstance(event, Update):
            return await handler(event, data)
        key = self._keys.key(UPDATE_SEEN, data["bot"].id, event.update_id)
        try:
            # Not repeated by the client: after a lost reply it would be its own
            # duplicate, and the update would be dropped.
            ours = await self._client.set(key, 1, nx=True, px=self._lease)
        except OddswireError as error:
            self.unchecked += 1
            _log.warning("update %d is handled unchecked: %r", event.update_id, error)
            return await handler(event, data)
        if not ours:
            self.dropped += 1
            return None
        try:
            result = await handler(event, data)
        except BaseException:
            await self._note(self._client.unlink(key))
            raise
        await self._note(self._client.set(key, 1, px=self._ttl))
        return result

    async def _note(self, command: Awaitable[Any]) -> None:
        try:
            await command
        except OddswireError as error:
            # The lease stays: until it ends the update counts as being handled.
            _log.warning("what became of an update was not noted: %r", error)
