"""`make reordered`: every event loop hears of its sockets late and in another order.

Python imports this module when it starts, because the run has its folder on
`PYTHONPATH`: also in the processes that tests start. The kernel promises no order
between two sockets. On a machine with time to spare it has one nevertheless, and a
program that counts on it fails once in a thousand runs. Here it fails soon.

It changes `select`, and nothing else: an event that is ready is held back for some
milliseconds, as if its packet came later, and now and then the whole loop is late. The
order of events on one socket stays, and so does that of callbacks and timers.
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

_select = selectors.EpollSelector.select
_sleep = time.sleep  # tests forbid it to the event loop later
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def _reordered(self: Any, timeout: float | None = None) -> list[Any]:
    held: dict[int, float] = self.__dict__.setdefault("_held", {})
    ready = _select(self, timeout)
    if not ready:
        return ready
    if _random.random() < _LATE:
        _sleep(_random.uniform(*_LATE_SECONDS))
    now = time.monotonic()
    for fd in [fd for fd, until in held.items() if until < now - _FORGOTTEN]:
        del held[fd]
    told, others = [], []
    for key, events in ready:
        if key.fd not in held and _random.random() < _HELD_BACK:
            held[key.fd] = now + _random.uniform(*_HELD_SECONDS)
        if held.get(key.fd, 0) > now:
            others.append(held[key.fd] - now)
        else:
            held.pop(key.fd, None)
            told.append((key, events))
    if not told and timeout != 0:
        # Without it the loop would ask again at once, for as long as all are held back.
        _sleep(min(*others, _NAP, _NAP if timeout is None else max(timeout, 0)))
    return told


selectors.EpollSelector.select = _reordered  # type: ignore[method-assign]
