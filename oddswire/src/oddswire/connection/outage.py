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
    MasterDown,
    Misconfigured,
    NoReplicas,
    OutOfMemory,
    ProtocolBroken,
    ReadOnly,
    TryAgain,
    Unavailable,
    Unblocked,
)

if TYPE_CHECKING:
    from oddswire.errors import OddswireError
    from oddswire.events import Degradation

TRANSIENT_ERRORS = (
    # The connection: the next one may do.
    *(CommandTimeout, ConnectionLost, ProtocolBroken, Unavailable),
    # The state of the server: it restarts, is demoted, is full, is held up.
    *(Busy, ClusterDown, Loading, MasterDown, Misconfigured, NoReplicas),
    *(OutOfMemory, ReadOnly, TryAgain, Unblocked),
)
"""Errors that pass by waiting, without a change of the program, of its settings or of
its rights. A loop that runs for ever waits these out and ends with any other."""

# Short, since something waits behind it.
_OUTAGE = BackoffPolicy(base=0.02, cap=0.25, attempts=1_000_000_000)


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
        if not isinstance(error, TRANSIENT_ERRORS):
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
