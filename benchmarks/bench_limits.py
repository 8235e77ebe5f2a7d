"""Rate limiters beside each other: what they admit first, then how fast they are.

Two peers have several algorithms. All of those that bound the same thing are asked how
much they admit; the speed of each peer is that of its fastest.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import redis.asyncio as aredis
from limits import RateLimitItemPerSecond
from limits.aio import strategies
from limits.aio.storage import RedisStorage
from pyrate_limiter import Rate, RateItem
from pyrate_limiter.buckets.redis_bucket import RedisBucket
from throttled.asyncio import RateLimiterType, RedisStore, Throttled, per_sec
from timing import Effort, figure, rate, ratio, rounds

from oddswire.client import Client
from oddswire.clock import SystemClock
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddswire.embedded import EmbeddedServer

TASKS = 50
LIMIT = 20  # a second, where it is about what is admitted
PLENTY = 1_000_000_000
OURS = "oddswire, sliding window"
FASTEST = {
    "limits": "limits, fixed window",
    "throttled-py": "throttled-py, fixed window",
}


class Peer(Protocol):
    """A limiter with one rule of `limit` a second."""

    async def hit(self, subject: str) -> bool:
        """Ask; True: admitted."""

    def call(self, subject: str) -> Callable[[], Awaitable[Any]]:
        """Return a call of its own method, made as a program makes it.

        Not a partial: one with keyword arguments took a fifth of a denied call of ours.
        """


class Ours:
    """`RateLimiter` with everything on."""

    def __init__(self, client: Client, limit: int) -> None:
        rule = Rule(f"bench-{limit}", SlidingWindow(limit, 1.0), key="user")
        self._limiter = RateLimiter(client, [rule], deadline=1.0)
        self._rule = rule.name

    async def hit(self, subject: str) -> bool:
        """See `Peer`."""
        return (await self._limiter.hit(self._rule, user=subject)).allowed

    def call(self, subject: str) -> Callable[[], Awaitable[Any]]:
        """See `Peer`."""
        return lambda: self._limiter.hit(self._rule, user=subject)


class Limits:
    """`limits`, on redis-py: coredis 6 needs a context that it does not enter."""

    def __init__(self, strategy: strategies.RateLimiter, limit: int) -> None:
        self._strategy = strategy
        self._item = RateLimitItemPerSecond(limit)

    async def hit(self, subject: str) -> bool:
        """See `Peer`."""
        return await self._strategy.hit(self._item, subject)

    def call(self, subject: str) -> Callable[[], Awaitable[Any]]:
        """See `Peer`."""
        return lambda: self._strategy.hit(self._item, subject)


class ThrottledPy:
    """`throttled-py`."""

    def __init__(self, store: RedisStore, kind: RateLimiterType, limit: int) -> None:
        self._throttle = Throttled(
            using=kind.value, quota=per_sec(limit, burst=limit), store=store
        )

    async def hit(self, subject: str) -> bool:
        """See `Peer`."""
        return not (await self._throttle.limit(subject)).limited

    def call(self, subject: str) -> Callable[[], Awaitable[Any]]:
        """See `Peer`."""
        return lambda: self._throttle.limit(subject)


class Pyrate:
    """PyrateLimiter's log in Redis, in two processes with clocks 3 s apart."""

    def __init__(self, buckets: list[RedisBucket]) -> None:
        self._buckets = buckets
        self._turn = 0

    async def hit(self, subject: str) -> bool:
        """See `Peer`."""
        self._turn += 1
        skew = 3_000 * (self._turn % 2)
        now = time.time_ns() // 1_000_000 + skew
        return bool(await self._buckets[self._turn % 2].put(RateItem(subject, now)))

    def call(self, subject: str) -> Callable[[], Awaitable[Any]]:
        """See `Peer`; not timed."""
        return lambda: self.hit(subject)


async def _peers(
    stack: AsyncExitStack, server: EmbeddedServer, limit: int
) -> dict[str, Peer]:
    client = await stack.enter_async_context(Client.from_url(server.url))
    storage = RedisStorage(f"async+{server.url}", implementation="redispy")
    store = RedisStore(server=server.url)
    plain = aredis.Redis.from_url(server.url)
    stack.push_async_callback(plain.aclose)
    rates = [Rate(limit, 1_000)]
    key = f"pyrate:{limit}"
    log = [await RedisBucket.init(rates, plain, key) for _ in range(2)]
    kinds = RateLimiterType
    return {
        OURS: Ours(client, limit),
        "limits, fixed window": Limits(
            strategies.FixedWindowRateLimiter(storage), limit
        ),
        "limits, sliding counter": Limits(
            strategies.SlidingWindowCounterRateLimiter(storage), limit
        ),
        "limits, moving window": Limits(
            strategies.MovingWindowRateLimiter(storage), limit
        ),
        "throttled-py, fixed window": ThrottledPy(store, kinds.FIXED_WINDOW, limit),
        "throttled-py, sliding window": ThrottledPy(store, kinds.SLIDING_WINDOW, limit),
        "throttled-py, GCRA": ThrottledPy(store, kinds.GCRA, limit),
        "PyrateLimiter, log, clocks 3 s apart": Pyrate(log),
    }


async def measure(
    server: EmbeddedServer, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return what was admitted, and the rows, all measured on `server`."""
    async with AsyncExitStack() as stack:
        admitted = {}
        for name, peer in (await _peers(stack, server, LIMIT)).items():
            say(f"worst window: {name}")
            admitted[name] = await worst_window(peer) / LIMIT
        rows = []
        plenty = await _peers(stack, server, PLENTY)
        compared = {"oddswire": plenty[OURS]} | {
            name: plenty[kind] for name, kind in FASTEST.items()
        }
        say(f"allowed, {TASKS} tasks")
        for name, peer in compared.items():
            if not await peer.hit("first"):
                raise AssertionError(f"{name} denied the first of {PLENTY}")
        values = await rounds(
            {
                name: partial(
                    rate,
                    [peer.call(f"user{task}") for task in range(TASKS)],
                    effort.seconds,
                )
                for name, peer in compared.items()
            },
            effort,
        )
        rows.append(_row("limiter, allowed, 50 tasks", "decisions/s", values, 1.0))
        say("denied")
        values = await rounds(
            {
                name: partial(_denied, await _exhausted(stack, server, name), effort)
                for name in compared
            },
            effort,
        )
        rows.append(_row("limiter, denied", "us", values, 1e6))
        return {
            "limit": LIMIT,
            "fastest": list(FASTEST.values()),
            "admitted": admitted,
            "rows": rows,
        }


async def worst_window(peer: Peer) -> float:
    """Return the most that is known to be admitted within one second.

    Bunches of twice the limit, around the edges of whole seconds, where windows of the
    clock begin anew, and around those of a window that began with a first hit. An
    admission lies between the call and its answer; counted is what lies in a second for
    certain, so a peer may be worse.
    """
    wall = SystemClock().now
    by_clock = (0.94, 1.02, 1.5, 1.96, 2.04, 2.9, 3.96, 4.03, 4.98, 5.5)
    by_first_hit = (0.0, 0.96, 1.02, 1.5, 1.98, 2.04)

    async def bunches(offsets: Sequence[float], *, gently: bool) -> float:
        seen: list[tuple[float, float]] = []

        async def one() -> None:
            started = monotonic()
            if await peer.hit(f"adversary{offsets}"):
                seen.append((started, monotonic()))

        first = int(wall()) + 1.0
        for number, offset in enumerate(offsets):
            await asyncio.sleep(max(0.0, first + offset - wall()))
            size = 1 if gently and number == 0 else 2 * LIMIT
            await asyncio.gather(*(one() for _ in range(size)))
        return max(
            sum(begin <= start and end <= begin + 1.0 for start, end in seen)
            for begin, _ in seen
        )

    return max(
        await bunches(by_clock, gently=False), await bunches(by_first_hit, gently=True)
    )


async def _exhausted(
    stack: AsyncExitStack, server: EmbeddedServer, name: str
) -> Callable[[], Awaitable[Any]]:
    """Return the call of a limiter that denies it."""
    peers = await _peers(stack, server, 1)
    return peers[{"oddswire": OURS, **FASTEST}[name]].call("flood")


async def _denied(call: Callable[[], Awaitable[Any]], effort: Effort) -> float:
    """Return seconds of a denied call; the few that are admitted count too."""
    ends = monotonic() + effort.seconds
    took: list[float] = []
    while monotonic() < ends:
        started = time.perf_counter()
        for _ in range(100):
            await call()
        took.append((time.perf_counter() - started) / 100)
    return sorted(took)[len(took) // 2]


def _row(
    what: str, unit: str, values: dict[str, list[float]], scale: float
) -> dict[str, Any]:
    mine = values["oddswire"]
    row: dict[str, Any] = {"what": what, "unit": unit, "figures": {}, "ratios": {}}
    for name, measured in values.items():
        row["figures"][name] = figure([value * scale for value in measured])
        if name != "oddswire":
            faster = (mine, measured) if unit.endswith("/s") else (measured, mine)
            row["ratios"][name] = ratio(*faster)
    return row
