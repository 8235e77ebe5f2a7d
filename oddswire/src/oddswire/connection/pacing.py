"""`AttemptPacer`: how fast connections may try again while callers wait for them."""

from __future__ import annotations

import asyncio

HASTENED = 0.25
"""Seconds between two attempts of a client while somebody waits for a connection."""


class AttemptPacer:
    """Shared by the connections of one client, so that they take turns.

    A backoff that has grown spares a server that nobody needs. When a caller waits, its
    connection does not sit that pause out: it takes the next turn. There is one turn
    each `every` seconds, whatever the number of connections and callers, and the first
    attempt that succeeds wakes the other connections at once.

    Args:
        every: Seconds between two turns.
    """

    def __init__(self, every: float = HASTENED) -> None:
        self._every = every
        self._next_turn = 0.0
        self._pauses: set[Pause] = set()

    def attempt_begins(self, now: float) -> None:
        """An attempt begins now; the next turn is an interval away."""
        self._next_turn = max(self._next_turn, now + self._every)

    def take_turn(self, now: float, due: float) -> float:
        """Return when to try: at `due`, or by the next turn if that is earlier."""
        turn = max(self._next_turn, now)
        if turn >= due:
            return due
        self._next_turn = turn + self._every
        return turn

    def server_answers(self) -> None:
        """An attempt succeeded: the other connections need not wait any longer."""
        for pause in self._pauses:
            pause.end_at(0.0)

    def pause(self, delay: float) -> Pause:
        """Return a pause of `delay` seconds, to be waited for."""
        loop = asyncio.get_running_loop()
        return Pause(self, self._pauses, loop, loop.time() + delay)


class Pause:
    """The time before one attempt; a caller that waits can shorten it, once.

    Attributes:
        due: When the attempt begins, by the loop's clock.
    """

    def __init__(
        self,
        pacer: AttemptPacer,
        pauses: set[Pause],
        loop: asyncio.AbstractEventLoop,
        due: float,
    ) -> None:
        self.due = due
        self._pacer = pacer
        self._pauses = pauses
        self._loop = loop
        self._alarm: asyncio.Future[None] | None = None
        self._hastened = False

    def hasten(self) -> None:
        """Somebody waits: take the pacer's next turn if that is earlier."""
        if not self._hastened:
            self._hastened = True
            self.end_at(self._pacer.take_turn(self._loop.time(), self.due))

    def end_at(self, due: float) -> None:
        """End at this time, if that is earlier."""
        if due < self.due:
            self.due = due
            if self._alarm is not None and not self._alarm.done():
                self._alarm.set_result(None)

    async def wait(self) -> None:
        """Wait until the pause is over."""
        self._pauses.add(self)
        try:
            while (rest := self.due - self._loop.time()) > 0:
                self._alarm = self._loop.create_future()
                handle = self._loop.call_later(rest, _ring, self._alarm)
                try:
                    await self._alarm
                finally:
                    handle.cancel()
        finally:
            self._pauses.discard(self)


def _ring(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():
        alarm.set_result(None)
