"""From what the server or redis-py says to the library's errors, and their copies.

An error reply begins with a word that names its kind (``WRONGTYPE``, ``OOM``). The
message keeps redis-py's form: the word is cut off where redis-py cuts it off, so
code that reads messages reads the same text.
"""

from __future__ import annotations

import re
from copy import copy
from typing import Any

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from oddswire.errors import (
    AuthFailed,
    Busy,
    ClusterDown,
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    CrossSlot,
    Loading,
    MasterDown,
    Misconfigured,
    NoPermission,
    NoReplicas,
    OddswireError,
    Outcome,
    OutOfMemory,
    PoolTimeout,
    ProtocolBroken,
    ReadOnly,
    ScriptFailed,
    TryAgain,
    Unavailable,
    Unblocked,
    WrongType,
)
from oddswire.plain import plain

TRANSIENT_ERRORS = (
    # The connection: the next one may do.
    *(CommandTimeout, ConnectionLost, ProtocolBroken, Unavailable),
    # The state of the server: it restarts, is demoted, is full, is held up.
    *(Busy, ClusterDown, Loading, MasterDown, Misconfigured, NoReplicas),
    *(OutOfMemory, ReadOnly, TryAgain, Unblocked),
)
"""Errors that pass by waiting, without a change of the program, of its settings or of
its rights. A loop that runs for ever waits these out and ends with any other."""

# redis-py knows these words; the error's class decides.
_BY_CLASS: dict[type[Exception], type[OddswireError]] = {
    redis_errors.AuthenticationError: AuthFailed,
    redis_errors.NoPermissionError: NoPermission,
    redis_errors.OutOfMemoryError: OutOfMemory,
    redis_errors.ReadOnlyError: ReadOnly,
    redis_errors.BusyLoadingError: Loading,
    redis_errors.ClusterCrossSlotError: CrossSlot,
    redis_errors.ClusterDownError: ClusterDown,
    redis_errors.MasterDownError: MasterDown,
    redis_errors.TryAgainError: TryAgain,
    redis_errors.ResponseError: CommandRejected,
    redis_errors.MaxConnectionsError: PoolTimeout,
    redis_errors.InvalidResponse: ProtocolBroken,
    redis_errors.TimeoutError: CommandTimeout,
    redis_errors.ConnectionError: ConnectionLost,
}

# redis-py leaves these as plain ResponseError, the word still in the message.
_BY_WORD: dict[str, type[CommandRejected]] = {
    "WRONGTYPE": WrongType,
    "MISCONF": Misconfigured,
    "NOREPLICAS": NoReplicas,
    "BUSY": Busy,
    "UNBLOCKED": Unblocked,
}

# What the server appends to an error that a script raised or passed on.
_FROM_SCRIPT = re.compile(
    # Valkey 9 leaves out the name in front of the comma.
    r"script: ([^ ]+, )?on @user_(script|function)|^Error (running|compiling) script"
)

# The server looks at its own state at each write of a script, and that state stands
# still while the script runs; a full memory is no longer looked at once the script has
# written. So where one write was refused for it, none was made.
_NO_WRITE_WAS_MADE = (ReadOnly, NoReplicas, Misconfigured, OutOfMemory)

_COMBINED: dict[type[Exception], type[CommandRejected]] = {}

_OF_PIPELINE = "of pipeline caused error: ('"

# Behind it is the end of what redis-py writes around an error in a transaction.
_ARGUMENTS = re.compile(r""", with args beginning with:.*?(["'],\))?\Z""", re.DOTALL)

_MAX_CLIENTS = "max number of clients reached"

PROTECTED_MODE = "is running in protected mode"
"""In the last word of a server without a password, to a client from elsewhere."""


def _both(theirs: type[Exception]) -> type[CommandRejected]:
    """A class for redis-py's finer ones: caught as theirs and as `CommandRejected`."""
    if theirs not in _COMBINED:

        def reduce(self: CommandRejected) -> tuple[Any, ...]:
            # The class has no place of its own in which pickle could find it.
            return _revive_both, (theirs, self.args), vars(self)

        _COMBINED[theirs] = type(
            theirs.__name__,
            (CommandRejected, theirs),
            {"__doc__": theirs.__doc__, "__reduce__": reduce},
        )
    return _COMBINED[theirs]


def _revive_both(theirs: type[Exception], args: tuple[Any, ...]) -> CommandRejected:
    """Return an error of such a class, unpickled perhaps in another process."""
    kind = _both(theirs)
    return kind.__new__(kind, *args)


def _class_for(error: Exception) -> type[OddswireError]:
    theirs = type(error)
    known = _BY_CLASS.get(theirs)
    if known is CommandRejected:
        # A pipeline of redis-py puts its own words before the server's.
        said = str(error).rpartition(_OF_PIPELINE)[2]
        return _BY_WORD.get(said.partition(" ")[0], CommandRejected)
    if known is not None:
        return known
    if isinstance(error, redis_errors.ResponseError):
        return _both(theirs)
    for base in theirs.__mro__[1:]:
        if base in _BY_CLASS:
            return _BY_CLASS[base]
    return OddswireError


def from_redis(error: Exception, *, outcome: Outcome | None = None) -> Exception:
    """Return the library's error for one of redis-py's.

    Args:
        error: What redis-py raised. An `OddswireError`, and what is neither about the
            connection nor about a reply (`DataError`, `WatchError`, `PubSubError`,
            `LockError`), comes back as it is.
        outcome: What is known of the call, where the caller knows more than the class.
    """
    if isinstance(error, OddswireError):
        return error
    if not isinstance(
        error,
        redis_errors.ConnectionError
        | redis_errors.TimeoutError
        | redis_errors.ResponseError
        | redis_errors.InvalidResponse,
    ):
        return error
    text = str(error)
    cls: type[OddswireError]
    if _MAX_CLIENTS in text or PROTECTED_MODE in text:
        cls, outcome = Unavailable, Outcome.REJECTED
    else:
        cls = _class_for(error)
    if issubclass(cls, CommandRejected) and _FROM_SCRIPT.search(text):
        # The script may have written before it failed.
        cls = ScriptFailed if cls is CommandRejected else cls
        if not issubclass(cls, _NO_WRITE_WAS_MADE):
            outcome = Outcome.UNKNOWN
    said = [_said(each) if isinstance(each, str) else each for each in error.args]
    ours = cls(*said, outcome=outcome)
    if isinstance(error, redis_errors.AskError):  # MOVED is one as well
        where = f"slot {error.slot_id} is at {error.host}:{error.port}"
        ours.args = (
            f"{where}: a node of a cluster said so; cluster://host:port follows it",
        )
    if hasattr(error, "status_code"):
        ours.status_code = error.status_code  # type: ignore[attr-defined]
    return ours


def _said(text: str) -> str:
    # The arguments of a command that it does not know may be a password or a value.
    return _ARGUMENTS.sub(r"\1", text)


def is_from_script(error: Exception) -> bool:
    """Whether a script ran until this error: it may have published before."""
    return _FROM_SCRIPT.search(str(error)) is not None


def reply_error(text: str) -> Exception:
    """Return the error for an error reply; hiredis calls this for each one it reads."""
    # A script may raise what it likes, and errors end up in logs and terminals.
    text = _said(text if text.isprintable() else plain(text))
    try:
        error = BaseParser.parse_error(text)
    except ValueError:
        # MOVED or ASK without an address, as a script may say it. Raised in the
        # parser, it would end the connection for everybody.
        error = redis_errors.ResponseError(text)
    return from_redis(error)


# --- one error for many calls


def clone_error(error: OddswireError, outcome: Outcome) -> OddswireError:
    """Return an error like this one for another call.

    Each call gets its own: one exception object raised in many tasks collects all
    their tracebacks.
    """
    another = copy(error)
    another.outcome = outcome
    another.__cause__ = error.__cause__
    return another


def for_waiters(error: OddswireError, outcome: Outcome) -> OddswireError:
    """Return the error of a call whose connection ended through no fault of its own."""
    if not isinstance(error, ProtocolBroken):
        return clone_error(error, outcome)
    lost = ConnectionLost(str(error), outcome=outcome)
    lost.__cause__ = error.__cause__
    return lost


def drop_frames(error: BaseException, known: BaseException | None) -> None:
    """Remove the frames of an error of a handshake, and of what it was raised from.

    Their variables hold the password, and what reports errors may show variables.

    Args:
        error: Its text says what happened.
        known: What was being handled before the handshake; it keeps its frames.
    """
    seen = {id(known)}
    pending: list[BaseException | None] = [error]
    for each in pending:
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += (each.__cause__, each.__context__)


def protocol_desync(error: Exception) -> OddswireError:
    """Return the error of a connection that cannot be read on."""
    if isinstance(error, OddswireError):
        return error
    broken = ProtocolBroken(
        f"what the server sent cannot be understood: {type(error).__name__}: {error}"
    )
    broken.__cause__ = error
    return broken
