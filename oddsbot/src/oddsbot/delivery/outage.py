"""Which failures are worth waiting out, and how long to wait between attempts."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from oddswire.errors import (
    Busy,
    ClosedError,
    ClusterDown,
    CommandTimeout,
    ConnectionLost,
    Loading,
    Misconfigured,
    NoReplicas,
    OddswireError,
    OutOfMemory,
    ReadOnly,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.clock import Clock

_log = logging.getLogger("oddsbot.delivery")

# Each ends without anybody changing the program: the server comes back, finishes
# loading, gets memory or disk again. Everything else would fail the same way for ever.
_PASSING = (
    Busy,
    ClusterDown,
    CommandTimeout,
    ConnectionLost,
    Loading,
    Misconfigured,
    NoReplicas,
    OutOfMemory,
    ReadOnly,
    Unavailable,
)


class Outage:
    """Waits between attempts while Redis is away, and says when it went and came back.

    Args:
        who: Names the waiting part in the log.
        clock: Sleeps.
        dice: Returns a float in [0, 1).
        base: Seconds before the second attempt, doubled each time.
        cap: The longest wait, in seconds. Short, since an alert waits behind it.
    """

    def __init__(
        self,
        who: str,
        clock: Clock,
        *,
        dice: Callable[[], float] = random.random,
        base: float = 0.02,
        cap: float = 1.0,
    ) -> None:
        self._who = who
        self._clock = clock
        self._dice = dice
        self._base = base
        self._cap = cap
        self._failures = 0

    async def wait(self, error: OddswireError) -> None:
        """Sleep before the next attempt.

        Raises:
            OddswireError: `error` itself, when it does not pass by waiting.
        """
        if not isinstance(error, _PASSING) or isinstance(error, ClosedError):
            raise error
        if self._failures == 0:
            _log.warning("%s: Redis is away, waiting: %s", self._who, error)
        # The exponent is bounded: 2.0**1100 is an OverflowError.
        delay = min(self._cap, self._base * 2.0 ** min(self._failures, 64))
        self._failures += 1
        await self._clock.sleep(delay * (0.5 + 0.5 * self._dice()))

    def over(self) -> None:
        """An attempt succeeded."""
        if self._failures:
            _log.info("%s: Redis is back", self._who)
        self._failures = 0
