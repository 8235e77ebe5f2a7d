"""`AttemptPacer`: how fast connections may try again while callers wait for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Hashable

HASTENED = 0.25
"""Seconds between two attempts to reach a server while a caller waits for it."""


class _Turns:
    """Shared by all connections to one server from one event loop."""

    def __init__(self) -> None:
        self.next = 0.0  # when, by the loop's clock
        self.pauses: set[Pause] = set()


# A process may have many clients of one server, which do not know of each other.
_shared: WeakKeyDictionary[
    asyncio.AbstractEventLoop, WeakValueDictionary[Hashable, _Turns]
] = WeakKeyDictionary()


class AttemptPacer:
    """Paces the connections of one client, so that they take turns.

    Clients of the same server take turns with each other too.

    A backoff that has grown spares a server that no caller needs. When a caller waits,
    its connection does not sit that pause out: it takes the next turn. There is one
    turn each `every` seconds, whatever the number of connections and callers, and the
    first attempt that succeeds wakes the other connections at once.

    Args:
        server: Names the server; None: this client takes turns with no other.
        every: Seconds between two turns.
    """

    def __init__(self, server: Hashable | None = None, every: float = HASTENED) -> None:
        self._server = server
        self._every = every
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = _Turns()

    def _here(self) -> _Turns:
        """Return the turns of the running loop: no other thread touches them."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._turns = loop, _Turns()
            if self._server is not None:
                known = _shared.setdefault(loop, WeakValueDictionary())
                self._turns = known.setdefault(self._server, self._turns)
        return self._turns

    def attempt_begins(self, now: float) -> None:
        """An attempt begins now; the next turn is an interval away."""
        turns = self._here()
        turns.next = max(turns.next, now + self._every)

    def take_turn(self, now: float, due: float) -> float:
        """Return when to try: at `due`, or by the next turn if that is earlier."""
        turns = self._here()
        turn = max(turns.next, now)
        if turn >= due:
            return due
        turns.next = turn + self._every
        return turn

    def server_answers(self) -> None:
        """An attempt succeeded: the other connections need not wait any longer."""
        for pause in self._here().pauses:
            pause.end_at(0.0)

    def pause(self, delay: float) -> Pause:
        """Return a pause of `delay` seconds, to be waited for."""
        loop = asyncio.get_running_loop()
        return Pause(self, self._here().pauses, loop, loop.time() + delay)


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
