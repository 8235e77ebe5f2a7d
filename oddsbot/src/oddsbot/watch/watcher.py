"""`Watcher`: reads the market feed, whatever happens to what is behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddsbot.polymarket import (
    Connected,
    Disconnected,
    MarketResolved,
    NewMarket,
    quotes,
)

from ._order import QuoteOrder

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
    from decimal import Decimal

    from oddsbot.alerts import Alert, Alerts
    from oddsbot.polymarket import MarketEvent, Quote
    from oddswire.clock import Clock


class Watcher:
    """Turns market events into ticks and ticks into alerts; `run` it in a task.

    A tick is a quote whose bid or ask differs from the asset's last one: the feed tells
    of most changes twice, and repeats every book after a reconnect.

    A quote that is older than its asset's last one, by the market's time, is counted
    and dropped: after a reconnect a book may come from before what was seen.

    Alerts wait in a queue for `emit`, so that one that waits for Redis does not stop
    the reading. When the queue is full the reading waits, and then the feed: nothing is
    dropped.

    Args:
        feed: The events, in order.
        alerts: The rules; `run` is the only one to show them events.
        emit: Called with one alert after the other; when it returns, the alert is safe.
        on_tick: Called with each tick; must not block.
        on_resolved: Called with each resolution; must not block.
        on_new_market: Called with each new market; must not block.
        clock: Tells when an event was seen.
        queue_size: How many alerts may wait.

    Attributes:
        ticks: Quotes that differed from the last one.
        outdated: Quotes that were older than their asset's last one.
        alerted: Alerts that were found, without those in their rule's cooldown.
        cooled: Alerts in their rule's cooldown, which nobody is told of.
        seen_until: The latest market time of an event so far, ms.
    """

    def __init__(
        self,
        feed: AsyncIterable[MarketEvent | Connected | Disconnected],
        alerts: Alerts,
        emit: Callable[[Alert], Awaitable[object]],
        clock: Clock,
        *,
        on_tick: Callable[[Quote], object] | None = None,
        on_resolved: Callable[[MarketResolved], object] | None = None,
        on_new_market: Callable[[NewMarket], object] | None = None,
        queue_size: int = 10_000,
    ) -> None:
        self.ticks = 0
        self.alerted = 0
        self.cooled = 0
        self.outdated = 0
        self.seen_until = 0
        self._feed = feed
        self._alerts = alerts
        self._emit = emit
        self._clock = clock
        self._on_tick = on_tick or (lambda _: None)
        self._on_resolved = on_resolved or (lambda _: None)
        self._on_new_market = on_new_market or (lambda _: None)
        self._tops: dict[str, tuple[Decimal | None, Decimal | None]] = {}
        self._order = QuoteOrder()
        self._queue: asyncio.Queue[Alert] = asyncio.Queue(queue_size)
        self._progress = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self._stopped = False

    async def run(self) -> None:
        """Watch until the feed ends or `stop` is called, and emit what was found.

        Cancelled, the alerts that wait are lost; call `stop` where that matters. An
        error of `emit` ends it.
        """
        async with asyncio.TaskGroup() as tasks:
            emitting = tasks.create_task(self._emit_all(), name="emit alerts")
            self._reading = tasks.create_task(self._read(), name="read the feed")
            if self._stopped:
                self._reading.cancel()
            await asyncio.wait([self._reading])
            await self._queue.join()
            emitting.cancel()

    def stop(self) -> None:
        """Read no more; `run` ends when what was found is emitted.

        The event that was being looked at counts as not seen.
        """
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def wait_seen(self, at: int) -> None:
        """Wait until an event of this market time (ms), or a later one, was seen."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.seen_until >= at)

    async def _read(self) -> None:
        async for event in self._feed:
            await self.take(event)

    async def take(self, event: MarketEvent | Connected | Disconnected) -> None:
        """Look at one event of the feed, or one that was found in another way.

        Cancelled, some of its alerts may not be in the queue.
        """
        if isinstance(event, (Connected, Disconnected)):
            # What changed in between shows in the books that follow a `Connected`.
            return
        seen_at = self._clock.now()
        if isinstance(event, MarketResolved):
            self._on_resolved(event)
            await self._queue_all(self._alerts.on_resolved(event, seen_at))
        elif isinstance(event, NewMarket):
            self._on_new_market(event)
        for quote in quotes(event):
            if self._order.is_outdated(quote, seen_at):
                self.outdated += 1
                continue
            if self._tops.get(quote.asset_id) == (quote.bid, quote.ask):
                continue
            self._tops[quote.asset_id] = quote.bid, quote.ask
            self.ticks += 1
            self._on_tick(quote)
            found = self._alerts.on_quote(quote, seen_at)
            told = [alert for alert in found if not alert.in_cooldown]
            self.cooled += len(found) - len(told)
            await self._queue_all(told)
        # Last, so that whoever waits for it finds the alerts in the queue.
        async with self._progress:
            self.seen_until = max(self.seen_until, event.timestamp or 0)
            self._progress.notify_all()

    async def _queue_all(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            await self._queue.put(alert)
            self.alerted += 1

    async def _emit_all(self) -> None:
        while True:
            alert = await self._queue.get()
            await self._emit(alert)
            self._queue.task_done()
