"""The Redis layer of a prediction-market bot.

Names are imported on first use (PEP 562), so that a script that wants `SimpleClient`
does not pay for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddswire.client import Client, SimpleClient
    from oddswire.embedded import EmbeddedServer
    from oddswire.errors import OddswireError, Outcome
    from oddswire.settings import Settings
    from oddswire.wire import Wire, connect

__all__ = [
    "Client",
    "EmbeddedServer",
    "OddswireError",
    "Outcome",
    "Settings",
    "SimpleClient",
    "Wire",
    "connect",
]

_HOMES = {
    "Client": "client",
    "EmbeddedServer": "embedded",
    "OddswireError": "errors",
    "Outcome": "errors",
    "Settings": "settings",
    "SimpleClient": "client",
    "Wire": "wire",
    "connect": "wire",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'oddswire' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oddswire.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
