"""The log of changes of state: what an operator reads of an outage."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

import oddsbot
import oddswire
from oddswire import Client, EmbeddedServer
from oddswire.cache import Namespace
from oddswire.errors import OddswireError
from oddswire.events import (
    Degraded,
    Disconnected,
    Events,
    Ready,
    Reconnecting,
    Restored,
)
from oddswire.logs import LogLines, log_events
from oddswire.pubsub import Topic
from support import eventually

CANARY = "canary-5a1f0c"

_FAST = {
    "reconnect_delay": 0.01,
    "reconnect_cap": 0.05,
    "reconnect_attempts": 3,
    "reconnect_probe": 0.1,
    "heartbeat_subscriber": 0.2,
    "heartbeat_answer": 0.2,
}


class Recorded(logging.Handler):
    """Keeps the records of a logger of its own."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.log = logging.Logger("recorded")  # noqa: LOG001 - one for each test
        self.log.addHandler(self)

    def emit(self, record):
        """Keep a record."""
        self.records.append(record)

    def names(self, **fields):
        """Return the names of the records that have these fields."""
        return [
            record.event
            for record in self.records
            if all(getattr(record, key, None) == fields[key] for key in fields)
        ]


def names(caplog, **fields):
    """Return the names of the events that were logged, with these fields."""
    return [
        record.event
        for record in caplog.records
        if hasattr(record, "event")
        and record.levelno > logging.INFO
        and all(getattr(record, key, None) == fields[key] for key in fields)
    ]


@pytest.mark.basic
@pytest.mark.requirement("G4")
def test_a_line_has_a_stable_name_and_its_fields():
    """A record carries its name and each field as attributes, and reads as one line."""
    seen, events = Recorded(), Events()
    log_events(events, seen.log)
    events.emit(Disconnected(connection="command", reason="reset by peer"))
    (record,) = seen.records

    assert (record.event, record.connection) == ("connection_lost", "command")
    assert record.reason == "reset by peer"
    assert record.getMessage() == (
        'connection_lost connection=command reason="reset by peer"'
    )
    assert record.levelno == logging.WARNING


@pytest.mark.basic
@pytest.mark.requirement("G4")
async def test_a_flapping_connection_fills_no_log_and_its_last_line_is_true():
    """Of many changes in ten seconds six lines stay, then one with their number."""
    seen, events, now = Recorded(), Events(), [9.9]
    log_events(events, seen.log, now=lambda: now[0])
    events.emit(Disconnected(connection="command", reason="0"))
    now[0] = 19.8  # the window ends in 100 ms of the loop
    for number in range(1, 50):
        events.emit(Ready(connection="command", took=0.1, outage=0.1))
        events.emit(Disconnected(connection="command", reason=str(number)))
    events.emit(Ready(connection="command", took=0.1, outage=7.0))
    assert len(seen.records) == 6

    await eventually(lambda: len(seen.records) == 7)
    last = seen.records[-1]
    assert (last.event, last.outage, last.left_out) == ("connection_back", 7.0, 93)


@pytest.mark.basic
@pytest.mark.requirement("G4")
def test_one_thing_that_flaps_hides_no_other():
    """Repeats are counted for each connection and part by itself."""
    seen, events = Recorded(), Events()
    log_events(events, seen.log, now=lambda: 1.0)
    for _ in range(50):
        events.emit(Disconnected(connection="command", reason="x"))
    events.emit(Degraded(part="limiter", mode="local", reason="x"))
    events.emit(Restored(part="limiter", mode="local", outage=2.0))

    assert seen.names(part="limiter") == ["degraded", "restored"]


@pytest.mark.basic
@pytest.mark.requirement("G4")
def test_a_server_that_never_answered_is_one_line():
    """The first failed attempt has a line with its reason; the others are DEBUG."""
    seen, events = Recorded(), Events()
    seen.log.setLevel(logging.WARNING)
    log_events(events, seen.log)
    for attempt in range(2, 9):
        events.emit(
            Reconnecting(
                connection="command", attempt=attempt, delay=0.1, reason="refused"
            )
        )

    assert [record.getMessage() for record in seen.records] == [
        "connection_failed connection=command reason=refused"
    ]


@pytest.mark.basic
@pytest.mark.requirement("G4")
async def test_repeats_of_a_part_are_summarised():
    """A part's seventh line in ten seconds waits, and is written with the number."""
    seen, now = Recorded(), [9.9]
    lines = LogLines(seen.log, now=lambda: now[0])
    lines.write(logging.WARNING, "turn_lost", reason="0")
    now[0] = 19.8  # the window ends in 100 ms of the loop
    for number in range(1, 50):
        lines.write(logging.WARNING, "turn_lost", reason=str(number))
    lines.write(logging.WARNING, "value_refused", topic="prices")
    assert seen.names() == ["turn_lost"] * 6 + ["value_refused"]

    await eventually(lambda: len(seen.records) == 8)
    last = seen.records[-1]
    assert (last.event, last.reason, last.left_out) == ("turn_lost", "49", 43)


_METHODS = {"debug", "info", "warning", "warn", "error", "critical", "exception", "log"}
_LOGGERS = {"log", "_log", "logger", "_logger", "logging"}


def _unnamed_lines(source):
    """Yield the number of each line that logs without an `event` its message begins."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        owner = call.func.value
        name = getattr(owner, "id", None) or getattr(owner, "attr", None)
        if call.func.attr not in _METHODS or name not in _LOGGERS:
            continue
        fields = {
            getattr(key, "value", None): value
            for word in call.keywords
            if word.arg == "extra"
            for key, value in zip(word.value.keys, word.value.values, strict=True)
        }
        event, message = fields.get("event"), call.args[0]
        if event is None or (
            isinstance(event, ast.Constant) and message.value.split()[0] != event.value
        ):
            yield call.lineno


@pytest.mark.basic
@pytest.mark.requirement("G4")
def test_every_line_of_the_source_has_a_name():
    """No line is logged without an `event`, in the library and in the bot."""
    assert list(_unnamed_lines('_log.warning("a value is left out")')) == [1]
    assert list(_unnamed_lines('_log.info("b c", extra={"event": "a"})')) == [1]
    unnamed = [
        f"{path.name}:{line}"
        for package in (oddswire, oddsbot)
        for path in Path(package.__file__).parent.rglob("*.py")
        for line in _unnamed_lines(path.read_text())
    ]
    assert unnamed == []


@pytest.mark.errors
@pytest.mark.requirement("G4")
async def test_a_client_alone_tells_lost_circuit_open_and_back(own, caplog):
    """A client without a Wire logs an outage by itself: three lines, in order."""
    async with Client.from_url(own.url, **_FAST) as client:
        await client.ping()
        own.kill()
        await own.wait_exit()
        await eventually(lambda: "circuit_open" in names(caplog))
        await own.restart()
        await eventually(lambda: "connection_back" in names(caplog))

    told = names(caplog, connection="command")
    assert told == ["connection_lost", "circuit_open", "data_reset", "connection_back"]


@pytest.mark.errors
@pytest.mark.requirement("G4")
async def test_wrong_credentials_are_told_once(own, caplog):
    """A refused password is one line however many callers ask, and is not in it."""
    url = own.url.replace(own.password, CANARY)
    async with Client.from_url(url) as client:
        for _ in range(5):
            with pytest.raises(OddswireError):
                await client.ping()

    assert names(caplog) == ["connection_refused"]
    assert CANARY not in caplog.text


async def _busy(wire, topic):
    """Use each part again and again, whatever becomes of it."""
    while True:
        for call in (
            lambda: wire.limiter.hit("default", user=1),
            lambda: wire.cache.get_or_set("quotes:k", _load, ttl=0.01),
            lambda: wire.sessions.get(1),
            lambda: wire.pubsub.publish(topic, 1),
        ):
            with contextlib.suppress(OddswireError):
                await call()
        await asyncio.sleep(0.01)


async def _all_in_use(wire, topic):
    return (
        wire.limiter.stats().asked
        and wire.cache.stats().loads
        and (await wire.sessions.stats()).local_hits
        and wire.pubsub.stats().topics[topic.name].published
        and (await wire.queue.stats()).delivered
    )


async def _load():
    return 1


async def _handle(_message):
    pass


@pytest.mark.integration
@pytest.mark.requirement("G4", "X3")
async def test_an_outage_is_told_by_every_part(caplog):
    """Each part says when it goes on with less and when that is over; no secret."""
    caplog.set_level(logging.DEBUG, "oddswire")
    topic = Topic("prices", int)
    async with EmbeddedServer() as server:
        settings = oddswire.Settings(url=server.url, **_FAST)
        async with oddswire.connect(
            settings,
            namespaces=[Namespace(name="quotes", type=int)],
            topics=[topic],
            queue=int,
        ) as wire:
            await wire.sessions.update(1, lambda _: None, create=True)
            async with wire.pubsub.subscribe(topic), asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(_busy(wire, topic)),
                    tasks.create_task(wire.queue.consume(_handle)),
                ]
                parts = {"limiter", "cache", "sessions", "pubsub", "queue"}
                await wire.queue.enqueue(1, 1)
                await eventually(lambda: _all_in_use(wire, topic))
                server.kill()
                await server.wait_exit()
                for part in parts:
                    await eventually(
                        lambda part=part: "degraded" in names(caplog, part=part)
                    )
                await eventually(lambda: "circuit_open" in names(caplog))
                await server.restart()
                for part in parts:
                    await eventually(
                        lambda part=part: names(caplog, part=part)[-1] == "restored"
                    )
                for task in work:
                    task.cancel()
        secret = server.password

    for part in parts:
        told = names(caplog, part=part)
        assert told[:2] == ["degraded", "restored"], part
    for name in ("command", "tracked", "subscriber"):
        assert names(caplog, connection=name)[0] == "connection_lost"
    assert secret not in caplog.text
