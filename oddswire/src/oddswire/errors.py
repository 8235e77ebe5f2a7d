"""Every error of the library, under one root, each with its outcome.

``except OddswireError`` catches all of them. Each class also derives from redis-py's
class of the same meaning where there is one: an ``except`` that was written for
redis-py catches the same errors.

The `.outcome` of an error says whether the call ran:

- `Outcome.NOT_SENT`: no byte left this process; sending it again is safe.
- `Outcome.REJECTED`: the server refused it and changed nothing.
- `Outcome.UNKNOWN`: bytes left and no answer came; it may have run, may run later,
  or may never run. A timed-out write belongs here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Outcome(StrEnum):
    """Whether a call that failed has run."""

    NOT_SENT = "not_sent"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


def _revive(kind: type[OddswireError], args: tuple[Any, ...]) -> OddswireError:
    """Return an error of this class without calling it: some take more arguments."""
    error = kind.__new__(kind, *args)
    # `OSError`, which a `TimeoutError` is, leaves them to `__init__`.
    error.args = args
    return error


class OddswireError(Exception):
    """The root of the library's errors.

    It survives pickle and copy, with its message, its outcome and its other
    attributes; as with every exception, its cause and its traceback stay behind.

    Attributes:
        outcome: Whether the call has run: `Outcome.NOT_SENT`, ``REJECTED`` or
            ``UNKNOWN``. A class has a default; an instance may know better.
    """

    outcome: Outcome = Outcome.NOT_SENT

    def __init__(self, *args: object, outcome: Outcome | None = None) -> None:
        super().__init__(*args)
        if outcome is not None:
            self.outcome = outcome

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        """Return how to make it again, for pickle and copy."""
        return _revive, (type(self), self.args), vars(self)


# --- before anything is sent


class SettingsError(OddswireError, ValueError):
    """A setting is missing, malformed, out of range or refused by the profile.

    Attributes:
        problems: One line for each wrong setting: the variable or field, its value
            (secrets masked), what is accepted.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class InvalidKey(OddswireError, ValueError):
    """A key cannot be built: a part of the wrong type, a key that is too long."""


class EmbeddedFailed(OddswireError):
    """The embedded server could not start, or ended by itself."""


class ClosedError(OddswireError, redis_errors.ConnectionError):
    """The object was closed, or not opened yet."""


class WrongLoop(OddswireError, RuntimeError):
    """Used from another event loop, or from a forked process, than it was opened in."""


class NotShared(OddswireError, redis_errors.DataError):
    """The command changes the state of its connection, and others share that one."""


class NotOnCluster(OddswireError, redis_errors.DataError):
    """It works on one server, and this client is of a cluster; nothing was sent."""


# --- the connection


class Unavailable(OddswireError, redis_errors.ConnectionError):
    """There is no usable connection now; nothing was sent."""


class CircuitOpen(Unavailable):
    """The circuit is open: enough attempts to connect failed in a row.

    Attributes:
        retry_after: Seconds until the next probe.
    """

    def __init__(self, *args: object, retry_after: float) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """As much is in flight as the limits allow, and no room came in time."""


class PoolTimeout(Unavailable, redis_errors.MaxConnectionsError):
    """No exclusive connection became free within the acquire timeout."""


class ConnectionLost(OddswireError, redis_errors.ConnectionError):
    """The connection ended before the reply came."""

    outcome = Outcome.UNKNOWN


class CommandTimeout(OddswireError, redis_errors.TimeoutError):
    """The deadline passed before the reply came."""

    outcome = Outcome.UNKNOWN


class ProtocolBroken(OddswireError, redis_errors.InvalidResponse):
    """The server sent what is not RESP, or a reply to no call."""

    outcome = Outcome.UNKNOWN


# --- what the server refused


class AuthFailed(OddswireError, redis_errors.AuthenticationError):
    """The server refused the password or the user name."""

    outcome = Outcome.REJECTED


class NoPermission(OddswireError, redis_errors.NoPermissionError):
    """The ACL of this user forbids the command, the key or the channel."""

    outcome = Outcome.REJECTED


class CommandRejected(OddswireError, redis_errors.ResponseError):
    """The server answered with an error and changed nothing."""

    outcome = Outcome.REJECTED


class OutOfMemory(CommandRejected, redis_errors.OutOfMemoryError):
    """The server is above its `maxmemory` and may evict nothing."""


class ReadOnly(CommandRejected, redis_errors.ReadOnlyError):
    """The server is a replica: it was demoted, or the address is the wrong one."""


class Loading(CommandRejected, redis_errors.BusyLoadingError):
    """The server is loading its data set into memory."""


class WrongType(CommandRejected):
    """The key holds another data type than the command works on."""


class ClusterDown(CommandRejected, redis_errors.ClusterDownError):
    """The cluster has no owner for the slot at the moment."""


class MasterDown(CommandRejected, redis_errors.MasterDownError):
    """The server is a replica without its primary and serves no stale data."""


class TryAgain(CommandRejected, redis_errors.TryAgainError):
    """The keys of the command are being moved to another node of the cluster."""


class CrossSlot(
    CommandRejected,
    redis_errors.ClusterCrossSlotError,
    redis_errors.CrossSlotTransactionError,
):
    """The keys of the command are in different slots of a cluster; nothing ran."""


class Unblocked(CommandRejected):
    """The server ended a blocking command: its role changed, or CLIENT UNBLOCK did.

    Nothing was taken, so the command may be sent again.
    """


class NoReplicas(CommandRejected):
    """Fewer replicas are in touch than `min-replicas-to-write` asks for."""


class Misconfigured(CommandRejected):
    """The server cannot persist and refuses writes (MISCONF)."""


class Busy(CommandRejected):
    """A script has been running for too long; the server answers nothing else."""


class ScriptFailed(CommandRejected):
    """A script raised an error; its writes before that stay."""

    outcome = Outcome.UNKNOWN


# --- values


class CodecError(OddswireError, ValueError):
    """Bytes cannot be decoded, or a value cannot be encoded.

    Attributes:
        reason: ``"foreign"`` (not written by this codec), ``"newer"`` (by a later
            version), ``"damaged"``, ``"too_large"``, ``"type"``, or ``"key"`` (sealed
            under a key that is not there).
    """

    def __init__(self, *args: object, reason: str) -> None:
        super().__init__(*args)
        self.reason = reason


# --- one per part


class TopicError(OddswireError):
    """A topic was misused: an unknown name, a value of the wrong type or size."""


class QueueError(OddswireError, ValueError):
    """A queue was given what it cannot take: a time in no range, a name, no filter."""


class OtherServer(QueueError):
    """The server is not the one that the caller named; nothing was enqueued."""

    outcome = Outcome.REJECTED


class Undeliverable(OddswireError):
    """Raised by a handler of a queue: the message is to be a dead letter at once."""

    outcome = Outcome.REJECTED


class SessionError(OddswireError):
    """The root of the errors of sessions."""


class SessionConflict(SessionError):
    """Another process changed the session first, more often than was retried."""

    outcome = Outcome.REJECTED


class SessionGone(SessionError):
    """The session was deleted or expired while it was being changed."""

    outcome = Outcome.REJECTED


class SessionFull(SessionError):
    """The cap on sessions, or on one user's collection, is reached."""

    outcome = Outcome.REJECTED


class SessionDamaged(SessionError):
    """The stored session fails its seal or its schema; it was left as it is.

    Attributes:
        reason: As of `CodecError`, or ``"key"`` (sealed under a key that is not in the
            keyring), or ``"schema"`` (no migration leads to this program's).
    """

    def __init__(self, *args: object, reason: str = "damaged") -> None:
        super().__init__(*args)
        self.reason = reason


class SourceError(SessionError):
    """The source of record failed; the change may be stored, whole, now or later."""

    outcome = Outcome.UNKNOWN


class SourceUnavailable(SourceError):
    """The source of record cannot be reached, or refused; nothing was changed."""

    outcome = Outcome.NOT_SENT


class SourceDeclined(SessionError):
    """The write that shares the transaction was refused; nothing was changed."""

    outcome = Outcome.REJECTED


class ConversationBusy(OddswireError):
    """Too many updates of one conversation wait, or one waited too long; none ran."""


class UpdateInProgress(OddswireError):
    """Another process handles this update, or was killed while it did.

    It is not handled here and must not be answered as if it were: its second delivery
    is handled, or finds that it is done.
    """


class RuleError(OddswireError, ValueError):
    """A rule of a rate limit is malformed or misused.

    Its numbers are out of range, no rule has that name, or its subject is missing. Or
    the cost is above its limit: waiting would never help.
    """


class RateLimited(OddswireError):
    """A limit is reached and the time to wait exceeds the timeout.

    Attributes:
        retry_after: Seconds, rounded up, after which a hit will be admitted.
    """

    outcome = Outcome.REJECTED

    def __init__(self, *args: object, retry_after: float) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class CacheLoadTimeout(OddswireError, TimeoutError):
    """A loader took longer than the hard timeout and no stale value may be served."""


class CacheLoadCycle(OddswireError, RuntimeError):
    """A loader waits for a load that waits for it; the message names the ring."""


class InvalidationNotConfirmed(OddswireError):
    """An invalidation was sent and not acknowledged."""

    outcome = Outcome.UNKNOWN


class LockLost(OddswireError, redis_errors.LockError):
    """The lock's lease ended, or another holder has the lock."""


class LockHeld(OddswireError, redis_errors.LockError):
    """This task has the lock, or the session, and would wait for itself for ever."""
