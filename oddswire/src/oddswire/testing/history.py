"""`History` records calls and their outcomes; functions judge if they can be right.

The form is Jepsen's: an operation begins, and ends as ok, refused or unknown. An
unknown one may take effect at any time after it began.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from oddswire.errors import OddswireError, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from oddswire.clock import LoopLag

Ended = Literal["ok", "rejected", "not_sent", "unknown"]


class Call(msgspec.Struct, frozen=True):
    """One operation.

    Attributes:
        op: The operation, as the checker names it: ``"get"``, ``"incr"``, ``"add"``.
        key: The key that it is about.
        began: When it began, by `time.monotonic`.
        ended: When it ended.
        outcome: ``"ok"``, or the outcome of its error.
        sent: The value written, if any.
        value: The value returned, if the outcome is ``"ok"``.
        error: The class of its error.
        deadline: Seconds that it may take; None: no limit.
    """

    op: str
    key: str
    began: float
    ended: float
    outcome: Ended
    sent: Any = None
    value: Any = None
    error: str | None = None
    deadline: float | None = None


class History:
    """Records calls. Any number of tasks may share one: it only appends.

    Args:
        classify: Returns the outcome of a call from its exception; default: the
            `outcome` of the library's errors, unknown for any other.

    Attributes:
        calls: In the order in which they ended.
    """

    def __init__(self, classify: Callable[[Exception], Ended] | None = None) -> None:
        self.calls: list[Call] = []
        self._classify = classify or _outcome

    async def record(
        self,
        op: str,
        key: str,
        call: Awaitable[Any],
        *,
        sent: Any = None,
        deadline: float | None = None,
    ) -> Any:
        """Await a call and record how it ended; its exception is not raised.

        Returns:
            The value, or None after an error. Cancelled, the call is recorded as
            unknown.
        """
        began = monotonic()
        outcome: Ended = "unknown"
        value = error = None
        try:
            value = await call
            outcome = "ok"
        except Exception as failure:  # noqa: BLE001 - every client has errors of its own
            outcome = self._classify(failure)
            error = type(failure).__name__
        finally:
            self.calls.append(
                Call(
                    op=op,
                    key=key,
                    began=began,
                    ended=monotonic(),
                    outcome=outcome,
                    sent=sent,
                    value=value,
                    error=error,
                    deadline=deadline,
                )
            )
        return value

    def of(self, *ops: str) -> list[Call]:
        """Return the calls of these operations."""
        return [call for call in self.calls if call.op in ops]

    def count(self, outcome: Ended, *ops: str) -> int:
        """Count the calls with this outcome, of these operations or of all."""
        return sum(
            call.outcome == outcome for call in self.calls if not ops or call.op in ops
        )


def _outcome(error: Exception) -> Ended:
    if isinstance(error, OddswireError):
        return error.outcome.value
    return Outcome.UNKNOWN.value


# --- judges: each returns one line for each fault; none for a good history


def wrong_replies(
    calls: Collection[Call], belongs: Callable[[str, Any], bool]
) -> list[str]:
    """Return the reads that returned a value of another key.

    Args:
        calls: The calls; those that returned a value are judged.
        belongs: Whether a value can belong to a key: let every value contain its key.
    """
    return [
        f"{call.op} {call.key} returned {call.value!r:.60}"
        for call in calls
        if call.outcome == "ok"
        and call.value is not None
        and not belongs(call.key, call.value)
    ]


def lost_members(
    calls: Collection[Call], found: Mapping[str, Collection[Any]]
) -> list[str]:
    """Return the acknowledged additions that are not there at the end.

    Args:
        calls: Additions: ``sent`` is the member, ``key`` the set.
        found: The members of each set at the end.
    """
    return [
        f"{call.op} {call.key} {call.sent!r}: acknowledged and not there"
        for call in calls
        if call.outcome == "ok" and call.sent not in found.get(call.key, ())
    ]


def lost_counts(calls: Collection[Call], found: Mapping[str, int]) -> list[str]:
    """Return the counters outside acknowledged .. acknowledged + unknown.

    Args:
        calls: Increments by one.
        found: The value of each counter at the end; a missing one counts as 0.
    """
    sure: dict[str, int] = {}
    perhaps: dict[str, int] = {}
    for call in calls:
        if call.outcome == "ok":
            sure[call.key] = sure.get(call.key, 0) + 1
        elif call.outcome == "unknown":
            perhaps[call.key] = perhaps.get(call.key, 0) + 1
    wrong = []
    for key in sorted({*sure, *perhaps, *found}):
        least = sure.get(key, 0)
        most = least + perhaps.get(key, 0)
        value = found.get(key, 0)
        if not least <= value <= most:
            wrong.append(f"{key} is {value}, between {least} and {most} expected")
    return wrong


def overtime(
    calls: Collection[Call], grace: float = 0.1, lag: LoopLag | None = None
) -> list[str]:
    """Return the calls that took longer than their deadline.

    Args:
        calls: The calls; those without a deadline do not count.
        grace: The share of its deadline that a call may take beyond it.
        lag: It watched the event loop meanwhile. Time past the deadline in which the
            loop itself was late does not count.
    """
    return [
        f"{call.op} {call.key} took {call.ended - call.began:.3f} s, "
        f"its deadline was {call.deadline:g} s"
        for call in calls
        if call.deadline is not None
        and (late := call.ended - (end := call.began + call.deadline)) > 0
        and late - (lag.between(end, call.ended) if lag else 0) > call.deadline * grace
    ]


def not_linearizable(calls: Sequence[Call], start: Any = None) -> list[str]:
    """Return the keys whose reads and writes fit no single order in time.

    Each key is a register: ``"set"`` writes ``sent``, ``"get"`` returns ``value``. An
    unknown write may take effect at any time after it began, or never. The search is
    that of Wing and Gong (Testing and verifying concurrent objects, 1993) with the
    memory of Lowe (Testing for linearizability, 2017); it is meant for histories with
    up to a dozen calls at a time on a key.

    Args:
        calls: In any order. Calls that were refused or not sent, and unknown reads, do
            not count.
        start: The value before the first call.
    """
    by_key: dict[str, list[Call]] = {}
    for call in calls:
        if call.outcome == "ok" or (call.outcome == "unknown" and call.op == "set"):
            by_key.setdefault(call.key, []).append(call)
    return [
        f"{key}: no order of its {len(history)} calls explains what was read"
        for key, history in by_key.items()
        if not _has_an_order(history, start)
    ]


def _has_an_order(history: list[Call], start: Any) -> bool:
    read = [call.value for call in history if call.op == "get"]
    # An unknown write whose value no call read can be left out.
    history = [call for call in history if call.outcome == "ok" or call.sent in read]
    history.sort(key=lambda call: call.began)
    ends = [
        float("inf") if call.outcome == "unknown" else call.ended for call in history
    ]
    count = len(history)

    # A state is the set of the calls that took effect, and the value that they left.
    # The search is iterative: a history is longer than Python's stack.
    seen: set[tuple[frozenset[int], Any]] = set()
    stack: list[tuple[frozenset[int], Any]] = [(frozenset(), start)]
    while stack:
        done, value = stack.pop()
        left = [index for index in range(count) if index not in done]
        if all(history[index].outcome == "unknown" for index in left):
            return True
        # Each call takes effect before it ends. So the next one to take effect began
        # before the first of those that are left ended.
        first_end = min(ends[index] for index in left)
        for index in left:
            call = history[index]
            if call.began > first_end:
                break
            if call.op == "get":
                if call.value != value:
                    continue
                after = (done | {index}, value)
            else:
                after = (done | {index}, call.sent)
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return False
