"""`Snapshot`: all numbers of a process at one moment, as immutable values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

# msgspec reads the types of the fields when a Snapshot is encoded.
from oddswire.cache import CacheStats
from oddswire.client import ClientStats
from oddswire.counters import HistogramSnapshot
from oddswire.locks import LockStats
from oddswire.pubsub import PubSubStats
from oddswire.queue import QueueStats
from oddswire.ratelimit import LimiterStats
from oddswire.sessions import SessionStats

if TYPE_CHECKING:
    from oddswire.queue import QueueCounts


class QueueActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did with a queue; the fields are those of `QueueCounts`."""

    enqueued: int
    duplicates: int
    delivered: int
    retried: int
    postponed: int
    reclaimed: int
    expired: int
    dead: int
    lost: int
    lag: HistogramSnapshot
    handling: HistogramSnapshot

    @classmethod
    def of(cls, counts: QueueCounts) -> QueueActivity:
        """Return the counts as they are now."""
        return cls(
            enqueued=counts.enqueued,
            duplicates=counts.duplicates,
            delivered=counts.delivered,
            retried=counts.retried,
            postponed=counts.postponed,
            reclaimed=counts.reclaimed,
            expired=counts.expired,
            dead=counts.dead,
            lost=counts.lost,
            lag=counts.lag.snapshot(),
            handling=counts.handling.snapshot(),
        )


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis knows of all processes, as it was asked last.

    Attributes:
        taken: Seconds since 1970.
        age: Seconds between the sample and the snapshot that has it.
        clock_skew: Seconds by which the server's clock is ahead of ours, to half a
            round trip; negative: behind.
        sessions: None when the process has no sessions.
        queues: By the queue's name.
    """

    taken: float
    age: float
    clock_skew: float
    sessions: SessionStats | None
    queues: dict[str, QueueStats]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a process counted since it opened its parts. A part it has not is None.

    Attributes:
        taken: Seconds since 1970.
        version: Of oddswire.
        client: Calls, errors, latency, connections.
        cache: All namespaces together.
        namespaces: Each namespace of the cache.
        limiter: By rule.
        pubsub: By topic.
        locks: Of this process.
        queues: This process's work on each queue.
        events: Changes of state by class, such as ``"Failover"``.
        connections_lost: Lost connections by their role.
        degraded: Modes that last now, as (part, mode).
        sample: Counts of all processes; None before the first `Metrics.sample`.
        sample_failures: Samples that failed.
    """

    taken: float
    version: str
    client: ClientStats
    cache: CacheStats | None
    namespaces: dict[str, CacheStats]
    limiter: LimiterStats | None
    pubsub: PubSubStats | None
    locks: LockStats | None
    queues: dict[str, QueueActivity]
    events: dict[str, int]
    connections_lost: dict[str, int]
    degraded: tuple[tuple[str, str], ...]
    sample: Sample | None
    sample_failures: int
