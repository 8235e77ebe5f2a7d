"""The latest price of each asset, on a topic, for whoever wants to show it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from oddsbot.polymarket import Quote
from oddswire.errors import CodecError, OddswireError, TopicError
from oddswire.pubsub import Delivery, Topic

from ._order import QuoteOrder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

PRICES = Topic("prices", Quote, delivery=Delivery.LATEST, retention=3_600.0)
"""By token id. Versions are the server's clock: a recording that is played again begins
with older times, and one watcher publishes what it sees in the order it sees it."""

_WRITE_EVERY = 0.1
_RETRY_EVERY = 0.5

_log = logging.getLogger("oddsbot.watch")


class Prices:
    """Publishes each asset's latest quote; `run` it in a task.

    Conflated: at most ten rounds a second, each with what changed since the last one
    and only its newest state, by the market's time. While Redis is away the newest
    state waits, of bounded size, and is published when it is back.

    Args:
        pubsub: Where to publish.
        clock: Sleeps, and tells which times cannot be.

    Attributes:
        writes: Rounds done.
        outdated: Quotes that were older than their asset's last one, and dropped.
        refused: Quotes that cannot be published, such as for the text of their token.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        self.writes = 0
        self.refused = 0
        self.outdated = 0
        self._order = QuoteOrder()
        self._pubsub = pubsub
        self._clock = clock
        self._changed: dict[str, Quote] = {}
        self._work = asyncio.Event()

    def put(self, quote: Quote) -> None:
        """Have a quote published soon; never waits."""
        if self._order.is_outdated(quote, self._clock.now()):
            self.outdated += 1
            return
        self._changed[quote.asset_id] = quote
        self._work.set()

    async def run(self) -> NoReturn:
        """Publish for ever. Cancelled, what changed last may not be published."""
        away = False
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._changed = self._changed, {}
            try:
                async with asyncio.TaskGroup() as tasks:
                    for quote in batch.values():
                        tasks.create_task(self._publish(quote))
            except* OddswireError as errors:
                if not away:
                    _log.warning(
                        "prices: cannot publish, trying on: %s", errors.exceptions[0]
                    )
                away = True
                # What came meanwhile is newer than what failed.
                self._changed = batch | self._changed
                self._work.set()
            else:
                self.writes += 1
                away = False
            await self._clock.sleep(_RETRY_EVERY if away else _WRITE_EVERY)

    async def _publish(self, quote: Quote) -> None:
        try:
            await self._pubsub.publish(PRICES[quote.asset_id], quote)
        except (TopicError, CodecError) as error:
            # Trying again would hold up the others for ever.
            self.refused += 1
            _log.warning("prices: %s", error)


async def latest_prices(pubsub: PubSub, markets: Iterable[str]) -> dict[str, Quote]:
    """Read the latest quotes of some markets, by token id.

    A market that nobody publishes the prices of is absent.

    Raises:
        OddswireError: Redis cannot be asked.
    """
    wanted = set(markets)
    found = await pubsub.latest(PRICES)
    return {token: quote for token, quote in found.items() if quote.market in wanted}
