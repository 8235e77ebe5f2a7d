"""A local Polymarket: plays a recording in Polymarket's own wire formats."""

from __future__ import annotations

from .errors import PortUnavailable, RecordingError, ReplayError
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
    "Group",
    "PortUnavailable",
    "RecordedMarket",
    "Recording",
    "RecordingError",
    "Replay",
    "ReplayError",
    "Resolution",
    "Snapshot",
    "sample",
    "token_id",
]
