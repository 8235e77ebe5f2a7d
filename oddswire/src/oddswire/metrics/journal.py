"""`Journal`: the changes of state of a process, the last ones and those that last.

An entry has no text of a server and no address: it says the class of what happened, and
the part. So a page that others read can show it; the log has the reasons.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from oddswire.clock import SystemClock
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    DataReset,
    Degraded,
    Disconnected,
    Failover,
    Ready,
    Reconnecting,
    Refused,
    Restored,
)
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.clock import Clock
    from oddswire.events import Event, Events

_KEPT = 50
_PARTS = 100
# A connection that comes and goes is no change of state; attempts are not either.
_ROUTINE = (Connecting, Connected, Reconnecting)


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of state.

    Attributes:
        at: Seconds since 1970.
        kind: The class of the event.
        subject: The connection or the part, such as ``"command"``.
        text: One sentence.
    """

    at: float
    kind: str
    subject: str
    text: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is less than it promises, from its beginning to its end.

    Attributes:
        began: Seconds since 1970.
        subject: The connection or the part.
        mode: ``"disconnected"``, ``"refused"``, ``"circuit open"``, or the part's mode.
        seconds: How long it took; None while it lasts.
    """

    began: float
    subject: str
    mode: str
    seconds: float | None = None


class Journal:
    """Follows the events of a process.

    Args:
        events: Whose changes.
        clock: Tells when.

    Attributes:
        counts: Events by class, routine ones left out.
        lost: Lost connections by their role.
    """

    def __init__(self, events: Events, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._entries: deque[JournalEntry] = deque(maxlen=_KEPT)
        self._ended: deque[Incident] = deque(maxlen=_KEPT)
        # By subject and mode: when it began, by the wall clock and the monotonic one.
        self._lasting: dict[tuple[str, str], tuple[float, float]] = {}
        self.counts: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.close: Callable[[], None] = events.subscribe(self._on_event)

    @property
    def entries(self) -> tuple[JournalEntry, ...]:
        """The last 50 changes, the newest first."""
        return tuple(reversed(self._entries))

    @property
    def degraded(self) -> tuple[tuple[str, str], ...]:
        """(part, mode) of what lasts now."""
        return tuple(self._lasting)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Those that last, then the last 50 that ended, the newest first."""
        lasting = [
            Incident(began=began, subject=subject, mode=mode)
            for (subject, mode), (began, _) in self._lasting.items()
        ]
        return (*reversed(lasting), *reversed(self._ended))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, _ROUTINE):
            return
        if isinstance(event, Disconnected) and event.closed:
            return
        kind = type(event).__name__
        self.counts[kind] = self.counts.get(kind, 0) + 1
        subject, text = self._follow(event)
        self._entries.append(
            JournalEntry(at=self._clock.now(), kind=kind, subject=subject, text=text)
        )

    def _follow(self, event: Event) -> tuple[str, str]:
        """Begin and end incidents; return (subject, sentence)."""
        name = _short(event.connection)
        match event:
            case Disconnected():
                self._begin(name, "disconnected")
                self.lost[name] = self.lost.get(name, 0) + 1
                return name, f"The {name} connection was lost."
            case Refused():
                self._begin(name, "refused")
                return name, f"The server refuses the {name} connection."
            case CircuitOpened(attempts=attempts):
                self._begin(name, "circuit open")
                return name, (
                    f"The circuit of the {name} connection opened after {attempts} "
                    "failed attempts."
                )
            case CircuitClosed():
                self._end(name, "circuit open")
                return name, f"The circuit of the {name} connection closed."
            case Ready(outage=outage):
                for mode in ("disconnected", "refused", "circuit open"):
                    self._end(name, mode)
                after = f" after {outage:.1f} s" if outage else ""
                return name, f"The {name} connection is ready{after}."
            case Failover():
                return name, "Another server became the primary."
            case DataReset():
                return name, "The server lost or changed its data."
            case Degraded(part=part, mode=mode):
                self._begin(_short(part), _short(mode))
                return _short(part), f"{_short(part)} is degraded: {_short(mode)}."
            case Restored(part=part, mode=mode, outage=outage):
                self._end(_short(part), _short(mode))
                return _short(part), (
                    f"{_short(part)} is whole again after {outage:.1f} s."
                )
            case _:
                return name, type(event).__name__

    def _begin(self, subject: str, mode: str) -> None:
        if len(self._lasting) < _PARTS:
            now = (self._clock.now(), self._clock.monotonic())
            self._lasting.setdefault((subject, mode), now)

    def _end(self, subject: str, mode: str) -> None:
        began = self._lasting.pop((subject, mode), None)
        if began is None:
            return
        seconds = self._clock.monotonic() - began[1]
        self._ended.append(
            Incident(began=began[0], subject=subject, mode=mode, seconds=seconds)
        )


def _short(name: str) -> str:
    # ``topic:prices`` counts as ``topic``: the set of parts stays closed.
    return plain(name.partition(":")[0])[:40]
