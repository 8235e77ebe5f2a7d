"""`Courier`: takes alerts out of the queue and sees each of them delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddswire.connection.backoff import OutageBackoff
from oddswire.counters import Histogram
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddsbot.alerts import Alert
    from oddswire.clock import Clock
    from oddswire.queue import Message, Queue

    from .outbox import Entry


_LOOK_AGAIN = 0.02


class Courier:
    """Delivers what is in the queue; `run` it in a task, in any number of processes.

    Args:
        queue: Where from.
        deliver: Called with an alert; those of one user one after the other, in their
            order. If it raises, that alert is tried again later, as the queue says.
        clock: Tells when an alert was delivered, and sleeps.

    Attributes:
        queue: As given.
        latency: Seconds from when an alert's tick was seen to its delivery.
    """

    def __init__(
        self,
        queue: Queue[Entry],
        deliver: Callable[[Alert], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self.queue = queue
        self.latency = Histogram()
        self._deliver = deliver
        self._clock = clock

    async def run(self) -> None:
        """Deliver for ever; waits through outages.

        Cancelled, what is being delivered comes again to the next courier.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        await self.queue.consume(self._handle)

    async def _handle(self, message: Message[Entry]) -> None:
        alert = message.value.alert
        await self._deliver(alert)
        self.latency.observe(self._clock.now() - alert.seen_at)

    async def wait_empty(self) -> None:
        """Wait until the queue has nothing to deliver; through outages too."""
        outage = OutageBackoff()
        while True:
            try:
                if (await self.queue.stats()).depth == 0:
                    return
            except OddswireError as error:
                await outage.wait(error)
            else:
                outage.over()
                await self._clock.sleep(_LOOK_AGAIN)
