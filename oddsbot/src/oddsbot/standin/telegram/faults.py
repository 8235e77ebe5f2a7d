"""`Faults`: what goes wrong by switch; `Limits`: what Telegram counts."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import msgspec

from .errors import ApiError

Kind = Literal["flood", "error", "silence", "lost", "slow", "unauthorized", "refused"]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One thing that goes wrong, for as many calls as it says.

    Attributes:
        kind: ``flood`` (429), ``error`` (502 with a page of HTML), ``silence`` (never
            answered, nothing done), ``lost`` (done, and the connection cut before the
            answer), ``slow`` (done after `seconds`), ``unauthorized`` (401),
            ``refused`` (400).
        method: Of the Bot API; empty: any.
        chat: Only calls for it; None: any.
        times: Calls that are left.
        seconds: Of ``slow``, and the retry_after of ``flood``.
    """

    kind: Kind
    method: str = ""
    chat: int | None = None
    times: int = 1
    seconds: float = 1.0


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """The switches.

    Attributes:
        planned: Faults of calls; the first that fits is taken.
        repeat: Updates are given twice.
        reverse: Updates of one batch are given backwards.
    """

    planned: list[Fault] = []
    repeat: bool = False
    reverse: bool = False

    def take(self, method: str, chat: int | None) -> Fault | None:
        """Return the fault of this call, and count it."""
        for fault in self.planned:
            if fault.method.lower() in {"", method.lower()} and (
                fault.chat is None or fault.chat == chat
            ):
                fault.times -= 1
                if fault.times <= 0:
                    self.planned.remove(fault)
                return fault
        return None


class Limits(msgspec.Struct, frozen=True):
    """How many messages within how many seconds; the next one is a 429.

    Telegram publishes one a second in a chat with short bursts, 20 a minute in a group,
    30 a second in all, and keeps to none of them exactly.
    """

    all: tuple[int, float] = (30, 1.0)
    chat: tuple[int, float] = (5, 5.0)
    group: tuple[int, float] = (20, 60.0)


class Counts:
    """Messages by their time, so that a flood is noticed.

    Args:
        limits: None lets everything through.
    """

    def __init__(self, limits: Limits | None) -> None:
        self.limits = limits
        self._sent: dict[int | None, deque[float]] = {}

    def spend(self, now: float, chat: int, *, group: bool) -> None:
        """Count a message to a chat.

        Raises:
            ApiError: 429; nothing is counted.
        """
        if self.limits is None:
            return
        by_chat = self.limits.group if group else self.limits.chat
        for key, (most, window) in ((None, self.limits.all), (chat, by_chat)):
            times = self._sent.setdefault(key, deque())
            while times and times[0] <= now - window:
                times.popleft()
            if len(times) >= most:
                free_at = times[-most]
                wait = max(1, math.ceil(free_at + window - now))
                # A sum that is rounded down would end a moment too early.
                while now + wait - window < free_at:
                    wait += 1
                raise flood(wait)
        for key in (None, chat):
            self._sent[key].append(now)


def flood(seconds: float) -> ApiError:
    """Return the 429 that asks for a pause of whole seconds."""
    wait = max(1, math.ceil(seconds))
    return ApiError(429, f"Too Many Requests: retry after {wait}", retry_after=wait)
