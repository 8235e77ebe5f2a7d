"""Checked by mypy, never run: what a user's type checker sees of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import oddswire
from oddswire.health import Report
from oddswire.queue import Message, Queue
from oddswire.ratelimit import Decision, RateLimiter

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
    assert_type(client.statistics().calls, dict[str, int])
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
