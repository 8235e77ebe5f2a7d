"""`Reader`: the subscriber wire of a process, and what is subscribed on it.

One task subscribes, unsubscribes and asks where the topics end; nothing else sends on
this wire. The answer comes in order with the messages, so it divides them exactly. It
is asked for when somebody joins, after each reconnection, and every few seconds, for
the last message of all would otherwise be missed without a trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from oddswire._tasks import spawn
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
from oddswire.pubsub._chain import Head, started
from oddswire.pubsub._line import dice

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from oddswire.client import Client
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.pubsub._inbox import Inbox
    from oddswire.pubsub._line import Line

T = TypeVar("T")

_PAUSE, _PAUSE_MOST = 0.05, 5.0
_PROBE = 1.5
_BATCH = 250


class Reader:
    """Subscribes each topic once, whoever wants it, and hands its messages out.

    Args:
        client: Its server and credentials; the wire is of our own.
        every: Seconds between questions where the topics end.

    Attributes:
        connects: Times that the wire was opened.
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
        self._wire: Multiplexer | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._last_error: Exception | None = None
        self._degraded = Degradation(client.events, "pubsub", "deaf", time.monotonic)
        self._forget = client.events.subscribe(self._on_lost, Disconnected)

    def inboxes(self, line: Line) -> list[Inbox]:
        """Return those that are open for a topic."""
        route = self._routes.get(line.channel)
        return [] if route is None else route.inboxes

    async def join(self, inbox: Inbox) -> None:
        """Subscribe, and wait until the inbox knows its place.

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
        channel = inbox.line.channel
        route = self._routes.get(channel)
        if route is None:
            route = self._routes[channel] = _Route(inbox.line)
        route.joining.append(inbox)
        route.asks = True
        self._wake.set()
        joined = False
        try:
            async with Deadline(self._timeout):
                await asyncio.shield(inbox.joined)
            joined = True
        except TimeoutError:
            why = f": {self._last_error}" if self._last_error else ""
            raise Unavailable(
                f"not subscribed to {inbox.line.topic.name} within "
                f"{self._timeout:g} s{why}"
            ) from None
        finally:
            if not joined:
                if not inbox.joined.cancel():
                    inbox.joined.exception()  # it is raised here, or nobody waits
                self.leave(inbox)

    def leave(self, inbox: Inbox) -> None:
        """Take the inbox away; the last one of a topic unsubscribes it."""
        route = self._routes.get(inbox.line.channel)
        if route is None:
            return
        route.leave(inbox)
        if not route.inboxes and not route.joining:
            del self._routes[inbox.line.channel]
            self._wake.set()

    async def aclose(self) -> None:
        """Close the wire, and wait for the task."""
        self._closed = True
        self._forget()
        for route in self._routes.values():
            for inbox in route.joining:
                inbox.refuse(ClosedError("this PubSub was closed"))
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
                for put in route.puts:
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
        pause = _PAUSE
        while True:
            # Before looking: what happens from here on wakes us again.
            self._wake.clear()
            try:
                wire = await self._client.open_connection(self._timeout)
                await self._settle(wire)
            except Exception as error:  # noqa: BLE001 - whatever it is, a deaf process is worse
                self._last_error = error
                self.errors += 1
                self._degraded.begin(error)
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - to spread the attempts
                pause = min(pause * 2, _PAUSE_MOST)
                continue
            pause = _PAUSE
            self._degraded.end()
            try:
                async with asyncio.timeout(self._every):  # a pause
                    await self._wake.wait()
            except TimeoutError:
                if not self._routes:
                    await self._rest()
                for route in self._routes.values():
                    route.asks = True

    async def _rest(self) -> None:
        """Nobody listens: no connection either, which asks for a sign of life."""
        await self._client.aclose()
        self._wire = None
        self._subscribed.clear()
        while not self._routes:
            self._wake.clear()
            await self._wake.wait()
        self._client = self._commands.subscriber(self._on_push)

    async def _settle(self, wire: Multiplexer) -> None:
        """Make what is subscribed what is wanted, and learn where topics end."""
        lost = wire is not self._wire and self._wire is not None
        if wire is not self._wire:
            self._wire = wire
            self.connects += 1
            self._subscribed.clear()
            for route in self._routes.values():
                route.asks = True
                for inbox in route.inboxes:
                    inbox.interrupted()
        await _all([self._renew(wire), *(self._probe() for _ in range(lost))])

    async def _renew(self, wire: Multiplexer) -> None:
        gone = list(self._subscribed - self._routes.keys())
        self._subscribed -= set(gone)
        for some in _batches(gone):
            await _say(wire, ("UNSUBSCRIBE", *some), self._timeout)
        new = [each for each in self._routes if each not in self._subscribed]
        for some in _batches(new):
            await self._subscribe(wire, some)
        asking = [
            route
            for channel, route in self._routes.items()
            if route.asks and channel in self._subscribed
        ]
        for routes in _batches(asking):
            await self._ask_heads(wire, routes)

    async def _probe(self) -> None:
        """Find out whether the command wire, which reads the log, died with ours.

        Left to itself it would notice after twice the timeout of a call.
        """
        with contextlib.suppress(OddswireError):
            await self._commands.bounded(_PROBE).ping()

    async def _subscribe(self, wire: Multiplexer, channels: Sequence[bytes]) -> None:
        """Subscribe to channels by one command, or one by one where that is refused.

        The server refuses a command whole, though one channel alone is forbidden.
        """
        refusals = await _say(wire, ("SUBSCRIBE", *channels), self._timeout)
        if not refusals:
            self._subscribed.update(channels)
            for channel in channels:
                if channel in self._routes:
                    self._routes[channel].asks = True
        elif len(channels) > 1:
            for channel in channels:
                await self._subscribe(wire, (channel,))
        elif channels[0] in self._routes:
            self._refused(wire, self._routes[channels[0]], refusals[0])

    def _refused(self, wire: Multiplexer, route: _Route, error: OddswireError) -> None:
        """Tell those who join; what passes by waiting is raised, to be tried again."""
        # As a plain call does: it waits while the server loads, and goes to the new
        # primary when the old one was demoted.
        route.asks = isinstance(error, Loading) or (
            isinstance(error, ReadOnly) and self._client.demoted(wire.connected_at)
        )
        if route.asks:
            raise error
        self.refused += 1
        route.refuse(error)

    async def _ask_heads(self, wire: Multiplexer, routes: Sequence[_Route]) -> None:
        """Ask where topics end by one command, or one by one where it is refused.

        However many topics there are, a check costs one command for hundreds of them.
        """
        for route in routes:
            route.asks = False
        unknown: list[_Route] = []

        def tell(replies: Any) -> None:
            # In the parser: the answer divides the messages into before and after.
            if isinstance(replies, list):
                for route, reply in zip(routes, replies, strict=True):
                    if reply is None:
                        unknown.append(route)
                    else:
                        route.told(reply)

        try:
            # Reading needs no right to write, and no memory.
            heads = (route.line.head for route in routes)
            reply = await _call(wire, ("MGET", *heads), self._timeout, tell)
            if isinstance(reply, OddswireError):
                raise reply
            now = wire.loop.time()
            await _all(
                [self._begin(wire, route) for route in unknown]
                + [self._keep(wire, each) for each in routes if each.keeps_alive(now)]
            )
        except OddswireError as error:
            if wire.error is not None or len(routes) > 1:
                for route in routes:
                    route.asks = True
            if wire.error is not None:
                raise
            if len(routes) > 1:
                for route in routes:
                    await self._ask_heads(wire, (route,))
            else:
                self._refused(wire, routes[0], error)

    async def _begin(self, wire: Multiplexer, route: _Route) -> None:
        """Make the head of a topic that has none, and take its place there."""
        root = started(dice())
        reply = await _call(
            wire,
            ("SET", route.line.head, root, "NX", "PX", route.line.head_life, "GET"),
            self._timeout,
            lambda before: route.told(root if before is None else before),
        )
        if isinstance(reply, OddswireError):
            raise reply

    async def _keep(self, wire: Multiplexer, route: _Route) -> None:
        """Have the head live on; a reader need not be allowed to."""
        reply = await _call(
            wire,
            ("PEXPIRE", route.line.head, route.line.head_life),
            self._timeout,
            _ignore,
        )
        if isinstance(reply, OddswireError):
            raise reply


class _Route:
    """A topic that is subscribed, and for whom."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.inboxes: list[Inbox] = []
        # What each of them does with a frame, in the same order.
        self.puts: list[Callable[[bytes], None]] = []
        # They are given nothing before they know where the topic ended.
        self.joining: list[Inbox] = []
        self.asks = True
        self._extended = 0.0

    def told(self, reply: Any) -> None:
        """The server said where the topic ends; called by the parser."""
        if not isinstance(reply, bytes):
            return
        try:
            head = Head.parse(reply)
        except ValueError:
            # The next publish puts it right.
            self.refuse(
                TopicError(
                    f"topic {self.line.topic.name}: {self.line.head} holds something "
                    "else; delete it"
                )
            )
            return
        for inbox in self.inboxes:
            inbox.mark(head)
        joining, self.joining = self.joining, []
        for inbox in joining:
            # Replaced, not changed: the parser may be walking through it.
            self.inboxes = [*self.inboxes, inbox]
            self.puts = [*self.puts, inbox.push]
            inbox.open(head)

    def leave(self, inbox: Inbox) -> None:
        """Hand nothing more to this one."""
        if inbox in self.joining:
            self.joining.remove(inbox)
        if inbox in self.inboxes:
            self.inboxes = [each for each in self.inboxes if each is not inbox]
            self.puts = [each.push for each in self.inboxes]

    def refuse(self, error: OddswireError) -> None:
        """Tell those who join; the others are subscribed again later."""
        joining, self.joining = self.joining, []
        for inbox in joining:
            inbox.refuse(error)

    def keeps_alive(self, now: float) -> bool:
        """Whether it is time to have the head live on for its readers."""
        due = now - self._extended > self.line.head_life / 4000
        if due:
            self._extended = now
        return due


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield parts, each small enough to hold the loop for about a millisecond."""
    for first in range(0, len(items), _BATCH):
        yield items[first : first + _BATCH]


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, and raise the first error when the last one is done."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _say(
    wire: Multiplexer, command: tuple[Any, ...], timeout: float
) -> list[OddswireError]:
    """Send what is answered by push messages; return the errors that came instead."""
    echo = dice().encode()
    data = pack(command) + pack(("PING", echo))
    await _room(wire, len(data), timeout)
    replies = await wire.send(
        data, timeout, CallLabel(command[0]), raw=True, until=echo
    )
    return [reply for reply in replies if isinstance(reply, OddswireError)]


async def _call(
    wire: Multiplexer, command: tuple[Any, ...], timeout: float, hook: Any
) -> Any:
    data = pack(command)
    await _room(wire, len(data), timeout)
    return await wire.send(
        data, timeout, CallLabel(command[0]), raw=True, on_reply=hook
    )


async def _room(wire: Multiplexer, size: int, timeout: float) -> None:
    if wire.error is None and not wire.flow.open:
        await wire.flow.wait(size, timeout, wire.load)
    if wire.error is not None:
        raise Unavailable(f"the subscriber's connection was lost: {wire.error}")


def _ignore(_: Any) -> None:
    pass
