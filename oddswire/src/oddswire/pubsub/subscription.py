"""`Subscription`: an iterator over what arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from oddswire.connection.deadline import Deadline
from oddswire.errors import ClosedError, OddswireError, TopicError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from oddswire.pubsub._inbox import Inbox
    from oddswire.pubsub._positions import Positions
    from oddswire.pubsub._reader import Reader
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
    """

    def __init__(
        self,
        reader: Reader,
        inboxes: Callable[[Callable[[], None]], Sequence[Inbox]],
        positions: Positions | None,
        open_: set[Subscription[Any]],
    ) -> None:
        self._reader = reader
        self._make = inboxes
        self._inboxes: Sequence[Inbox] = ()
        self._take: Callable[[], Message[T] | Gap | None] = self._in_turn
        # The same where nothing has to be looked at before; None while it is read.
        self._at_once: Callable[[], Message[T] | Gap | None] | None = None
        self._positions = positions
        self._open = open_
        self._entered = self._closed = False
        self._reading = False
        self._turn = 0
        self._waiter: asyncio.Future[None] | None = None
        self._retry_at: float | None = None
        self._pause = _PAUSE

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ClosedError("a subscription is used once: subscribe again")
        self._entered = True
        self._open.add(self)
        try:
            await self._join()
        except BaseException:
            self.close()
            raise
        return self

    async def _join(self) -> None:
        starts = {} if self._positions is None else await self._positions.load()
        self._inboxes = self._make(self._on_arrival)
        if len(self._inboxes) == 1:
            self._take = self._inboxes[0].take
        for inbox in self._inboxes:
            if (place := starts.get(inbox.line.topic.name)) is not None:
                inbox.resume(place)
        try:
            async with asyncio.TaskGroup() as group:
                for inbox in self._inboxes:
                    group.create_task(self._reader.join(inbox))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self._positions is None and not self._closed:
            self._at_once = self._take

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose(done=exc_type is None)

    async def aclose(self, *, done: bool = True) -> None:
        """End it: the iteration stops, the position is written.

        Args:
            done: Whether the message yielded last was handled.
        """
        self.close()
        if self._positions is not None:
            if done:
                self._positions.note(self._inboxes)
            await self._positions.save()

    def close(self) -> None:
        """End it at once: the iteration stops, the position stays as last written."""
        if self._closed:
            return
        self._closed = True
        self._at_once = None
        for inbox in self._inboxes:
            self._reader.leave(inbox)
        self._open.discard(self)
        self._on_arrival()

    @property
    def depth(self) -> int:
        """Messages that wait to be read."""
        return sum(inbox.depth for inbox in self._inboxes)

    def __aiter__(self) -> AsyncIterator[Message[T] | Gap]:
        return self

    async def __anext__(self) -> Message[T] | Gap:
        """Return the next event, waiting for it; ends when the subscription is closed.

        Cancelled, nothing is lost: the next call goes on where this one was.

        Raises:
            TopicError: Another task waits for the next event already.
        """
        take = self._at_once
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
        at_once, self._at_once = self._at_once, None
        self._reading = True
        try:
            if self._positions is not None:
                # Whoever asks for the next one is done with the one before.
                self._positions.note(self._inboxes)
                if self._positions.due:
                    await self._positions.save()
            while not self._closed:
                event = self._take()
                if event is not None:
                    return event
                await self._wait_or_recover()
            raise StopAsyncIteration
        finally:
            self._reading = False
            if not self._closed:
                self._at_once = at_once

    def _in_turn(self) -> Message[T] | Gap | None:
        inboxes = self._inboxes
        for _ in inboxes:
            # In turn, so that a busy topic does not silence another one.
            self._turn = (self._turn + 1) % len(inboxes)
            event = inboxes[self._turn].take()
            if event is not None:
                return event
        return None

    async def _wait_or_recover(self) -> None:
        loop = asyncio.get_running_loop()
        behind = [inbox for inbox in self._inboxes if inbox.behind]
        if behind and (self._retry_at is None or loop.time() >= self._retry_at):
            try:
                for inbox in behind:
                    await inbox.recover()
            except OddswireError:
                self._reader.errors += 1
                self._retry_at = loop.time() + self._pause
                self._pause = min(self._pause * 2, _PAUSE_MOST)
            else:
                self._retry_at, self._pause = None, _PAUSE
            return
        if any(inbox.depth and not inbox.behind for inbox in self._inboxes):
            return
        until = self._retry_at if behind else None
        if self._positions is not None and self._positions.save_at is not None:
            saves = self._positions.save_at
            until = saves if until is None else min(until, saves)
        self._waiter = loop.create_future()
        try:
            async with Deadline(None if until is None else until - loop.time()):
                await self._waiter
        except TimeoutError:
            if self._positions is not None and self._positions.due:
                await self._positions.save()
        finally:
            self._waiter = None

    def _on_arrival(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
