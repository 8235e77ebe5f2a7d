"""Faults that are looked at through a part of the library, under the same load.

Each leaves what it found in `Stage.notes`, for the criteria of its row.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from worker import HOLD, USER, Shared, queue_of

from oddswire.cache import Cache
from oddswire.clock import SystemClock
from oddswire.errors import OddswireError
from oddswire.pubsub import Delivery, Gap, PubSub, Topic
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from load import Stage

    from oddswire.pubsub import Subscription
    from oddswire.queue import Message

WORKER = Path(__file__).with_name("worker.py")

_PATIENCE = 15.0  # seconds for what has to come


@asynccontextmanager
async def working(*steps: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do each of these over and over while the block lasts; errors are raised."""
    over = False

    async def work(step: Callable[[], Awaitable[object]]) -> None:
        while not over:
            await step()
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(work(step))
        try:
            yield
        finally:
            over = True


async def holds(condition: Callable[[], object], seconds: float = _PATIENCE) -> bool:
    """Wait until something holds; False: it did not in time."""
    ends = monotonic() + seconds
    while not condition():
        if monotonic() > ends:
            return False
        await asyncio.sleep(0.01)
    return True


async def restarted(stage: Stage) -> None:
    """Start the server again, which is down."""
    began = monotonic()
    await stage.server.restart()
    stage.notes["start"] = monotonic() - began
    await stage.admin.connection_pool.disconnect()  # it was connected to the old one


# --- rate limits


async def killed_while_limiting(stage: Stage) -> None:
    """The same, while a limit of 30 in half a second is asked for without a pause."""
    limit, per = 30, 0.5
    admitted: list[float] = []
    sources: set[str] = set()
    clock = SystemClock()
    offset = clock.now() - clock.monotonic()
    rules = [Rule("chaos", SlidingWindow(limit, per))]

    async def ask() -> None:
        decision = await limiter.hit("chaos")
        if decision.reservation is not None:
            at = decision.reservation.at
            admitted.append(at if decision.degraded else at / 1e6 - offset)
            sources.add(decision.source)

    async with (
        RateLimiter(stage.subject.client, rules, remember=0.0) as limiter,
        working(*[ask] * 5),
    ):
        await asyncio.sleep(per)
        stage.server.kill(signal.SIGKILL)
        await stage.server.wait_exit()
        await asyncio.sleep(per)
        await restarted(stage)
        await holds(lambda: not limiter.stats().redis_down, 5)
        await asyncio.sleep(per)
    stage.notes["admitted"] = {
        # A millisecond for two clocks that are read one after the other.
        "worst": max(
            sum(first <= at <= first + per - 0.001 for at in admitted)
            for first in admitted
        )
        / limit,
        "by": sorted(sources),
    }


# --- the cache

_COHERENCE = 0.5  # seconds; short, so that the short form can be too late


async def killed_while_cached(stage: Stage) -> None:
    """The same, while two caches read what one of them changes and invalidates."""
    source = {f"chaos:{number}": 0 for number in range(4)}
    # By key: when an invalidation was confirmed, and of which version.
    confirmed = {key: [(0.0, 0)] for key in source}
    found: dict[str, Any] = {"read": 0, "stale": [], "memory again": False}

    async def write() -> None:
        for key, before in source.items():
            version = source[key] = before + 1
            with suppress(OddswireError):  # not confirmed: nothing is claimed
                await here.delete(key)
                confirmed[key].append((monotonic(), version))

    def reading(cache: Cache, bound: float) -> Callable[[], Awaitable[object]]:
        async def read() -> None:
            for key, told in confirmed.items():
                known = monotonic() - bound
                least = next(version for at, version in reversed(told) if at <= known)
                value = await cache.get_or_set(key, partial(source.__getitem__, key))
                found["read"] += 1
                if value < least:
                    found["stale"].append((key, value, least))

        return read

    options: dict[str, Any] = {"coherence": _COHERENCE, "heartbeat": 0.1}
    client = stage.subject.client
    async with (
        type(client).from_url(stage.server.url) as other,
        Cache(client, **options) as here,
        Cache(other, **options) as there,
        working(write, reading(here, 0.0), reading(there, _COHERENCE)),
    ):
        await asyncio.sleep(stage.seconds / 2)
        stage.server.kill(signal.SIGKILL)
        await stage.server.wait_exit()
        await asyncio.sleep(stage.seconds / 2)
        await restarted(stage)
        written = len(confirmed["chaos:0"])
        await holds(lambda: len(confirmed["chaos:0"]) > written + 10)
        hits = there.stats().l1_hits
        found["memory again"] = await holds(lambda: there.stats().l1_hits > hits)
    stage.notes["cache"] = found


# --- topics


async def slow_subscriber(stage: Stage) -> None:
    """Have the server cut a subscriber that it would have to keep messages for."""
    limit = "client-output-buffer-limit"
    usual = (await stage.admin.config_get(limit))[limit]
    await stage.admin.config_set(limit, "pubsub 16384 0 0")
    log = Topic("chaos-log", str, delivery=Delivery.LOG, history=10_000)
    live = Topic("chaos-live", str)
    # More than the server keeps, compressed too.
    value = random.randbytes(30_000).hex()
    published = 0
    async with (
        PubSub(stage.subject.client, check_every=0.2) as pubsub,
        pubsub.subscribe(log, queue=8) as log_sub,
        pubsub.subscribe(live, queue=8) as live_sub,
        _reading(log_sub) as logged,
        _reading(live_sub) as lived,
    ):
        ends = monotonic() + stage.seconds
        while monotonic() < ends:
            await pubsub.publish(log, f"{published}|{value}")
            await pubsub.publish(live, f"{published}|{value}")
            published += 1
            await asyncio.sleep(0.01)
        await stage.admin.config_set(limit, usual)
        await holds(lambda: _accounted(logged) >= published)
        await holds(lambda: _accounted(lived) >= published)
        stage.notes["topics"] = {
            "published": published,
            "cut": pubsub.stats().connects - 1,
            "log": [each for each in logged if each != "gap"] == [*range(published)],
            "live": _accounted(lived) == published and _in_order(lived),
        }


@asynccontextmanager
async def _reading(sub: Subscription[str]) -> AsyncIterator[list[Any]]:
    """Read slowly: numbers of messages, and for a gap how many it says are missing."""
    seen: list[Any] = []

    async def read() -> None:
        async for event in sub:
            seen.append(
                (event.lost,)
                if isinstance(event, Gap)
                else int(event.value.partition("|")[0])
            )
            await asyncio.sleep(0.02)

    reading = asyncio.get_running_loop().create_task(read())
    try:
        yield seen
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def _accounted(seen: list[Any]) -> int:
    """Count messages, and those that a gap says are missing."""
    return sum((each[0] or 0) if isinstance(each, tuple) else 1 for each in seen)


def _in_order(seen: list[Any]) -> bool:
    """Whether each message is where those before it and the gaps put it."""
    following = 0
    for each in seen:
        if isinstance(each, tuple):
            following += each[0] or 0
        elif each != following:
            return False
        else:
            following += 1
    return True


# --- processes


async def killed_processes(stage: Stage) -> None:
    """Kill processes that change a session and have a message in hand."""
    client = stage.subject.client
    queue = queue_of(client)
    acknowledged: set[str] = set()
    names = ("a", "b")
    for place, name in enumerate(names):
        values = {1_000 * place + user: f"{name}.{user}" for user in range(100)}
        await queue.enqueue_many(values)
        await queue.enqueue(-1 - place, HOLD)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, WORKER, stage.server.url, name),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            await stage.admin.blpop("held", _PATIENCE)  # type: ignore[misc]
            for _ in range(50):
                acknowledged.add((await process.stdout.readline()).decode().strip())
        finally:
            process.kill()
            rest, _ = await process.communicate()
        # A line that was cut off acknowledges nothing.
        acknowledged.update(rest.decode().rpartition("\n")[0].split())
    stage.notes["sessions"] = await _half(Sessions(client, Shared), acknowledged)
    stage.notes["queue"] = await _undelivered(
        stage, {f"{name}.{user}" for name in names for user in range(100)}, len(names)
    )


async def _half(sessions: Sessions[Shared], acknowledged: set[str]) -> list[str]:
    """Return what is missing of a session, or is there in part."""
    session = await sessions.get(USER, fresh=True)
    if session is None:
        return ["no session"]
    wrong = [f"lost: {tag}" for tag in acknowledged - session.done.keys()]
    wrong += [f"lost: {tag}" for tag in acknowledged - session.wallets.keys()]
    for tag in session.wallets:
        if await sessions.users_for("wallet", tag, fresh=True) != {USER}:
            wrong.append(f"not in its index: {tag}")
    return wrong


async def _undelivered(stage: Stage, wanted: set[str], held: int) -> list[str]:
    """Deliver what the dead have left; return what is wrong with it."""
    queue = queue_of(stage.subject.client)
    again: list[bool] = []

    async def deliver(message: Message[str]) -> None:
        if message.value == HOLD:
            again.append(message.uncertain)
        else:
            await stage.admin.rpush("sent", message.value)  # type: ignore[misc]

    stop = asyncio.Event()
    consuming = asyncio.get_running_loop().create_task(
        queue.consume(deliver, stop=stop)
    )
    ends = monotonic() + _PATIENCE
    while (await queue.stats()).depth and monotonic() < ends:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    stop.set()
    await consuming
    counted = await queue.stats()
    sent = await stage.admin.lrange("sent", 0, -1)  # type: ignore[misc]
    wrong = [f"lost: {each}" for each in wanted - {each.decode() for each in sent}]
    if again != [True] * held:
        wrong.append(f"in hand when their workers died, delivered as {again}")
    if not counted.accounted == counted.enqueued == counted.delivered:
        wrong.append(f"{counted.enqueued} enqueued, {counted.delivered} delivered")
    return wrong


# --- the server's file


async def cut_short(stage: Stage) -> None:
    """Kill it, take the last bytes of its append-only file away, start it again."""
    config = await stage.admin.config_get("dir", "appenddirname")
    stage.server.kill(signal.SIGKILL)
    await stage.server.wait_exit()
    await asyncio.to_thread(_cut_short, Path(config["dir"], config["appenddirname"]))
    await restarted(stage)


def _cut_short(folder: Path) -> None:
    newest = max(folder.glob("*.incr.aof"), key=lambda file: file.stat().st_mtime)
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - 7)
