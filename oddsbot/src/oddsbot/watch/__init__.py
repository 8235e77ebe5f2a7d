"""The feed watched: events in; alerts, and what is known of markets on topics, out.

`oddsbot.watch.remembering` stands alone: the demo has no database to import.
"""

from __future__ import annotations

from .commit import Committed, Deposed, Rounds
from .news import MarketNews
from .prices import PRICES, Prices, latest_prices
from .resolutions import NEW_MARKETS, RESOLUTIONS, NewMarkets, Resolutions
from .ring import Gap, Ring, Tick
from .rules import RULES, RuleDesk, listen
from .shard import MarketFeed, Shard, ShardHooks
from .system import (
    ERRORS,
    HEALTH,
    METRICS,
    ErrorHandler,
    ErrorNotice,
    Metrics,
    SystemReports,
)
from .topics import LIQUIDITY, VOLUMES, MarketTopics

TOPICS = (
    PRICES,
    VOLUMES,
    LIQUIDITY,
    RESOLUTIONS,
    NEW_MARKETS,
    RULES,
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
    "RULES",
    "TOPICS",
    "VOLUMES",
    "Committed",
    "Deposed",
    "ErrorHandler",
    "ErrorNotice",
    "Gap",
    "MarketFeed",
    "MarketNews",
    "MarketTopics",
    "Metrics",
    "NewMarkets",
    "Prices",
    "Resolutions",
    "Ring",
    "Rounds",
    "RuleDesk",
    "Shard",
    "ShardHooks",
    "SystemReports",
    "Tick",
    "latest_prices",
    "listen",
]
