"""redis-py's asyncio API on one connection: every command, the same reply types."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oddswire.client._client import Client
from oddswire.client._keyspace import keyspace
from oddswire.client._pipeline import Pipeline
from oddswire.client._read_lease import ReadLease, ReadTicket
from oddswire.client._simple import SimpleClient
from oddswire.client._statistics import ClientStats, ConnectionCounts, Latency

if TYPE_CHECKING:
    from oddswire.client._cluster import ClusterClient

__all__ = [
    "Client",
    "ClientStats",
    "ClusterClient",
    "ConnectionCounts",
    "Latency",
    "Pipeline",
    "ReadLease",
    "ReadTicket",
    "SimpleClient",
    "keyspace",
]


def __getattr__(name: str) -> Any:
    # Most programs have one server: what a cluster needs is imported when one is used.
    if name == "ClusterClient":
        return import_module("oddswire.client._cluster").ClusterClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
