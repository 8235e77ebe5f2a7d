"""`Rotation`: open connections authenticate again when there is a new token."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from oddswire._tasks import spawn
from oddswire.connection.credentials import FannedOut, credentials_in
from oddswire.connection.pool import ExclusivePool
from oddswire.errors import OddswireError
from oddswire.logs import log_line

if TYPE_CHECKING:
    import redis.asyncio as aredis

    from oddswire.connection.access import Access
    from oddswire.connection.loop_guard import LoopGuard

_log = logging.getLogger("oddswire")


class Authenticates(Protocol):
    """What has a connection that is to follow."""

    @property
    def loop_guard(self) -> LoopGuard:
        """Whose loop it is used in."""

    async def authenticate(self) -> None:
        """Authenticate what is open by the newest token."""


class Rotation:
    """Listens to the provider of one client.

    A token that comes while a handshake is under way is not lost either: the dialer and
    the pool compare the token that a connection was opened with to the newest one.

    Args:
        provider: Where tokens come from.
        pool: Its idle connections authenticate at once, those in use when they are
            given back.
        access: Where the newest token is kept.
    """

    def __init__(
        self, provider: FannedOut, pool: aredis.ConnectionPool, access: Access
    ) -> None:
        self._provider = provider
        self._pool = pool
        self._access = access
        self._followers: WeakSet[Authenticates] = WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        # Tokens in the order they came, and the newest whose credentials are known.
        self._came = self._known = 0
        provider.on_next(self.renewed)

    def add(self, follower: Authenticates) -> None:
        """Let this connection follow as well, until it is collected."""
        self._followers.add(follower)

    def renewed(self, token: Any) -> asyncio.Task[None] | None:
        """Take a new token, in any thread."""
        loops = {each.loop_guard.loop for each in self._followers}
        loops = (loops | {getattr(self._pool, "loop", None)}) - {None}
        for loop in loops:
            assert loop is not None  # noqa: S101 - for the type
            try:
                here = asyncio.get_running_loop() is loop
            except RuntimeError:
                here = False
            if here:
                return self._start(token)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._start, token)
        return None  # no connection yet: its handshake asks the provider

    def _start(self, token: Any) -> asyncio.Task[None]:
        self._came += 1
        return spawn(
            self._authenticate(token, self._came),
            name="oddswire authenticating again",
            into=self._tasks,
        )

    async def _authenticate(self, token: Any, number: int) -> None:
        user, password = await credentials_in(token, self._provider)
        if number < self._known:
            return  # the provider was faster with those of a newer token
        self._known = number
        words = ("AUTH", password) if user is None else ("AUTH", user, password)
        self._access.renewed(words)
        steps = [each.authenticate() for each in self._followers]
        if isinstance(self._pool, ExclusivePool):
            steps.append(self._pool.authenticate())
        else:
            steps.append(self._pool.re_auth_callback(token))  # redis-py's own pool
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, OddswireError):
                log_line(
                    _log, logging.WARNING, "reauthentication_failed", reason=result
                )
            elif isinstance(result, BaseException):
                raise result
