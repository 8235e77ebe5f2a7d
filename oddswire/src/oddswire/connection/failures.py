"""The error of a call whose wire ended: its own, and blamed on the right one."""

from __future__ import annotations

from copy import copy

from oddswire.errors import ConnectionLost, OddswireError, Outcome, ProtocolBroken


def copy_of(error: OddswireError, outcome: Outcome) -> OddswireError:
    """Return an error like this one for another call.

    Each call gets its own: one exception object raised in many tasks collects all
    their tracebacks.
    """
    another = copy(error)
    another.outcome = outcome
    another.__cause__ = error.__cause__
    return another


def for_others(error: OddswireError, outcome: Outcome) -> OddswireError:
    """Return the error of a call whose wire ended through no fault of its own."""
    if not isinstance(error, ProtocolBroken):
        return copy_of(error, outcome)
    lost = ConnectionLost(str(error), outcome=outcome)
    lost.__cause__ = error.__cause__
    return lost


def out_of_step(error: Exception) -> OddswireError:
    """Return the error of a wire that cannot be read on."""
    if isinstance(error, OddswireError):
        return error
    broken = ProtocolBroken(
        f"what the server sent cannot be understood: {type(error).__name__}: {error}"
    )
    broken.__cause__ = error
    return broken
