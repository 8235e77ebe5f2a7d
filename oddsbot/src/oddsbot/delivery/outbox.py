"""`Outbox`: puts alerts into the queue where they wait until they were delivered."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from oddsbot.alerts import Alert, Moved, PriceCrossed, Resolved
from oddswire.connection.backoff import OutageBackoff
from oddswire.errors import OddswireError
from oddswire.events import Degradation
from oddswire.queue import Queue

if TYPE_CHECKING:
    from oddswire import Client


# A lease is for another courier to take over from one that died. The courier of a
# server that was away for longer goes on with what it has in hand.
_LEASE = 2.0

_KINDS: dict[type[Alert], str] = {
    PriceCrossed: "price",
    Moved: "move",
    Resolved: "resolution",
}


class Entry(msgspec.Struct, frozen=True):
    """What one message of the queue holds."""

    alert: Alert


def alert_queue(client: Client, prefix: str) -> Queue[Entry]:
    """Return the queue of alerts under a prefix."""
    return Queue(client, "alerts", Entry, prefix=prefix, lease=_LEASE)


class Outbox:
    """Puts alerts into the queue, each once, through outages.

    Args:
        queue: Where to.
    """

    def __init__(self, queue: Queue[Entry]) -> None:
        self._queue = queue
        self._outage = OutageBackoff(
            Degradation(queue.client.events, "outbox", "waiting", time.monotonic)
        )
        self._turn = asyncio.Lock()
        # Alerts are named by counting from 1 in each run, so their names alone would
        # have those of the next run taken for repeats.
        self._run = secrets.token_hex(4)

    async def put(self, alert: Alert) -> None:
        """Put an alert in; return once the server has it.

        Waits through outages for as long as they last; when a reply was lost, the
        queue knows the alert by its id. Concurrent calls write in the order of their
        calls. Cancelled, the alert may or may not have been written; the next `put` is
        not affected.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        kind = _KINDS[type(alert)]
        async with self._turn:
            while True:
                try:
                    await self._queue.enqueue(
                        alert.user_id,
                        Entry(alert),
                        dedup_id=f"{self._run}:{alert.id}",
                        kind=kind,
                        key=alert.market,
                    )
                except OddswireError as error:
                    await self._outage.wait(error)
                else:
                    self._outage.over()
                    return
