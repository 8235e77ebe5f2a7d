"""Checked by mypy, never run: what a user's type checker sees of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import msgspec

import oddswire
from oddswire.health import Report
from oddswire.queue import Message, Queue, QueueKey
from oddswire.ratelimit import Decision, RateLimiter
from oddswire.sessions import Record, Session

if TYPE_CHECKING:
    from oddswire.cache import Cache


async def parts() -> None:
    """The composition and its parts have their own types."""
    async with oddswire.connect(url="redis://localhost:6379") as wire:
        assert_type(wire, oddswire.Wire)
        assert_type(wire.client, oddswire.Client)
        assert_type(wire.settings, oddswire.Settings)
        assert_type(await wire.health.check(), Report)
        assert_type(wire.limiter, RateLimiter)
        assert_type(await wire.limiter.hit("user", user=42), Decision)


async def clients() -> None:
    """A view of a client is a client of the same class."""
    client = oddswire.Client.from_url("redis://localhost:6379", command_timeout=2.0)
    assert_type(client.bounded(0.05), oddswire.Client)
    assert_type(client.stats().calls, dict[str, int])
    await client.aclose()


async def queues(client: oddswire.Client) -> None:
    """What is put into a queue is of its type, and so is what comes out."""
    queue = Queue(client, "numbers", int)
    assert_type(queue, Queue[int])
    assert_type(await queue.enqueue(1, 42), str | None)
    assert_type((await queue.dead())[0].value, int | None)

    async def handle(message: Message[int]) -> None:
        assert_type(message.value, int)

    await queue.consume(handle)


def outcomes(error: oddswire.OddswireError) -> oddswire.Outcome:
    """Every error has its outcome."""
    return error.outcome


async def cached(cache: Cache) -> None:
    """A decorated function keeps its parameters and its type, and so do loads."""

    @cache.cached(key="market:{market_id}")
    async def fetch(market_id: str, *, fresh: bool = False) -> int:
        return len(market_id) + fresh

    assert_type(await fetch("m1", fresh=True), int)
    assert_type(fetch.peek("m1"), int | None)
    assert_type(await fetch.refresh("m1"), int)
    await fetch(1)  # type: ignore[arg-type]
    await fetch.invalidate()  # type: ignore[call-arg]

    async def load() -> float:
        return 1.0

    assert_type(await cache.get_or_set("price:1", load), float)
    assert_type(await cache.get("price:1", type=float), float | None)
    assert_type(await cache.get("price:1", 0.0, type=float), float)


class UserSession(Record):
    """A session with typed preferences."""

    language: str = "en"


class Alert(msgspec.Struct):
    """A message of a queue."""

    text: str


ALERTS = QueueKey("alerts", Alert)
NUMBERS = QueueKey("numbers", int)


async def typed_wire() -> None:
    """A misspelt field, a wrong message and an unknown override are type errors."""
    wire = oddswire.connect(session=UserSession, queue=Alert, queues=[ALERTS, NUMBERS])
    assert_type(wire, oddswire.Wire[UserSession, Alert])
    assert_type(wire.queue, Queue[Alert])
    assert_type(wire.queues[ALERTS], Queue[Alert])
    assert_type(wire.queues[NUMBERS], Queue[int])
    session = await wire.sessions.get(7)
    assert_type(session, UserSession | None)
    if session is not None:
        assert_type(session.language, str)
        _ = session.langauge  # type: ignore[attr-defined]

    def german(session: UserSession) -> None:
        session.language = "de"

    def wrong(session: UserSession) -> None:
        session.langauge = "de"  # type: ignore[attr-defined]

    assert_type(await wire.sessions.update(7, german), UserSession)
    await wire.sessions.update(7, wrong)
    await wire.queue.enqueue(7, Alert("up"))
    await wire.queue.enqueue(7, "up")  # type: ignore[arg-type]
    await wire.queues[ALERTS].enqueue(7, 5)  # type: ignore[arg-type]
    await wire.queues[NUMBERS].enqueue(7, Alert("up"))  # type: ignore[arg-type]
    _ = wire.cleint  # type: ignore[attr-defined]

    plain = oddswire.connect()
    assert_type(plain, oddswire.Wire)
    assert_type(await plain.sessions.get(7), Session | None)
    oddswire.connect(pool_mx=3)  # type: ignore[call-arg]
    oddswire.connect(pool_max="3")  # type: ignore[arg-type]
    oddswire.connect("redis://localhost")  # type: ignore[arg-type]
    oddswire.Settings.from_env(timeout=1)  # type: ignore[call-arg]
    oddswire.Settings(timeout=1)  # type: ignore[call-arg]


async def denied(limiter: RateLimiter) -> str:
    """A decision is asked as a bool."""
    decision = await limiter.hit("user", user=7)
    return "yes" if decision else "no"
