"""How slow the machine is now, for bounds in the processor's seconds."""

from __future__ import annotations

import json
import time
from statistics import median

_TEXT = json.dumps([{"price": "0.5", "size": "10"}] * 1_000)
_QUIET = 0.00024
"""The processor's seconds that reading `_TEXT` takes where the bounds were written."""


class Pace:
    """Times a known piece of work between the runs of a test.

    Two threads that share a core, or a slower machine, make every step longer, the
    quickest of ten runs too. So a bound is a number of seconds times `slower`.
    """

    def __init__(self) -> None:
        self._times: list[float] = []
        self.take()

    def take(self) -> None:
        """Do the work once; to be called before each run."""
        began = time.thread_time()
        json.loads(_TEXT)
        self._times.append(time.thread_time() - began)

    @property
    def slower(self) -> float:
        """How many times longer the work takes than on a quiet machine; 1 at least."""
        return max(1.0, median(self._times) / _QUIET)
