"""redis-py's asyncio API on one connection: every command, the same reply types."""

from oddswire.client._client import Client
from oddswire.client._cluster import ClusterClient
from oddswire.client._keyspace import keyspace
from oddswire.client._pipeline import Pipeline
from oddswire.client._read_lease import ReadLease, ReadTicket
from oddswire.client._simple import SimpleClient
from oddswire.client._statistics import ClientStats, ConnectionCounts, Latency

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
