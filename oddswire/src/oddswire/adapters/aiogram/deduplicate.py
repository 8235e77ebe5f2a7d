"""`Deduplicate`: a middleware that handles each update once."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware
from aiogram.dispatcher.event.bases import CancelHandler
from aiogram.types import Update

from oddswire._numbers import check_duration
from oddswire._tasks import spawn
from oddswire.client import keyspace
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError, SettingsError, UpdateInProgress
from oddswire.events import Degradation
from oddswire.keys import UPDATE_SEEN
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram.types import TelegramObject

    from oddswire.client import Client
    from oddswire.clock import Clock

_RELEASE, _RENEW = map(load, ("once_release", "once_renew"))

# What a handled update is noted by; while it is handled, the token of its process.
_DONE = "1"
_PAUSE = 0.2  # seconds between two looks at an update that another process has
_LONGEST = 31 * 86_400.0


class _UpdateInProgress(UpdateInProgress, CancelHandler):
    """Passes the dispatcher's error handlers: one that returns would make it a 200."""


class Deduplicate(BaseMiddleware):
    """Drops an update that was handled, by bot and update id.

    ``before_isolation(dispatcher, Deduplicate(client))``. A handler that raises
    releases the update, so a webhook's second delivery is handled. While another
    process has it, it raises `UpdateInProgress`: the webhook answers 500, and Telegram
    delivers the update again until it was handled. So a process that is killed loses
    none. While Redis is away every update is handled, perhaps twice.

    Args:
        client: Where it is noted.
        prefix: What the keys begin with; None: as its settings say.
        ttl: Seconds an update that was handled is known; Telegram keeps undelivered
            ones for a day.
        lease: Seconds after which an update is free again whose process died, or stood
            still, while it was handled. A handler that runs for longer keeps it.
        deadline: Seconds that asking may take.
        wait: Seconds to wait for an update that another process has, before
            `UpdateInProgress`. With polling nobody delivers it again: give the lease
            and some seconds.
        clock: For `wait`.

    Raises:
        SettingsError: One of them is out of range.

    Attributes:
        dropped: Updates that were not handled here, because they had been.
        in_progress: Updates that were not handled here, because another process has
            them.
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
        wait: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        check_duration("ttl", ttl, 0.001, _LONGEST, SettingsError)
        check_duration("lease", lease, 0.001, ttl, SettingsError)
        check_duration("deadline", deadline, 0.001, inf, SettingsError)
        check_duration("wait", wait, 0.0, inf, SettingsError)
        self._keys = keyspace(client, prefix)
        self._client = client.bounded(deadline)
        self._ttl = ceil(ttl * 1000)
        self._lease = ceil(lease * 1000)
        self._wait = wait
        self._clock = clock or SystemClock()
        self._unasked, self._unnoted = (
            Degradation(client.events, "updates", mode, self._clock.monotonic)
            for mode in ("unchecked", "unnoted")
        )
        self.dropped = 0
        self.in_progress = 0
        self.unchecked = 0

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Handle an update, unless it was or is handled. Other events pass.

        Raises:
            UpdateInProgress: Another process has it.
        """
        if not isinstance(event, Update):
            return await handler(event, data)
        key = self._keys.key(UPDATE_SEEN, data["bot"].id, event.update_id)
        token = secrets.token_hex(8)
        claimed = False
        try:
            claimed = await self._claim(key, token)
            if not claimed:
                self.dropped += 1
                return None
        except UpdateInProgress:
            self.in_progress += 1
            raise
        except OddswireError as error:
            self.unchecked += 1
            self._unasked.begin(error)
        renewing = None
        if claimed:
            renewing = spawn(self._renew(key, token), name="oddswire update renewal")
        try:
            result = await handler(event, data)
        except BaseException:
            # By the token: after the lease another process may have it.
            await self._note(_RELEASE.run(self._client, [key], [token]))
            raise
        else:
            await self._note(self._client.set(key, _DONE, px=self._ttl))
            return result
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.wait([renewing])

    async def _renew(self, key: str, token: str) -> None:
        """Keep the update, each third of its lease, until this is cancelled."""
        while True:
            await self._clock.sleep(self._lease / 3000)
            # The next renewal may succeed.
            with suppress(OddswireError):
                await _RENEW.run(self._client, [key], [token, self._lease])

    async def _claim(self, key: str, token: str) -> bool:
        """Return whether the update is ours to handle; False: it was handled."""
        until = self._clock.monotonic() + self._wait
        while True:
            # A client that repeats it after a lost reply finds its own token.
            held = await self._client.set(key, token, nx=True, get=True, px=self._lease)
            self._unasked.end()
            text = held.decode() if isinstance(held, bytes) else held
            if text is None or text == token:
                return True
            if text == _DONE:
                return False
            if self._clock.monotonic() >= until:
                raise _UpdateInProgress(
                    "another process handles this update: it is neither handled here "
                    "nor done"
                )
            await self._clock.sleep(_PAUSE)

    async def _note(self, command: Awaitable[Any]) -> None:
        try:
            await command
            self._unnoted.end()
        except OddswireError as error:
            # The lease stays: until it ends the update counts as being handled.
            self._unnoted.begin(error)
