"""Changes of state as log lines: one line a change, with a stable name and fields.

A record's `event` is its name, and each field of the line is an attribute of the record
too, so that a JSON formatter finds them:

======================  =======  =====================================
event                   level    fields
======================  =======  =====================================
``connection_lost``     WARNING  connection, reason
``connection_failed``   WARNING  connection, reason
``connection_refused``  ERROR    connection, reason
``connection_retry``    DEBUG    connection, attempt, delay, reason
``circuit_open``        ERROR    connection, attempts, reason
``connection_ready``    INFO     connection, took
``connection_back``     WARNING  connection, outage
``failover``            WARNING  connection, old, new
``data_reset``          WARNING  connection, reason
``degraded``            WARNING  part, mode, reason
``restored``            WARNING  part, mode, outage
======================  =======  =====================================

The end of an outage has the level of its beginning: a log that shows one shows both.
`connection` is ``command``, ``tracked`` (the cache's) or ``subscriber``. The last
of the lines that were left out is written when the ten seconds are over, with their
number.

Other lines of the library have an event too:

===============================  =======  ===========================
event                            level    fields
===============================  =======  ===========================
``embedded_server``              WARNING  reason
``settings_warning``             WARNING  reason
``source_readable``              WARNING  reason
``example_key``                  WARNING  reason
``throttle_late``                WARNING  reason
``credentials_not_renewed``      WARNING  reason
``reauthentication_failed``      WARNING  reason
``cache_size_unbounded``, once   WARNING  reason
``refusal_not_shared``           WARNING  rule, duration, reason
``turn_lost``                    WARNING  reason
``value_left_out``, once each    WARNING  key, reason
``value_refused``                WARNING  topic, reason
``records_not_written``          ERROR    count, reason
``dead_letter``                  WARNING  id, reason
``message_failed``               INFO     id, attempt, reason
``cache_size_unknown``           DEBUG    reason
``settling_failed``              DEBUG    id, reason
===============================  =======  ===========================
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.events import (
    CircuitOpened,
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

    from oddswire.events import Event, Events

_QUOTED = frozenset(' ="')
_EACH = 6
_WINDOW = 10.0


def log_events(
    events: Events,
    log: logging.Logger | None = None,
    *,
    now: Callable[[], float] = time.monotonic,
) -> Callable[[], None]:
    """Log each change of state of these events; see the table of this module.

    `Client` and `Wire` do so for events of their own making. Repeats are summarised as
    `LogLines` does it, for each connection and part by itself.

    Args:
        events: Whose changes.
        log: Where; default: the logger ``oddswire``.
        now: A clock that never goes back, seconds.

    Returns:
        A function that ends it.
    """
    return events.subscribe(_EventLog(log or logging.getLogger("oddswire"), now))


class _EventLog:
    """Writes the line of each event."""

    def __init__(self, log: logging.Logger, now: Callable[[], float]) -> None:
        self._lines = LogLines(log, now=now)
        # Connections that are lost or never came: their first failure is a line.
        self._down: set[str] = set()
        # What the server said last when it refused a connection: said once.
        self._refused: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        name = event.connection
        match event:
            case Disconnected(closed=True):
                pass
            case Disconnected(reason=reason):
                self._down.add(name)
                self._write(
                    logging.WARNING, "connection_lost", connection=name, reason=reason
                )
            case Reconnecting(attempt=attempt, delay=delay, reason=reason):
                if name not in self._down:
                    self._down.add(name)
                    self._write(
                        logging.WARNING,
                        "connection_failed",
                        connection=name,
                        reason=reason,
                    )
                self._write(
                    logging.DEBUG,
                    "connection_retry",
                    connection=name,
                    attempt=attempt,
                    delay=delay,
                    reason=reason,
                )
            case Refused(reason=reason):
                self._down.add(name)
                # Each caller, or a part that asks now and then, finds it again.
                if self._refused.get(name) == reason:
                    return
                self._refused[name] = reason
                self._write(
                    logging.ERROR, "connection_refused", connection=name, reason=reason
                )
            case CircuitOpened(attempts=attempts, reason=reason):
                self._write(
                    logging.ERROR,
                    "circuit_open",
                    connection=name,
                    attempts=attempts,
                    reason=reason,
                )
            case Ready(outage=outage, took=took):
                self._refused.pop(name, None)
                if name in self._down:
                    self._down.discard(name)
                    self._write(
                        logging.WARNING,
                        "connection_back",
                        connection=name,
                        outage=outage,
                    )
                else:
                    self._write(
                        logging.INFO, "connection_ready", connection=name, took=took
                    )
            case Failover(old=old, new=new):
                self._write(
                    logging.WARNING, "failover", connection=name, old=old, new=new
                )
            case DataReset(reason=reason):
                self._write(
                    logging.WARNING, "data_reset", connection=name, reason=reason
                )
            case Degraded(part=part, mode=mode, reason=reason):
                self._write(
                    logging.WARNING, "degraded", part=part, mode=mode, reason=reason
                )
            case Restored(part=part, mode=mode, outage=outage):
                self._write(
                    logging.WARNING, "restored", part=part, mode=mode, outage=outage
                )

    def _write(self, level: int, event: str, **fields: Any) -> None:
        about = str(fields.get("connection") or fields.get("part"))
        self._lines.write(level, event, about=about, **fields)


def log_line(log: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Write one line: the name of what happened, and its fields.

    Args:
        log: Where.
        level: Of `logging`.
        event: The name; a record's attribute `event` too.
        **fields: What is known of it; attributes of the record too, so none may be
            named as one of those that `logging` sets.
    """
    if log.isEnabledFor(level):
        _emit(log, _Line(level, event, fields), 0)


class LogLines:
    """Writes lines like `log_line`, and summarises repeats.

    Of the lines about one thing, 6 are written in 10 seconds; of those after them the
    last one is written at the end of the 10 seconds, with their number.

    Args:
        log: Where.
        now: A clock that never goes back, seconds.
    """

    def __init__(
        self, log: logging.Logger, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._now = now
        self._repeats: dict[str, _Repeats] = {}

    def write(
        self, level: int, event: str, *, about: str | None = None, **fields: Any
    ) -> None:
        """Write a line, or count it if too many were written about the same thing.

        Args:
            level: Of `logging`.
            event: The name of the line.
            about: The thing that repeats are counted for; default: the event.
            **fields: As in `log_line`.
        """
        if not self._log.isEnabledFor(level):
            return
        line = _Line(level, event, fields)
        # Attempts are spaced by the backoff already.
        if level <= logging.DEBUG:
            self._put(line, 0)
            return
        repeats = self._repeats.setdefault(about or event, _Repeats())
        now = self._now()
        if now >= repeats.until:
            repeats.until, repeats.written = now + _WINDOW, 0
        if repeats.written < _EACH:
            repeats.written += 1
            left_out, repeats.left_out, repeats.last = repeats.left_out, 0, None
            self._put(line, left_out)
            return
        repeats.left_out += 1
        repeats.last = line
        if repeats.left_out == 1:
            # The last line about a thing has to be true: without this one the log of
            # a connection that came back in the end would say that it is lost.
            with suppress(RuntimeError):  # no loop: the next event writes
                asyncio.get_running_loop().call_later(
                    repeats.until - now, self._summarise, repeats
                )

    def _summarise(self, repeats: _Repeats) -> None:
        left_out, last = repeats.left_out, repeats.last
        repeats.left_out, repeats.last = 0, None
        if last is not None:
            self._put(last, left_out - 1)

    def _put(self, line: _Line, left_out: int) -> None:
        _emit(self._log, line, left_out)


class _Line(NamedTuple):
    level: int
    event: str
    fields: dict[str, Any]


class _Repeats:
    """The lines about one connection or part, in the present window.

    Attributes:
        until: When the window ends.
        written: Lines that were written in it.
        left_out: Lines that were not, and have not been counted in one yet.
        last: The last of these.
    """

    __slots__ = ("last", "left_out", "until", "written")

    def __init__(self) -> None:
        self.until = float("-inf")
        self.written = 0
        self.left_out = 0
        self.last: _Line | None = None


def _emit(log: logging.Logger, line: _Line, left_out: int) -> None:
    text = " ".join(
        (
            line.event,
            *(f"{key}={_text(value)}" for key, value in line.fields.items()),
        )
    )
    log.log(
        line.level,
        "%s%s",
        text,
        f" ({left_out} more left out)" if left_out else "",
        extra={"event": line.event, **line.fields, "left_out": left_out},
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}s"
    # Somebody else's words end neither the line nor the quotes that they are in.
    text = plain(value)
    if not text or set(text) & _QUOTED:
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
