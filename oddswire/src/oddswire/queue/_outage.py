"""Which failures of Redis are worth waiting out, and how long."""

from __future__ import annotations

import asyncio
import logging
import random

from oddswire.connection.backoff import Backoff, BackoffPolicy
from oddswire.errors import (
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

_log = logging.getLogger("oddswire.queue")

# Each ends without anybody changing the program; what is not here would fail the same
# way for ever.
PASSING = (
    *(Busy, ClusterDown, CommandTimeout, ConnectionLost, Loading, Misconfigured),
    *(NoReplicas, OutOfMemory, ReadOnly, Unavailable),
)

# While Redis is away. Short, since messages wait behind it.
_OUTAGE = BackoffPolicy(base=0.02, cap=1.0, attempts=1_000_000_000)


class Outage:
    """Waits between attempts while Redis is away, and says when it went and came back.

    Args:
        what: What is being attempted, for the log.
        quiet: Whether somebody else says so already.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._backoff = Backoff(_OUTAGE, random.random)

    async def wait(self, error: Exception) -> None:
        """Sleep before the next attempt."""
        if self._backoff.failures == 0:
            _log.log(self._level, "%s: Redis is away, waiting: %s", self._what, error)
        self._backoff.failed()
        await asyncio.sleep(self._backoff.delay())

    def over(self) -> None:
        """An attempt succeeded."""
        if self._backoff.failures:
            _log.log(self._level, "%s: Redis is back", self._what)
        self._backoff = Backoff(_OUTAGE, random.random)
