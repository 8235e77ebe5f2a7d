"""The feed watched: events in; alerts, and prices and resolutions on topics, out."""

from __future__ import annotations

from .prices import PRICES, Prices, latest_prices
from .remembering import price_rules, remembered
from .resolutions import RESOLUTIONS, Resolutions
from .watcher import Watcher

__all__ = [
    "PRICES",
    "RESOLUTIONS",
    "Prices",
    "Resolutions",
    "Watcher",
    "latest_prices",
    "price_rules",
    "remembered",
]
