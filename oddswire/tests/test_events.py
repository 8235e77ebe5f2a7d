"""Events: frozen, in order, and no subscriber can hurt the connection."""

from __future__ import annotations

import msgspec
import pytest

from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Connected,
    Connecting,
    DataReset,
    Degraded,
    Disconnected,
    Event,
    Events,
    Failover,
    Ready,
    Reconnecting,
    Refused,
    Restored,
)

EVENTS = [
    Connecting(connection="command"),
    Connected(connection="command"),
    Ready(connection="command", took=0.01),
    Disconnected(connection="command", reason="reset by peer"),
    Reconnecting(connection="command", attempt=2, delay=0.1),
    CircuitOpened(connection="command", attempts=10, reason="refused"),
    CircuitClosed(connection="command"),
    Failover(connection="command", old="a:1", new="b:1"),
    DataReset(connection="tracked", reason="flushed"),
    Refused(connection="command", reason="wrong password"),
    Degraded(part="limiter", mode="local", reason="away"),
    Restored(part="limiter", mode="local", outage=2.0),
]


@pytest.mark.basic
def test_every_state_change_has_a_frozen_event() -> None:
    """Each event that C8 names exists, is equal by value and cannot be changed."""
    assert {type(event) for event in EVENTS} == set(Event.__subclasses__())
    for event in EVENTS:
        assert event == msgspec.structs.replace(event)
        with pytest.raises(AttributeError):
            event.connection = "other"


@pytest.mark.basic
@pytest.mark.requirement("C8")
def test_nobody_listens_and_nothing_happens() -> None:
    """Emitting without subscribers is no error."""
    hub = Events()
    for event in EVENTS:
        hub.emit(event)

    assert hub.handler_errors == 0


@pytest.mark.basic
def test_subscribers_get_what_they_asked_for_in_order() -> None:
    """A subscriber to types gets those, one to none gets all, in order."""
    hub, seen = Events(), []
    hub.subscribe(lambda event: seen.append(("all", event)))
    hub.subscribe(lambda event: seen.append(("some", event)), Ready, Disconnected)
    for event in EVENTS[1:4]:
        hub.emit(event)

    assert seen == [
        ("all", EVENTS[1]),
        ("all", EVENTS[2]),
        ("some", EVENTS[2]),
        ("all", EVENTS[3]),
        ("some", EVENTS[3]),
    ]


@pytest.mark.errors
@pytest.mark.requirement("C8")
def test_a_broken_handler_harms_nobody() -> None:
    """A handler's exception is counted and reported, and the next handler is called."""
    reported, seen = [], []
    hub = Events(on_error=lambda *what: reported.append(what))

    def broken(event) -> None:
        raise RuntimeError("boom")

    hub.subscribe(broken)
    hub.subscribe(seen.append)
    hub.emit(EVENTS[0])

    assert seen == [EVENTS[0]]
    assert hub.handler_errors == 1
    [(handler, event, error)] = reported
    assert (handler, event, str(error)) == (broken, EVENTS[0], "boom")


@pytest.mark.errors
@pytest.mark.parametrize("report", [None, lambda *_: 1 / 0])
def test_a_broken_reporter_harms_nobody(report) -> None:
    """Without a reporter, or with one that fails itself, emitting goes on."""
    seen = []
    hub = Events(on_error=report)
    hub.subscribe(lambda event: 1 / 0)
    hub.subscribe(seen.append)
    hub.emit(EVENTS[0])

    assert seen == [EVENTS[0]]
    assert hub.handler_errors == (1 if report is None else 2)


@pytest.mark.advanced
def test_unsubscribing_during_an_emit_is_safe() -> None:
    """A handler may end any subscription, also its own; twice is once."""
    hub, seen = Events(), []

    def once(event) -> None:
        seen.append("once")
        stop()
        stop()

    stop = hub.subscribe(once)
    hub.subscribe(lambda event: seen.append("always"))
    hub.emit(EVENTS[0])
    hub.emit(EVENTS[0])

    assert seen == ["once", "always", "always"]


@pytest.mark.advanced
def test_the_same_handler_subscribed_twice_ends_one_by_one() -> None:
    """Each subscription is its own, even of one handler."""
    hub, seen = Events(), []
    handler = seen.append  # one object: each `seen.append` would be another
    stop = hub.subscribe(handler)
    hub.subscribe(handler)
    stop()
    hub.emit(EVENTS[0])

    assert seen == [EVENTS[0]]


@pytest.mark.errors
def test_a_coroutine_function_is_refused() -> None:
    """An async handler, which nobody would await, raises TypeError at once."""

    async def handler(event) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        Events().subscribe(handler)
