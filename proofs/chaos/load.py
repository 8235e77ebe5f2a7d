"""Work under which a fault is looked at, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import redis.asyncio as aredis

from oddswire.testing import (
    FaultProxy,
    History,
    LoopLag,
    Resources,
    lost_counts,
    lost_members,
    overtime,
    wrong_replies,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.embedded import EmbeddedServer

# Seconds that a call is given in every row, by whoever is looked at.
DEADLINE = 0.5

# Seconds in which what was on its way when the fault ended may still be hurt by it.
_AFTER_EFFECTS = 0.1

_PACE = 0.001  # seconds between two calls, times the number of tasks


class Subject(Protocol):
    """A client: the three commands that every one of them has."""

    client: Any

    def get(self, key: str) -> Awaitable[Any]:
        """Read."""

    def set(self, key: str, value: str) -> Awaitable[Any]:
        """Write."""

    def incr(self, key: str) -> Awaitable[Any]:
        """Count."""


@dataclass
class Stage:
    """What a fault may lay hands on.

    Attributes:
        server: The server.
        proxy: The link to it that the client uses.
        admin: A client of the test's own, straight to the server.
        subject: Whoever is looked at.
        seconds: How long the fault lasts.
        tasks: How many work at the same time.
        events: What ours told of.
        history: Where calls of the fault's own are to be recorded.
        deadline: Seconds that a call is given.
        notes: What the fault itself found out.
    """

    server: EmbeddedServer
    proxy: FaultProxy
    admin: aredis.Redis
    subject: Subject
    seconds: float
    tasks: int
    events: list[Any] = field(default_factory=list)
    history: History = field(default_factory=History)
    deadline: float = DEADLINE
    notes: dict[str, Any] = field(default_factory=dict)


class Result(msgspec.Struct):
    """What came of one row with one client.

    Attributes:
        acked: Calls that were answered well.
        refused: Calls that the server refused, or that were provably not sent.
        unknown: Calls of which nothing is known.
        lost: Acknowledged writes that are not there, counters that cannot be; None
            where the fault itself takes data away, so that it is not judged.
        wrong: Replies that belong to another key.
        late: Calls past their deadline and a tenth, not counting what the event loop
            was late itself.
        longest: Seconds of the longest call.
        recovery: Seconds from the end of the fault to the first good call begun after
            it, not counting what the event loop was late itself; None when there was
            none.
        connections: That the server or the proxy saw while the fault lasted and after.
        leaked: What is still held when the client is closed.
        errors: How many of each class.
        notes: What a row found out besides.
    """

    acked: int
    refused: int
    unknown: int
    lost: list[str] | None
    wrong: list[str]
    late: list[str]
    longest: float
    recovery: float | None
    connections: int
    leaked: list[str]
    errors: dict[str, int]
    notes: dict[str, Any] = {}


class Load:
    """Tasks that write, read, count and add until they are told to stop."""

    def __init__(self, subject: Subject, tasks: int) -> None:
        self.history = History()
        self._subject = subject
        self._tasks = tasks
        self._stopped = False
        self._group = asyncio.TaskGroup()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for number in range(self._tasks):
            self._group.create_task(self._work(number))
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stopped = True
        await self._group.__aexit__(*exception)

    async def _work(self, number: int) -> None:
        subject, record = self._subject, self.history.record
        count = 0
        while not self._stopped:
            count += 1
            key = f"k:{number}"
            value = f"{key}|{count}"
            await record("set", key, subject.set(key, value), deadline=DEADLINE)
            await record("get", key, subject.get(key), deadline=DEADLINE)
            counter = f"n:{number}"
            await record("incr", counter, subject.incr(counter), deadline=DEADLINE)
            added = f"a:{number}:{count}"
            await record(
                "add", "added", subject.set(added, added), sent=added, deadline=DEADLINE
            )
            self._ended.set()
            await asyncio.sleep(_PACE * self._tasks)

    async def until(self, good: int, *, begun: float = 0.0) -> None:
        """Wait until so many calls that began after then were answered well."""
        async with asyncio.timeout(15):
            while self._good(begun) < good:
                self._ended.clear()
                await self._ended.wait()

    def _good(self, begun: float) -> int:
        return sum(
            call.began > begun and call.outcome == "ok" for call in self.history.calls
        )


def belongs(key: str, value: Any) -> bool:
    """Whether a value can be one of a key's, written by any task at any time."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.startswith(f"{key}|")


async def observe(
    stage: Stage, fault: Callable[[Stage], Awaitable[None]], *, keeps: bool
) -> Result:
    """Work, let the fault happen, work on, and judge.

    Args:
        stage: On which it happens.
        fault: Happens and has healed when it returns.
        keeps: Whether what was acknowledged is to be there at the end.
    """
    with LoopLag() as lag:
        async with Load(stage.subject, stage.tasks) as load:
            stage.history = load.history
            await load.until(20)
            before = stage.proxy.accepted
            await fault(stage)
            healed = monotonic()
            # When nothing goes on after the fault, the recovery says so.
            with contextlib.suppress(TimeoutError):
                await load.until(50, begun=healed + _AFTER_EFFECTS)
    calls = load.history.calls
    after = [
        call.ended - healed - lag.between(healed, call.ended)
        for call in calls
        if call.began >= healed and call.outcome == "ok"
    ]
    errors: dict[str, int] = {}
    for call in calls:
        if call.error is not None:
            errors[call.error] = errors.get(call.error, 0) + 1
    return Result(
        acked=load.history.count("ok"),
        refused=load.history.count("rejected") + load.history.count("not_sent"),
        unknown=load.history.count("unknown"),
        lost=await _lost(stage, load.history) if keeps else None,
        wrong=wrong_replies(load.history.of("get"), belongs),
        late=overtime(calls, lag=lag),
        longest=max(call.ended - call.began for call in calls),
        recovery=min(after, default=None),
        connections=stage.proxy.accepted - before,
        leaked=[],
        errors=errors,
        notes={
            "loop held up": lag.worst,
            "wrong afterwards": len(
                wrong_replies(
                    [
                        call
                        for call in load.history.of("get")
                        if call.began > healed + _AFTER_EFFECTS
                    ],
                    belongs,
                )
            ),
        },
    )


async def _lost(stage: Stage, history: History) -> list[str]:
    counters = {call.key for call in history.of("incr")}
    found = await stage.admin.mget(*sorted(counters))
    counts = {
        key: int(value or 0) for key, value in zip(sorted(counters), found, strict=True)
    }
    added = history.of("add")
    names = [call.sent for call in added]
    there = await stage.admin.mget(*names)
    kept = {name for name, value in zip(names, there, strict=True) if value is not None}
    return lost_counts(history.of("incr"), counts) + lost_members(
        added, {"added": kept}
    )


async def run(
    server: EmbeddedServer,
    open_subject: Callable[[AsyncExitStack, FaultProxy], Awaitable[Subject]],
    fault: Callable[[Stage], Awaitable[None]],
    *,
    tasks: int,
    seconds: float,
    keeps: bool,
    link: Callable[..., Any] = FaultProxy,
) -> Result:
    """Run one fault on a running server with one client, from opening to closing."""
    from contextlib import AsyncExitStack

    events: list[Any] = []
    async with (
        # redis-py's own limit is shorter than what some of its calls block.
        aredis.Redis.from_url(server.url, socket_timeout=None) as admin,
        link(server.url, seed=1) as proxy,
    ):
        await admin.ping()
        held = Resources.now()
        async with AsyncExitStack() as stack:
            subject = await open_subject(stack, proxy)
            hub = getattr(subject.client, "events", None)
            if hub is not None:
                hub.subscribe(events.append)
            await subject.set("k:first", "k:first|0")
            stage = Stage(server, proxy, admin, subject, seconds, tasks, events)
            result = await observe(stage, fault, keeps=keeps)
            result.notes |= stage.notes
            result.notes["events"] = [type(event).__name__ for event in events]
        proxy.heal()
        # The proxy notices the end of a link a moment later.
        await proxy.quiet()
        result.leaked = [
            line for line in Resources.now().leaked(held) if "threads" not in line
        ]
    return result
