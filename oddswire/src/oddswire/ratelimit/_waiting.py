"""Who waits for a rule, and who is next.

Waiters with the same rules, subjects and priority form a line, first in, first out. One
task asks for the heads of the lines, one after the other: higher priority first, then
the line that has had least (start-time fair queueing, Goyal, Vin and Cheng 1996). A
line that is denied is parked at the bucket that denied it until that has room, so that
ten thousand lines cost one question when there is room for one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from oddswire._tasks import spawn
from oddswire.connection.deadline import Deadline
from oddswire.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.ratelimit._bucket import Bucket, Request
    from oddswire.ratelimit.decision import Decision
    from oddswire.ratelimit.rules import Priority

# Redis is asked again after so many seconds at the latest: another process may have
# given something back, or a limit been raised. Slots come back at any time.
_ASK_AGAIN = 1.0
_ASK_AGAIN_FOR_SLOTS = 0.05
_TURNS = 64  # after which the other tasks of the loop get theirs


class Waiter:
    """One call of `acquire`, which ends at a time of the limiter's clock."""

    __slots__ = ("ends", "future", "request")

    def __init__(self, request: Request, ends: float) -> None:
        self.request = request
        self.ends = ends
        self.future: asyncio.Future[Decision] = (
            asyncio.get_running_loop().create_future()
        )


class Line:
    """Waiters that differ in nothing but the time they came.

    Attributes:
        priority: Of all of them.
        tag: What it has had, in units of cost; the line with the least is next.
        waiters: First in, first out; those who gave up are dropped at their turn.
        parked_at: The bucket it came from, whose next line takes its place.
    """

    __slots__ = ("key", "parked_at", "priority", "tag", "waiters")

    def __init__(self, key: object, priority: Priority, tag: int) -> None:
        self.key = key
        self.priority = priority
        self.tag = tag
        self.waiters: deque[Waiter] = deque()
        self.parked_at: Bucket | None = None

    def head(self) -> Waiter | None:
        """Return who is next and still waits."""
        while self.waiters and self.waiters[0].future.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None


_Heap = list[tuple[int, int, int, Line]]  # priority, tag, order of arrival


class Waiting:
    """The lines of one limiter, and the task that serves them while there are any.

    Args:
        ask: Decides a request.
        give_back: Undoes one that was admitted and is not wanted any more.
        now: The limiter's clock, seconds.
    """

    def __init__(
        self,
        ask: Callable[[Request], Awaitable[Decision]],
        give_back: Callable[[Decision], Awaitable[object]],
        now: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._give_back = give_back
        self._now = now
        self.count = 0
        self._lines: dict[object, Line] = {}
        self._ready: _Heap = []
        self._parked: dict[Bucket, _Heap] = {}
        self._out: set[Bucket] = set()  # a line of theirs is ready, or is served now
        self._timers: list[tuple[float, int, Bucket]] = []
        self._timer_of: dict[Bucket, float] = {}
        self._served: dict[Priority, int] = {}
        self._unwanted: list[Decision] = []
        self._order = count()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def wait(
        self, request: Request, priority: Priority, timeout: float | None
    ) -> Decision | None:
        """Return the decision that admits the request, or denies it for too long.

        None when it was not its turn within `timeout` seconds. Cancelled, it leaves the
        line; what was admitted for it meanwhile goes to the next in line, or back.
        """
        if self._closed:
            raise ClosedError("the rate limiter is closed")
        waiter = Waiter(request, inf if timeout is None else self._now() + timeout)
        self._enter(waiter, priority)
        try:
            async with Deadline(timeout):
                return await waiter.future
        except TimeoutError:
            # It may have been admitted in the very tick in which its time was over.
            return _result(waiter)
        except asyncio.CancelledError:
            admitted = _result(waiter)
            if admitted is not None and admitted.allowed:
                self._unwanted.append(admitted)
            raise
        finally:
            self._leave(waiter)

    def _enter(self, waiter: Waiter, priority: Priority) -> None:
        key = (priority, waiter.request.parts)
        line = self._lines.get(key)
        if line is None:
            line = Line(key, priority, self._served.get(priority, 0))
            self._lines[key] = line
            self._push(self._ready, line)
        line.waiters.append(waiter)
        self.count += 1
        for bucket, _, _ in waiter.request.parts:
            bucket.waiting += 1
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = spawn(self._serve(), name="oddswire rate limit waiters")

    def _leave(self, waiter: Waiter) -> None:
        waiter.future.cancel()
        self.count -= 1
        for bucket, _, _ in waiter.request.parts:
            bucket.waiting -= 1
        self._wake.set()

    def kick(self, bucket: Bucket) -> None:
        """Say that a bucket may have room again, whatever was said before."""
        bucket.forget()
        self._schedule(bucket)
        self._wake.set()

    def kick_all(self) -> None:
        """Say that every bucket may have room again."""
        for bucket in list(self._parked):
            self.kick(bucket)

    async def aclose(self) -> None:
        """Send everybody away with `ClosedError`."""
        self._closed = True
        for line in self._lines.values():
            for waiter in line.waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(
                        ClosedError("the rate limiter was closed")
                    )
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- the task

    async def _serve(self) -> None:
        turns = 0
        while self.count or self._unwanted:
            while self._unwanted:
                await self._give_back(self._unwanted.pop())
            turns += 1
            if turns % _TURNS == 0:
                await asyncio.sleep(0)  # a turn may end without waiting for anything
            self._wake.clear()
            line = self._next()
            if line is None:
                await self._pause()
            else:
                await self._turn(line)
        # What is left are lines of waiters who all gave up.
        for each in (
            self._lines, self._ready, self._parked, self._out, self._timer_of,
            self._timers,
        ):  # fmt: skip
            each.clear()

    async def _turn(self, line: Line) -> None:
        waiter = line.head()
        if waiter is None:
            del self._lines[line.key]
            self._succeed(line)
            return
        now = self._now()
        for bucket, cost, hold in waiter.request.parts:
            if self._comes_after(line, bucket) or (
                bucket.resume > now and cost + hold >= bucket.resume_weight
            ):
                denying = waiter.request.denied_by(now)
                if denying is not None:
                    self._dismiss(line, waiter.request, denying.denial(now))
                self._park(line, bucket)
                return
        try:
            decision = await self._ask(waiter.request)
        except Exception as error:  # noqa: BLE001 - it is the waiter's, whatever it is
            if not waiter.future.done():
                waiter.future.set_exception(error)
            self._push(self._ready, line)
            return
        if not decision.allowed:
            self._denied(line, waiter, decision)
            return
        self._served[line.priority] = line.tag
        line.tag += max(cost for _, cost, _ in waiter.request.parts)
        # Its waiter may have given up; whoever is next wants exactly the same.
        taker = line.head()
        if taker is None:
            self._unwanted.append(decision)
        else:
            taker.future.set_result(decision)
        if line.head() is None:
            del self._lines[line.key]
        else:
            self._push(self._ready, line)
        self._succeed(line)

    def _denied(self, line: Line, waiter: Waiter, decision: Decision) -> None:
        self._dismiss(line, waiter.request, decision)
        if decision.retry_after == inf:
            self._push(self._ready, line)
            return
        for bucket, cost, hold in waiter.request.parts:
            if bucket.rule.name == decision.rule:
                slots = bucket.rule.is_slots
                longest = _ASK_AGAIN_FOR_SLOTS if slots else _ASK_AGAIN
                bucket.resume_weight = cost + hold
                bucket.resume = self._now() + min(decision.retry_after, longest)
                self._park(line, bucket)

    def _dismiss(self, line: Line, request: Request, denial: Decision) -> None:
        """Tell those of a line who cannot be admitted before their time is over."""
        wait = request.least_wait(denial)
        at = self._now() + wait
        for waiter in line.waiters:
            if (at > waiter.ends or wait == inf) and not waiter.future.done():
                waiter.future.set_result(denial)

    def _comes_after(self, line: Line, bucket: Bucket) -> bool:
        """Whether a line that goes first is parked there.

        It may want more than this one: what comes free is for it, or it would starve.
        """
        if bucket not in self._parked:
            return False
        priority, tag, *_ = self._parked[bucket][0]
        return (priority, tag) < (line.priority, line.tag)

    def _park(self, line: Line, bucket: Bucket) -> None:
        self._succeed(line)
        self._push(self._parked.setdefault(bucket, []), line)
        self._schedule(bucket)

    def _succeed(self, line: Line) -> None:
        """Let the next line of the bucket that this one came from take its place."""
        bucket, line.parked_at = line.parked_at, None
        if bucket is not None:
            self._out.discard(bucket)
            self._schedule(bucket)

    def _schedule(self, bucket: Bucket) -> None:
        """Bring the next line of a bucket back, now or when it has room.

        One at a time: the others would only be denied after it.
        """
        if bucket in self._out or bucket not in self._parked:
            return
        if bucket.resume > self._now():
            if self._timer_of.get(bucket) != bucket.resume:
                self._timer_of[bucket] = bucket.resume
                heappush(self._timers, (bucket.resume, next(self._order), bucket))
            return
        self._timer_of.pop(bucket, None)
        parked = self._parked[bucket]
        line = heappop(parked)[-1]
        if not parked:
            del self._parked[bucket]
        line.parked_at = bucket
        self._out.add(bucket)
        self._push(self._ready, line)

    def _next(self) -> Line | None:
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            due, _, bucket = heappop(self._timers)
            if self._timer_of.get(bucket) == due:
                del self._timer_of[bucket]
                self._schedule(bucket)
        return heappop(self._ready)[-1] if self._ready else None

    async def _pause(self) -> None:
        delay = self._timers[0][0] - self._now() if self._timers else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):  # a pause
                await self._wake.wait()

    def _push(self, heap: _Heap, line: Line) -> None:
        heappush(heap, (line.priority, line.tag, next(self._order), line))


def _result(waiter: Waiter) -> Decision | None:
    future = waiter.future
    if future.done() and not future.cancelled() and future.exception() is None:
        return future.result()
    return None
