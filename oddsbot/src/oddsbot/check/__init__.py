"""`oddsbot check`: whether the bot can run here, and what to do where it cannot."""

from __future__ import annotations

from .contract import Drift, contract_of, drift
from .finding import Finding, State, as_json, as_text
from .live import check_live
from .local import check_local

__all__ = [
    "Drift",
    "Finding",
    "State",
    "as_json",
    "as_text",
    "check_live",
    "check_local",
    "contract_of",
    "drift",
]
