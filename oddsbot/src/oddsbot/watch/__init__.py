"""The feed watched: events in; alerts, and what is known of markets on topics, out.

`oddsbot.watch.remembering` stands alone: the demo has no database to import.
"""

from __future__ import annotations

from .polls import LIQUIDITY, VOLUMES, MarketPolls
from .prices import PRICES, Prices, latest_prices
from .resolutions import NEW_MARKETS, RESOLUTIONS, NewMarkets, Resolutions
from .system import (
    ERRORS,
    HEALTH,
    METRICS,
    ErrorHandler,
    ErrorNotice,
    Metrics,
    SystemReports,
)
from .watcher import Watcher

TOPICS = (
    PRICES,
    VOLUMES,
    LIQUIDITY,
    RESOLUTIONS,
    NEW_MARKETS,
    HEALTH,
    METRICS,
    ERRORS,
)
"""Every topic of the bot."""

__all__ = [
    "ERRORS",
    "HEALTH",
    "LIQUIDITY",
    "METRICS",
    "NEW_MARKETS",
    "PRICES",
    "RESOLUTIONS",
    "TOPICS",
    "VOLUMES",
    "ErrorHandler",
    "ErrorNotice",
    "MarketPolls",
    "Metrics",
    "NewMarkets",
    "Prices",
    "Resolutions",
    "SystemReports",
    "Watcher",
    "latest_prices",
]
