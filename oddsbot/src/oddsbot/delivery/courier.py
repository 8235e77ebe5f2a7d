"""`Courier`: takes alerts out of the queue, and gives each exactly one fate."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from oddsbot.store import DIGEST, Digest, Fate
from oddswire.connection.backoff import OutageBackoff
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.counters import Histogram
from oddswire.errors import (
    OddswireError,
    RateLimited,
    SourceError,
    Undeliverable,
)

from .outbox import ATTEMPTS, enqueue

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from oddsbot.alerts import Alert
    from oddsbot.store import AlertLog, AlertRow
    from oddswire.clock import Clock
    from oddswire.queue import Message, Queue

    from .home import Home
    from .outbox import Entry

_LOOK_AGAIN = 0.02
_AGAIN = 0.5
_LAST_MOMENT = 1.0
"""Seconds that a delivery may still take when its lease is lost or the process ends."""


class Decision(msgspec.Struct, frozen=True):
    """What became of an alert.

    Attributes:
        fate: Such as ``sent``.
        reason: Why, where the fate does not say it.
        message_id: Of the message that was sent.
        digest: What tells an alert that is held.
    """

    fate: Fate
    reason: str = ""
    message_id: int | None = None
    digest: Digest | None = None


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


class Summarize(Protocol):
    """Tells a person several alerts that were held, as one message."""

    async def __call__(
        self, user_id: int, held: Sequence[Alert], *, again: bool
    ) -> Decision:
        """Send the message and return its fate; raises as `Deliver` does.

        Args:
            user_id: The person.
            held: The alerts, in their order; at least one.
            again: She may have the message already.
        """


class Courier:
    """Delivers what is in the queue; `run` it in a task, in any number of processes.

    A message says that a person has something due. The database says what: everything
    of hers without a fate up to the message's place is delivered, in order. So the
    order holds whatever the queue lost, and an alert with a fate is never sent.

    1. The rows are read. Without the database nothing is sent.
    2. The message is still this courier's, and not another one's.
    3. The alert is sent. Two things cause a second copy: a kill after this step and
       before step 4 is committed; and a queue that loses this courier's lease between
       them. A courier that is cancelled here has a second to come to step 4: without
       a fate the next courier would send the alert again.
    4. The fate is committed, then the queue is told.

    A digest is a message with the held alerts of a person, and a row of its own. One
    transaction holds the alert and makes the row. The row is due later, and a courier
    delivers it as any other. The courier closes a digest before it sends it; an alert
    that finds it closed is judged again.

    Args:
        queue: Where from.
        log: What is due, and the fates.
        home: Which data Redis has: a row that was queued in other data may be in the
            hands of a courier that does not know it.
        deliver: Sends.
        clock: Tells when an alert was delivered, and sleeps.
        summarize: Sends what was held; None where nothing ever is.

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
        summarize: Summarize | None = None,
    ) -> None:
        self.queue = queue
        self.latency = Histogram()
        self.again = 0
        self._log = log
        self._home = home
        self._deliver = deliver
        self._summarize = summarize
        self._clock = clock

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Deliver until `stop` is set; waits through outages.

        What is being delivered then is finished: sent, and its fate committed.

        Cancelled, what is being delivered has a second to end; else it comes again to
        the next courier.

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
            await _to_its_end(self._end(row, message, home, again=again))

    async def _end(
        self, row: AlertRow, message: Message[Entry], home: str, *, again: bool
    ) -> None:
        """Deliver an alert and commit its fate; what cannot be held is judged again."""
        decision = await self._decide(row, message, again=again)
        digest = decision.digest
        if digest is None:
            await self._settle(row, decision)
            return
        try:
            held = await self._log.hold(row, digest, home)
        except SourceError as error:
            raise _later(error) from None
        if not held:
            raise RateLimited("a courier sends its digest now", retry_after=_AGAIN)
        # Redis may be away: the sweep puts it in when it is due.
        with suppress(*TRANSIENT_ERRORS):
            await enqueue(self.queue, [digest], at=digest.due_at)

    async def _decide(
        self, row: AlertRow, message: Message[Entry], *, again: bool
    ) -> Decision:
        try:
            alerts = await self._told_by(row)
        except ValueError as error:
            # It costs no other alert of the person.
            return Decision(Fate.FAILED, f"damaged: {error}")
        except SourceError as error:
            raise _later(error) from None
        try:
            if row.kind != DIGEST:
                decision = await self._deliver(alerts[0], again=again)
            elif alerts and self._summarize is not None:
                decision = await self._summarize(row.user_id, alerts, again=again)
            else:
                decision = Decision(Fate.WITHDRAWN, "nothing is held for it")
        except RateLimited:
            raise
        except SourceError as error:
            # The database is away, and nothing is wrong with the alert.
            raise _later(error) from None
        except Exception as error:
            if isinstance(error, Undeliverable) or message.attempt >= ATTEMPTS:
                # Before the queue gives it up: without a fate it would be due again.
                reason = f"{type(error).__name__}: {error}"
                await self._settle(row, Decision(Fate.FAILED, reason))
            raise
        if row.kind != DIGEST:
            self.latency.observe(self._clock.now() - alerts[0].seen_at)
        return decision

    async def _told_by(self, row: AlertRow) -> list[Alert]:
        """Return what a row tells: itself, or what is held for a digest."""
        if row.kind != DIGEST:
            return [row.alert()]
        alerts = []
        for each in await self._log.close(row):
            with suppress(ValueError):  # a damaged one costs no other
                alerts.append(each.alert())
        return alerts

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


async def _to_its_end(delivery: Coroutine[Any, Any, None]) -> None:
    """Deliver an alert; cancelled, it has `_LAST_MOMENT` to end."""
    task = asyncio.get_running_loop().create_task(delivery)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([task], timeout=_LAST_MOMENT)
        finally:
            task.cancel()
        await asyncio.wait([task])
        raise


def _later(error: OddswireError) -> RateLimited:
    """Return what has the queue try again soon, and count no failure."""
    return RateLimited(f"not now: {type(error).__name__}", retry_after=_AGAIN)
