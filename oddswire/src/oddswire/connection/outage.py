"""Which failures of Redis are worth waiting out, and how long."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from oddswire.errors import OddswireError
    from oddswire.events import Degradation

PASSING = (
    *(Busy, ClusterDown, CommandTimeout, ConnectionLost, Loading, Misconfigured),
    *(NoReplicas, OutOfMemory, ReadOnly, Unavailable),
)
"""Errors that end without anybody changing the program; others fail so for ever."""

# Short, since something waits behind it.
_OUTAGE = BackoffPolicy(base=0.02, cap=1.0, attempts=1_000_000_000)


class Outage:
    """Waits between attempts while Redis is away.

    Args:
        degradation: Begins with the first failure and ends with the next success;
            None, where another attempt of the same part says it already.
    """

    def __init__(self, degradation: Degradation | None = None) -> None:
        self._degradation = degradation
        self._backoff = Backoff(_OUTAGE, random.random)

    async def wait(self, error: OddswireError) -> None:
        """Sleep before the next attempt.

        Raises:
            OddswireError: `error` itself, when it does not pass by waiting.
        """
        if not isinstance(error, PASSING):
            raise error
        if self._degradation is not None:
            self._degradation.begin(error)
        self._backoff.failed()
        await asyncio.sleep(self._backoff.delay())

    def over(self) -> None:
        """An attempt succeeded."""
        if self._degradation is not None:
            self._degradation.end()
        if self._backoff.failures:
            self._backoff = Backoff(_OUTAGE, random.random)
