"""`NodeClient`: the client of one node of a cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.crc import key_slot
from redis.exceptions import ResponseError

from oddswire.client._client import Client
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    import redis.asyncio as aredis
    from redis.exceptions import AskError

    from oddswire.client._commands import CommandSpec
    from oddswire.client._connections import Connections
    from oddswire.client._statistics import FailureCounts
    from oddswire.connection.multiplexer import ConnectionMetrics
    from oddswire.events import Events

# Views of other deadlines that are kept for a node.
_VIEWS_AT_MOST = 64


class Views(dict[float, "NodeClient"]):
    """The client of a node under each deadline that it was asked for."""

    def __init__(self, client: NodeClient) -> None:
        super().__init__({client.timeout: client})
        self._client = client

    def __missing__(self, seconds: float) -> NodeClient:
        if len(self) >= _VIEWS_AT_MOST:
            self.clear()
        view = self[seconds] = self._client.bounded(seconds)
        return view


class Node:
    """One node of the cluster.

    Attributes:
        host: As the cluster names it.
        port: As the cluster names it.
        client: Of this node alone.
        views: The same client, by deadline.
        asked_at: When another node sent a call here by ASK.
    """

    __slots__ = ("asked_at", "client", "host", "port", "views")

    def __init__(self, host: str, port: int, client: NodeClient) -> None:
        self.host, self.port, self.client = host, port, client
        self.asked_at = -math.inf
        client.node = self
        self.views = Views(client)

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"


class Redirector(Protocol):
    """What takes a call that a node alone cannot answer; see `Router`."""

    metrics: ConnectionMetrics
    slots: list[Node | None]

    async def owner(self, slot: int, deadline: float) -> Node:
        """Return the owner of a slot, reading the map if it is not known."""

    def read_soon(self) -> None:
        """Have the map read in the background."""

    def redirect(self, error: AskError, by: Node) -> Node:
        """Return the node that a redirection names; note the new owner of the slot."""

    def takes(
        self, reply: Exception, command: CommandSpec, args: tuple[Any, ...]
    ) -> bool:
        """Whether another attempt may bring more than this error reply."""

    async def run(
        self,
        node: Node,
        command: CommandSpec,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
        seen: Exception | None = None,
    ) -> Any:
        """Return the reply of the node that has the keys."""

    async def run_exclusively(
        self,
        node: Node,
        command: CommandSpec,
        args: tuple[Any, ...],
        options: dict[str, Any],
        timeout: float,
    ) -> Any:
        """Run a command on an exclusive connection to the node that has its keys."""


class NodeClient(Client):
    """The client of one node; the router takes what this node alone cannot answer.

    The fast path of a call is that of `Client`. A redirection, a slot on the move and a
    lost connection go to the router, which may send the call to another node.

    Args:
        address: ``host:port``, for events and errors.
        router: Of the cluster.
        specs: What is known of each command, shared by all nodes.
        failures: Where failed calls are counted, shared too.
        callbacks: redis-py's functions from replies to results, shared too.
        **options: Those of `Client`.

    Attributes:
        node: What it is the client of.
    """

    in_cluster = True
    node: Node

    def __init__(
        self,
        address: str,
        router: Redirector,
        *,
        specs: dict[Any, CommandSpec],
        failures: FailureCounts,
        callbacks: Any,
        **options: Any,
    ) -> None:
        self._address = address
        self._router = router
        super().__init__(**options)
        self._specs, self._failures = specs, failures
        self.response_callbacks = callbacks

    def _opened(self, pool: aredis.ConnectionPool, events: Events) -> Connections:
        connections = super()._opened(pool, events)
        connections.metrics = connections.dialer.metrics = self._router.metrics
        return connections

    def _named(self, connection: str) -> str:
        return f"{connection} {self._address}"

    async def server_of(self, key: bytes, deadline: float) -> NodeClient:
        """Return the client of the node that owns the slot of a key."""
        return (await self._router.owner(key_slot(key), deadline)).client

    def server_now(self, key: bytes) -> NodeClient:
        """Return the same, as the map has it now."""
        owner = self._router.slots[key_slot(key)]
        return self.node.client if owner is None else owner.client

    def doubt(self) -> None:
        """Have the map read: this node does not answer."""
        self._router.read_soon()

    def redirected(self, error: AskError) -> NodeClient:
        """Return the client of the node that this one names."""
        return self._router.redirect(error, self.node).client

    def client(self) -> Client:
        """Return a client on one exclusive connection to this node (redis-py's)."""
        return Client(
            settings=self._settings,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )

    @property
    def retries(self) -> int:
        """None of its own: the router knows whether the slot is still here."""
        return 0

    @property
    def connections(self) -> Connections:
        """Those to this node, for the router."""
        return self._connections

    async def _run(
        self,
        seen: Exception | None,
        command: CommandSpec,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        """Let the router go on after what was seen; None: nothing was sent yet."""
        try:
            return await self._router.run(
                self.node, command, args, data, deadline, raw=raw, seen=seen
            )
        except OddswireError as error:
            raise self.count_failure(error) from error.__cause__

    async def _send(
        self,
        command: CommandSpec,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        return await self._run(None, command, args, data, deadline, raw=raw)

    async def _retry(
        self,
        error: OddswireError,
        command: CommandSpec,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        return await self._run(error, command, args, data, deadline, raw=raw)

    async def _on_error_reply(
        self,
        reply: Exception,
        command: CommandSpec,
        args: tuple[Any, ...],
        options: dict[str, Any],
        deadline: float,
    ) -> Any:
        if self._router.takes(reply, command, args):
            data = self.pack(command, args)
            raw = self.decodes and NEVER_DECODE in options
            reply = await self._run(reply, command, args, data, deadline, raw=raw)
        if not isinstance(reply, Exception):
            return await self.parse_reply(reply, command, options)
        if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
            return options[EMPTY_RESPONSE]
        raise self.count_failure(reply, command, args)

    async def _run_exclusive(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        return await self._router.run_exclusively(
            self.node, command, args, options, self.timeout
        )
