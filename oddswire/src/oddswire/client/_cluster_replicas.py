"""`Replicas`: where reads go that may be a little old, and what stands in for them.

A replica is read only while it answers. One that does not is left for a second, and
its primary is asked in its place: first for the calls that were on their way to the
replica, each within its own deadline, and then for all reads until the replica answers
again.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from oddswire._tasks import spawn
from oddswire.client._cluster_keys import ONE_KEY
from oddswire.client._cluster_node import Node, NodeClient
from oddswire.client._commands import READS
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.errors import ConnectionLost, OddswireError
from oddswire.events import Degradation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oddswire.client._commands import CommandSpec
    from oddswire.events import Events

READ_OF_ONE_KEY = ONE_KEY & READS
"""Commands of the fast path that a replica answers."""

# Seconds for a replica to answer a call before its primary is asked; half of a deadline
# that is shorter than twice this.
_PATIENCE = 0.5
# Seconds until a replica that did not answer is tried again.
_REST = 1.0
_TRY = 1.0

_PING = pack(("PING",))
_LABEL = CallLabel("PING")


class ReplicaClient(NodeClient):
    """The client of a replica: the primary is asked for what it does not answer.

    Each connection begins with READONLY, which lets the replica answer reads.
    """

    _on_connect = (("READONLY",),)
    # Seconds of a call's deadline that are left when the replica's time is over.
    _left = 0.0

    def bounded(self, seconds: float) -> Self:
        """Return this client with another deadline, a part of it for the primary."""
        patience = min(_PATIENCE, seconds / 2)
        view = super().bounded(patience)
        view._left = seconds - patience  # noqa: SLF001 - a copy of this very object
        return view

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
        deadline += self._left
        return await super()._run(seen, command, args, data, deadline, raw=raw)


class Replica(Node):
    """A node that reads are sent to.

    Attributes:
        answers: Whether they are sent there now.
    """

    __slots__ = ("answers",)

    def __init__(self, host: str, port: int, client: NodeClient) -> None:
        super().__init__(host, port, client)
        # Every deadline has to leave time for the primary, that of the client too.
        self.views.clear()
        self.answers = False


class Replicas:
    """The replicas of each primary, as of the last reading of the map.

    Args:
        make: Returns the replica at an address.
        close: Closes a node once its last replies are here.
        changed: Called when another set of replicas answers.
        events: Of all connections.
    """

    def __init__(
        self,
        make: Callable[[str, int], Replica],
        close: Callable[[Node, ConnectionLost], None],
        changed: Callable[[], None],
        events: Events,
    ) -> None:
        self._make, self._close, self._changed = make, close, changed
        self._nodes: dict[tuple[str, int], Replica] = {}
        self._of: dict[Node, tuple[Replica, ...]] = {}
        # So that a key that is read most is not read from one replica by all processes.
        self._offset = random.randrange(1 << 16)  # noqa: S311 - any will do
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._degraded = Degradation(events, "client", "replica reads", monotonic)

    @property
    def nodes(self) -> tuple[Replica, ...]:
        """Every replica, also those that do not answer."""
        return tuple(self._nodes.values())

    def take(self, replicas: Mapping[Node, Sequence[tuple[str, int]]]) -> None:
        """Take over who replicates whom: replicas that stay are kept as they are."""
        wanted = {address for each in replicas.values() for address in each}
        for address in self._nodes.keys() - wanted:
            node = self._nodes.pop(address)
            node.answers = False
            self._close(node, ConnectionLost(f"{node} is no replica any more"))
        for address in wanted - self._nodes.keys():
            node = self._nodes[address] = self._make(*address)
            self._try(node, after=0.0)
        self._of = {
            owner: tuple(self._nodes[each] for each in addresses)
            for owner, addresses in replicas.items()
        }
        self._say()

    def reader(self, owner: Node | None, slot: int) -> Node | None:
        """Return the node that a read of this slot goes to."""
        if owner is None:
            return None
        ready = [each for each in self._of.get(owner, ()) if each.answers]
        return ready[(slot + self._offset) % len(ready)] if ready else owner

    def readers(self, slots: Sequence[Node | None]) -> list[Node | None]:
        """Return the node that reads go to, by slot."""
        ready: dict[Node, list[Node]] = {
            owner: [each for each in replicas if each.answers] or [owner]
            for owner, replicas in self._of.items()
        }
        return [
            owner
            and (nodes := ready.get(owner, [owner]))[(slot + self._offset) % len(nodes)]
            for slot, owner in enumerate(slots)
        ]

    def leave(self, node: Node) -> None:
        """Send no reads to a replica that did not answer, until it does."""
        if not isinstance(node, Replica) or not node.answers or self._closed:
            return
        node.answers = False
        self._try(node, after=_REST)
        self._say()
        self._changed()

    def _try(self, node: Replica, *, after: float) -> None:
        task = spawn(self._bring_back(node, after), name="oddswire trying a replica")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_back(self, node: Replica, pause: float) -> None:
        while self._nodes.get((node.host, node.port)) is node:
            await asyncio.sleep(pause)
            pause = _REST
            try:
                reply = await node.client.send_once(_PING, monotonic() + _TRY, _LABEL)
            except OddswireError:
                continue
            # One that lost its primary may refuse to answer (MASTERDOWN).
            if not isinstance(reply, Exception) and not self._closed:
                node.answers = True
                self._say()
                self._changed()
                return

    def _say(self) -> None:
        silent = [str(each) for each in self._nodes.values() if not each.answers]
        if silent:
            self._degraded.begin(f"primaries are read in place of {', '.join(silent)}")
        else:
            self._degraded.end()

    async def aclose(self) -> None:
        """Stop trying replicas."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
