"""`FlowControl`: how much may be in flight on a connection. No I/O.

Callers that find no room wait in order of arrival. `update` lets the oldest in. From
then on that caller counts as in flight, though it has not sent yet (`_granted`): no
newcomer and no later `update` takes its room.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from oddswire.connection.deadline import Alarm
from oddswire.errors import OddswireError, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable


class Limits(NamedTuple):
    """What may be in flight on one connection before callers wait."""

    commands: int = 4_096
    bytes: int = 16 * 1024 * 1024


class FlowControl:
    """The room left on one connection.

    Attributes:
        open: Whether a newcomer may send now, without waiting.
        paused: Lets no call in, whatever the room: the kernel takes no more bytes, or
            the connection is closing. Call `update` after changing it.
        commands: Calls in flight.
        bytes: Bytes of those calls.
    """

    __slots__ = ("_granted", "_granted_bytes", "_waiters", "bytes", "commands",
                 "limits", "open", "paused")  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = True
        self.paused = False
        self.commands = 0
        self.bytes = 0
        self._granted = 0
        self._granted_bytes = 0
        # A deque would be searched through for each caller that gives up.
        self._waiters: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Callers that wait for room."""
        return len(self._waiters)

    def update(self) -> None:
        """Let callers in, oldest first, as far as the limits allow."""
        waiters = self._waiters
        while waiters and self._has_room():
            waiter, size = waiters.popitem(last=False)
            if not waiter.done():
                self._granted += 1
                self._granted_bytes += size
                waiter.set_result(None)
        self.open = not waiters and not self._granted and self._has_room()

    def _has_room(self) -> bool:
        return (
            not self.paused
            and self.commands + self._granted < self.limits.commands
            and self.bytes + self._granted_bytes < self.limits.bytes
        )

    async def wait(self, size: int, timeout: float, load: Callable[[], str]) -> None:
        """Wait for room for `size` bytes; the caller sends before its next `await`.

        Args:
            size: Bytes to be sent.
            timeout: Seconds to wait.
            load: Describes the load, for the error.

        Raises:
            Overloaded: No room within `timeout`.
            OddswireError: What `fail` was given: the connection ended.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = size
        handle = Alarm(loop, timeout, partial(_expire, waiter))
        self.update()
        try:
            await waiter
        except TimeoutError:
            raise Overloaded(
                f"no room on the connection within {max(timeout, 0):.3g} s: {load()}"
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Let in and cancelled before its task ran: the room goes to the next.
                self._settle(size)
                self.update()
            raise
        finally:
            handle.cancel()
            self._waiters.pop(waiter, None)
        self._settle(size)

    def _settle(self, size: int) -> None:
        self._granted -= 1
        self._granted_bytes -= size

    def fail(self, error: Callable[[], OddswireError]) -> None:
        """Fail all waiters, each with an error of its own; let no call in."""
        self.open = False
        self.paused = True
        waiters, self._waiters = self._waiters, OrderedDict()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error())


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
