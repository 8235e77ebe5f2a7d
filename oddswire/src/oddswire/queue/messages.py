"""What a queue hands out, what it tells, what a process counts."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec

from oddswire.counters import Histogram

T = TypeVar("T")


class Lease(Protocol):
    """The right to handle a message."""

    async def keep(self) -> bool:
        """Prolong it; False: it is somebody else's, or over."""


class Message(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A message, as its handler gets it.

    Attributes:
        id: Names it in this queue; later messages have greater ids.
        user_id: Whom it is for.
        value: What was enqueued.
        kind: What it can be paused and purged by; empty for none.
        key: The same for its subject, such as a market.
        attempt: 1 for the first; failures count, crashes of a worker do not.
        uncertain: Whether an earlier attempt ended without a word: its worker died,
            was stopped, or ran out of time. It may have been delivered.
        due_at: When it was enqueued, or was to be delivered if that is later; seconds
            since 1970.
        expires_at: Seconds since 1970; None for never.
    """

    id: str
    user_id: int
    value: T
    kind: str
    key: str
    attempt: int
    uncertain: bool
    due_at: float
    expires_at: float | None
    _lease: Lease | None = None

    async def check(self) -> bool:
        """Return whether this handler still has the message, and keep it if so.

        For a handler that was slow, before what must not be done twice. True: nobody
        else is handed the message within the queue's `lease` from when this was asked.
        False: another worker has it or had it, or it was erased: do not go on. Nothing
        is left of the message's handler afterwards that could have it: then it is
        False too, as for a message that was made by hand.

        Raises:
            OddswireError: Redis could not be asked, so it is not known. Cancelled, the
                lease may be prolonged.
        """
        return self._lease is not None and await self._lease.keep()


class DeadLetter(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A message that was given up.

    Attributes:
        id: For `Queue.replay`.
        user_id: Whom it is for.
        value: What was enqueued; None when its bytes cannot be decoded.
        data: Its bytes as stored.
        kind: As enqueued.
        key: As enqueued.
        attempts: How often it failed.
        uncertain: As in `Message`.
        reason: Why it was given up: class and text of the last error.
        due_at: When it was enqueued, or was to be delivered if that is later; seconds
            since 1970.
        died_at: Seconds since 1970.
    """

    id: str
    user_id: int
    value: T | None
    data: bytes
    kind: str
    key: str
    attempts: int
    uncertain: bool
    reason: str
    due_at: float
    died_at: float


class QueueStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A queue at one moment, all its processes together.

    Whatever was enqueued is delivered, expired, purged, dropped, dead or still there:
    `accounted` is equal to `enqueued`.

    Attributes:
        waiting: In a user's line; those that are being handled are among them.
        delayed: Not due yet.
        parked: Out of line, because they are paused.
        dead_letters: Given up, and kept.
        leased: Users whose message is being handled.
        users: Users with a line.
        lag: Seconds that the user who waits longest could have been served.
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
        foreign: What somebody else wrote in the place of a user or a message, removed.
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


class Counts:
    """What this process did; plain integers that only grow.

    Attributes:
        enqueued: Messages taken in.
        duplicates: Messages that were known already.
        delivered: Handled.
        retried: Failures that are followed by another attempt.
        postponed: Messages whose handler was limited.
        reclaimed: Taken over from a worker that went away.
        expired: Found too old.
        dead: Given up.
        lost: Handled here while the lease was somebody else's.
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
