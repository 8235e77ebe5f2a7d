"""`Metrics`: gathers what the parts of a process counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._version import VERSION
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError
from oddswire.metrics.journal import Journal
from oddswire.metrics.snapshot import QueueActivity, Sample, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.cache import Cache
    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.locks import Locks
    from oddswire.pubsub import PubSub
    from oddswire.queue import Queue
    from oddswire.ratelimit import RateLimiter
    from oddswire.sessions import Sessions


class Metrics:
    """The numbers of a process, for exporters and pages.

    The parts count in plain integers, whether somebody reads them or not. `snapshot`
    reads these and asks nobody. What only Redis knows (the sessions and queues of all
    processes) is in the snapshot as of the last `sample`.

    Args:
        client: Whose calls, connections and events.
        cache: None: the process has none; so are the others.
        limiter: As `cache`.
        pubsub: As `cache`.
        locks: As `cache`.
        sessions: As `cache`.
        queues: Each queue of the process.
        clock: Tells when.

    Attributes:
        journal: The last changes of state.
    """

    def __init__(
        self,
        client: Client,
        *,
        cache: Cache | None = None,
        limiter: RateLimiter | None = None,
        pubsub: PubSub | None = None,
        locks: Locks | None = None,
        sessions: Sessions[Any] | None = None,
        queues: Iterable[Queue[Any]] = (),
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._limiter = limiter
        self._pubsub = pubsub
        self._locks = locks
        self._sessions = sessions
        self._queues = {queue.name: queue for queue in queues}
        self._clock = clock or SystemClock()
        self._sample: tuple[float, Sample] | None = None
        self._failures = 0
        self.journal = Journal(client.events, self._clock)

    def close(self) -> None:
        """Stop following changes of state; `snapshot` still works."""
        self.journal.close()

    def snapshot(self) -> Snapshot:
        """Return what is counted at this moment, without input or output."""
        cache = self._cache
        return Snapshot(
            taken=self._clock.now(),
            version=VERSION,
            client=self._client.stats(),
            cache=None if cache is None else cache.stats(),
            namespaces=(
                {}
                if cache is None
                else {name: cache.stats(name) for name in cache.namespaces}
            ),
            limiter=None if self._limiter is None else self._limiter.stats(),
            pubsub=None if self._pubsub is None else self._pubsub.stats(),
            locks=None if self._locks is None else self._locks.stats(),
            queues={
                name: QueueActivity.of(queue.counts)
                for name, queue in self._queues.items()
            },
            events=dict(self.journal.counts),
            connections_lost=dict(self.journal.lost),
            degraded=self.journal.degraded,
            sample=self._aged(),
            sample_failures=self._failures,
        )

    async def sample(self) -> None:
        """Ask Redis for the counts of all processes; later snapshots have them.

        Cancelled or failed, the sample before stays, and grows older.

        Raises:
            OddswireError: Redis could not be asked; it is counted.
        """
        try:
            before = self._clock.now()
            seconds, microseconds = await self._client.time()
            skew = seconds + microseconds / 1e6 - (before + self._clock.now()) / 2
            sessions = None if self._sessions is None else await self._sessions.stats()
            queues = {name: await queue.stats() for name, queue in self._queues.items()}
        except OddswireError:
            self._failures += 1
            raise
        sample = Sample(
            taken=self._clock.now(),
            age=0.0,
            clock_skew=skew,
            sessions=sessions,
            queues=queues,
        )
        self._sample = (self._clock.monotonic(), sample)

    def _aged(self) -> Sample | None:
        if self._sample is None:
            return None
        taken, sample = self._sample
        return msgspec.structs.replace(sample, age=self._clock.monotonic() - taken)
