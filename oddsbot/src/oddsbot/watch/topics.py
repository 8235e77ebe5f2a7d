"""`MarketTopics`: what is known of markets, published for whoever shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddsbot.markets import Liquidity, Volume
from oddsbot.markets_watch import Decided, LiquidityChanged, Listed, VolumeChanged
from oddsbot.polymarket import NewMarket
from oddswire.pubsub import Delivery, Topic

from ._publishers import LatestPublisher
from .prices import Prices
from .resolutions import NewMarkets, Resolutions

if TYPE_CHECKING:
    from oddsbot.markets_watch import Change
    from oddsbot.polymarket import GammaMarket
    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

VOLUMES = Topic("volumes", Volume, delivery=Delivery.LATEST, retention=3_600.0)
"""By condition id."""

LIQUIDITY = Topic("liquidity", Liquidity, delivery=Delivery.LATEST, retention=3_600.0)
"""By condition id."""


class MarketTopics:
    """Publishes prices, amounts, results and new markets; `run` it in a task.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.

    Attributes:
        prices: Publishes `PRICES`.
        volumes: Publishes `VOLUMES`.
        liquidity: Publishes `LIQUIDITY`.
        resolutions: Publishes `RESOLUTIONS`.
        new_markets: Publishes `NEW_MARKETS`.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        self.prices = Prices(pubsub, clock)
        self.volumes = LatestPublisher(pubsub, clock, VOLUMES)
        self.liquidity = LatestPublisher(pubsub, clock, LIQUIDITY)
        self.resolutions = Resolutions(pubsub, clock)
        self.new_markets = NewMarkets(pubsub, clock)

    def put(self, change: Change) -> None:
        """Have what a poll found published soon; never waits."""
        match change:
            case VolumeChanged(market, volume):
                self.volumes.add(market, volume)
            case LiquidityChanged(market, liquidity):
                self.liquidity.add(market, liquidity)
            case Decided():
                self.resolutions.put(change.event)
            case Listed(market):
                self.new_markets.put(_new(market))
            case _:  # the oracle's steps are alerts, and on no topic
                pass

    async def run(self) -> None:
        """Publish for ever. Cancelled, what waits is not published."""
        async with asyncio.TaskGroup() as tasks:
            for each in (
                self.prices,
                self.volumes,
                self.liquidity,
                self.resolutions,
                self.new_markets,
            ):
                tasks.create_task(each.run(), name=type(each).__name__)


def _new(market: GammaMarket) -> NewMarket:
    return NewMarket(
        market=market.condition_id,
        timestamp=None,
        id=market.id,
        question=market.question,
        slug=market.slug,
        assets_ids=market.clob_token_ids,
        outcomes=market.outcomes,
    )
