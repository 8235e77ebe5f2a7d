"""A call on a wire, and the judgement of who is too late. No I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from oddswire.errors import Loading, MasterDown, Misconfigured

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from oddswire.errors import OddswireError

# A wire that stays silent for longer after a timeout is given up.
_SILENT_AT_LEAST = 3.0


# What a server answers to PING and not to SUBSCRIBE.
_REFUSES_PING_ALONE = (Loading, MasterDown, Misconfigured)


class Label(Protocol):
    """What is being called: its name for errors, and a count of slow replies."""

    name: str
    slow: int


class Named:
    """The label of what the library sends on its own account."""

    __slots__ = ("name", "slow")

    def __init__(self, name: str) -> None:
        self.name = name
        self.slow = 0


class Plan:
    """What is special about a call: a batch, a hook, a reply not to be decoded."""

    __slots__ = ("count", "on_reply", "raw", "replies", "until")

    def __init__(
        self,
        count: int,
        on_reply: Callable[[Any], None] | None,
        raw: bool,  # noqa: FBT001 - made at every call with a hook, and words cost time
        until: bytes | None,
        into: list[Any] | None = None,
    ) -> None:
        self.count = count
        self.on_reply = on_reply
        self.raw = raw
        self.until = until
        self.replies: list[Any] = [] if into is None else into

    def ends_with(self, reply: Any) -> bool:
        """Whether this answers the PING at the end of a call that has `until`.

        A server that loads its data, cannot save, or lost its primary subscribes and
        refuses PING; one that is held up refuses both. Waiting on for the echo, this
        call would take in the replies of every call behind it.
        """
        if not isinstance(reply, Exception):
            return bool(reply == self.until)
        return bool(self.replies) or isinstance(reply, _REFUSES_PING_ALONE)

    def tell(self, failure: OddswireError, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the hook that the call ended without a reply."""
        if self.on_reply is None:
            return
        hook, self.on_reply = self.on_reply, None
        try:
            hook(failure)
        except Exception as error:  # noqa: BLE001 - the calls behind it must end too
            loop.call_exception_handler(
                {"message": f"{hook!r} raised an exception", "exception": error}
            )


# (future, time sent, deadline, bytes, label, plan or None). A plain tuple and a plain
# future: a Future subclass takes the slow path of every await, a named tuple costs
# 0.3 us to make. Times are `time.monotonic`'s: uvloop's own clock counts milliseconds.
Call: TypeAlias = "tuple[asyncio.Future[Any], float, float, int, Label, Plan | None]"


def overdue(calls: Iterable[Call], now: float) -> tuple[list[Call], float]:
    """Return the calls past their deadline, and the next deadline of the others."""
    late = []
    soonest = math.inf
    for call in calls:
        if call[0].done():
            continue
        if call[2] > now:
            soonest = min(soonest, call[2])
        else:
            late.append(call)
    return late, soonest


def dead_at(oldest: Call, last_read: float) -> float:
    """Return when a call will have waited in silence for too long to go on."""
    _, sent, deadline, *_ = oldest
    return max(sent, last_read) + max(2 * (deadline - sent), _SILENT_AT_LEAST)
