"""`UpdateLocks`: one update of a conversation at a time, in their order."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import quote

from oddswire._fifo_locks import FifoLocks
from oddswire._numbers import check_duration, check_int, shown
from oddswire.connection.deadline import Deadline
from oddswire.errors import (
    CommandTimeout,
    ConversationBusy,
    OddswireError,
    SettingsError,
)
from oddswire.events import Degradation
from oddswire.locks import Locks
from oddswire.logs import LogLines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.client import Client

_log = logging.getLogger("oddswire.adapters")


_MOST_QUEUED = 1_000_000


class UpdateLockOptions(TypedDict, total=False):
    """Options of what handles updates one after the other.

    Attributes:
        lease: Seconds after which the lock of a dead process is free, 0.1 to 3600;
            default 30.
        timeout: Seconds that an update waits for its lock at most; default 60. At the
            end of them Redis is still asked once, within the client's deadline.
        queue: How many updates of one conversation may wait in this process; default
            100.
        on_error: What happens while Redis cannot be asked. ``"raise"``, the default:
            the update fails. ``"local"``: this process keeps its own order, and does
            not know of the others.
    """

    lease: float
    timeout: float
    queue: int
    on_error: Literal["raise", "local"]


class UpdateLocks:
    """One update of a conversation at a time; first in, first out within a process.

    The locks are for order, not for safety: the next handler overtakes one that stood
    still for longer than the lease, and both go on.

    Args:
        client: Where the locks are kept.
        prefix: What their keys begin with; None: as its settings say.
        lease: As of `UpdateLockOptions`, like all that follow.
        timeout: Likewise.
        queue: Likewise.
        on_error: Likewise.

    Raises:
        SettingsError: One of them is out of range.

    Attributes:
        local: Locks that this process took without Redis.
        lost: Locks that another process took before their handler was done.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str | None,
        lease: float = 30.0,
        timeout: float = 60.0,
        queue: int = 100,
        on_error: Literal["raise", "local"] = "raise",
    ) -> None:
        check_duration("lease", lease, 0.1, 3600.0, SettingsError)
        check_duration("timeout", timeout, 0.001, inf, SettingsError)
        check_int("queue", queue, 0, _MOST_QUEUED, SettingsError)
        if on_error not in ("raise", "local"):
            raise SettingsError(
                f"on_error {shown(on_error)}: accepted is 'raise' or 'local'"
            )
        self._locks = Locks(client, prefix=prefix)
        self._lease = lease
        self._timeout = timeout
        self._to_ask = min(timeout, client.timeout)
        self._queue = queue
        self._on_error = on_error
        self._degraded = Degradation(client.events, "turns", "local", monotonic)
        # Beside those of `Locks`: without Redis, this process keeps its own order.
        self._local: FifoLocks[str] = FifoLocks()
        self._log_lines = LogLines(_log)
        self.local = 0
        self.lost = 0

    @property
    def keys(self) -> int:
        """Keys that are locked or waited for, in this process."""
        return len(self._local)

    @asynccontextmanager
    async def take(self, kind: str, *parts: int | str) -> AsyncIterator[None]:
        """Hold the lock of a conversation for a block; leaving it never raises.

        Args:
            kind: Of the lock.
            *parts: Of its name; locks with other parts do not wait for each other.

        Raises:
            ConversationBusy: Too many wait, or the lock was not free in time.
            OddswireError: Redis could not be asked, and `on_error` is ``"raise"``.
        """
        key = name(kind, *parts)
        until = monotonic() + self._timeout
        waiting = self._local.waiting(key)
        if not self._local.is_free(key) and waiting >= self._queue:
            raise ConversationBusy(
                f"{waiting} updates of this conversation wait already; that is the cap "
                "`queue`"
            )
        ticket = self._local.acquire(key)
        try:
            try:
                async with Deadline(until - monotonic()):
                    await ticket
            except TimeoutError:
                raise ConversationBusy(
                    f"no lock was free within the timeout of {self._timeout:g} s"
                ) from None
            async with AsyncExitStack() as stack:
                lock = self._locks.lock(key, self._lease, on_lost=self._note_lost)
                left = max(until - monotonic(), self._to_ask)
                try:
                    async with Deadline(left):
                        await stack.enter_async_context(lock)
                    self._degraded.end()
                except OddswireError as error:
                    self._go_on_alone(error)
                except TimeoutError:
                    if lock.contended:
                        raise ConversationBusy(
                            "another process handles an update of this conversation "
                            "for longer than the timeout"
                        ) from None
                    self._go_on_alone(
                        CommandTimeout(f"no answer about a lock within {left:g} s")
                    )
                yield
        finally:
            self._local.release(key, ticket)

    def _go_on_alone(self, error: OddswireError) -> None:
        if self._on_error == "raise":
            raise error
        self.local += 1
        self._degraded.begin(error)

    def _note_lost(self) -> None:
        self.lost += 1
        self._log_lines.write(
            logging.WARNING,
            "turn_lost",
            reason="a lock ended before its handler was done: two may have run at a "
            "time",
        )


def name(kind: str, *parts: int | str) -> str:
    """Return the name of a lock; other parts never make the same one."""
    # Keys have dots as they are, so that the names can be read there.
    texts = [
        quote(each, "").replace(".", "%2E") if isinstance(each, str) else str(each)
        for each in parts
    ]
    return ".".join([kind, *texts])
