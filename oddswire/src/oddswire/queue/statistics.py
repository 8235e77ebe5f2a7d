"""Counts of a queue: of all processes, by the server, and of this one."""

from __future__ import annotations

import msgspec

from oddswire.counters import Histogram


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """A queue at one moment, of all its processes.

    Every message that was enqueued is delivered, expired, purged, dropped, dead or
    still there: `accounted` is equal to `enqueued`.

    Attributes:
        waiting: In a user's line; those that are being handled are among them.
        delayed: Not due yet.
        parked: Out of line, because they are paused.
        dead_letters: Given up, and kept.
        leased: Users whose message is being handled.
        users: Users with a line.
        lag: Seconds since when the longest waiting user could have been served.
        paused: What is paused: ``"*"``, ``"kind:..."``, ``"key:..."``.
        enqueued: Messages taken in.
        duplicates: Messages refused because their id was taken in before.
        delivered: Handled.
        retried: Failures that were followed by another attempt.
        reclaimed: Handed out again after their worker went away.
        expired: Removed because they were too old.
        dead: Given up.
        replayed: Dead letters put back.
        purged: Removed by `Queue.purge`.
        dropped: Dead letters removed because there were too many.
        foreign: What other programs wrote in the place of a user or a message, removed.
    """

    waiting: int
    delayed: int
    parked: int
    dead_letters: int
    leased: int
    users: int
    lag: float
    paused: frozenset[str]
    enqueued: int
    duplicates: int
    delivered: int
    retried: int
    reclaimed: int
    expired: int
    dead: int
    replayed: int
    purged: int
    dropped: int
    foreign: int

    @property
    def depth(self) -> int:
        """Messages that are still to be delivered."""
        return self.waiting + self.delayed + self.parked

    @property
    def accounted(self) -> int:
        """What became of everything; equal to `enqueued` at every moment."""
        return (
            self.delivered
            + self.expired
            + self.purged
            + self.dropped
            + self.depth
            + self.dead_letters
        )


class QueueCounts:
    """Counts of one process: plain integers that only grow.

    Attributes:
        enqueued: Messages taken in.
        duplicates: Messages that were known already.
        delivered: Handled.
        retried: Failures that are followed by another attempt.
        postponed: Messages whose handler was limited.
        reclaimed: Taken over from a worker that went away.
        expired: Found too old.
        dead: Given up.
        lost: Handled here while another worker had the lease.
        lag: Seconds from being due to being handed out.
        handling: Seconds that handling took.
    """

    __slots__ = (
        *("dead", "delivered", "duplicates", "enqueued", "expired", "handling"),
        *("lag", "lost", "postponed", "reclaimed", "retried"),
    )

    def __init__(self) -> None:
        self.enqueued = 0
        self.duplicates = 0
        self.delivered = 0
        self.retried = 0
        self.postponed = 0
        self.reclaimed = 0
        self.expired = 0
        self.dead = 0
        self.lost = 0
        self.lag = Histogram()
        self.handling = Histogram()
