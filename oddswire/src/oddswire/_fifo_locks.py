"""`FifoLocks`: one task at a time for each key, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire.errors import LockHeld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

K = TypeVar("K", int, str)


class Ticket(asyncio.Future[None]):
    """A place in the queue of a lock; done once its owner holds the lock.

    Attributes:
        owner: The task that would wait for itself, should it ask again; None: of
            nobody alone.
    """

    owner: asyncio.Task[Any] | None = None


class FifoLocks(Generic[K]):
    """A lock for each key that is in use, and none for the others.

    The length is the number of keys in use.
    """

    def __init__(self) -> None:
        self._queues: dict[K, deque[Ticket]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def is_free(self, key: K) -> bool:
        """Return whether nobody holds the lock of a key."""
        return key not in self._queues

    def waiting(self, key: K) -> int:
        """Return how many tickets wait for the lock."""
        return len(queue) - 1 if (queue := self._queues.get(key)) else 0

    def refuse_holder(self, key: K) -> None:
        """Refuse the task that holds the lock of a key: it would wait for itself.

        Raises:
            LockHeld: This task holds it.
        """
        queue = self._queues.get(key)
        if queue and queue[0].owner and queue[0].owner is asyncio.current_task():
            raise LockHeld(
                "this task has it already and would wait for itself for ever: use what "
                "it has, or ask again after its block"
            )

    def acquire(self, key: K, *, shared: bool = False) -> Ticket:
        """Return a ticket: a future that is done once its owner holds the lock.

        `release` gives it up, before and after.

        Args:
            key: Of the lock.
            shared: Whether the ticket is for several tasks.

        Raises:
            LockHeld: This task holds it.
        """
        self.refuse_holder(key)
        ticket = Ticket()
        if not shared:
            ticket.owner = asyncio.current_task()
        queue = self._queues.setdefault(key, deque())
        if not queue:
            ticket.set_result(None)
        queue.append(ticket)
        return ticket

    def release(self, key: K, ticket: Ticket) -> None:
        """Give a ticket up; the second time it does nothing."""
        queue = self._queues.get(key)
        if queue is None or ticket not in queue:
            return
        queue.remove(ticket)
        if not queue:
            del self._queues[key]
        elif not queue[0].done():
            queue[0].set_result(None)

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Hold the lock of a key for the block.

        A task that is cancelled while it waits leaves the order of the others as it is.

        Raises:
            LockHeld: This task holds it.
        """
        ticket = self.acquire(key)
        try:
            await ticket
            yield
        finally:
            self.release(key, ticket)
