"""Markets that change without a tick: volumes, the oracle, resolutions, new ones.

The websocket is a bonus here: `MarketPolls.hint` makes the next look come at once, and
everything is found without it.
"""

from __future__ import annotations

from .changes import (
    Change,
    Choice,
    Decided,
    Disputed,
    LiquidityChanged,
    Listed,
    ListedEvent,
    Proposed,
    TagListed,
    VolumeChanged,
    compared,
    decision,
    joined,
)
from .polls import MarketPolls

__all__ = [
    "Change",
    "Choice",
    "Decided",
    "Disputed",
    "LiquidityChanged",
    "Listed",
    "ListedEvent",
    "MarketPolls",
    "Proposed",
    "TagListed",
    "VolumeChanged",
    "compared",
    "decision",
    "joined",
]
