"""`Entry`: a cached value with what is known of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A cached value with what is known of it.

    Attributes:
        value: Shared with every other reader in this process: do not change it.
        tier: ``"l1"``: from this process; ``"l2"``: from Redis.
        stale: Past its time, and within its stale window.
        age: Seconds since it was stored.
        ttl: Seconds for which it is fresh from now on, negative when it is stale.
        version: As it was stored with, 0 without.
    """

    value: Any
    tier: Literal["l1", "l2"]
    stale: bool
    age: float
    ttl: float
    version: int
