"""`Deadline`: `asyncio.timeout`, but a stall of the event loop ends no call.

After a stall of the loop, or a stop of the process, a timeout has passed while the
answer lies in the socket, unread. asyncio then cancels the waiter although the answer
is there. Here a deadline that comes late is put off by as long as it was late: the loop
reads first what has arrived.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# A timer that fires later than this was held up by a busy loop.
_STALL = 0.010


class Alarm:
    """`call_later`, put off by as long as a stall made it late.

    Args:
        loop: Whose timer.
        seconds: Until `ring` is called. It is put off by as much again at most: a loop
            that is always late has deadlines too.
        ring: Called once.
    """

    __slots__ = ("_at", "_left", "_loop", "_ring", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        ring: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._ring = ring
        # Not by the loop's clock: uvloop's has steps of a millisecond.
        self._at = monotonic() + seconds
        self._left = max(seconds, 0.0)
        self._timer = loop.call_later(max(seconds, 0.0), self._due)

    def cancel(self) -> None:
        """Stop the alarm: `ring` is not called."""
        self._timer.cancel()

    def _due(self) -> None:
        now = monotonic()
        more = min(now - self._at, self._left)
        if more > _STALL:
            self._left -= more
            self._at = now + more
            self._timer = self._loop.call_later(more, self._due)
        else:
            self._ring()


class Deadline:
    """``async with Deadline(seconds)``: raises `TimeoutError` when they are over.

    The code that enters it turns that into an error of the library: no bare
    `TimeoutError` reaches a caller.

    Args:
        seconds: None or infinite: no deadline.
    """

    __slots__ = ("_alarm", "_scope", "_seconds")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._scope = asyncio.timeout(None)
        self._alarm: Alarm | None = None

    def expired(self) -> bool:
        """Return whether it was this deadline that ended the block."""
        return self._scope.expired()

    async def __aenter__(self) -> Self:
        """Start the clock."""
        await self._scope.__aenter__()
        if not math.isinf(self._seconds):
            loop = asyncio.get_running_loop()
            self._alarm = Alarm(loop, self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        self._scope.reschedule(asyncio.get_running_loop().time())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the clock; a cancellation of its own becomes `TimeoutError`."""
        if self._alarm is not None:
            self._alarm.cancel()
        await self._scope.__aexit__(kind, error, trace)
