"""The feed watched: events in, ticks to the alert engine, alerts and prices out."""

from __future__ import annotations

from .prices import PRICES, Prices, latest_prices
from .watcher import Watcher

__all__ = ["PRICES", "Prices", "Watcher", "latest_prices"]
