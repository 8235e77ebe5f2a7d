"""`Option`: what a field of `Settings` accepts, and the variable it is read from."""

from __future__ import annotations

from typing import Final

import msgspec

from oddswire.settings.values import Kind


class Option(msgspec.Struct, frozen=True):
    """One setting, declared in the annotation of its field.

    Attributes:
        variable: The environment variable.
        kind: What is accepted.
        doc: One line.
        secret: Whether the value is hidden wherever it would be shown.
        blank: Whether empty text is "not set", as for credentials of a server that
            asks for none.
        completes: Whether it says who we are at the server of the URL, or who leads
            there: it belongs to that URL and to no other.
        program: Whether it names a program to run, which no file may do.
        field: The field of `Settings`.
        optional: Whether None, for "not set", is accepted.
    """

    variable: str
    kind: Kind
    doc: str
    secret: bool = False
    blank: bool = False
    completes: bool = False
    program: bool = False
    field: str = ""
    optional: bool = False


UNUSED: Final[dict[str, str]] = {
    "REDIS_LAZY_CONNECT": "a Client connects on first use, a Wire when it is entered",
    "REDIS_OFFLINE_QUEUE": "a call waits for the connection within its own deadline",
    "REDIS_MEMORY_POLICY": "eviction is the server's setting: maxmemory-policy there",
    "REDIS_POOL_CREATE_TIMEOUT": "REDIS_CONNECT_TIMEOUT bounds opening a connection",
    "REDIS_POOL_REAP_INTERVAL": "an idle connection is closed when its time is up, "
    "which REDIS_POOL_IDLE_TIMEOUT sets",
    "REDIS_POOL_CREATE_RETRY_INTERVAL": "REDIS_RETRY_DELAY sets the pause between "
    "attempts to connect",
    "CACHE_EVICTION_POLICY": "eviction is the server's setting: maxmemory-policy there",
    "CACHE_ENABLE_METRICS": "counting is always on; exporting it is your choice",
    "CACHE_INVALIDATION_STRATEGY": "time, version, tags and by hand are always there, "
    "chosen by call",
    "RATE_LIMIT_SKIP_SUCCESS": "give a request back with limiter.refund",
    "RATE_LIMIT_SKIP_FAILED": "give a request back with limiter.refund",
}
"""Variables of the original that mean nothing here, and why."""
