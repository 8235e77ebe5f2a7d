"""The four profiles, and every value in which they differ."""

from __future__ import annotations

from typing import Any, Final, Literal

Profile = Literal["development", "test", "staging", "production"]

PROFILES: Final[dict[Profile, dict[str, Any]]] = {
    "development": {
        "prefix": "oddswire:",
        "connect_timeout": 10.0,
        "keepalive": 30.0,
        "retries": 1,
    },
    "test": {
        "prefix": "test:",
        "connect_timeout": 10.0,
        "keepalive": 30.0,
        "retries": 0,
    },
    "staging": {
        "prefix": "oddswire:",
        "connect_timeout": 15.0,
        "keepalive": 60.0,
        "retries": 5,
    },
    "production": {
        "prefix": "oddswire:",
        "connect_timeout": 20.0,
        "keepalive": 120.0,
        "retries": 10,
    },
}
"""Profile to field to value, used where nothing else gives one."""
