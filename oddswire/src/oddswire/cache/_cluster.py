"""`ClusterServers`: the primaries of a cluster, each believed by itself.

What holds on one server by the order of one connection has to be made here:

1. An entry carries versions of tags and of its namespace that are at other primaries.
   The messages of those come by other connections. So an entry serves only while each
   of these primaries is believed (`CoherenceLease`), also one that comes from Redis.
2. A replica that takes over may lack invalidations that its primary acknowledged. So an
   entry names the server process that it was written to, and the nonces of tags are
   bound to the process that has them: under another process all of them are others. A
   process is its run id and its replication id, which each promotion changes.
3. A slot moves to another primary, which sends its messages by another connection. The
   node says with each heartbeat which slots it has; what is known of the others is
   forgotten. An entry that moved with its slot names another process, and is void.
4. While a slot is on its way (classic migration), what has gone ahead counts as gone:
   it would be void on arrival. Invalidations go there all the same.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from functools import partial
from hashlib import blake2b
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from redis.crc import key_slot
from redis.exceptions import MovedError

from oddswire._tasks import spawn
from oddswire.cache._coherence import CoherenceLease
from oddswire.cache._record import TAG_NONCE_BYTES
from oddswire.cache._servers import CacheServer, on_its_way
from oddswire.cache._tag_version import TagVersion
from oddswire.cache._tracking import TrackingConnection
from oddswire.client import ReadLease
from oddswire.errors import (
    ClosedError,
    ClusterDown,
    CommandTimeout,
    ConnectionLost,
    Loading,
    MasterDown,
    NotOnCluster,
    OddswireError,
    Outcome,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from oddswire.cache._tag_version import Snapshot
    from oddswire.cache._tracking import Listener
    from oddswire.client import Client
    from oddswire.client._cluster import ClusterClient
    from oddswire.client._cluster_node import Node
    from oddswire.client._cluster_router import Router
    from oddswire.clock import Clock
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.keys import KeySpace

T = TypeVar("T")

_REPLICATION_ID = re.compile(rb"master_replid:(\w+)")
# Tries for a name in one of a node's slots; one slot of all needs 16,384 on average.
_NAMES_AT_MOST = 300_000
_PAUSE = 0.005
_PASSING = (ClusterDown, Loading, MasterDown)


class ClusterServers:
    """The primaries of a cluster as the servers of a cache.

    Args:
        client: Of the cluster.
        timeout: Seconds for one call.
        coherence: Makes the lease of a node, of its connection and its client.

    Attributes:
        epoch: Changes whenever what is known of any of them was dropped.
    """

    on_cluster: ClassVar[bool] = True

    def __init__(
        self,
        client: ClusterClient,
        timeout: float,
        coherence: Callable[..., NodeCoherence],
    ) -> None:
        self.epoch = 0
        self._client = client
        self._router = client.router
        self._timeout = timeout
        self._coherence = coherence
        self._servers: dict[Node, NodeServer] = {}
        self._listeners: list[tuple[bytes, Listener]] = []
        self._on_drop: list[Callable[[CacheServer], None]] = []
        self._on_moved: list[Callable[[frozenset[int]], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._works = self._closed = False
        self._unsubscribe = self._router.on_change(self._map_changed)

    @property
    def all(self) -> Sequence[CacheServer]:
        """Those that are known."""
        return tuple(self._servers.values())

    @property
    def untracked(self) -> bool:
        """Whether one of them tells of no changes."""
        return any(each.connection.untracked for each in self._servers.values())

    def slot(self, name: str) -> int:
        """Return the slot of a Redis key."""
        return int(key_slot(name.encode()))

    # --- which server

    def at(self, slot: int) -> CacheServer | None:
        """Return the owner of a slot; None: it is not known."""
        node = self._router.slots[slot]
        if node is None or self._closed:
            return None
        return self._servers.get(node) or self._make(node)

    async def find(self, slot: int) -> CacheServer:
        """Return the owner of a slot, reading the map if it is not known.

        Raises:
            ClosedError: The cache was closed, perhaps meanwhile.
            OddswireError: Nobody owns it, or no node answered in time.
        """
        node = await self._router.owner(slot, monotonic() + self._timeout)
        if self._closed:
            # Nobody would end the connection and the task of a server made now.
            raise ClosedError("the cache was closed")
        return self._servers.get(node) or self._make(node)

    def _make(self, node: Node) -> NodeServer:
        connection = TrackingConnection(node.client, self._timeout, of=str(node))
        for prefix, listener in self._listeners:
            connection.listen(prefix, listener)
        coherence = self._coherence(connection, node.client, self._router, node)
        server = self._servers[node] = NodeServer(connection, coherence, node)
        coherence.recheck = server.identify
        connection.on_drop(partial(self._dropped, server))
        if self._works:
            self._spawn_work(server)
        return server

    def _spawn_work(self, server: NodeServer) -> None:
        server.task = spawn(
            server.coherence.run(), name=f"oddswire cache {server.node}"
        )

    def _dropped(self, server: NodeServer) -> None:
        self.epoch += 1
        for handler in self._on_drop:
            handler(server)

    def _map_changed(self, slots: frozenset[int]) -> None:
        """Forget what is known of slots that have another owner now."""
        self.epoch += 1
        for handler in self._on_moved:
            handler(slots)
        owners = {*self._router.primaries, *self._router.slots}
        for node in [each for each in self._servers if each not in owners]:
            self._close_later(self._servers.pop(node))

    def _close_later(self, server: NodeServer) -> None:
        task = spawn(server.aclose(), name="oddswire cache leaving a node")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- a call

    async def run(
        self,
        slot: int,
        call: Callable[[CacheServer], Awaitable[T]],
        *,
        waits: bool = True,
    ) -> T:
        """Return what a call at the owner of a slot returns.

        Args:
            slot: Which.
            call: Called again at the new owner if the slot has moved.
            waits: Whether to wait for a slot that is on its way, within the timeout.

        Raises:
            OddswireError: As from `call`.
        """
        deadline = monotonic() + self._timeout
        while True:
            server = self.at(slot) or await self.find(slot)
            try:
                return await call(server)
            except OddswireError as error:
                if not waits and on_its_way(error):
                    raise
                if not await self.follow(error, server, deadline):
                    raise

    async def follow(
        self, error: OddswireError, server: CacheServer, deadline: float
    ) -> bool:
        """Whether to ask again after this error, perhaps another server."""
        if monotonic() + _PAUSE >= deadline:
            return False
        if isinstance(error, MovedError) and isinstance(server, NodeServer):
            self._router.redirect(error, server.node)
            return True
        if isinstance(error, ClosedError):
            # It was left while the call was on its way to it.
            return not self._closed and server not in self._servers.values()
        if on_its_way(error) or isinstance(error, _PASSING):
            self._router.read_soon()
            await asyncio.sleep(_PAUSE)
            return True
        if isinstance(error, ConnectionLost | Unavailable | CommandTimeout):
            self._router.read_soon()
        return False

    async def remove(self, names: Sequence[str]) -> int:
        """Remove keys one by one, each where it is by now."""
        client = self._client.bounded(self._timeout)
        return sum(await asyncio.gather(*(client.unlink(name) for name in names)))

    # --- belief

    def want(self) -> None:
        """Memory would be read if it were believed."""
        for server in self._servers.values():
            server.coherence.want()

    def until(self, stamps: Snapshot | None) -> float:
        """Return until when all the servers of these versions are believed."""
        until = math.inf if stamps else -math.inf
        for stamp in stamps or ():
            server = stamp.tag_version.server
            until = min(until, -math.inf if server is None else server.coherence.until)
        return until

    async def believe(self, stamps: Snapshot, server: CacheServer) -> None:
        """Have the servers believed that these versions are from, beside this one.

        Raises:
            OddswireError: One of them does not prove that it may be.
        """
        if self.untracked:
            return  # the versions were read just now
        others = {
            of
            for stamp in stamps
            if (of := stamp.tag_version.server) is not None and of is not server
        }
        for other in others:
            if isinstance(other, NodeServer):
                await other.believe()

    # --- what is heard

    def listen(self, prefix: bytes, listener: Listener) -> None:
        """Call `listener` with each change of a key with this prefix."""
        self._listeners.append((prefix, listener))

    def on_drop(self, handler: Callable[[CacheServer], None]) -> None:
        """Call `handler` when what is known of a server is void."""
        self._on_drop.append(handler)

    def on_moved(self, handler: Callable[[frozenset[int]], None]) -> None:
        """Call `handler` when slots have another owner."""
        self._on_moved.append(handler)

    # --- its life

    async def start(self, timeout: float) -> None:
        """Have each primary believed for the first time.

        Raises:
            OddswireError: The cluster, or one of its primaries, did not answer.
        """
        self._works = True
        nodes = await self._router.all_primaries(monotonic() + timeout)
        servers = [self._servers.get(node) or self._make(node) for node in nodes]
        results = await asyncio.gather(
            *(each.coherence.heartbeat(timeout=timeout) for each in servers),
            return_exceptions=True,
        )
        for each in results:
            if isinstance(each, BaseException):
                raise each

    def work(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return nothing: each server has a task of its own."""
        return ()

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        self._unsubscribe()
        servers = list(self._servers.values())
        self._servers.clear()
        await asyncio.gather(*(each.aclose() for each in servers), *self._tasks)


def servers_of(
    client: ClusterClient,
    timeout: float,
    space: KeySpace,
    clock: Clock,
    lease: dict[str, Any],
) -> ClusterServers:
    """Return the primaries of a cluster as the servers of a cache.

    Args:
        client: Of the cluster.
        timeout: Seconds for one call.
        space: The prefix.
        clock: The time.
        lease: Arguments of `CoherenceLease`.
    """

    def coherence(
        connection: TrackingConnection, of: Client, router: Router, node: Node
    ) -> NodeCoherence:
        async def remember() -> None:
            if router.primaries[:1] == (node,):  # once for all of them
                await lease["remember"]()

        options = {**lease, "remember": remember}
        return NodeCoherence(connection, of, router, node, space, clock, **options)

    return ClusterServers(client, timeout, coherence)


class NodeServer(CacheServer):
    """One primary as the cache sees it.

    Attributes:
        node: Which.
        task: Keeps its lease.
    """

    __slots__ = ("node", "task")
    coherence: NodeCoherence

    def __init__(
        self, connection: TrackingConnection, coherence: NodeCoherence, node: Node
    ) -> None:
        super().__init__(connection, coherence)
        self.node = node
        self.task: asyncio.Task[None] | None = None
        self.process = TagVersion()
        self.process.server = self

    async def identify(self, timeout: float | None = None) -> None:
        """Find out which process answers, and whether it was promoted since.

        Raises:
            NotOnCluster: The server does not say which process it is.
            OddswireError: It did not answer.
        """
        connection = self.connection

        def take(reply: Any, *, current: bool) -> None:
            if isinstance(reply, bytes) and (current or connection.untracked):
                self._is_process(connection.run_id, reply)

        await connection.call(
            ("INFO", "replication"), take, repeatable=True, timeout=timeout
        )
        if not connection.run_id:
            raise NotOnCluster(
                f"{self.node} does not say which process it is (INFO server), and on a "
                "cluster the cache has to know: grant +info"
            )

    def _is_process(self, run_id: str, replication: bytes) -> None:
        found = _REPLICATION_ID.search(replication)
        if not run_id or found is None:
            return
        name = run_id.encode() + found[1]
        identity = blake2b(name, digest_size=TAG_NONCE_BYTES).digest()
        if self.process is not None and self.process.nonce not in (None, identity):
            self.connection.drop()  # and with it, `process` is another object
        if self.process is not None:
            self.process.nonce = self.mask = identity

    async def believe(self) -> None:
        """Have it believed, if it is not.

        Raises:
            OddswireError: It does not prove that it may be.
        """
        lease = self.coherence
        if lease.now() < lease.until:
            return
        await lease.renew()
        # Where it tells of no changes any more, its versions were dropped by this.
        if lease.now() >= lease.until and not self.connection.untracked:
            raise Unavailable(
                f"{self.node} has the version of a tag, and does not prove that it is "
                "its node",
                outcome=Outcome.REJECTED,
            )

    async def aclose(self) -> None:
        """End the lease, close the connection."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.connection.aclose()


class NodeCoherence(CoherenceLease):
    """Belief in one primary: it acknowledges a write, and it has the slots it had.

    Attributes:
        recheck: Called when the node's view of the cluster has changed.
    """

    recheck: Callable[..., Awaitable[None]]

    def __init__(
        self,
        connection: TrackingConnection,
        client: Client,
        router: Router,
        node: Node,
        *args: Any,
        **options: Any,
    ) -> None:
        self._router, self._node = router, node
        self._view: Any = None
        self._doubt = False
        self._slot = -1
        # Two proofs at once would take each other's messages.
        self._proving = asyncio.Lock()
        super().__init__(connection, client, *args, **options)

    # --- the write that proves: of a key in one of the node's slots

    def _read_lease(self, **options: Any) -> ReadLease:
        return NodeReadLease(self._keep_name, self._moved, **options)

    def _name_keys(self, process: str) -> str:
        for number in count():
            name = f"{process}{number:x}"
            self._slot = int(key_slot(name.encode()))
            if self._router.slots[self._slot] is self._node:
                return super()._name_keys(name)
            if number > _NAMES_AT_MOST:
                break
        raise ClusterDown(f"{self._node} has no slot any more")

    def _keep_name(self) -> None:
        if self._router.slots[self._slot] is not self._node:
            self.reads.use(self._name_keys(secrets.token_hex(8)))

    def _moved(self, error: MovedError) -> None:
        self._router.redirect(error, self._node)

    # --- the heartbeat

    async def heartbeat(self, timeout: float | None = None) -> None:
        """Prove once that memory is right, and that the node has the slots it had."""
        async with self._proving:
            await self._send_heartbeat(timeout)

    async def renew(self) -> None:
        """Prove it, unless that was done while this waited for its turn."""
        async with self._proving:
            if self.now() >= self.until:
                await self._send_heartbeat(None)

    async def _send_heartbeat(self, timeout: float | None) -> None:
        self._keep_name()
        # In this order on the connection: the write proves nothing behind a new view.
        _, proof = await asyncio.gather(
            self._look_at_view(timeout),
            super().heartbeat(timeout),
            return_exceptions=True,
        )
        if self._doubt:
            await self._router.refresh(monotonic() + self._connection.timeout)
            await self.recheck()
            self._doubt = False
        if isinstance(proof, BaseException):
            raise proof

    async def _look_at_view(self, timeout: float | None) -> None:
        def take(reply: Any, *, current: bool) -> None:
            del current
            if not isinstance(reply, list):
                self._doubt = True
                return
            if self._view is not None and reply != self._view:
                self._doubt = True
            self._view = reply

        await self._connection.call(
            ("CLUSTER", "SLOTS"), take, repeatable=True, timeout=timeout
        )

    def _replied(self, sent: float | None) -> None:
        if sent is None or not self._doubt:
            super()._replied(sent)
        else:
            self._connection.expected.clear()

    async def sync(self, timeout: float | None = None) -> None:
        """Learn the node's time, and whether it was promoted since."""
        await super().sync(timeout)
        await self.recheck(timeout)

    async def _touch(self, names: list[str]) -> None:
        # Each is in a slot of its own, and perhaps another node's.
        own = [
            n for n in names if self._router.slots[key_slot(n.encode())] is self._node
        ]
        calls = (self._connection.call(("TOUCH", name)) for name in own)
        await asyncio.gather(*calls, return_exceptions=True)


class NodeReadLease(ReadLease):
    """A `ReadLease` whose key is in one of a node's slots.

    Args:
        keep_name: Takes another key if that slot has moved.
        moved: Called with the MOVED of a slot that has.
        **options: Those of `ReadLease`.
    """

    def __init__(
        self,
        keep_name: Callable[[], None],
        moved: Callable[[MovedError], None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._keep_name, self._moved = keep_name, moved

    def renew(self, connection: Multiplexer) -> None:
        """Send the write on a connection; no task waits for its reply."""
        self._keep_name()
        super().renew(connection)

    def replied(self, connection: Multiplexer, sent: float, reply: Any) -> None:
        """From the parser: take the reply to the write."""
        if isinstance(reply, MovedError):
            self.until = -math.inf
            self._moved(reply)
        super().replied(connection, sent, reply)
