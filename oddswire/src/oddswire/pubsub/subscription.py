"""`Subscription`: an iterator over what arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from oddswire.connection.backoff import Backoff
from oddswire.connection.deadline import Deadline
from oddswire.errors import ClosedError, OddswireError, TopicError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub._offsets import Offsets
    from oddswire.pubsub._subscriber import Subscriber
    from oddswire.pubsub.messages import Gap, Message

T = TypeVar("T")

_PAUSE, _PAUSE_MOST = 0.05, 1.0


class Subscription(Generic[T]):
    """Made by `PubSub.subscribe`; ``async with``, single use, read by one task.

    Entering it fixes the position: what is published after that is yielded, or covered
    by a gap. What arrives waits here until it is read; reading never fails because
    Redis is away, it waits.

    Raises:
        Unavailable: On entering: no connection within the client's timeout.
        NoPermission: On entering: the server's ACL forbids the topic.
        ClosedError: On entering: it was entered before, or closed meanwhile.
        WrongLoop: It is of another event loop, or of the process this one was forked
            from.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        buffers: Callable[[Callable[[], None]], Sequence[Buffer]],
        offsets: Offsets | None,
        open_: set[Subscription[Any]],
    ) -> None:
        self._subscriber = subscriber
        self._make = buffers
        self._buffers: Sequence[Buffer] = ()
        self._take: Callable[[], Message[T] | Gap | None] = self._take_round_robin
        # The same where nothing has to be looked at before; None while it is read.
        self._fast_take: Callable[[], Message[T] | Gap | None] | None = None
        self._offsets = offsets
        self._open = open_
        self._entered = self._closed = False
        self._reading = False
        self._turn = 0
        self._waiter: asyncio.Future[None] | None = None
        self._retry_at: float | None = None
        self._backoff = Backoff(_PAUSE, _PAUSE_MOST)

    async def __aenter__(self) -> Self:
        if self._entered or self._closed:
            raise ClosedError("a subscription is used once: subscribe again")
        self._subscriber.loop_guard.check()
        self._entered = True
        self._open.add(self)
        try:
            await self._join()
        except BaseException:
            self.close()
            raise
        return self

    async def _join(self) -> None:
        starts = {} if self._offsets is None else await self._offsets.load()
        self._buffers = self._make(self._on_arrival)
        if len(self._buffers) == 1:
            self._take = self._buffers[0].take
        for buffer in self._buffers:
            if (offset := starts.get(buffer.state.topic.name)) is not None:
                buffer.resume(offset)
        try:
            async with asyncio.TaskGroup() as group:
                for buffer in self._buffers:
                    group.create_task(self._subscriber.join(buffer))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self._offsets is None and not self._closed:
            self._fast_take = self._take

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(done=kind is None)

    async def aclose(self, *, done: bool = True) -> None:
        """End it: the iteration stops, the position is written.

        Args:
            done: Whether the message yielded last was handled.
        """
        self.close()
        if self._offsets is not None:
            if done:
                self._offsets.note(self._buffers)
            await self._offsets.save()

    def close(self) -> None:
        """End it at once: the iteration stops, the position stays as last written."""
        if self._closed:
            return
        self._closed = True
        self._fast_take = None
        for buffer in self._buffers:
            self._subscriber.leave(buffer)
        self._open.discard(self)
        self._on_arrival()

    @property
    def depth(self) -> int:
        """Messages that wait to be read."""
        return sum(buffer.depth for buffer in self._buffers)

    def __aiter__(self) -> AsyncIterator[Message[T] | Gap]:
        return self

    async def __anext__(self) -> Message[T] | Gap:
        """Return the next event, waiting for it; ends when the subscription is closed.

        Cancelled, nothing is lost: the next call goes on where this one was.

        Raises:
            TopicError: Another task waits for the next event already.
        """
        take = self._fast_take
        if take is not None:
            event = take()
            if event is not None:
                return event
        return await self._next()

    async def _next(self) -> Message[T] | Gap:
        if self._reading:
            raise TopicError("a subscription is read by one task")
        if not self._entered:
            raise ClosedError("enter the subscription first: async with ... as sub")
        self._subscriber.loop_guard.check()
        fast_take, self._fast_take = self._fast_take, None
        self._reading = True
        try:
            if self._offsets is not None:
                # A caller that asks for the next message has handled the last one.
                self._offsets.note(self._buffers)
                if self._offsets.due:
                    await self._offsets.save()
            while not self._closed:
                event = self._take()
                if event is not None:
                    return event
                await self._wait_or_recover()
            raise StopAsyncIteration
        finally:
            self._reading = False
            if not self._closed:
                self._fast_take = fast_take

    def _take_round_robin(self) -> Message[T] | Gap | None:
        buffers = self._buffers
        for _ in buffers:
            # In turn, so that a busy topic does not silence another one.
            self._turn = (self._turn + 1) % len(buffers)
            event = buffers[self._turn].take()
            if event is not None:
                return event
        return None

    async def _wait_or_recover(self) -> None:
        loop = asyncio.get_running_loop()
        behind = [buffer for buffer in self._buffers if buffer.behind]
        if behind and (self._retry_at is None or loop.time() >= self._retry_at):
            try:
                for buffer in behind:
                    await buffer.recover()
            except OddswireError:
                self._subscriber.errors += 1
                self._retry_at = loop.time() + self._backoff.failed()
            else:
                self._retry_at = None
                self._backoff.reset()
            return
        if any(buffer.depth and not buffer.behind for buffer in self._buffers):
            return
        until = self._retry_at if behind else None
        if self._offsets is not None and self._offsets.save_at is not None:
            saves = self._offsets.save_at
            until = saves if until is None else min(until, saves)
        self._waiter = loop.create_future()
        try:
            async with Deadline(None if until is None else until - loop.time()):
                await self._waiter
        except TimeoutError:
            if self._offsets is not None and self._offsets.due:
                await self._offsets.save()
        finally:
            self._waiter = None

    def _on_arrival(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
