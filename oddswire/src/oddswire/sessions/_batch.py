"""`UpdateBatcher`: updates of one session that would wait are saved together."""

from __future__ import annotations

import asyncio
import inspect
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._tasks import spawn
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddswire._fifo_locks import FifoLocks, Ticket

T = TypeVar("T", bound=Record)


class PendingUpdate(Generic[T]):
    """One call of `update`.

    Args:
        fn: Changes the session.
        create: Whether it may begin one.
        active: Whether it is the user's own activity.
        also: What the source stores in the same transaction.

    Attributes:
        value: The session after `fn`, once that is stored.
        error: Why this update was not stored, or may not have been.
    """

    __slots__ = ("active", "also", "create", "error", "fn", "value")

    def __init__(
        self,
        fn: Callable[[T], object],
        *,
        create: bool,
        active: bool,
        also: Any = None,
    ) -> None:
        self.fn = fn
        self.also = also
        self.create = create
        self.active = active
        self.value: T
        self.error: BaseException | None = None

    def apply(self, value: T) -> None:
        """Change a value, and keep it.

        Raises:
            TypeError: `fn` is a coroutine function, or a generator function.
        """
        result = self.fn(value)
        if inspect.isawaitable(result) or (
            isinstance(result, GeneratorType | AsyncGeneratorType)
            and result.__name__ == getattr(self.fn, "__name__", None)
        ):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("fn is a plain function: it may run several times")
        self.value = value

    def result(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class _Batch(Generic[T]):
    """Updates that one save will store, once their ticket is called."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.updates: dict[asyncio.Future[None], PendingUpdate[T]] = {}
        self.task: asyncio.Task[None]


class UpdateBatcher(Generic[T]):
    """Collects the updates of each session while the session is in use.

    A batch has a task of its own: a caller that is cancelled leaves the batch, and the
    updates of the others go on. Without callers the task is cancelled too.

    Args:
        locks: A batch waits for the lock of its session.
        commit: Makes updates and saves them. It sets the error of an update that
            failed alone, and raises the error of all.
    """

    def __init__(
        self,
        locks: FifoLocks[int],
        commit: Callable[[int, Sequence[PendingUpdate[T]]], Awaitable[None]],
    ) -> None:
        self._locks = locks
        self._commit = commit
        self._open: dict[int, _Batch[T]] = {}

    def close(self, user_id: int) -> None:
        """Close the open batch: later updates wait behind the next ticket."""
        self._open.pop(user_id, None)

    async def join(self, user_id: int, update: PendingUpdate[T]) -> None:
        """Add an update to the open batch, and wait until the batch is saved.

        Cancelled before the batch has its lock, the update is not made; later, it may
        be stored.

        Raises:
            LockHeld: This task holds the session.
        """
        self._locks.refuse_holder(user_id)
        loop = asyncio.get_running_loop()
        batch = self._open.get(user_id)
        if batch is None:
            ticket = self._locks.acquire(user_id, shared=True)
            batch = self._open[user_id] = _Batch(ticket)
            batch.task = spawn(self._run(user_id, batch), name="sessions: updates")
            # Not in the task: a task that is cancelled before its first step runs
            # nothing, and the ticket would stay in the queue for ever.
            batch.task.add_done_callback(lambda _: self._locks.release(user_id, ticket))
        done = loop.create_future()
        batch.updates[done] = update
        try:
            await done
        except asyncio.CancelledError:
            if all(each.cancelled() for each in batch.updates):
                self._close(user_id, batch)
                batch.task.cancel()
                await asyncio.wait([batch.task])
            raise

    def _close(self, user_id: int, batch: _Batch[T]) -> None:
        if self._open.get(user_id) is batch:
            self.close(user_id)

    async def _run(self, user_id: int, batch: _Batch[T]) -> None:
        try:
            await batch.ticket
            # From here on the updates are fixed: one that came later would miss `fn`.
            self._close(user_id, batch)
            await self._commit(
                user_id,
                [update for done, update in batch.updates.items() if not done.done()],
            )
        except BaseException as error:  # noqa: BLE001 - the callers raise it
            for update in batch.updates.values():
                update.error = update.error or error
        finally:
            for done in batch.updates:
                if not done.done():
                    done.set_result(None)
