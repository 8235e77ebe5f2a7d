"""A primary that fails under load, once, in one of three ways; for any client.

`make chaos` runs it for the peers too, the tests for ours.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import redis.asyncio as aredis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.embedded import EmbeddedSentinels, EmbeddedServer

    CutOff = Callable[[EmbeddedServer], Awaitable[None]]

How = Literal["command", "kill", "freeze", "partition"]


class Failing(msgspec.Struct):
    """What came of a failover under load.

    Attributes:
        acknowledged: Writes that were answered with OK.
        failed: Those that were not.
        lost: Acknowledged, and not at the new primary at the end.
        lost_later: Those of them that were acknowledged when the sentinels had
            announced the new primary for half a second.
        away: The longest time without a good answer, in seconds.
        back: Seconds from the announcement to the first write that the new primary
            acknowledged; None: no such write for 15 s.
    """

    acknowledged: int
    failed: int
    lost: int
    lost_later: int
    away: float
    back: float | None


class _Load:
    """Tasks that write keys of their own, one after the other."""

    def __init__(self, write: Callable[[str], Awaitable[Any]]) -> None:
        self._write = write
        self.good: dict[str, float] = {}
        self.failed = 0
        self.stopped = False
        self._next = asyncio.Event()

    async def run(self, number: int) -> None:
        count = 0
        while not self.stopped:
            count += 1
            key = f"w:{number}:{count}"
            try:
                await self._write(key)
            except Exception:  # noqa: BLE001 - every client has errors of its own
                self.failed += 1
                await asyncio.sleep(0.005)
            else:
                self.good[key] = monotonic()
                self._next.set()
            await asyncio.sleep(0.001)

    async def more(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.good) + count
        async with asyncio.timeout(15):
            while len(self.good) < wanted:
                self._next.clear()
                await self._next.wait()


async def fail_over(
    group: EmbeddedSentinels,
    write: Callable[[str], Awaitable[Any]],
    how: How,
    *,
    tasks: int = 4,
    cut_off: CutOff | None = None,
) -> Failing:
    """Write keys of their own from some tasks while the primary changes.

    Args:
        group: A primary, its replicas and the sentinels; it is used up.
        write: Writes a key, or raises.
        how: Ask a sentinel to fail over, kill the primary, or stop it and let it go on
            after the switch, or cut it off from replicas and sentinels.
        tasks: How many write at the same time.
        cut_off: What does that.
    """
    load = _Load(write)
    async with asyncio.TaskGroup() as writers:
        for number in range(tasks):
            writers.create_task(load.run(number))
        await load.more(100)
        port = await switch(group, how, cut_off)
        announced = monotonic()
        # A client that stays where it was is refused for ever.
        with suppress(TimeoutError):
            await load.more(100)
            if how == "freeze":
                group.primary.kill(signal.SIGCONT)
            # Some hundreds that are certainly later than half a second.
            while monotonic() < announced + 1.0:
                await load.more(100)
        load.stopped = True
    new = next(server for server in group.replicas if server.port == port)
    kept = await _keys(new)
    lost = load.good.keys() - kept
    back = [load.good[key] for key in kept if load.good.get(key, 0) > announced]
    times = sorted(load.good.values())
    return Failing(
        acknowledged=len(load.good),
        failed=load.failed,
        lost=len(lost),
        lost_later=sum(load.good[key] > announced + 0.5 for key in lost),
        away=max(b - a for a, b in pairwise([*times, monotonic()])),
        back=min(back) - announced if back else None,
    )


async def switch(
    group: EmbeddedSentinels, how: How, cut_off: CutOff | None = None
) -> int:
    """Have the primary fail; return the port of the one the sentinels promoted."""
    sentinel = aredis.Redis.from_url(group.sentinels[0].url, decode_responses=True)
    async with sentinel, sentinel.pubsub() as events:
        await events.subscribe("+switch-master")
        await events.get_message(timeout=5)
        if how == "command":
            await sentinel.execute_command("SENTINEL", "FAILOVER", group.name)
        elif cut_off is not None:
            await cut_off(group.primary)
        else:
            group.primary.kill(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        async with asyncio.timeout(20):
            while True:
                message = await events.get_message(timeout=20)
                if message is not None and message["type"] == "message":
                    return int(message["data"].split(" ")[-1])


async def _keys(server: EmbeddedServer) -> set[str]:
    async with aredis.Redis.from_url(server.url, decode_responses=True) as client:
        return {key async for key in client.scan_iter(match="w:*", count=1000)}
