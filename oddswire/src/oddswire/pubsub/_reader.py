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
from typing import TYPE_CHECKING, Any

from oddswire.connection.calls import Named
from oddswire.connection.packing import pack
from oddswire.errors import (
    ClosedError,
    OddswireError,
    ReadOnly,
    TopicError,
    Unavailable,
)
from oddswire.events import Degradation, Disconnected
from oddswire.pubsub._chain import Head, started
from oddswire.pubsub._line import dice

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddswire.client import Client
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.pubsub._inbox import Inbox
    from oddswire.pubsub._line import Line

_PAUSE, _PAUSE_MOST = 0.05, 5.0
_PROBE = 1.5


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
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="oddswire subscriber"
            )
        channel = inbox.line.channel
        route = self._routes.get(channel)
        if route is None:
            route = self._routes[channel] = _Route(inbox.line)
        route.joining.append(inbox)
        route.asks = True
        self._wake.set()
        joined = False
        try:
            async with asyncio.timeout(self._timeout):
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
        if event.wire == "subscriber":
            self._wake.set()

    # --- the task

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            # Before looking: what happens from here on wakes us again.
            self._wake.clear()
            try:
                wire = await self._client.wire(self._timeout)
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
                async with asyncio.timeout(self._every):
                    await self._wake.wait()
            except TimeoutError:
                for route in self._routes.values():
                    route.asks = True

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
        wanted = self._routes.keys()
        calls: list[Coroutine[Any, Any, None]] = [self._probe() for _ in range(lost)]
        calls += [
            self._unsubscribe(wire, channel) for channel in self._subscribed - wanted
        ]
        self._subscribed &= wanted
        calls += [
            self._ask(wire, route, subscribe=channel not in self._subscribed)
            for channel, route in self._routes.items()
            if route.asks or channel not in self._subscribed
        ]
        if calls:
            results = await asyncio.gather(*calls, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _probe(self) -> None:
        """Find out whether the command wire, which reads the log, died with ours.

        Left to itself it would notice after twice the timeout of a call.
        """
        with contextlib.suppress(OddswireError):
            await self._commands.bounded(_PROBE).ping()

    async def _unsubscribe(self, wire: Multiplexer, channel: bytes) -> None:
        await _say(wire, ("UNSUBSCRIBE", channel), self._timeout)

    async def _ask(self, wire: Multiplexer, route: _Route, *, subscribe: bool) -> None:
        route.asks = False
        try:
            if subscribe:
                channel = route.line.channel
                refusals = await _say(wire, ("SUBSCRIBE", channel), self._timeout)
                if refusals:
                    raise refusals[0]
                self._subscribed.add(channel)
            await self._ask_head(wire, route)
        except OddswireError as error:
            if wire.error is None:
                self.refused += 1
                route.refuse(error)
                if isinstance(error, ReadOnly):
                    self._client.demoted(wire.connected_at)
            else:
                route.asks = True
                raise

    async def _ask_head(self, wire: Multiplexer, route: _Route) -> None:
        head = route.line.head
        # Reading needs no right to write, and no memory.
        reply = await _call(wire, ("GET", head), self._timeout, route.told)
        if reply is None:
            root = started(dice())
            life = route.line.head_life
            set_head = ("SET", head, root, "NX", "PX", life, "GET")
            reply = await _call(
                wire,
                set_head,
                self._timeout,
                lambda before: route.told(root if before is None else before),
            )
        elif route.keeps_alive(wire.loop.time()):
            reply = await _call(
                wire, ("PEXPIRE", head, route.line.head_life), self._timeout, _ignore
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


async def _say(
    wire: Multiplexer, command: tuple[Any, ...], timeout: float
) -> list[OddswireError]:
    """Send what is answered by push messages; return the errors that came instead."""
    echo = dice().encode()
    data = pack(command) + pack(("PING", echo))
    await _room(wire, len(data), timeout)
    replies = await wire.send(data, timeout, Named(command[0]), raw=True, until=echo)
    return [reply for reply in replies if isinstance(reply, OddswireError)]


async def _call(
    wire: Multiplexer, command: tuple[Any, ...], timeout: float, hook: Any
) -> Any:
    data = pack(command)
    await _room(wire, len(data), timeout)
    return await wire.send(data, timeout, Named(command[0]), raw=True, on_reply=hook)


async def _room(wire: Multiplexer, size: int, timeout: float) -> None:
    if wire.error is None and not wire.gate.open:
        await wire.gate.wait(size, timeout, wire.load)
    if wire.error is not None:
        raise Unavailable(f"the subscriber's connection was lost: {wire.error}")


def _ignore(_: Any) -> None:
    pass
