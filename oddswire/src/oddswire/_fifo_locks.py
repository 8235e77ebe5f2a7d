"""`FifoLocks`: one task at a time for each key, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Ticket = asyncio.Future[None]

K = TypeVar("K", int, str)


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

    def acquire(self, key: K) -> Ticket:
        """Return a ticket: a future that is done once its owner holds the lock.

        `release` gives it up, before and after.
        """
        ticket: Ticket = asyncio.get_running_loop().create_future()
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
        """
        ticket = self.acquire(key)
        try:
            await ticket
            yield
        finally:
            self.release(key, ticket)
