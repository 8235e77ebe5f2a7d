"""Each market that was decided, and each new one, on topics that keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.polymarket import MarketResolved, NewMarket
from oddswire.pubsub import Delivery, Topic

from ._publishers import LogPublisher

if TYPE_CHECKING:
    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

_WEEK = 7 * 86_400.0

RESOLUTIONS = Topic(
    "resolutions",
    MarketResolved,
    delivery=Delivery.LOG,
    history=1_000,
    retention=_WEEK,
)
"""By condition id; each resolution once, however often the feed tells of it."""

NEW_MARKETS = Topic(
    "new_markets",
    NewMarket,
    delivery=Delivery.LOG,
    history=1_000,
    retention=_WEEK,
)
"""By condition id; each market once."""


class Resolutions(LogPublisher[MarketResolved]):
    """Publishes what was resolved; `run` it in a task.

    In order; while Redis is away they wait.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        super().__init__(pubsub, clock, RESOLUTIONS)

    def put(self, event: MarketResolved) -> None:
        """Have a resolution published soon; never waits."""
        self.add(event.market, f"{event.market}:{event.winning_asset_id}", event)


class NewMarkets(LogPublisher[NewMarket]):
    """Publishes which markets were created; `run` it in a task.

    In order; while Redis is away they wait, at most 10,000.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        super().__init__(pubsub, clock, NEW_MARKETS, most=10_000)

    def put(self, event: NewMarket) -> None:
        """Have a market published soon; never waits."""
        self.add(event.market, event.market, event)
