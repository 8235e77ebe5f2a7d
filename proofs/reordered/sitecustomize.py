"""`make reordered`: every event loop hears of its sockets late and in another order.

Python imports this module when it starts, because the run has its folder on
`PYTHONPATH`: also in the processes that tests start. The kernel promises no order
between two sockets. On a machine with time to spare it has one nevertheless, and a
program that counts on it fails once in a thousand runs. Here it fails soon.

It changes what a selector tells, and nothing else: an event that is ready is held back
for some milliseconds, as if its packet came later, and now and then the whole loop is
late. The order of events on one socket stays, and so does that of callbacks and timers.
"""

from __future__ import annotations

import os
import random
import selectors
import time
from typing import Any

_STRENGTH = float(os.environ.get("STRENGTH", "1"))  # noqa: TID251 - the application here
_HELD_BACK = 0.1 * _STRENGTH  # of the events
_HELD_SECONDS = 0.0005, 0.012
_LATE = 0.01 * _STRENGTH  # of the turns in which something is ready
_LATE_SECONDS = 0.002, 0.03
_FORGOTTEN = 0.05  # seconds after which an event held back is not waited for
_NAP = 0.001
# What came during such a step of the loop has arrived: it is told for so long.
_HELD_UP, _CALM = 0.25, 0.1

_sleep = time.sleep  # tests forbid it to the event loop later
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


class _Reordered(selectors.EpollSelector):
    """Tells of a socket that is ready at once, or at one of the next calls."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, float] = {}
        self._told_at = time.monotonic()
        self._calm_until = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        now = time.monotonic()
        if now - self._told_at > _HELD_UP:
            self._calm_until = now + _CALM
        told = self._some_of(super().select(timeout))
        if told is None:
            # Without it the loop would ask again at once, for as long as all are held.
            _sleep(_NAP if timeout is None else min(_NAP, max(timeout, 0)))
            told = []
        self._told_at = time.monotonic()
        return told

    def _some_of(self, ready: list[Any]) -> list[Any] | None:
        """Return those that are told now; None: all are held back."""
        now = time.monotonic()
        if not ready or now < self._calm_until:
            return ready
        if _random.random() < _LATE:
            _sleep(_random.uniform(*_LATE_SECONDS))
            now = time.monotonic()
        for fd in [fd for fd, until in self._held.items() if until < now - _FORGOTTEN]:
            del self._held[fd]
        told: list[Any] = []
        for key, events in ready:
            if key.fd not in self._held and _random.random() < _HELD_BACK:
                self._held[key.fd] = now + _random.uniform(*_HELD_SECONDS)
            if self._held.get(key.fd, 0) <= now:
                self._held.pop(key.fd, None)
                told.append((key, events))
        return told or None


selectors.DefaultSelector = _Reordered
