"""Polymarket's stand-in: `Replay` plays a recording in Polymarket's own wire formats.

Books and markets are recorded, what lies between two books is derived, and what wallets
and the oracle do is generated. `Faults` breaks things.
"""

from __future__ import annotations

from ._page import ROUTES
from .errors import PortUnavailable, RecordingError, ReplayError
from .faults import Fault, Faults, parse_switch
from .recording import (
    Group,
    RecordedMarket,
    Recording,
    Resolution,
    Snapshot,
    sample,
    token_id,
)
from .server import Replay

__all__ = [
    "ROUTES",
    "Fault",
    "Faults",
    "Group",
    "PortUnavailable",
    "RecordedMarket",
    "Recording",
    "RecordingError",
    "Replay",
    "ReplayError",
    "Resolution",
    "Snapshot",
    "parse_switch",
    "sample",
    "token_id",
]
