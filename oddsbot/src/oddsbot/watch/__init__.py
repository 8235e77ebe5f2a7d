"""The feed watched: events in; alerts, and prices and resolutions on topics, out.

`oddsbot.watch.remembering` stands alone: the demo has no database to import.
"""

from __future__ import annotations

from .prices import PRICES, Prices, latest_prices
from .resolutions import RESOLUTIONS, Resolutions
from .watcher import Watcher

__all__ = [
    "PRICES",
    "RESOLUTIONS",
    "Prices",
    "Resolutions",
    "Watcher",
    "latest_prices",
]
