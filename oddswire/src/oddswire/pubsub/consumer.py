"""`Consumer`: calls a function with each message, and goes on after its errors."""

from __future__ import annotations

import asyncio
import inspect
import zlib
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from oddswire._numbers import check_duration, check_int
from oddswire._tasks import check_function, spawn
from oddswire.connection.deadline import Deadline
from oddswire.errors import TopicError
from oddswire.pubsub.messages import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.pubsub.statistics import TopicCounts
    from oddswire.pubsub.subscription import Subscription

T = TypeVar("T")

# Messages that may wait for one worker; the subscription's queue holds the others.
_WAITING = 8
_MOST_HANDLERS = 10_000


class Consumer(Generic[T]):
    """Made by `PubSub.handle`; ``async with``, single use.

    Messages are handled one after the other; with `concurrency` above 1, those of one
    key are. A handler that raises, takes longer than `timeout` or is cancelled from
    within is counted and reported, and the next message is handled. Leaving the block
    cancels the handlers that run.
    """

    def __init__(
        self,
        subscription: Subscription[T],
        counts: Callable[[str], TopicCounts],
        handler: Callable[[Message[T]], Awaitable[object] | object],
        *,
        on_gap: Callable[[Gap], Awaitable[object] | object] | None,
        on_error: Callable[[Message[T] | Gap, BaseException], object] | None,
        concurrency: int,
        timeout: float | None,
    ) -> None:
        check_int("concurrency", concurrency, 1, _MOST_HANDLERS, TopicError)
        if timeout is not None:
            check_duration("timeout", timeout, 0.000_001, inf, TopicError)
        check_function("handler", handler, TopicError)
        for name, function in (("on_gap", on_gap), ("on_error", on_error)):
            if function is not None:
                check_function(name, function, TopicError)
        if inspect.iscoroutinefunction(on_error):
            raise TopicError("on_error must be a plain function; it may begin a task")
        self._subscription = subscription
        self._counts = counts
        self._handler = handler
        self._on_gap = on_gap
        self._on_error = on_error
        self._timeout = timeout
        self._lanes: list[asyncio.Queue[Message[T]]] = [
            asyncio.Queue(_WAITING)
            for _ in range(concurrency if concurrency > 1 else 0)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    async def __aenter__(self) -> Self:
        await self._subscription.__aenter__()
        self._tasks = [
            spawn(self._dispatch(), name="oddswire topic dispatcher"),
            *(
                spawn(self._work(lane), name="oddswire topic handler")
                for lane in self._lanes
            ),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.wait(self._tasks)
        finally:
            # A handler may just have been cancelled half way: its message comes again.
            await self._subscription.aclose(done=False)
        for task in self._tasks:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    async def _dispatch(self) -> None:
        async for event in self._subscription:
            if isinstance(event, Gap):
                # Behind what came before it, in every lane.
                await asyncio.gather(*(lane.join() for lane in self._lanes))
                if self._on_gap is not None:
                    await self._call(self._on_gap, event)
            elif not self._lanes:
                await self._call(self._handler, event)
            else:
                lane = zlib.crc32(event.key.encode()) % len(self._lanes)
                await self._lanes[lane].put(event)

    async def _work(self, lane: asyncio.Queue[Message[T]]) -> None:
        while True:
            message = await lane.get()
            try:
                await self._call(self._handler, message)
            finally:
                lane.task_done()

    async def _call(
        self,
        handler: Callable[[Any], Awaitable[object] | object],
        event: Message[T] | Gap,
    ) -> None:
        counts = self._counts(event.topic)
        task = asyncio.current_task()
        # Before Python 3.13 a task group that fails leaves this higher for ever.
        before = 0 if task is None else task.cancelling()
        try:
            async with Deadline(self._timeout):
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
        except asyncio.CancelledError as error:
            if self._ending or task is None or task.cancelling() > before:
                raise  # the consumer itself is cancelled
            self._report(counts, event, error)
        except (Exception, BaseExceptionGroup, GeneratorExit) as error:  # noqa: BLE001 - a handler may raise anything
            self._report(counts, event, error)
        else:
            counts.handled += 1
        if self._ending:
            # A handler's task group that failed may have dropped the cancellation.
            raise asyncio.CancelledError

    def _report(
        self, counts: TopicCounts, event: Message[T] | Gap, error: BaseException
    ) -> None:
        counts.handler_errors += 1
        if self._on_error is None:
            return
        try:
            self._on_error(event, error)
        except Exception:  # noqa: BLE001 - reporting a fault must not become one
            counts.handler_errors += 1
