"""`SubscriberConnection`: a connection to one server, and the channels on it.

One task subscribes, unsubscribes and reads the heads of topics; nothing else sends on
this connection. A reply comes in order with the messages, so a head divides them
exactly into those before and after. The task reads heads

1. when a buffer joins: its offset is the head, and it gets what comes after it;
2. after each reconnection: a head that no message led to shows what was lost;
3. every few seconds: a loss of the last message of all would not show otherwise.

On a node of a cluster a channel is a shard channel and stands in the slot of its topic.
It leaves for another node

1. by MOVED or ASK, to the subscription or to the reading of its head. The node ends
   the subscriptions of a slot that it gives away, so they are asked for again;
2. when the map of the cluster says so and this node lost all of its slots, or failed.

The head is read at the new node after the subscription there. It shows what was
published in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from oddswire._tasks import spawn
from oddswire.connection.backoff import Backoff
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import (
    ClusterDown,
    Loading,
    OddswireError,
    ReadOnly,
    TryAgain,
    Unavailable,
)
from oddswire.events import Degradation, Disconnected
from oddswire.pubsub._chain import empty_head
from oddswire.pubsub._topic_state import random_hex

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Coroutine,
        Hashable,
        Iterable,
        Iterator,
        Sequence,
    )

    from oddswire.client import Client
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.pubsub._route import Route

_PAUSE, _PAUSE_MOST = 0.05, 5.0
_PROBE = 1.5
_BATCH = 250
# Redirections of a topic that are followed at once: nodes that name each other would
# send it to and fro without a pause.
_HOPS_AT_ONCE = 3
# Seconds between two looks at the map of a cluster, while its node does not answer.
_LOOK_EVERY = 0.5


class _Words(NamedTuple):
    """What a kind of channel is subscribed to by, and what the pushes are called."""

    subscribe: str
    unsubscribe: str
    message: bytes
    subscribed: bytes
    unsubscribed: bytes


_PLAIN = _Words("SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
_SHARDED = _Words(
    "SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe"
)
_ASKING = pack(("ASKING",))

# Refusals of a state that passes.
_PASSING = (ClusterDown, Loading, TryAgain)


class Coordinator(Protocol):
    """What knows the connections to all servers; see `Subscriber`."""

    connects: int
    refused: int
    errors: int

    def move(self, route: Route, server: Client, *, asking: bool = False) -> None:
        """Have another server serve a route."""

    def is_unused(self, connection: SubscriberConnection) -> None:
        """Forget a connection without routes, which ends itself."""

    def has_ended(self, connection: SubscriberConnection) -> None:
        """Its task is over."""


class SubscriberConnection:
    """Keeps the channels of its routes subscribed at one server.

    Args:
        server: The client of the server; the connection is its own.
        subscriber: Whose connection it is; it counts, and moves routes elsewhere.
        timeout: Seconds for a call.
        every: Seconds between two readings of the heads.

    Attributes:
        server: As given.
        last_error: Why it last failed.
    """

    def __init__(
        self, server: Client, subscriber: Coordinator, *, timeout: float, every: float
    ) -> None:
        self.server = server
        self.last_error: Exception | None = None
        self._subscriber = subscriber
        self._words = _SHARDED if server.in_cluster else _PLAIN
        self._message = self._words.message
        self._timeout = timeout
        self._client = server.subscriber(self._on_push)
        self._every = every
        self._routes: dict[bytes, Route] = {}
        self._subscribed: set[bytes] = set()
        self._connection: Multiplexer | None = None
        self._wake = asyncio.Event()
        self._degraded = Degradation(server.events, "pubsub", "deaf", time.monotonic)
        self._forget = server.events.subscribe(self._on_lost, Disconnected)
        self._task = spawn(self._run(), name="oddswire subscriber")

    def adopt(self, route: Route) -> None:
        """Serve this route from here on."""
        self._routes[route.state.channel] = route
        self._wake.set()

    def drop(self, route: Route) -> None:
        """Serve this route no longer."""
        if self._routes.get(route.state.channel) is route:
            del self._routes[route.state.channel]
            self._wake.set()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def leave_lost_slots(self) -> None:
        """Give away the routes whose slots are at other nodes, as the map says."""
        for route in list(self._routes.values()):
            if route.asking:
                continue
            owner = self.server.server_now(route.state.channel)
            if owner is not self.server:
                self._subscriber.move(route, owner)

    def cancel(self) -> None:
        """End its task."""
        self._task.cancel()

    async def aclose(self) -> None:
        """Wait for its task after `cancel`, and close the connection."""
        try:
            await asyncio.wait([self._task])
        finally:
            await self._client.aclose()

    # --- in the parser

    def _on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == self._message:
            route = self._routes.get(push[1])
            if route is not None:
                data = push[2]
                for put in route.pushes:
                    put(data)
        elif kind == self._words.subscribed:
            # Here and not when the echo is read: the server may end it right after.
            self._subscribed.add(push[1])
        elif kind == self._words.unsubscribed and push[1] in self._subscribed:
            # Unasked, as when the ACL or a cluster's slots change.
            self._subscribed.discard(push[1])
            if (route := self._routes.get(push[1])) is not None:
                route.on_disconnect()
            self._wake.set()

    def _on_lost(self, event: Disconnected) -> None:
        if event.connection.startswith("subscriber"):
            self._wake.set()

    # --- the task

    async def _run(self) -> None:
        in_cluster = self.server.in_cluster
        patience = min(self._timeout, _LOOK_EVERY) if in_cluster else self._timeout
        backoff = Backoff(_PAUSE, _LOOK_EVERY if in_cluster else _PAUSE_MOST)
        try:
            while True:
                # Before looking: what happens from here on wakes the task again.
                self._wake.clear()
                try:
                    connection = await self._client.open_connection(patience)
                    await self._synchronize(connection)
                except Exception as error:  # noqa: BLE001 - a process without messages is worse than any error
                    self.last_error = error
                    self._subscriber.errors += 1
                    self._degraded.begin(error)
                    self.server.doubt()
                    self.leave_lost_slots()
                    if not self._routes:
                        return
                    await asyncio.sleep(backoff.failed())
                    continue
                backoff.reset()
                self._degraded.end()
                try:
                    async with asyncio.timeout(self._every):  # a pause
                        await self._wake.wait()
                except TimeoutError:
                    if not self._routes:
                        return
                    for route in self._routes.values():
                        route.needs_head = True
        finally:
            await self._end()

    async def _end(self) -> None:
        """Close the connection, which costs heartbeats: nobody is subscribed."""
        self._subscriber.is_unused(self)
        self._degraded.end()
        self._forget()
        await self._client.aclose()
        self._subscriber.has_ended(self)

    async def _synchronize(self, connection: Multiplexer) -> None:
        """Subscribe what is wanted, unsubscribe the rest, and read heads."""
        lost = connection is not self._connection and self._connection is not None
        if connection is not self._connection:
            self._connection = connection
            self._subscriber.connects += 1
            self._subscribed.clear()
            for route in self._routes.values():
                route.on_disconnect()
        await _gather_all(
            [
                self._update_subscriptions(connection),
                *(self._probe() for _ in range(lost)),
            ]
        )

    async def _update_subscriptions(self, connection: Multiplexer) -> None:
        gone = list(self._subscribed - self._routes.keys())
        self._subscribed -= set(gone)
        for some in self._batches(gone):
            await self._send_until_echo(connection, self._words.unsubscribe, some)
        new = [each for each in self._routes if each not in self._subscribed]
        await _gather_all(
            [self._subscribe(connection, some) for some in self._batches(new)]
        )
        asking = [
            channel
            for channel, route in self._routes.items()
            if route.needs_head and channel in self._subscribed
        ]
        await _gather_all(
            [self._fetch_heads(connection, some) for some in self._batches(asking)]
        )

    def _batches(self, channels: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
        """Yield parts, each small enough to hold the loop for about a millisecond.

        In a cluster a command is about one slot, and ASKING about one command.
        """
        groups: dict[Hashable, list[bytes]] = {}
        for channel in channels:
            slot = key_slot(channel) if self.server.in_cluster else None
            groups.setdefault((slot, self._asks(channel)), []).append(channel)
        for group in groups.values():
            for first in range(0, len(group), _BATCH):
                yield group[first : first + _BATCH]

    def _asks(self, channel: bytes) -> bool:
        route = self._routes.get(channel)
        return route is not None and route.asking

    async def _probe(self) -> None:
        """Find out whether the command connection, which reads logs, is dead too.

        Left to itself it would notice after twice the timeout of a call.
        """
        with contextlib.suppress(OddswireError):
            await self.server.bounded(_PROBE).ping()

    async def _subscribe(
        self, connection: Multiplexer, channels: Sequence[bytes]
    ) -> None:
        """Subscribe to channels by one command, or one by one where that is refused.

        The server refuses a command whole, though one channel alone is forbidden.
        """
        refusals = await self._send_until_echo(
            connection, self._words.subscribe, channels
        )
        if not refusals:
            for channel in channels:
                if channel in self._routes:
                    self._routes[channel].needs_head = True
        elif len(channels) > 1:
            for channel in channels:
                await self._subscribe(connection, (channel,))
        elif channels[0] in self._routes:
            self._on_refused(connection, self._routes[channels[0]], refusals[0])

    def _on_refused(
        self, connection: Multiplexer, route: Route, error: OddswireError
    ) -> None:
        """Follow a redirection; raise what passes by waiting, for a retry.

        Whatever else it is, the buffers that join fail with it.
        """
        if isinstance(error, AskError):
            server = self.server.redirected(error)
            if server is not None:
                asking = not isinstance(error, MovedError)
                self._subscriber.move(route, server, asking=asking)
                route.hops += 1
                if route.hops > _HOPS_AT_ONCE:
                    raise error
                return
        # As a plain call does: it waits while the server loads, and goes to the new
        # primary when the old one was demoted.
        route.needs_head = isinstance(error, _PASSING) or (
            isinstance(error, ReadOnly)
            and self._client.leave_if_demoted(connection.connected_at)
        )
        if route.needs_head:
            raise error
        self._subscriber.refused += 1
        route.fail(error)

    async def _fetch_heads(
        self, connection: Multiplexer, channels: Sequence[bytes]
    ) -> None:
        """Read heads by one command, or one by one where that is refused.

        However many topics a server has, a check costs one command for hundreds of
        them; in a cluster, for those of a slot.
        """
        routes = [self._routes[each] for each in channels if each in self._routes]
        if not routes:
            return
        for route in routes:
            route.needs_head = False
        unknown: list[Route] = []

        def on_reply(replies: Any) -> None:
            # In the parser: the answer divides the messages into before and after.
            if isinstance(replies, list):
                for route, reply in zip(routes, replies, strict=True):
                    if not self._hears(route):
                        continue
                    if reply is None:
                        unknown.append(route)
                    else:
                        route.on_head(reply)

        try:
            # Reading needs no right to write, and no memory.
            heads = (route.state.head for route in routes)
            await self._call(connection, routes[0], ("MGET", *heads), on_reply)
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
                for channel in channels:
                    await self._fetch_heads(connection, (channel,))
            elif self._serves(routes[0]):
                self._on_refused(connection, routes[0], error)

    def _serves(self, route: Route) -> bool:
        """Whether it was not given away while a reply was on its way."""
        return self._routes.get(route.state.channel) is route

    def _hears(self, route: Route) -> bool:
        """Whether a head that is read now divides the messages of a route.

        1. The node ends a subscription while the reading of its head is on the way.
        2. The head tells of no loss. It was read without a subscription, so the next
           message may be missed without an interruption that explains it.
        3. Therefore such a head is not used: it is read again after the subscription.
        """
        return self._serves(route) and route.state.channel in self._subscribed

    async def _begin(self, connection: Multiplexer, route: Route) -> None:
        """Create the head of a topic that has none, and start at it."""
        root = empty_head(random_hex())

        def on_reply(before: Any) -> None:
            if self._hears(route):
                route.on_head(root if before is None else before)

        life = route.state.head_life
        command = ("SET", route.state.head, root, "NX", "PX", life, "GET")
        await self._call(connection, route, command, on_reply)

    async def _extend_head(self, connection: Multiplexer, route: Route) -> None:
        """Extend the life of a head; a reader need not be allowed to."""
        command = ("PEXPIRE", route.state.head, route.state.head_life)
        await self._call(connection, route, command, _ignore)

    # --- sending

    async def _send_until_echo(
        self, connection: Multiplexer, word: str, channels: Sequence[bytes]
    ) -> list[OddswireError]:
        """Send what is answered by pushes; return the errors that came instead."""
        echo = random_hex().encode()
        data = pack((word, *channels)) + pack(("PING", echo))
        label = CallLabel(word)
        await _wait_for_room(connection, len(data), self._timeout)
        refusals: list[OddswireError] = []
        if self._asks(channels[0]):
            _ask(connection, label, refusals)
        replies = await connection.send(
            data, self._timeout, label, raw=True, until=echo
        )
        refusals += [reply for reply in replies if isinstance(reply, OddswireError)]
        return refusals

    async def _call(
        self,
        connection: Multiplexer,
        route: Route,
        command: tuple[Any, ...],
        on_reply: Callable[[Any], None],
    ) -> None:
        """Send a command about a route's slot.

        Raises:
            OddswireError: An error reply, or there was none.
        """
        data, label = pack(command), CallLabel(command[0])
        await _wait_for_room(connection, len(data), self._timeout)
        refusals: list[OddswireError] = []
        if route.asking:
            _ask(connection, label, refusals)
        reply = await connection.send(
            data, self._timeout, label, raw=True, on_reply=on_reply
        )
        if isinstance(reply, OddswireError):
            refusals.append(reply)
        if refusals:
            raise refusals[0]


async def _gather_all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, and raise the first error when the last one is done."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _wait_for_room(connection: Multiplexer, size: int, timeout: float) -> None:
    if connection.error is None and not connection.flow.open:
        await connection.flow.wait(size, timeout, connection.load)
    if connection.error is not None:
        raise Unavailable(f"the subscriber's connection was lost: {connection.error}")


def _ask(
    connection: Multiplexer, label: CallLabel, refusals: list[OddswireError]
) -> None:
    """Send ASKING before the next command, and note why it was refused.

    Refused, it would have the command sent back to the node that the slot leaves.
    """

    def note(reply: Any) -> None:
        if isinstance(reply, OddswireError):
            refusals.append(reply)

    connection.send_unawaited(_ASKING, label, note)


def _ignore(_: Any) -> None:
    pass
