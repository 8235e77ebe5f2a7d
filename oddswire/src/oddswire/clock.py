"""Time as an argument: a class that needs the time takes a `Clock`.

Three times, because they disagree. The wall clock is what people and servers talk
about, and it can jump. The monotonic clock never goes back, and stops while the machine
is suspended. The boot-time clock never goes back and goes on through a suspend: a lease
that was granted for two seconds must be over after the lid was closed for an hour.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Protocol):
    """Returns the time, and waits."""

    def now(self) -> float:
        """Return the wall clock: seconds since 1970, UTC. It can jump both ways."""

    def monotonic(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""

    def boottime(self) -> float:
        """Return seconds that never go back and count a suspend too.

        Has its own arbitrary start: compare it only with itself.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait; at once for 0 or less. Cancelled, nothing is left behind."""


# No function of our own around it: the cache asks at every hit.
_boottime: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)


class SystemClock:
    """The machine's clocks.

    `boottime` is CLOCK_BOOTTIME where the system has it (Linux). Elsewhere it is the
    monotonic clock, which may stop while the machine is suspended.
    """

    __slots__ = ()

    now = staticmethod(time.time)  # noqa: TID251 - the home of the clock
    """Return seconds since 1970, UTC."""

    monotonic = staticmethod(time.monotonic)
    """Return seconds that never go back."""

    boottime = staticmethod(_boottime)
    """Return seconds that never go back and, on Linux, count a suspend too."""

    async def sleep(self, seconds: float) -> None:
        """Wait that long; always lets other tasks run once."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only by `advance`: for tests, also of programs on oddswire.

    Example:
        >>> clock = ManualClock()
        >>> task = asyncio.create_task(retry_every_second(clock))
        >>> await clock.wait_sleeping()
        >>> await clock.advance(1.0)

    Args:
        now: The wall clock at first. The other two start at 0.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._wall = now
        self._monotonic = 0.0
        self._boottime = 0.0
        self._sleepers: list[_Sleeper] = []
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the wall clock."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds advanced so far, suspends excluded."""
        return self._monotonic

    def boottime(self) -> float:
        """Return seconds advanced so far, suspends included."""
        return self._boottime

    @property
    def sleeping(self) -> int:
        """How many calls of `sleep` are waiting."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced that far. Cancelled, it is forgotten."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = _Sleeper(self._monotonic + seconds)
        self._sleepers.append(sleeper)
        # Stable: of equal deadlines the first sleeper wakes first.
        self._sleepers.sort(key=lambda each: each.deadline)
        self._notice()
        try:
            await sleeper.woken
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    async def wait_sleeping(self, count: int = 1) -> None:
        """Wait until at least `count` calls of `sleep` are waiting."""
        if len(self._sleepers) >= count:
            return
        reached = asyncio.get_running_loop().create_future()
        watcher = (count, reached)
        self._watchers.append(watcher)
        try:
            await reached
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def advance(self, seconds: float) -> None:
        """Move all three clocks on, stopping at each sleeper's deadline on the way.

        Sleepers wake in the order of their deadlines, each seeing its own deadline as
        the time, and each runs to its next wait before the next one wakes; one that
        sleeps again wakes again if that falls within `seconds`.

        Cancelled, the clock stays where it came to.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        if not 0.0 <= seconds < float("inf"):
            raise ValueError("a clock is advanced by a finite number of seconds, >= 0")
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0].deadline <= end:
            sleeper = self._sleepers.pop(0)
            self._move(sleeper.deadline - self._monotonic)
            # Exactly the deadline: adding the difference may miss it by a rounding.
            self._monotonic = sleeper.deadline
            if not sleeper.woken.done():
                sleeper.woken.set_result(None)
            # The sleeper's task was scheduled before us, so it runs first.
            await asyncio.sleep(0)
        self._move(end - self._monotonic)
        self._monotonic = end
        await asyncio.sleep(0)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back by a negative number; wakes nobody."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """Pass time as a suspended machine does: the monotonic clock stands still."""
        self._wall += seconds
        self._boottime += seconds

    def _move(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds
        self._boottime += seconds

    def _notice(self) -> None:
        for count, reached in self._watchers:
            if len(self._sleepers) >= count and not reached.done():
                reached.set_result(None)


class _Sleeper:
    __slots__ = ("deadline", "woken")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class LoopLag:
    """How late the event loop comes to a timer while the block runs, and when.

    A loop is late when something in it computes or blocks, and when the machine gives
    the process no time; either way nothing in it could have been on time. A delay
    below 5 ms may pass unseen.

    Attributes:
        worst: Seconds, the most that was seen.
    """

    _PACE = 0.005

    def __init__(self) -> None:
        self.worst = 0.0
        self._held: list[tuple[float, float]] = []  # when it was due, when it came

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        # A block that ends in the same turn of the loop that was late.
        self._look()
        self._ended = time.monotonic()

    @property
    def free(self) -> float:
        """Seconds of the block, when it is over, without those of a late loop."""
        passed = self._ended - self._began
        return passed - self.between(self._began, self._ended)

    def between(self, began: float, ended: float) -> float:
        """Return for how many of these seconds the loop was late.

        Args:
            began: By `time.monotonic`; within the block, as `ended` is.
            ended: The same.
        """
        return sum(
            max(0.0, min(ended, came) - max(began, due)) for due, came in self._held
        )

    def _wait(self) -> None:
        # Not by the loop's clock: uvloop's has steps of a millisecond.
        self._due = time.monotonic() + self._PACE
        self._timer = self._loop.call_later(self._PACE, self._ring)

    def _ring(self) -> None:
        self._look()
        self._wait()

    def _look(self) -> None:
        now = time.monotonic()
        if now > self._due:
            self._held.append((self._due, now))
            self.worst = max(self.worst, now - self._due)
