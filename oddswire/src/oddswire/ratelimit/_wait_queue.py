"""The calls that wait for a rule, and the order in which they are admitted.

Waiters with the same rules, subjects and priority form a flow, first in, first out. One
task serves the heads of the flows, one after the other: a higher priority first, then
the flow with the least virtual time. That is the cost that it was admitted (start-time
fair queueing, Goyal, Vin and Cheng 1996). A denied flow is blocked on the subject that
denied it until that has room. Subjects wake their flows one at a time, so ten thousand
flows cost one question when there is room for one.

    ready --(denied)--> blocked on a subject --(its time, or wake)--> ready
      |
      +--(admitted)--> ready again, behind the flows with less virtual time
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from oddswire._tasks import spawn
from oddswire.connection.deadline import Deadline
from oddswire.errors import ClosedError
from oddswire.ratelimit.decision import NO_RETRY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.ratelimit._state import Request, SubjectState
    from oddswire.ratelimit.decision import Decision
    from oddswire.ratelimit.rules import Priority

# Redis is asked again after at most so many seconds: another process may have refunded,
# or raised a limit. A slot may be released at any time.
_RETRY = 1.0
_RETRY_FOR_SLOTS = 0.05
_TURNS = 64  # without a pause, after which the other tasks of the loop get theirs


@dataclass(slots=True, eq=False)
class Waiter:
    """One call of `acquire`, which ends at a time of the limiter's clock."""

    request: Request
    ends: float
    future: asyncio.Future[Decision] = field(default_factory=asyncio.Future)

    def decision(self) -> Decision | None:
        """Return the decision, if there is one."""
        future = self.future
        if future.done() and not future.cancelled() and future.exception() is None:
            return future.result()
        return None


@dataclass(slots=True, eq=False)
class Flow:
    """Waiters that demand the same.

    Attributes:
        key: The priority and the demands.
        priority: Of all its waiters.
        virtual_time: The cost that was admitted; the least is served first.
        waiters: First in, first out. Those that gave up are dropped at their turn.
        woken_by: The subject that it was blocked on, and whose next flow waits for it.
    """

    key: object
    priority: Priority
    virtual_time: int
    waiters: deque[Waiter] = field(default_factory=deque)
    woken_by: SubjectState | None = None

    def head(self) -> Waiter | None:
        """Return the first waiter that did not give up."""
        while self.waiters and self.waiters[0].future.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None


_Heap = list[tuple[int, int, int, Flow]]  # priority, virtual time, order of arrival


class WaitQueue:
    """The flows of one limiter, and the task that serves them while there are any.

    Args:
        decide: Decides a request.
        release: Undoes an admission that no waiter takes.
        now: The limiter's clock, seconds.

    Attributes:
        count: How many waiters there are.
    """

    def __init__(
        self,
        decide: Callable[[Request], Awaitable[Decision]],
        release: Callable[[Decision], Awaitable[object]],
        now: Callable[[], float],
    ) -> None:
        self._decide = decide
        self._release = release
        self._now = now
        self.count = 0
        self._flows: dict[object, Flow] = {}
        self._ready: _Heap = []
        self._blocked: dict[SubjectState, _Heap] = {}
        # Subjects with a flow that is ready or served now: its answer decides about the
        # next flow of the subject.
        self._probing: set[SubjectState] = set()
        self._timers: list[tuple[float, int, SubjectState]] = []
        self._timer_of: dict[SubjectState, float] = {}
        self._virtual_time: dict[Priority, int] = {}
        self._unclaimed: list[Decision] = []
        self._order = count()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def wait(
        self, request: Request, priority: Priority, timeout: float | None
    ) -> Decision | None:
        """Return the decision that admits the request, or that denies it for too long.

        None: its turn did not come within `timeout` seconds. A cancelled call leaves
        the queue. What was admitted for it goes to the next waiter of its flow, or is
        released.

        Raises:
            ClosedError: The limiter was closed.
        """
        if self._closed:
            raise ClosedError("the rate limiter is closed")
        waiter = Waiter(request, inf if timeout is None else self._now() + timeout)
        self._enter(waiter, priority)
        try:
            async with Deadline(timeout):
                return await waiter.future
        except TimeoutError:
            # The task may have admitted it in the tick in which its time was over.
            return waiter.decision()
        except asyncio.CancelledError:
            # The same tick: the decision is here, and its waiter is not.
            decision = waiter.decision()
            if decision is not None and decision.allowed:
                self._unclaimed.append(decision)
            raise
        finally:
            waiter.future.cancel()
            self._count(waiter, -1)

    def _enter(self, waiter: Waiter, priority: Priority) -> None:
        key = (priority, waiter.request.demands)
        flow = self._flows.get(key)
        if flow is None:
            # A new flow begins at the virtual time of its priority: it neither waits
            # for what others had before, nor gets it now.
            flow = Flow(key, priority, self._virtual_time.get(priority, 0))
            self._flows[key] = flow
            self._push(self._ready, flow)
        flow.waiters.append(waiter)
        self._count(waiter, 1)
        if self._task is None or self._task.done():
            self._task = spawn(self._serve(), name="oddswire rate limit waiters")

    def _count(self, waiter: Waiter, change: int) -> None:
        self.count += change
        for state, _, _ in waiter.request.demands:
            state.waiters += change
        self._changed.set()

    def wake(self, state: SubjectState) -> None:
        """Have the next flow of a subject ask again, after a denial by any rule."""
        state.forget_denial()
        self._schedule(state)
        self._changed.set()

    def wake_all(self) -> None:
        """Have the next flow of every subject ask again."""
        for state in list(self._blocked):
            self.wake(state)

    async def aclose(self) -> None:
        """End each waiting call with `ClosedError`, and the task."""
        self._closed = True
        for flow in self._flows.values():
            while (waiter := flow.head()) is not None:
                error = ClosedError("the rate limiter was closed")
                waiter.future.set_exception(error)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- the task

    async def _serve(self) -> None:
        turns = 0
        while True:
            # The event is cleared before every look: a waiter that comes, or the last
            # one that leaves, while this task awaits ends the pause at once.
            self._changed.clear()
            if not self.count and not self._unclaimed:
                break
            # 1. Release what no waiter took, before another question is asked.
            while self._unclaimed:
                await self._release(self._unclaimed.pop())
            turns += 1
            if turns % _TURNS == 0:
                await asyncio.sleep(0)  # a turn may end without an await
            # 2. Serve the first ready flow.
            flow = self._next_ready()
            if flow is None:
                await self._pause()
            else:
                await self._serve_one(flow)
        # 3. Only flows of waiters that gave up are left.
        for each in (
            self._flows, self._ready, self._blocked, self._probing, self._timer_of,
            self._timers,
        ):  # fmt: skip
            each.clear()

    async def _serve_one(self, flow: Flow) -> None:
        # 1. A flow without waiters ends.
        waiter = flow.head()
        if waiter is None:
            del self._flows[flow.key]
            self._let_next(flow)
            return
        # 2. A flow that is certain to be denied asks nobody: its subject is known to be
        #    full, or keeps what comes free for a flow that goes first.
        now = self._now()
        for state, cost, headroom in waiter.request.demands:
            if self._is_behind(flow, state) or (
                state.blocked_until > now and cost + headroom >= state.blocked_weight
            ):
                denying = waiter.request.denied_by(now)
                if denying is not None:
                    self._end_late(flow, waiter.request, denying.denial(now))
                self._block(flow, state)
                return
        # 3. Ask. Waiters come, go and are cancelled during this await.
        try:
            decision = await self._decide(waiter.request)
        except Exception as error:  # noqa: BLE001 - the waiter gets any error
            if not waiter.future.done():
                waiter.future.set_exception(error)
            self._push(self._ready, flow)
            return
        if not decision.allowed:
            self._on_denial(flow, waiter, decision)
            return
        # 4. The admission goes to the head of the flow: if the waiter gave up during
        #    the await, the next one demands exactly the same.
        self._virtual_time[flow.priority] = flow.virtual_time
        flow.virtual_time += max(cost for _, cost, _ in waiter.request.demands)
        taker = flow.head()
        if taker is None:
            self._unclaimed.append(decision)
        else:
            taker.future.set_result(decision)
        # 5. The flow goes to its new place, and its subject wakes the next one.
        if flow.head() is None:
            del self._flows[flow.key]
        else:
            self._push(self._ready, flow)
        self._let_next(flow)

    def _on_denial(self, flow: Flow, waiter: Waiter, decision: Decision) -> None:
        self._end_late(flow, waiter.request, decision)
        if decision.retry_after == NO_RETRY:
            self._push(self._ready, flow)
            return
        for state, cost, headroom in waiter.request.demands:
            if state.rule.name == decision.rule:
                longest = _RETRY_FOR_SLOTS if state.rule.is_slots else _RETRY
                state.blocked_weight = cost + headroom
                state.blocked_until = self._now() + min(decision.retry_after, longest)
                self._block(flow, state)

    def _end_late(self, flow: Flow, request: Request, denial: Decision) -> None:
        """Give a denial to the waiters whose time is over before a retry."""
        wait = request.least_wait(denial)
        at = self._now() + wait
        for waiter in flow.waiters:
            if (at > waiter.ends or wait == NO_RETRY) and not waiter.future.done():
                waiter.future.set_result(denial)

    # --- blocked flows

    def _is_behind(self, flow: Flow, state: SubjectState) -> bool:
        """Return whether a flow that goes first is blocked on the subject.

        That flow may demand more. What comes free is for it, or it would starve.
        """
        if state not in self._blocked:
            return False
        priority, virtual_time, *_ = self._blocked[state][0]
        return (priority, virtual_time) < (flow.priority, flow.virtual_time)

    def _block(self, flow: Flow, state: SubjectState) -> None:
        self._let_next(flow)
        self._push(self._blocked.setdefault(state, []), flow)
        self._schedule(state)

    def _let_next(self, flow: Flow) -> None:
        """Let the subject that woke a flow wake its next one."""
        state, flow.woken_by = flow.woken_by, None
        if state is not None:
            self._probing.discard(state)
            self._schedule(state)

    def _schedule(self, state: SubjectState) -> None:
        """Make the first blocked flow of a subject ready, now or when it has room.

        One flow at a time: if it is denied, the flows behind it would be as well.
        """
        if state in self._probing or state not in self._blocked:
            return
        if state.blocked_until > self._now():
            if self._timer_of.get(state) != state.blocked_until:
                self._timer_of[state] = state.blocked_until
                heappush(self._timers, (state.blocked_until, next(self._order), state))
            return
        self._timer_of.pop(state, None)
        blocked = self._blocked[state]
        flow = heappop(blocked)[-1]
        if not blocked:
            del self._blocked[state]
        flow.woken_by = state
        self._probing.add(state)
        self._push(self._ready, flow)

    def _next_ready(self) -> Flow | None:
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            due, _, state = heappop(self._timers)
            # A later denial of the subject has a timer of its own.
            if self._timer_of.get(state) == due:
                del self._timer_of[state]
                self._schedule(state)
        return heappop(self._ready)[-1] if self._ready else None

    async def _pause(self) -> None:
        delay = self._timers[0][0] - self._now() if self._timers else None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):  # a pause
                await self._changed.wait()

    def _push(self, heap: _Heap, flow: Flow) -> None:
        heappush(heap, (flow.priority, flow.virtual_time, next(self._order), flow))
