"""`Router`: which node a call goes to, and where next when that one cannot answer.

The map of slots is read when the first call needs it, and again in the background when
something shows that it is old: MOVED, a lost connection, a node that is silent with
calls on it, CLUSTERDOWN. Reading it changes nothing for nodes that stay: their
connections and the calls on them go on.

What follows a first attempt, all of it within the deadline of the call:

1. MOVED: the slot has another owner. Note it, send the call there, read the map.
2. ASK: the key is already at the node that takes the slot over. Send ASKING and the
   call there in one write, so that no other caller comes between them.
3. TRYAGAIN, CLUSTERDOWN, LOADING, MASTERDOWN: a state that passes. Wait and ask the
   owner that the map names then.
4. The connection was lost: send it again only if nothing was sent or the command may
   run twice, as on one server.
5. It was a read, and the replica it went to did not answer, whatever the reason: ask
   the owner, and leave that replica for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from redis.exceptions import AskError, MovedError, ResponseError

from oddswire._tasks import spawn
from oddswire._text import text
from oddswire.client._cluster_keys import ONE_KEY, SCRIPTS, SLOTS, keys_of, slot_of
from oddswire.client._cluster_node import Node, NodeClient
from oddswire.client._cluster_replicas import (
    READ_OF_ONE_KEY,
    Replica,
    ReplicaClient,
    Replicas,
)
from oddswire.client._dialer import NotANode
from oddswire.client._exclusive import run_exclusively
from oddswire.connection.backoff import Backoff
from oddswire.connection.errors import clone_error, from_redis
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.connection.reconnect import LINGER
from oddswire.errors import (
    AuthFailed,
    CircuitOpen,
    ClosedError,
    ClusterDown,
    ConnectionLost,
    Loading,
    MasterDown,
    NoPermission,
    OddswireError,
    Outcome,
    ProtocolBroken,
    SettingsError,
    TryAgain,
    Unavailable,
    WrongLoop,
)
from oddswire.events import Disconnected, Failover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oddswire.client._commands import CommandSpec
    from oddswire.connection.multiplexer import ConnectionMetrics
    from oddswire.events import Event, Events
    from oddswire.settings import Endpoint, Settings
    from oddswire.settings.values import ReadFrom

Address = tuple[str, int]
Calls = list["Callable[..., Any] | None"]
"""By slot, what runs a command there; None: look the node up."""

# Refusals of a state that passes: nothing ran.
_PASSING = (TryAgain, ClusterDown, Loading, MasterDown)

# What no other node will answer differently.
_FINAL = (AuthFailed, NoPermission, SettingsError, ClosedError, WrongLoop)

# Seconds between two readings of the map.
_READ_EVERY = 0.1
# Where replicas are read: nothing shows that there is another one, and the nodes learn
# of it one by one.
_READ_AGAIN = 5.0
# Seconds for one node to answer with the map; a few nodes are asked at once.
_READ_TIMEOUT = 1.0
_ASKED_AT_ONCE = 3
# Seconds to wait for a connection before the map is looked at again.
_CONNECT_SLICE = 0.25
# Seconds of silence, with calls on the connection, that make the map worth reading.
_SILENT = 0.5
# A lone redirection is followed at once; where nodes point at each other, time helps.
_HOPS_AT_ONCE, _HOPS_AT_MOST = 3, 64

# Seconds that a node without slots is kept after it was named by ASK: it is to get one.
_KEPT_AFTER_ASK = 10.0

_DEADLINES_AT_MOST = 16

_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_CLUSTER_SLOTS = pack(("CLUSTER", "SLOTS"))


class Router:
    """Knows the nodes of a cluster and which of them owns each slot.

    Args:
        endpoint: Its seeds are asked for the other nodes.
        settings: Retries and timeouts.
        events: Of all connections.
        metrics: Counted over all nodes.
        make: Returns the client of a node.
        check_loop: Raises `WrongLoop` in another loop than that of the first use.

    Attributes:
        slots: The owner of each slot; None: nobody that is known.
        primaries: The owners, in the order of their first slots.
        metrics: Counted over all nodes.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        events: Events,
        metrics: ConnectionMetrics,
        *,
        make: Callable[[type[NodeClient], Router, str, int], NodeClient],
        on_retry: Callable[[Exception], None],
        check_loop: Callable[[], None],
    ) -> None:
        self.slots: list[Node | None] = [None] * SLOTS
        self.primaries: tuple[Node, ...] = ()
        # By deadline: the `execute_command` of the owner's client; of a read, perhaps
        # that of a replica.
        self._calls: dict[float, Calls] = {}
        self._reads: dict[float, Calls] = {}
        # By deadline, and there by command.
        self._tables: dict[tuple[float, ReadFrom], dict[Any, Calls]] = {}
        self.metrics = metrics
        self._endpoint, self._settings = endpoint, settings
        self._make, self._on_retry, self._check_loop = make, on_retry, check_loop
        self._events, self._emit = events, events.emit
        self._nodes: dict[Address, Node] = {}
        # Replicas, as of the last reading: asked when no primary answers.
        self._replicas: dict[Node, tuple[Address, ...]] = {}
        # None: no reads go there.
        self._readers: Replicas | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._stale = False
        self._failure: OddswireError | None = None
        self._on_change: tuple[Callable[[frozenset[int]], None], ...] = ()
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        lost = WeakMethod(self._on_lost)
        events.subscribe(lambda event: _call(lost, event), Disconnected)

    # --- a call

    def calls_within(self, seconds: float, reads: ReadFrom) -> dict[Any, Calls]:
        """Return what runs a command of one key under this deadline, by its name.

        The lists change with the map. There are some for each of a few deadlines: a
        program that makes up a new one for each call looks its nodes up.

        Args:
            seconds: The deadline.
            reads: Where commands go that change nothing.
        """
        table = self._tables.get((seconds, reads))
        if table is None:
            if len(self._tables) >= _DEADLINES_AT_MOST:
                return {}
            calls = self._calls.setdefault(seconds, [None] * SLOTS)
            table = self._tables[seconds, reads] = dict.fromkeys(ONE_KEY, calls)
            if reads == "replica":
                calls = self._reads.setdefault(seconds, [None] * SLOTS)
                table |= dict.fromkeys(READ_OF_ONE_KEY, calls)
                self._read_replicas()
            self._fill()
        return table

    def _fill(self) -> None:
        """Bring the lists of calls up to date with the map."""
        readers = self.slots
        if self._readers is not None:
            readers = self._readers.readers(self.slots)
        for nodes, lists in ((self.slots, self._calls), (readers, self._reads)):
            for seconds, calls in lists.items():
                runs = {
                    node: node.views[seconds].execute_command
                    for node in set(nodes)
                    if node
                }
                calls[:] = [runs.get(node) if node else None for node in nodes]

    def _read_replicas(self) -> None:
        """Begin to connect to replicas, once reads may go there."""
        if self._readers is None:
            self._readers = Replicas(
                lambda host, port: Replica(
                    host, port, self._make(ReplicaClient, self, host, port)
                ),
                self._close_later,
                self._fill,
                self._events,
            )
            if self.primaries:
                self._readers.take(self._replicas)

    def reader(self, slot: int) -> Node | None:
        """Return the node that reads of a slot go to; None: it is not known."""
        owner = self.slots[slot]
        return owner if self._readers is None else self._readers.reader(owner, slot)

    @property
    def in_use(self) -> tuple[Node, ...]:
        """The primaries, and the replicas that reads go to."""
        readers = () if self._readers is None else self._readers.nodes
        return (*self.primaries, *readers)

    def takes(
        self, reply: Exception, command: CommandSpec, args: tuple[Any, ...]
    ) -> bool:
        """Whether another attempt may bring more than this error reply.

        A node redirects by the slot of the keys. A script that says MOVED of another
        slot says it by itself: the address is given no password, and the map keeps the
        owner. If it says it of its own slot, nothing tells it from the node.
        """
        if isinstance(reply, AskError) and command.name in SCRIPTS:
            keys = keys_of((*command.words, *args[1:])) or []
            return bool(reply.slot_id == slot_of(keys, command.name))
        return isinstance(reply, (AskError, *_PASSING))

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
        repeatable: bool | None = None,
    ) -> Any:
        """Return the reply of the node that has the keys, error replies included.

        Args:
            node: Where it goes, or went, first.
            command: What is known of it.
            args: Its name and arguments.
            data: The same, packed.
            deadline: By `time.monotonic`.
            raw: Do not decode the reply.
            seen: What the first attempt brought; None: there was none.
            repeatable: Whether it may run twice; default: as its command says.

        Raises:
            OddswireError: It was not answered; its `outcome` is that of one server.
        """
        keys = keys_of((*command.words, *args[1:])) or []
        slot = slot_of(keys, command.name)
        if repeatable is None:
            repeatable = command.may_repeat(args)
        losses = self._settings.retries
        backoff = Backoff(base=0.02, cap=0.25)
        hops = 0
        while True:
            asking = False
            if isinstance(node, Replica) and not isinstance(seen, AskError):
                # It may lack its primary, or be silent, or not be connected.
                if self._readers is not None:
                    self._readers.leave(node)
                self.read_soon()
                seen, node = None, await self.owner(slot or 0, deadline)
            elif isinstance(seen, AskError):
                hops += 1
                if hops > _HOPS_AT_ONCE and not await _pause(backoff, deadline):
                    raise _in_circles(seen, node, hops)
                if hops > _HOPS_AT_MOST:
                    raise _in_circles(seen, node, hops)
                asking = not isinstance(seen, MovedError)
                node = self.redirect(seen, node)
            elif isinstance(seen, _PASSING):
                self.read_soon()
                if not await _pause(backoff, deadline):
                    return seen
                node = self._owner_or(slot, node)
            elif seen is not None:
                self.read_soon()
                may_go = repeatable or getattr(seen, "outcome", "") is Outcome.NOT_SENT
                if not may_go or not isinstance(seen, ConnectionLost) or not losses:
                    raise seen
                losses -= 1
                if not await _pause(backoff, deadline):
                    raise seen
                node = self._owner_or(slot, node)
            if isinstance(seen, Exception):
                self._on_retry(seen)
            try:
                node = await self.connected(node, None if asking else slot, deadline)
                seen = await _send(node, data, deadline, command, raw, asking)
            except OddswireError as error:
                if not isinstance(error, ConnectionLost):
                    self.read_soon()
                    raise
                seen = error
                continue
            if not isinstance(seen, Exception) or not self.takes(seen, command, args):
                return seen

    async def run_exclusively(
        self,
        node: Node,
        command: CommandSpec,
        args: tuple[Any, ...],
        options: dict[str, Any],
        timeout: float,
    ) -> Any:
        """Run a command on an exclusive connection to the node that has its keys."""
        keys = keys_of((*command.words, *args[1:])) or []
        slot = slot_of(keys, command.name)
        deadline = monotonic() + timeout
        backoff = Backoff(base=0.02, cap=0.25)
        asking = False
        while True:
            node = await self.connected(node, None if asking else slot, deadline)
            try:
                return await run_exclusively(
                    node.client.connection_pool,
                    command,
                    args,
                    options,
                    timeout,
                    asking=asking,
                )
            except ResponseError as error:
                reply = from_redis(error)
                if not self.takes(reply, command, args) or not await _pause(
                    backoff, deadline
                ):
                    raise
                asking = False
                if isinstance(reply, AskError):
                    asking = not isinstance(reply, MovedError)
                    node = self.redirect(reply, node)
                else:
                    self.read_soon()
                    node = self._owner_or(slot, node)

    def redirect(self, error: AskError, by: Node) -> Node:
        """Return the node that a redirection names; note the new owner of the slot."""
        node = self._node((_host(error.host, by.host), error.port))
        if isinstance(error, MovedError):
            if 0 <= error.slot_id < SLOTS and self.slots[error.slot_id] is not node:
                self.slots[error.slot_id] = node
                self._say_changed(frozenset((error.slot_id,)))
                for lists in (self._calls, self._reads):
                    for seconds, calls in lists.items():
                        calls[error.slot_id] = node.views[seconds].execute_command
            self.read_soon()
        else:
            node.asked_at = monotonic()
        return node

    def _owner_or(self, slot: int | None, node: Node) -> Node:
        return node if slot is None else self.slots[slot] or node

    # --- the node of a call

    async def owner(self, slot: int, deadline: float) -> Node:
        """Return the owner of a slot, reading the map if it is not known.

        Raises:
            ClusterDown: Nobody owns it.
            Unavailable: No node of the cluster answered.
            SettingsError: The server is no cluster.
        """
        while (node := self.slots[slot]) is None:
            if not await self._read(deadline):
                raise self._unknown(f"slot {slot} has no node")
        return node

    async def all_primaries(self, deadline: float) -> tuple[Node, ...]:
        """Return the primaries, reading the map if it is not known."""
        while not self.primaries:
            if not await self._read(deadline):
                raise self._unknown("no slot has a node")
        return self.primaries

    async def any_primary(self, deadline: float) -> Node:
        """Return a primary that is connected; one that a call can go to at once."""
        nodes = await self.all_primaries(deadline)
        ready = [each for each in nodes if each.client.command_connection()]
        if ready:
            return random.choice(ready)  # noqa: S311 - any will do
        waiting = {
            spawn(self.connected(each, None, deadline), name="oddswire any node")
            for each in nodes
        }
        node: Node = await _first(waiting)
        return node

    def _unknown(self, what: str) -> OddswireError:
        failure = self._failure
        if failure is not None:
            return clone_error(failure, failure.outcome)
        covered = sum(each is not None for each in self.slots)
        return ClusterDown(
            f"{what}: the cluster serves {covered} of {SLOTS} slots; see CLUSTER NODES "
            "for the nodes that are down or own nothing"
        )

    async def connected(self, node: Node, slot: int | None, deadline: float) -> Node:
        """Return the node with an open connection, or the one that took over its slot.

        Args:
            node: Where the call is to go.
            slot: Its slot; None: no other node can take its place.
            deadline: By `time.monotonic`.

        Raises:
            OddswireError: As from `ReconnectingConnection.ready`.
        """
        while node.client.command_connection() is None:
            left = deadline - monotonic()
            begun = monotonic()
            try:
                await node.client.open_connection(max(0.0, min(left, _CONNECT_SLICE)))
            except OddswireError as error:
                left_for_good = isinstance(error, ClosedError) and not self._closed
                if isinstance(error, _FINAL) and not left_for_good:
                    raise
                self.read_soon()
                owner = self._owner_or(slot, node)
                if owner is not node:
                    node = owner
                    continue
                left = deadline - monotonic()
                if left <= 0 or isinstance(error, CircuitOpen):
                    raise _unreachable(node, slot, error) from error
                # It may have failed at once; a failover takes its time.
                await asyncio.sleep(
                    max(0.0, min(left, begun + _CONNECT_SLICE - monotonic()))
                )
                node = self._owner_or(slot, node)
        return node

    # --- the map

    def read_soon(self) -> None:
        """Have the map read in the background; many calls of this are one reading."""
        if self._closed:
            return
        self._stale = True
        if self._reading is None:
            self._reading = spawn(self._keep_reading(), name="oddswire cluster map")

    async def _read(self, deadline: float) -> bool:
        """Wait for a reading of the map; False: no further one will help."""
        if self._closed:
            raise ClosedError("the client was closed")
        self._check_loop()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        self.read_soon()
        try:
            await asyncio.wait([waiter], timeout=max(0.0, deadline - monotonic()))
        finally:
            self._waiters.discard(waiter)
        return monotonic() < deadline and not isinstance(self._failure, _FINAL)

    async def _keep_reading(self) -> None:
        try:
            while self._stale and not self._closed:
                await asyncio.sleep(max(0.0, self._read_at - monotonic()))
                self._stale = False
                try:
                    await self._read_once()
                except OddswireError as error:
                    self._failure = error
                self._read_at = monotonic() + _READ_EVERY
                for waiter in self._waiters:
                    if not waiter.done():
                        waiter.set_result(None)
        finally:
            self._reading = None

    async def _read_once(self) -> None:
        """Ask some nodes for the map, then all of them; take the first answer."""
        known = list(self.primaries)
        random.shuffle(known)
        rounds: list[Iterable[Address]] = [
            [(each.host, each.port) for each in known[:_ASKED_AT_ONCE]],
            dict.fromkeys(
                [
                    *self._nodes,
                    *chain.from_iterable(self._replicas.values()),
                    *self._endpoint.seeds,
                ]
            ),
        ]
        failure: OddswireError | None = None
        for addresses in rounds:
            asked = {
                spawn(self._ask(self._node(each)), name="oddswire asking for the map")
                for each in addresses
            }
            if not asked:
                continue
            try:
                answer = await _first(asked)
            except OddswireError as error:
                failure = error
                continue
            self._take(answer)
            self._failure = None
            return
        self._drop_others()
        if isinstance(failure, _FINAL) or failure is None:
            raise failure or Unavailable("the URL names no node")
        raise Unavailable(
            f"no node of the cluster answered ({self._endpoint.address}): {failure}"
        ) from failure

    async def _ask(self, node: Node) -> list[Any]:
        """Return the map as a node has it.

        Raises:
            SettingsError: It is the node of no cluster.
            OddswireError: It cannot be reached, or answers with another error.
        """
        deadline = monotonic() + min(_READ_TIMEOUT, self._settings.command_timeout)
        label = CallLabel("CLUSTER SLOTS")
        answer: Any
        try:
            answer = await node.client.send_once(
                _CLUSTER_SLOTS, deadline, label, raw=True
            )
        except NotANode as error:
            answer = error
        if isinstance(answer, Exception):
            if isinstance(answer, NotANode) or any(
                each in str(answer)
                for each in ("cluster support disabled", "unknown command")
            ):
                raise SettingsError(
                    f"{node} is a server of its own and no node of a cluster: connect "
                    f"with redis://{node}"
                )
            if isinstance(answer, NoPermission):
                raise NoPermission(
                    f"{node}: {answer}, and without it no slot has a node: "
                    "`oddswire acl client` prints what a client of a cluster needs"
                ) from answer
            raise answer
        if not answer:
            raise ClusterDown(
                f"{node} knows of no slot that has a node: it was not joined to the "
                "cluster, or the cluster has no slots yet"
            )
        return _parsed(answer, node.host)

    def _take(self, ranges: list[Any]) -> None:
        """Take over a map: nodes that stay are kept as they are."""
        slots: list[Node | None] = [None] * SLOTS
        owners: dict[Node, None] = {}
        replicas: dict[Node, tuple[Address, ...]] = {}
        for first, last, addresses in sorted(ranges):
            owner = self._node(addresses[0])
            owners[owner] = None
            slots[first : last + 1] = [owner] * (last + 1 - first)
            replicas[owner] = tuple(addresses[1:])
        failovers = self._failovers(owners, slots)
        changed = frozenset(
            slot
            for slot, (old, new) in enumerate(zip(self.slots, slots, strict=True))
            if old is not new
        )
        # In place: a view of the client looks at the same list.
        self.slots[:] = slots
        self.primaries = tuple(owners)
        self._replicas = replicas
        if self._readers is not None:
            self._readers.take(replicas)
        self._fill()
        if changed:
            self._say_changed(changed)
        self._drop_others()
        if self._watch is None and not self._closed:
            self._watch_later()
        # Last: who hears of it looks at the new map.
        for node, heir in failovers.items():
            name = f"command {node}"
            self._emit(Failover(connection=name, old=str(node), new=str(heir)))

    def _failovers(
        self, owners: Iterable[Node], slots: list[Node | None]
    ) -> dict[Node, Node]:
        """Return each node that lost all of its slots, and which node has them now.

        A replica that took over may lack the last writes: whoever keeps something of
        them in this process has to know.
        """
        left = set(self.primaries).difference(owners)
        heirs = {
            node: slots[self.slots.index(node)] for node in left if node in self.slots
        }
        return {node: heir for node, heir in heirs.items() if heir is not None}

    def _drop_others(self) -> None:
        """Leave the nodes that own no slot: answers on their way still come."""
        owners = {*self.primaries, *self.slots}
        recently = monotonic() - _KEPT_AFTER_ASK
        for address, node in list(self._nodes.items()):
            if node not in owners and node.asked_at < recently:
                del self._nodes[address]
                self._close_later(
                    node,
                    ConnectionLost(f"{node} owns no slot of the cluster any more"),
                )

    def _close_later(self, node: Node, reason: ConnectionLost) -> None:
        node.client.connections.command.retire(reason)

        async def close() -> None:
            await asyncio.sleep(2 * LINGER)
            await node.client.aclose()

        task = spawn(close(), name="oddswire leaving a node")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            client = self._make(NodeClient, self, *address)
            node = self._nodes[address] = Node(*address, client)
        return node

    def on_change(
        self, handler: Callable[[frozenset[int]], None]
    ) -> Callable[[], None]:
        """Have `handler` called with the slots that have another owner.

        Returns:
            A function that ends it.
        """
        self._on_change = (*self._on_change, handler)

        def end() -> None:
            self._on_change = tuple(h for h in self._on_change if h is not handler)

        return end

    def _say_changed(self, slots: frozenset[int]) -> None:
        for handler in self._on_change:
            handler(slots)

    async def refresh(self, deadline: float) -> None:
        """Wait until the map was read again."""
        await self._read(deadline)

    # --- signs that the map is old

    def _on_lost(self, event: Event) -> None:
        if not getattr(event, "closed", False) and self.primaries:
            self.read_soon()

    def _watch_later(self) -> None:
        look = WeakMethod(self._look)
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(_SILENT / 2, _call, look)

    def _look(self) -> None:
        """Read the map if a node is silent with calls on it: it may be frozen."""
        now = monotonic()
        for node in self.in_use:
            connection = node.client.connections.command.current
            if (
                connection is not None
                and connection.flow.commands
                and now - connection.last_read > _SILENT
            ):
                if self._readers is not None:
                    self._readers.leave(node)
                self.read_soon()
        if self._readers is not None and now - self._read_at > _READ_AGAIN:
            self.read_soon()
        if not self._closed:
            self._watch_later()

    # --- the end

    async def disconnect(self) -> None:
        """End every connection until the next call needs it."""
        for node in {*self._nodes.values(), *self.in_use}:
            await node.client.connections.disconnect()

    async def aclose(self) -> None:
        """Let the calls finish within the drain timeout, close every connection."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        nodes = {*self._nodes.values(), *self.in_use}
        if self._readers is not None:
            await self._readers.aclose()
        await asyncio.gather(*[each.client.aclose() for each in nodes], *self._tasks)


def _call(method: WeakMethod[Any], *args: Any) -> None:
    alive = method()
    if alive is not None:
        alive(*args)


async def _pause(backoff: Backoff, deadline: float) -> bool:
    """Pause before another attempt; False: no time is left for its answer."""
    pause = backoff.failed()
    if monotonic() + 2 * pause >= deadline:
        return False
    await asyncio.sleep(pause)
    return True


async def _send(
    node: Node,
    data: bytes,
    deadline: float,
    command: CommandSpec,
    raw: bool,  # noqa: FBT001 - between two functions of this file
    asking: bool,  # noqa: FBT001 - the same
) -> Any:
    """Send it to this node; behind ASKING, in the same write, if ASK named it."""
    if not asking:
        return await node.client.send_once(data, deadline, command, raw=raw)
    asked, reply = await node.client.send_once(
        _ASKING + data, deadline, command, count=2, raw=raw
    )
    # Without ASKING the command is sent back to where it came from.
    return asked if isinstance(asked, Exception) else reply


async def _first(tasks: set[asyncio.Task[Any]]) -> Any:
    """Return the first result, or the most telling error if there is none."""
    failures: list[BaseException] = []
    try:
        pending = tasks
        while pending:
            done, pending = await asyncio.wait(
                pending, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (error := task.exception()) is None:
                    return task.result()
                failures.append(error)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    raise next((each for each in failures if isinstance(each, _FINAL)), failures[0])


def _parsed(answer: Any, here: str) -> list[tuple[int, int, list[Address]]]:
    """Return each range of slots with its addresses, the primary's first."""
    try:
        ranges = [
            (
                int(first),
                int(last),
                [(_host(text(each[0] or b""), here), int(each[1])) for each in nodes],
            )
            for first, last, *nodes in answer
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise ProtocolBroken(
            f"the map of the cluster cannot be read: {error}"
        ) from error
    for first, last, nodes in ranges:
        if not 0 <= first <= last < SLOTS or not nodes:
            raise ProtocolBroken(f"the map of the cluster has the range {first}-{last}")
    return ranges


def _host(host: str, here: str) -> str:
    """Return a host that a node named; `here` if it does not know its own."""
    return here if host in ("", "?") else host


def _in_circles(error: AskError, by: Node, hops: int) -> OddswireError:
    return Unavailable(
        f"redirected {hops} times, at last by {by} to {error.host}:{error.port}: the "
        f"nodes disagree about slot {error.slot_id}; see CLUSTER NODES on both",
        outcome=Outcome.REJECTED,
    )


def _unreachable(node: Node, slot: int | None, error: OddswireError) -> OddswireError:
    of = "" if slot is None else f" for slot {slot}"
    failure = clone_error(error, error.outcome)
    said = (
        f"{node}, which the cluster names{of}: {error}; if that address is wrong from "
        "here, set cluster-announce-ip or cluster-announce-hostname on the node"
    )
    failure.args = (said,)
    return failure
