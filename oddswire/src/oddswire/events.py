"""Changes of state, as frozen details for each subscriber.

The library emits; it logs and exports nothing from here. A logger (`oddswire.logs`), a
metric, a status page are subscribers.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

import msgspec

from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all events.

    Attributes:
        connection: The connection it is about: ``"command"``, ``"tracked"``, ...; empty
            for an event of a part.
    """

    connection: str = ""


class Connecting(Event, frozen=True, kw_only=True):
    """An attempt to connect begins."""


class Connected(Event, frozen=True, kw_only=True):
    """The server accepted the connection and the credentials."""


class Ready(Event, frozen=True, kw_only=True):
    """Commands flow.

    Attributes:
        took: Seconds the attempt took, handshake included.
        outage: Seconds since the connection was lost; 0 for the first connection.
    """

    took: float
    outage: float = 0.0


class Disconnected(Event, frozen=True, kw_only=True):
    """The connection ended.

    Attributes:
        reason: One line.
        closed: Whether this process closed it, at the end of its use.
        protocol_desync: Whether replies had gone to the wrong calls, or might have.
    """

    reason: str
    closed: bool = False
    protocol_desync: bool = False


class Reconnecting(Event, frozen=True, kw_only=True):
    """The next attempt is due after a pause.

    Attributes:
        attempt: Its number since the last success, from 1.
        delay: Seconds until it starts.
        reason: The error of the last attempt or of the connection, one line.
    """

    attempt: int
    delay: float
    reason: str = ""


class Refused(Event, frozen=True, kw_only=True):
    """The server refuses the credentials, or what the connection has to be.

    The client tries again only when the next caller comes.

    Attributes:
        reason: The server's words, one line.
    """

    reason: str


class CircuitOpened(Event, frozen=True, kw_only=True):
    """Enough attempts failed in a row: calls fail at once, probes go on.

    Attributes:
        attempts: Attempts that failed.
        reason: The error of the last one, one line.
    """

    attempts: int
    reason: str


class CircuitClosed(Event, frozen=True, kw_only=True):
    """A probe succeeded: calls are taken again."""


class Failover(Event, frozen=True, kw_only=True):
    """Another server became the primary.

    Attributes:
        old: ``host:port`` before; empty when it was not known.
        new: ``host:port`` now.
    """

    old: str
    new: str


class DataReset(Event, frozen=True, kw_only=True):
    """The server may have lost data: it was restarted, flushed or rolled back.

    What is kept in this process about that data is void.

    Attributes:
        reason: One line.
    """

    reason: str


class Degraded(Event, frozen=True, kw_only=True):
    """A part goes on with less than it promises; `Restored` ends it.

    Attributes:
        part: ``"limiter"``, ``"cache"``, ``"sessions"``, ``"source"``, ``"pubsub"``,
            ``"queue"``, ...
        mode: Its behaviour meanwhile, in one word: ``"local"``, ``"bypassed"``, ...
        reason: One line.
    """

    part: str
    mode: str
    reason: str


class Restored(Event, frozen=True, kw_only=True):
    """A part does again all that it promises.

    Attributes:
        part: As in `Degraded`.
        mode: As in `Degraded`.
        outage: Seconds since `Degraded`.
    """

    part: str
    mode: str
    outage: float


E = TypeVar("E", bound=Event)


class Events:
    """Hands each event to its subscribers, in the order they subscribed.

    Args:
        on_error: Told of each exception of a handler, with the handler and the event.
            An exception of its own is only counted.

    Attributes:
        handler_errors: Exceptions raised by handlers and by `on_error` so far.
    """

    def __init__(
        self,
        on_error: Callable[[Callable[..., object], Event, Exception], object]
        | None = None,
    ) -> None:
        self.handler_errors = 0
        self._on_error = on_error
        # Replaced, never changed: a handler that subscribes or unsubscribes does not
        # disturb the emit that is calling it.
        self._subscriptions: tuple[_Subscription, ...] = ()

    def subscribe(
        self, handler: Callable[[E], object], *types: type[E]
    ) -> Callable[[], None]:
        """Have `handler` called with each event of the given types; none: with all.

        A handler is called between two steps of the connection, so it must be short
        and must not block. To do more, hand the event to a queue.

        Returns:
            A function that ends the subscription; calling it again does nothing.

        Raises:
            TypeError: `handler` is a coroutine function; nobody would await it.
        """
        if inspect.iscoroutinefunction(handler):
            raise TypeError(
                "a handler of events is a plain function; from it, put the event into "
                "a queue that a task of yours reads"
            )
        subscription = _Subscription(handler, types or (Event,))
        self._subscriptions = (*self._subscriptions, subscription)

        def unsubscribe() -> None:
            self._subscriptions = tuple(
                each for each in self._subscriptions if each is not subscription
            )

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Call every handler of this type of event; no exception of theirs escapes."""
        for subscription in self._subscriptions:
            if not isinstance(event, subscription.types):
                continue
            try:
                subscription.handler(event)
            except Exception as error:  # noqa: BLE001 - a handler may raise anything, and the connection must not notice
                self.handler_errors += 1
                self._report(subscription.handler, event, error)

    def _report(
        self, handler: Callable[..., object], event: Event, error: Exception
    ) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(handler, event, error)
        except Exception:  # noqa: BLE001 - reporting a fault must not become one
            self.handler_errors += 1


class _Subscription:
    __slots__ = ("handler", "types")

    def __init__(
        self, handler: Callable[..., object], types: tuple[type[Event], ...]
    ) -> None:
        self.handler = handler
        self.types = types


class Degradation:
    """One mode of one part that is less than it promises: begins and ends once.

    Args:
        events: Where `Degraded` and `Restored` are emitted.
        part: As in `Degraded`.
        mode: As in `Degraded`.
        now: A clock that never goes back, seconds.

    Attributes:
        active: Whether the part is in this mode now.
    """

    __slots__ = ("_events", "_mode", "_now", "_part", "_since", "active")

    def __init__(
        self, events: Events, part: str, mode: str, now: Callable[[], float]
    ) -> None:
        self.active = False
        self._events = events
        self._part = part
        self._mode = mode
        self._now = now
        self._since = 0.0

    def begin(self, reason: object) -> None:
        """Emit `Degraded`, unless the part is in this mode already."""
        if self.active:
            return
        self.active = True
        self._since = self._now()
        self._events.emit(
            Degraded(part=self._part, mode=self._mode, reason=plain(reason))
        )

    def end(self) -> None:
        """Emit `Restored`, unless the part is not in this mode."""
        if not self.active:
            return
        self.active = False
        self._events.emit(
            Restored(part=self._part, mode=self._mode, outage=self._now() - self._since)
        )
