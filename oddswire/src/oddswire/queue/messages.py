"""Messages and dead letters of a queue."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Lease(Protocol):
    """The right to handle a message."""

    async def renew(self) -> bool:
        """Prolong it; False: another worker has it, or it is over."""


class Message(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A message, as its handler gets it.

    Attributes:
        id: Names it in this queue; later messages have greater ids.
        user_id: Its user.
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
        return self._lease is not None and await self._lease.renew()


class DeadLetter(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A message that was given up.

    Attributes:
        id: For `Queue.replay`.
        user_id: Its user.
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
