"""`Pictures`: charts of markets, drawn once and kept in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.polymarket import PolymarketError
from oddswire.cache import Namespace
from oddswire.errors import RateLimited

if TYPE_CHECKING:
    from oddsbot.charts import Charts
    from oddsbot.markets import Markets, Span
    from oddsbot.polymarket import GammaMarket
    from oddswire.cache import Cache

NAMESPACES = (
    # As old as the histories that it is drawn from.
    Namespace(name="chart", type=bytes, ttl=60.0, stale=0.0, negative_ttl=60.0),
    Namespace(name="photo", type=str, ttl=86_400.0, stale=0.0),
)
_LINES = 2


class Pictures:
    """Charts, each drawn by one process for all.

    Args:
        cache: With `NAMESPACES`.
        markets: Have the histories.
        charts: Draws.
    """

    def __init__(self, cache: Cache, markets: Markets, charts: Charts) -> None:
        self._cache = cache
        self._markets = markets
        self._charts = charts

    async def chart(self, market: GammaMarket, span: Span) -> bytes | None:
        """Return a market's chart as a PNG; None where there is nothing to draw.

        A card without its chart says all that matters, so no error of Polymarket is
        raised here.

        Raises:
            OddswireError: Redis could not be asked.
        """

        async def load() -> bytes | None:
            from oddsbot.charts import Line  # noqa: PLC0415 - an extra

            tokens = market.tokens[:_LINES]
            lines = [
                Line(token.outcome, await self._markets.history(token.token_id, span))
                for token in tokens
            ]
            return await self._charts.draw(lines)

        try:
            return await self._cache.get_or_set(
                f"chart:{span}:{market.condition_id}",
                load,
                tags=(f"market:{market.condition_id}",),
            )
        except (PolymarketError, RateLimited):
            return None
