"""`Courier`: takes alerts out of the queue, and gives each exactly one fate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from oddsbot.store import Fate
from oddswire.connection.backoff import OutageBackoff
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.counters import Histogram
from oddswire.errors import (
    OddswireError,
    RateLimited,
    SourceError,
    Undeliverable,
)

from .outbox import ATTEMPTS

if TYPE_CHECKING:
    import asyncio

    from oddsbot.alerts import Alert
    from oddsbot.store import AlertLog, AlertRow
    from oddswire.clock import Clock
    from oddswire.queue import Message, Queue

    from .home import Home
    from .outbox import Entry

_LOOK_AGAIN = 0.02
_AGAIN = 0.5


class Decision(msgspec.Struct, frozen=True):
    """What became of an alert.

    Attributes:
        fate: Such as ``sent``.
        reason: Why, where the fate does not say it.
        message_id: Of the message that was sent.
    """

    fate: Fate
    reason: str = ""
    message_id: int | None = None


class Deliver(Protocol):
    """Sends an alert to its person, or decides that it is not sent."""

    async def __call__(self, alert: Alert, *, again: bool) -> Decision:
        """Return what became of the alert; called for one alert of a person at a time.

        Args:
            alert: The alert.
            again: The person may have it already: this copy says so, and is silent.

        Raises:
            RateLimited: Not now; it is no failure.
            Undeliverable: Never.
            Exception: It failed, and is tried again.
        """


class Courier:
    """Delivers what is in the queue; `run` it in a task, in any number of processes.

    A message says that a person has something due. The database says what: everything
    of hers without a fate up to the message's place is delivered, in order. So the
    order holds whatever the queue lost, and an alert with a fate is never sent.

    1. The rows are read. Without the database nothing is sent.
    2. The message is still this courier's, and not another one's.
    3. The alert is sent. A kill after this step and before the next one is committed
       is the one reason for a second copy.
    4. The fate is committed, then the queue is told.

    Args:
        queue: Where from.
        log: What is due, and the fates.
        home: Which data Redis has: a row that was queued in other data may be in the
            hands of a courier that does not know it.
        deliver: Sends.
        clock: Tells when an alert was delivered, and sleeps.

    Attributes:
        queue: As given.
        latency: Seconds from when an alert's tick was seen to its delivery.
        again: Copies that said that they may be repeats.
    """

    def __init__(
        self,
        queue: Queue[Entry],
        log: AlertLog,
        home: Home,
        deliver: Deliver,
        clock: Clock,
    ) -> None:
        self.queue = queue
        self.latency = Histogram()
        self.again = 0
        self._log = log
        self._home = home
        self._deliver = deliver
        self._clock = clock

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Deliver until `stop` is set; waits through outages.

        What is being delivered then is finished: sent, and its fate committed.

        Cancelled, what is being delivered comes again to the next courier.

        Raises:
            OddswireError: A refusal that waiting does not mend.
        """
        await self.queue.consume(self._handle, stop=stop)

    async def _handle(self, message: Message[Entry]) -> None:
        try:
            rows = await self._log.due(message.user_id, message.value.where)
            home = await self._home.read() if rows else ""
        except (SourceError, *TRANSIENT_ERRORS) as error:
            raise _later(error) from None
        for row in rows:
            try:
                if not await message.check():
                    return
            except TRANSIENT_ERRORS as error:
                raise _later(error) from None
            again = message.uncertain or row.home != home
            self.again += again
            await self._settle(row, await self._decide(row, message, again=again))

    async def _decide(
        self, row: AlertRow, message: Message[Entry], *, again: bool
    ) -> Decision:
        try:
            alert = row.alert()
        except ValueError as error:
            # It costs no other alert of the person.
            return Decision(Fate.FAILED, f"damaged: {error}")
        try:
            decision = await self._deliver(alert, again=again)
        except RateLimited:
            raise
        except Exception as error:
            if isinstance(error, Undeliverable) or message.attempt >= ATTEMPTS:
                # Before the queue gives it up: without a fate it would be due again.
                reason = f"{type(error).__name__}: {error}"
                await self._settle(row, Decision(Fate.FAILED, reason))
            raise
        self.latency.observe(self._clock.now() - alert.seen_at)
        return decision

    async def _settle(self, row: AlertRow, decision: Decision) -> None:
        """Commit a fate, through outages: without it the alert would be sent again."""
        while True:
            try:
                await self._log.settle(
                    row,
                    decision.fate,
                    decision.reason,
                    message_id=decision.message_id,
                )
            except SourceError:
                await self._clock.sleep(_AGAIN)
            else:
                return

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


def _later(error: OddswireError) -> RateLimited:
    """Return what has the queue try again soon, and count no failure."""
    return RateLimited(f"not now: {type(error).__name__}", retry_after=_AGAIN)
