"""`Subscriber`: the topics that a process is subscribed to, each at its server.

On one server all of them are on one connection. On a cluster a topic is at the node
that owns its slot, as a shard channel, and each of those nodes has a connection.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from oddswire.connection.deadline import Deadline
from oddswire.connection.loop_guard import LoopGuard
from oddswire.errors import ClosedError, Unavailable
from oddswire.events import Failover
from oddswire.pubsub._connection import SubscriberConnection
from oddswire.pubsub._route import Route

if TYPE_CHECKING:
    from oddswire.client import Client
    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub._topic_state import TopicState


class Subscriber:
    """Subscribes each topic once, and pushes its messages to all its buffers.

    Args:
        client: Its server and credentials; the connections are the subscriber's own.
        every: Seconds between two readings of the heads.

    Attributes:
        connects: Connections that were opened.
        refused: Subscriptions that the server refused.
        errors: Calls that failed; each is tried again.
        loop_guard: Knows the event loop that is served.
    """

    def __init__(self, client: Client, *, every: float) -> None:
        self.connects = 0
        self.refused = 0
        self.errors = 0
        self.loop_guard = LoopGuard()
        self.loop_guard.check()
        self._client = client
        self._every = every
        self._routes: dict[bytes, Route] = {}
        self._serving: dict[Route, SubscriberConnection] = {}
        # By the client of the server: on a cluster, of the node.
        self._connections: dict[Client, SubscriberConnection] = {}
        self._ending: set[SubscriberConnection] = set()
        self._closed = False
        self._forget = client.events.subscribe(self._on_failover, Failover)

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
            ClusterDown: The slot of the topic has no node.
        """
        channel, timeout = buffer.state.channel, self._client.timeout
        deadline = monotonic() + timeout
        server = await self._client.server_of(channel, deadline)
        if self._closed:
            raise ClosedError("this PubSub was closed")
        route = self._routes.get(channel)
        if route is None:
            route = self._routes[channel] = Route(buffer.state)
            self._assign(route, server)
        route.joining.append(buffer)
        route.needs_head = True
        self._serving[route].wake()
        joined = False
        try:
            async with Deadline(max(0.0, deadline - monotonic())):
                await asyncio.shield(buffer.joined)
            joined = True
        except TimeoutError:
            cause = self._serving[route].last_error
            raise Unavailable(
                f"not subscribed to {buffer.state.topic.name} within {timeout:g} s"
                + (f": {cause}" if cause else "")
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
        if not route.is_wanted:
            del self._routes[buffer.state.channel]
            self._serving.pop(route).drop(route)

    async def aclose(self) -> None:
        """Close the connections, and wait for their tasks."""
        self._closed = True
        self._forget()
        for route in self._routes.values():
            route.fail(ClosedError("this PubSub was closed"))
        connections = {*self._connections.values(), *self._ending}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*[each.aclose() for each in connections])

    # --- for its connections

    def move(self, route: Route, server: Client, *, asking: bool = False) -> None:
        """Have another node serve a topic from here on.

        What the old one has sent and was not read yet is dropped: the head that is read
        at the new one announces it.
        """
        self._serving[route].drop(route)
        route.asking = asking
        route.on_disconnect()
        self._assign(route, server)

    def is_unused(self, connection: SubscriberConnection) -> None:
        """Forget a connection without topics, which ends itself."""
        self._connections.pop(connection.server, None)
        self._ending.add(connection)

    def has_ended(self, connection: SubscriberConnection) -> None:
        """Its task is over."""
        self._ending.discard(connection)

    def _assign(self, route: Route, server: Client) -> None:
        connection = self._connections.get(server)
        if connection is None:
            connection = SubscriberConnection(
                server, self, timeout=self._client.timeout, every=self._every
            )
            self._connections[server] = connection
        self._serving[route] = connection
        connection.adopt(route)

    def _on_failover(self, _: Failover) -> None:
        """A node of a cluster lost its slots: nothing comes from it any more."""
        for connection in list(self._connections.values()):
            connection.leave_lost_slots()
