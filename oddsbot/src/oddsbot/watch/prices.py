"""The latest price of each asset, on a topic, for whoever wants to show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.polymarket import Quote
from oddswire.pubsub import Delivery, Topic

from ._order import QuoteOrder
from ._publishers import LatestPublisher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

PRICES = Topic("prices", Quote, delivery=Delivery.LATEST, retention=3_600.0)
"""By token id. Versions are the server's clock: a recording that is played again begins
with older times, and one watcher publishes what it sees in the order it sees it."""


class Prices(LatestPublisher[Quote]):
    """Publishes each asset's latest quote, by the market's time; `run` it in a task.

    Args:
        pubsub: Where to publish.
        clock: Sleeps, and tells which times cannot be.

    Attributes:
        outdated: Quotes that were older than their asset's last one, and dropped.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        super().__init__(pubsub, clock, PRICES)
        self.outdated = 0
        self._order = QuoteOrder()

    def put(self, quote: Quote) -> None:
        """Have a quote published soon; never waits."""
        if self._order.is_outdated(quote, self._clock.now()):
            self.outdated += 1
            return
        self.add(quote.asset_id, quote)


async def latest_prices(pubsub: PubSub, markets: Iterable[str]) -> dict[str, Quote]:
    """Read the latest quotes of some markets, by token id.

    A market that nobody publishes the prices of is absent.

    Raises:
        OddswireError: Redis cannot be asked.
    """
    wanted = set(markets)
    found = await pubsub.latest(PRICES)
    return {token: quote for token, quote in found.items() if quote.market in wanted}
