"""`Subscriber`: the subscriber connection of a process, and its channels.

One task subscribes, unsubscribes and reads the heads of topics; nothing else sends on
this connection. A reply comes in order with the messages, so a head divides them
exactly into those before and after. The task reads heads

1. when a buffer joins: its offset is the head, and it gets what comes after it;
2. after each reconnection: a head that no message led to shows what was lost;
3. every few seconds: a loss of the last message of all would not show otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

from oddswire._tasks import spawn
from oddswire.connection.backoff import Backoff
from oddswire.connection.deadline import Deadline
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import (
    ClosedError,
    Loading,
    OddswireError,
    ReadOnly,
    TopicError,
    Unavailable,
)
from oddswire.events import Degradation, Disconnected
from oddswire.pubsub._chain import Head, empty_head
from oddswire.pubsub._topic_state import random_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from oddswire.client import Client
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub._topic_state import TopicState

T = TypeVar("T")

_PAUSE, _PAUSE_MOST = 0.05, 5.0
_PROBE = 1.5
_BATCH = 250


class Subscriber:
    """Subscribes each topic once, and pushes its messages to all its buffers.

    Args:
        client: Its server and credentials; the connection is the subscriber's own.
        every: Seconds between two readings of the heads.

    Attributes:
        connects: Connections that were opened.
        refused: Subscriptions that the server refused.
        errors: Calls that failed; each is tried again.
    """

    def __init__(self, client: Client, *, every: float) -> None:
        self.connects = 0
        self.refused = 0
        self.errors = 0
        self._timeout = client.timeout
        self._commands = client
        self._client = client.subscriber(self._on_push)
        self._every = every
        self._routes: dict[bytes, _Route] = {}
        self._subscribed: set[bytes] = set()
        self._connection: Multiplexer | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._last_error: Exception | None = None
        self._degraded = Degradation(client.events, "pubsub", "deaf", time.monotonic)
        self._forget = client.events.subscribe(self._on_lost, Disconnected)

    def buffers(self, state: TopicState) -> list[Buffer]:
        """Return those that are open for a topic."""
        route = self._routes.get(state.channel)
        return [] if route is None else route.buffers

    async def join(self, buffer: Buffer) -> None:
        """Subscribe, and wait until the buffer has its offset.

        Cancelled or failed, it is not subscribed.

        Raises:
            Unavailable: No connection within the client's timeout.
            NoPermission: The server's ACL forbids the channel or the keys.
            ClosedError: It was closed.
        """
        if self._closed:
            raise ClosedError("this PubSub was closed")
        if self._task is None:
            self._task = spawn(self._run(), name="oddswire subscriber")
        channel = buffer.state.channel
        route = self._routes.get(channel)
        if route is None:
            route = self._routes[channel] = _Route(buffer.state)
        route.joining.append(buffer)
        route.needs_head = True
        self._wake.set()
        joined = False
        try:
            async with Deadline(self._timeout):
                await asyncio.shield(buffer.joined)
            joined = True
        except TimeoutError:
            why = f": {self._last_error}" if self._last_error else ""
            raise Unavailable(
                f"not subscribed to {buffer.state.topic.name} within "
                f"{self._timeout:g} s{why}"
            ) from None
        finally:
            if not joined:
                if not buffer.joined.cancel():
                    buffer.joined.exception()  # it is raised here, or nobody waits
                self.leave(buffer)

    def leave(self, buffer: Buffer) -> None:
        """Remove a buffer; the last one of a topic unsubscribes its channel."""
        route = self._routes.get(buffer.state.channel)
        if route is None:
            return
        route.leave(buffer)
        if not route.buffers and not route.joining:
            del self._routes[buffer.state.channel]
            self._wake.set()

    async def aclose(self) -> None:
        """Close the connection, and wait for the task."""
        self._closed = True
        self._forget()
        for route in self._routes.values():
            for buffer in route.joining:
                buffer.fail(ClosedError("this PubSub was closed"))
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        finally:
            await self._client.aclose()

    # --- in the parser

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"message":
            route = self._routes.get(push[1])
            if route is not None:
                data = push[2]
                for put in route.pushes:
                    put(data)
        elif kind == b"unsubscribe" and push[1] in self._subscribed:
            # Unasked, as when the ACL or a cluster's slots change.
            self._subscribed.discard(push[1])
            self._wake.set()

    def _on_lost(self, event: Disconnected) -> None:
        if event.connection == "subscriber":
            self._wake.set()

    # --- the task

    async def _run(self) -> None:
        backoff = Backoff(_PAUSE, _PAUSE_MOST)
        while True:
            # Before looking: what happens from here on wakes the task again.
            self._wake.clear()
            try:
                connection = await self._client.open_connection(self._timeout)
                await self._synchronize(connection)
            except Exception as error:  # noqa: BLE001 - a process without messages is worse than any error
                self._last_error = error
                self.errors += 1
                self._degraded.begin(error)
                await asyncio.sleep(backoff.failed())
                continue
            backoff.reset()
            self._degraded.end()
            try:
                async with asyncio.timeout(self._every):  # a pause
                    await self._wake.wait()
            except TimeoutError:
                if not self._routes:
                    await self._idle()
                for route in self._routes.values():
                    route.needs_head = True

    async def _idle(self) -> None:
        """Close the connection, which costs heartbeats, until a buffer joins."""
        await self._client.aclose()
        self._connection = None
        self._subscribed.clear()
        while not self._routes:
            self._wake.clear()
            await self._wake.wait()
        self._client = self._commands.subscriber(self._on_push)

    async def _synchronize(self, connection: Multiplexer) -> None:
        """Subscribe what is wanted, unsubscribe the rest, and read heads."""
        lost = connection is not self._connection and self._connection is not None
        if connection is not self._connection:
            self._connection = connection
            self.connects += 1
            self._subscribed.clear()
            for route in self._routes.values():
                route.needs_head = True
                for buffer in route.buffers:
                    buffer.on_disconnect()
        await _gather_all(
            [
                self._update_subscriptions(connection),
                *(self._probe() for _ in range(lost)),
            ]
        )

    async def _update_subscriptions(self, connection: Multiplexer) -> None:
        gone = list(self._subscribed - self._routes.keys())
        self._subscribed -= set(gone)
        for some in _batches(gone):
            await _send_until_echo(connection, ("UNSUBSCRIBE", *some), self._timeout)
        new = [each for each in self._routes if each not in self._subscribed]
        for some in _batches(new):
            await self._subscribe(connection, some)
        asking = [
            route
            for channel, route in self._routes.items()
            if route.needs_head and channel in self._subscribed
        ]
        for routes in _batches(asking):
            await self._fetch_heads(connection, routes)

    async def _probe(self) -> None:
        """Find out whether the command connection, which reads logs, is dead too.

        Left to itself it would notice after twice the timeout of a call.
        """
        with contextlib.suppress(OddswireError):
            await self._commands.bounded(_PROBE).ping()

    async def _subscribe(
        self, connection: Multiplexer, channels: Sequence[bytes]
    ) -> None:
        """Subscribe to channels by one command, or one by one where that is refused.

        The server refuses a command whole, though one channel alone is forbidden.
        """
        refusals = await _send_until_echo(
            connection, ("SUBSCRIBE", *channels), self._timeout
        )
        if not refusals:
            self._subscribed.update(channels)
            for channel in channels:
                if channel in self._routes:
                    self._routes[channel].needs_head = True
        elif len(channels) > 1:
            for channel in channels:
                await self._subscribe(connection, (channel,))
        elif channels[0] in self._routes:
            self._on_refused(connection, self._routes[channels[0]], refusals[0])

    def _on_refused(
        self, connection: Multiplexer, route: _Route, error: OddswireError
    ) -> None:
        """Fail the buffers that join; raise what passes by waiting, for a retry."""
        # As a plain call does: it waits while the server loads, and goes to the new
        # primary when the old one was demoted.
        route.needs_head = isinstance(error, Loading) or (
            isinstance(error, ReadOnly)
            and self._client.leave_if_demoted(connection.connected_at)
        )
        if route.needs_head:
            raise error
        self.refused += 1
        route.fail(error)

    async def _fetch_heads(
        self, connection: Multiplexer, routes: Sequence[_Route]
    ) -> None:
        """Read heads by one command, or one by one where that is refused.

        However many topics there are, a check costs one command for hundreds of them.
        """
        for route in routes:
            route.needs_head = False
        unknown: list[_Route] = []

        def on_reply(replies: Any) -> None:
            # In the parser: the answer divides the messages into before and after.
            if isinstance(replies, list):
                for route, reply in zip(routes, replies, strict=True):
                    if reply is None:
                        unknown.append(route)
                    else:
                        route.on_head(reply)

        try:
            # Reading needs no right to write, and no memory.
            heads = (route.state.head for route in routes)
            reply = await _call(connection, ("MGET", *heads), self._timeout, on_reply)
            if isinstance(reply, OddswireError):
                raise reply
            now = connection.loop.time()
            await _gather_all(
                [self._begin(connection, route) for route in unknown]
                + [
                    self._extend_head(connection, each)
                    for each in routes
                    if each.extension_due(now)
                ]
            )
        except OddswireError as error:
            if connection.error is not None or len(routes) > 1:
                for route in routes:
                    route.needs_head = True
            if connection.error is not None:
                raise
            if len(routes) > 1:
                for route in routes:
                    await self._fetch_heads(connection, (route,))
            else:
                self._on_refused(connection, routes[0], error)

    async def _begin(self, connection: Multiplexer, route: _Route) -> None:
        """Create the head of a topic that has none, and start at it."""
        root = empty_head(random_hex())
        reply = await _call(
            connection,
            ("SET", route.state.head, root, "NX", "PX", route.state.head_life, "GET"),
            self._timeout,
            lambda before: route.on_head(root if before is None else before),
        )
        if isinstance(reply, OddswireError):
            raise reply

    async def _extend_head(self, connection: Multiplexer, route: _Route) -> None:
        """Extend the life of a head; a reader need not be allowed to."""
        reply = await _call(
            connection,
            ("PEXPIRE", route.state.head, route.state.head_life),
            self._timeout,
            _ignore,
        )
        if isinstance(reply, OddswireError):
            raise reply


class _Route:
    """A channel that is subscribed, and its buffers."""

    def __init__(self, state: TopicState) -> None:
        self.state = state
        self.buffers: list[Buffer] = []
        # The `push` of each buffer, in the same order.
        self.pushes: list[Callable[[bytes], None]] = []
        # A buffer without an offset gets nothing: it could not see a gap.
        self.joining: list[Buffer] = []
        self.needs_head = True
        self._extended = 0.0

    def on_head(self, reply: Any) -> None:
        """A reply has the head; called by the parser."""
        if not isinstance(reply, bytes):
            return
        try:
            head = Head.parse(reply)
        except ValueError:
            # The next publish puts it right.
            self.fail(
                TopicError(
                    f"topic {self.state.topic.name}: {self.state.head} holds something "
                    "else; delete it"
                )
            )
            return
        for buffer in self.buffers:
            buffer.on_head(head)
        joining, self.joining = self.joining, []
        for buffer in joining:
            # Replaced, not changed: the parser may be walking through it.
            self.buffers = [*self.buffers, buffer]
            self.pushes = [*self.pushes, buffer.push]
            buffer.open(head)

    def leave(self, buffer: Buffer) -> None:
        """Push nothing more to this buffer."""
        if buffer in self.joining:
            self.joining.remove(buffer)
        if buffer in self.buffers:
            self.buffers = [each for each in self.buffers if each is not buffer]
            self.pushes = [each.push for each in self.buffers]

    def fail(self, error: OddswireError) -> None:
        """Fail the buffers that join; the others are subscribed again later."""
        joining, self.joining = self.joining, []
        for buffer in joining:
            buffer.fail(error)

    def extension_due(self, now: float) -> bool:
        """Whether it is time to extend the life of the head."""
        due = now - self._extended > self.state.head_life / 4000
        if due:
            self._extended = now
        return due


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield parts, each small enough to hold the loop for about a millisecond."""
    for first in range(0, len(items), _BATCH):
        yield items[first : first + _BATCH]


async def _gather_all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, and raise the first error when the last one is done."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _send_until_echo(
    connection: Multiplexer, command: tuple[Any, ...], timeout: float
) -> list[OddswireError]:
    """Send what is answered by push messages; return the errors that came instead."""
    echo = random_hex().encode()
    data = pack(command) + pack(("PING", echo))
    await _wait_for_room(connection, len(data), timeout)
    replies = await connection.send(
        data, timeout, CallLabel(command[0]), raw=True, until=echo
    )
    return [reply for reply in replies if isinstance(reply, OddswireError)]


async def _call(
    connection: Multiplexer, command: tuple[Any, ...], timeout: float, hook: Any
) -> Any:
    data = pack(command)
    await _wait_for_room(connection, len(data), timeout)
    return await connection.send(
        data, timeout, CallLabel(command[0]), raw=True, on_reply=hook
    )


async def _wait_for_room(connection: Multiplexer, size: int, timeout: float) -> None:
    if connection.error is None and not connection.flow.open:
        await connection.flow.wait(size, timeout, connection.load)
    if connection.error is not None:
        raise Unavailable(f"the subscriber's connection was lost: {connection.error}")


def _ignore(_: Any) -> None:
    pass
