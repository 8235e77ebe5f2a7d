"""What Polymarket is asked again and again: volume, liquidity, and what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from oddsbot.markets import Liquidity, Volume
from oddsbot.markets_watch import decision
from oddsbot.polymarket import GammaMarket, MarketResolved, PolymarketError
from oddswire.errors import OddswireError
from oddswire.events import Degradation
from oddswire.pubsub import Delivery, Topic

from ._publishers import LatestPublisher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from oddsbot.limits import Upstream
    from oddsbot.polymarket import Gamma
    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

VOLUMES = Topic("volumes", Volume, delivery=Delivery.LATEST, retention=3_600.0)
"""By condition id."""

LIQUIDITY = Topic("liquidity", Liquidity, delivery=Delivery.LATEST, retention=3_600.0)
"""By condition id."""


class MarketPolls:
    """Asks about followed markets once a minute; `run` it in a task.

    It publishes volumes and liquidity that changed, and finds what was decided while no
    stream told of it. A market that cannot be read, or a request that fails, is asked
    about again in the next round.

    Args:
        gamma: Is asked, 100 markets a request.
        upstream: Keeps within Polymarket's limits.
        pubsub: Where volumes and liquidity are published.
        clock: Sleeps.
        followed: Returns the condition ids of the markets to ask about.
        on_resolved: Called with each resolution, once while this lives. When it raises,
            the next round calls it again.
        every: Seconds between two rounds.

    Attributes:
        rounds: Rounds done.
        failed: Rounds that ended with an error of Polymarket's or Redis's.
        volumes: Publishes `VOLUMES`.
        liquidity: Publishes `LIQUIDITY`.
    """

    def __init__(
        self,
        gamma: Gamma,
        upstream: Upstream,
        pubsub: PubSub,
        clock: Clock,
        *,
        followed: Callable[[], Iterable[str]],
        on_resolved: Callable[[MarketResolved], Awaitable[object]],
        every: float = 60.0,
    ) -> None:
        self.rounds = 0
        self.failed = 0
        self.volumes = LatestPublisher(pubsub, clock, VOLUMES)
        self.liquidity = LatestPublisher(pubsub, clock, LIQUIDITY)
        self._gamma = gamma
        self._upstream = upstream
        self._clock = clock
        self._followed = followed
        self._on_resolved = on_resolved
        self._every = every
        self._degraded = Degradation(pubsub.events, "polls", "stale", clock.monotonic)
        self._known: dict[str, tuple[Volume, Liquidity]] = {}
        self._told: set[str] = set()

    async def run(self) -> NoReturn:
        """Ask for ever; `volumes.run` and `liquidity.run` publish beside it."""
        while True:
            try:
                await self.look()
            except (PolymarketError, OddswireError) as error:
                self.failed += 1
                self._degraded.begin(error)
            else:
                self._degraded.end()
            await self._clock.sleep(self._every)

    async def look(self) -> None:
        """Ask about all followed markets once.

        Raises:
            PolymarketError: Polymarket did not answer.
            OddswireError: There was no turn within the limits.
        """
        ids = list(dict.fromkeys(self._followed()))
        # A market that is followed again later is told of again.
        self._known = {key: self._known[key] for key in ids if key in self._known}
        self._told.intersection_update(ids)
        ids = [each for each in ids if each not in self._told]
        for at in range(0, len(ids), 100):
            part = ids[at : at + 100]
            found = await self._ask(part)
            for condition_id, market in found.items():
                self._publish(condition_id, market)
                await self._tell(condition_id, market)
        self.rounds += 1

    async def _ask(self, ids: list[str]) -> dict[str, GammaMarket]:
        return await self._upstream.call(
            "gamma", "markets", lambda: self._gamma.markets_by_condition(*ids)
        )

    def _publish(self, condition_id: str, market: GammaMarket) -> None:
        volume = Volume(market.volume, market.volume24hr)
        liquidity = Liquidity(market.liquidity)
        before = self._known.get(condition_id, (None, None))
        self._known[condition_id] = volume, liquidity
        if volume not in (before[0], Volume(None, None)):
            self.volumes.add(condition_id, volume)
        if liquidity not in (before[1], Liquidity(None)):
            self.liquidity.add(condition_id, liquidity)

    async def _tell(self, condition_id: str, market: GammaMarket) -> None:
        event = resolution(market)
        if event is not None:
            await self._on_resolved(event)
            self._told.add(condition_id)


def resolution(market: GammaMarket) -> MarketResolved | None:
    """Return the resolution of a market as the stream would have told it.

    None while it is open, and while Gamma says that it is decided and still has prices
    in place of payouts: who won is not known then.
    """
    decided = decision(market)
    if decided is None:
        return None
    return MarketResolved(
        market=market.condition_id,
        timestamp=None,
        winning_asset_id=decided.asset_id,
        winning_outcome=decided.outcome,
        assets_ids=market.clob_token_ids,
        outcomes=market.outcomes,
        id=market.id,
        question=market.question,
        slug=market.slug,
    )
