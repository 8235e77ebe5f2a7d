"""`Updates`: what a bot has not seen yet, by long polling or to its webhook."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NoReturn

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

from .errors import ApiError, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .faults import Faults

_LONGEST_POLL = 50
_MOST_WAITING = 100_000
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105 - the header's name
OTHER_POLLER = (
    "terminated by other getUpdates request; make sure that only one bot instance is "
    "running"
)
HAS_WEBHOOK = (
    "can't use getUpdates method while webhook is active; use deleteWebhook to delete "
    "the webhook first"
)


class Webhook(msgspec.Struct, kw_only=True):
    """Where updates are posted to, and what came of it."""

    url: str
    secret: str = ""
    error_at: float | None = None
    error: str = ""


class Updates:
    """Updates in order of their ids, each until it is confirmed.

    Args:
        faults: Repeated and reversed updates are its switches.
        now: Unix seconds.
        retry: Seconds after which a webhook that failed is tried again; it doubles.
    """

    def __init__(
        self, faults: Faults, now: Callable[[], float], *, retry: float = 1.0
    ) -> None:
        self._faults = faults
        self._now = now
        self._retry = retry
        self._waiting: dict[int, Json] = {}
        self._repeated: set[int] = set()
        self._last = 0
        self._poll = 0
        self._news = asyncio.Event()
        self._closed = False
        self.allowed: frozenset[str] | None = None
        self.webhook: Webhook | None = None

    @property
    def pending(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, kind: str, content: Json) -> int | None:
        """Queue one; return its id, or None where the bot did not ask for its kind."""
        if self.allowed and kind not in self.allowed:
            return None
        self._last += 1
        self._waiting[self._last] = {"update_id": self._last, kind: content}
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._wake()
        return self._last

    def allow(self, kinds: Collection[str] | None) -> None:
        """Say which kinds are wanted; empty: the usual ones, None: as before."""
        if kinds is not None:
            self.allowed = frozenset(kinds) or None

    def hook(self, webhook: Webhook | None) -> None:
        """Set the webhook, or take it away; a poll that waits ends."""
        self.webhook = webhook
        self._wake()

    def close(self) -> None:
        """End the poll that waits; it returns nothing."""
        self._closed = True
        self._wake()

    async def poll(
        self,
        offset: int,
        limit: int,
        timeout: int,
        allowed: Collection[str] | None = None,
    ) -> list[Json]:
        """Return updates from `offset` on, and forget those before it.

        Args:
            offset: Below 0: that many from the end, the rest is forgotten.
            limit: At most so many, 1 to 100.
            timeout: Seconds to wait for the first; at most 50.
            allowed: As for `allow`.

        Raises:
            ApiError: 409, another poll began or a webhook is set.
        """
        if self.webhook is not None:
            raise ApiError(409, HAS_WEBHOOK)
        self.allow(allowed)
        self._poll += 1
        poll = self._poll
        self._wake()  # the one that waits sees that it is not the newest any more
        if offset < 0:
            offset = ([0, *self._waiting][offset:] or [0])[0]
        # They are in order: the first that is not confirmed ends the search.
        for update_id in list(takewhile(lambda each: each < offset, self._waiting)):
            self._confirm(update_id)
        end = asyncio.get_running_loop().time() + max(0, min(timeout, _LONGEST_POLL))
        while True:
            batch = list(islice(self._waiting.values(), max(1, min(limit, 100))))
            if batch or self._closed:
                return batch[::-1] if self._faults.reverse else batch
            try:
                async with asyncio.timeout_at(end):
                    await self._news.wait()
            except TimeoutError:
                return []
            if poll != self._poll:
                raise ApiError(409, OTHER_POLLER)
            if self.webhook is not None:
                raise ApiError(409, HAS_WEBHOOK)

    async def deliver(self) -> NoReturn:
        """Post updates to the webhook, one after the other, until it is cancelled."""
        pause = self._retry
        # Nobody is sent on to another address, and no proxy of the environment counts.
        async with ClientSession(timeout=ClientTimeout(total=30)) as http:
            while True:
                news = self._news
                hook = self.webhook
                if hook is None or not self._waiting:
                    await news.wait()
                    continue
                waiting = list(islice(self._waiting.items(), 2))
                update_id, update = waiting[-1 if self._faults.reverse else 0]
                if not await self._post(http, hook, update):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await news.wait()
                    pause = min(pause * 2, 60.0)
                    continue
                pause = self._retry
                self._confirm(update_id)

    async def _post(self, http: ClientSession, hook: Webhook, update: Json) -> bool:
        """Return whether the webhook took an update; what else it says is not read."""
        headers = {SECRET_HEADER: hook.secret} if hook.secret else {}
        try:
            async with http.post(
                hook.url, json=update, headers=headers, allow_redirects=False
            ) as response:
                if response.ok:
                    return True
                said = f"{response.status} {response.reason}"
                hook.error = f"Wrong response from the webhook: {said}"
        except (ClientError, OSError, TimeoutError) as error:
            hook.error = str(error) or "Connection timed out"
        hook.error_at = self._now()
        return False

    def _confirm(self, update_id: int) -> None:
        if self._faults.repeat and update_id not in self._repeated:
            self._repeated.add(update_id)
            return
        self._repeated.discard(update_id)
        self._waiting.pop(update_id, None)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
