"""`FlowControl`: how much may be in flight on a connection. No I/O.

Callers are let in in order of arrival. The flow counts those it let in and who have
not sent yet, so that neither a newcomer nor a later turn takes their room.
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
    """What may be in flight on one connection before callers wait their turn."""

    commands: int = 4_096
    bytes: int = 16 * 1024 * 1024


class FlowControl:
    """The room left on one connection.

    Attributes:
        open: Whether a newcomer may send now, without waiting.
        paused: Set to keep everybody out whatever the room (the kernel takes no more
            bytes, or the connection is closing); call `update` after changing it.
        commands: Calls in flight.
        bytes: Bytes of those calls.
    """

    __slots__ = (
        "_granted",
        "_granted_bytes",
        "_turns",
        "bytes",
        "commands",
        "limits",
        "open",
        "paused",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = True
        self.paused = False
        self.commands = 0
        self.bytes = 0
        self._granted = 0
        self._granted_bytes = 0
        # A deque would be searched through for each caller that gives up.
        self._turns: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Callers waiting for their turn."""
        return len(self._turns)

    def update(self) -> None:
        """Let callers in, oldest first, as far as the limits allow."""
        turns = self._turns
        while turns and self._has_room():
            turn, size = turns.popitem(last=False)
            if not turn.done():
                self._granted += 1
                self._granted_bytes += size
                turn.set_result(None)
        self.open = not turns and not self._granted and self._has_room()

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
        turn: asyncio.Future[None] = loop.create_future()
        self._turns[turn] = size
        handle = Alarm(loop, timeout, partial(_expire, turn))
        self.update()
        try:
            await turn
        except TimeoutError:
            raise Overloaded(
                f"no room on the connection within {timeout:g} s: {load()}"
            ) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Let in and cancelled in the same tick: the room goes to the next one.
                self._settle(size)
                self.update()
            raise
        finally:
            handle.cancel()
            self._turns.pop(turn, None)
        self._settle(size)

    def _settle(self, size: int) -> None:
        self._granted -= 1
        self._granted_bytes -= size

    def fail(self, error: Callable[[], OddswireError]) -> None:
        """Fail everybody who waits, each with an error of its own; let nobody in."""
        self.open = False
        self.paused = True
        turns, self._turns = self._turns, OrderedDict()
        for turn in turns:
            if not turn.done():
                turn.set_exception(error())


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())
