"""A cluster, and a primary with replicas and sentinels, of embedded servers.

For tests of what happens when a node dies: real servers that are ready when the block
is entered. They share one password, and each can be killed and restarted by itself.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from redis.exceptions import ResponseError

from oddswire.embedded._ask import ask, info
from oddswire.embedded.server import EmbeddedServer
from oddswire.errors import ClosedError, EmbeddedFailed

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

_HOST = "127.0.0.1"
_SLOTS = 16_384
_SETTLE_SECONDS = 20.0
_POLL_FIRST, _POLL_MOST = 0.02, 0.2
# A primary otherwise waits 5 s for further replicas before the first transfer.
_REPLICATION = ("--repl-diskless-sync-delay", "0")


class _Topology(ABC):
    """Servers that start in order, share a password, and end in reverse order."""

    def __init__(self, binary: str | os.PathLike[str] | None) -> None:
        self.password = secrets.token_hex(16)
        self.replicas: list[EmbeddedServer] = []
        self._binary = binary
        self._stack = AsyncExitStack()
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ClosedError(f"{type(self).__name__} is single use: make a new one")
        self._entered = True
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _open(self) -> None:
        """Start the servers and wait until they know one another."""

    async def _start(
        self, *args: str, kind: type[EmbeddedServer] = EmbeddedServer
    ) -> EmbeddedServer:
        server = kind(args=args, binary=self._binary, password=self.password)
        return await self._stack.enter_async_context(server)

    async def _in_touch(self) -> bool:
        states = [await info(each.url, "replication") for each in self.replicas]
        return all(state.get("master_link_status") == "up" for state in states)


class EmbeddedCluster(_Topology):
    """A cluster: ``async with EmbeddedCluster(primaries=3, replicas=0) as cluster``.

    When the block is entered every node reports the state ok, knows every other node,
    and each replica is in touch with its primary. Single use. Cancelled while
    entering or leaving: no process is left.

    Args:
        primaries: How many primaries; they share the slots evenly, in order.
        replicas: How many replicas each primary has.
        node_timeout: Seconds after which a silent node counts as failed.
        args: Further options of every node, as for `EmbeddedServer`.
        binary: The server program; see `find_binary`.

    Attributes:
        primaries: The nodes that started as primaries.
        replicas: The nodes that started as replicas: those of the first primary
            first.
        password: The password of every node.

    Raises:
        EmbeddedFailed: A node did not start, or the nodes did not agree in 20 s.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        node_timeout: float = 1.0,
        args: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(binary)
        if primaries < 1 or replicas < 0:
            raise EmbeddedFailed("a cluster has at least 1 primary and 0 replicas")
        self.primaries: list[EmbeddedServer] = []
        self._primary_count = primaries
        self._replica_count = replicas
        self._args = (
            *("--cluster-enabled", "yes"),
            *("--cluster-announce-ip", _HOST),
            *("--cluster-node-timeout", str(round(node_timeout * 1000))),
            *("--masterauth", self.password),
            *_REPLICATION,
            *args,
        )

    @property
    def servers(self) -> Sequence[EmbeddedServer]:
        """All nodes, those that started as primaries first."""
        return (*self.primaries, *self.replicas)

    @property
    def url(self) -> str:
        """The URL of the first node."""
        if not self.primaries:
            raise ClosedError("the embedded cluster is not started: use `async with`")
        return self.primaries[0].url

    @property
    def cluster_url(self) -> str:
        """``cluster://`` with the nodes that started as primaries."""
        address = self.url.rpartition("@")[0].partition("://")[2]
        nodes = ",".join(f"{each.host}:{each.port}" for each in self.primaries)
        return f"cluster://{address}@{nodes}"

    async def move_slots(
        self,
        first: int,
        last: int,
        source: EmbeddedServer,
        target: EmbeddedServer,
        *,
        atomic: bool = False,
    ) -> None:
        """Move slots from one primary to another while clients use them.

        A primary that gives away its last slot becomes a replica.

        Args:
            first: The first of the slots.
            last: The last of them.
            source: The primary that owns them.
            target: The primary that gets them.
            atomic: Whether they move all at once, which needs Valkey 9. Otherwise they
                move slot by slot and key by key, and clients meet ASK redirections.

        Raises:
            EmbeddedFailed: The migration failed, or took longer than 20 s.
        """
        if atomic:
            owner = await ask(target.url, "CLUSTER", "MYID")
            await ask(
                source.url,
                *("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", owner),
            )
        else:
            for slot in range(first, last + 1):
                await self._move_slot(slot, source, target)

        async def everybody_knows() -> bool:
            if atomic:
                newest = (await ask(source.url, "CLUSTER", "GETSLOTMIGRATIONS"))[0]
                if newest["state"] == "failed":
                    raise EmbeddedFailed(f"the slots stay: {newest['message']}")
            return all(
                [
                    await _owner_port(server, first) == target.port
                    and await _owner_port(server, last) == target.port
                    for server in (source, target)
                ]
            )

        await _until(everybody_knows, f"the slots {first}-{last} to move")

    async def _move_slot(
        self, slot: int, source: EmbeddedServer, target: EmbeddedServer
    ) -> None:
        old = await ask(source.url, "CLUSTER", "MYID")
        new = await ask(target.url, "CLUSTER", "MYID")
        await ask(target.url, "CLUSTER", "SETSLOT", slot, "IMPORTING", old)
        await ask(source.url, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)
        while keys := await ask(source.url, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            await ask(
                source.url,
                *("MIGRATE", _HOST, target.port, "", 0, 5000),
                *("AUTH", self.password, "KEYS", *keys),
            )
        # The new owner first: until it knows, nobody owns the slot.
        for server in (target, source):
            await ask(server.url, "CLUSTER", "SETSLOT", slot, "NODE", new)

    async def _open(self) -> None:
        for _ in range(self._primary_count):
            self.primaries.append(await self._start(*self._args))
        for _ in range(self._primary_count * self._replica_count):
            self.replicas.append(await self._start(*self._args))
        await self._share_slots()
        first = self.primaries[0]
        for server in self.servers[1:]:
            await ask(first.url, "CLUSTER", "MEET", _HOST, server.port)
        await _until(self._all_met, "the cluster nodes to know each other")
        for number, replica in enumerate(self.replicas):
            primary = self.primaries[number // self._replica_count]
            node_id = await ask(primary.url, "CLUSTER", "MYID")
            await ask(replica.url, "CLUSTER", "REPLICATE", node_id)
        await _until(self._all_agree, "the cluster state to be ok on every node")

    async def _share_slots(self) -> None:
        count = self._primary_count
        for number, server in enumerate(self.primaries):
            # Distinct epochs from the start: else the nodes settle them one by one.
            await ask(server.url, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, after = number * _SLOTS // count, (number + 1) * _SLOTS // count
            await ask(server.url, "CLUSTER", "ADDSLOTSRANGE", first, after - 1)

    async def _all_met(self) -> bool:
        return all([len(await _peers(s)) == len(self.servers) for s in self.servers])

    async def _all_agree(self) -> bool:
        for server in self.servers:
            state: str = await ask(server.url, "CLUSTER", "INFO")
            if "cluster_state:ok" not in state:
                return False
            # The other nodes learn of a new replica later than the replica itself.
            replicas = [flags for flags in await _peers(server) if "slave" in flags]
            if len(replicas) != len(self.replicas):
                return False
        return await self._in_touch()


class EmbeddedSentinels(_Topology):
    """A primary, its replicas and the sentinels that watch them.

    ``async with EmbeddedSentinels(replicas=1, sentinels=3) as group``. When the block
    is entered the replicas are in touch with the primary, and every sentinel knows the
    primary, all replicas and all other sentinels: a failover would find its votes.
    Single use. Cancelled while entering or leaving: no process is left.

    Args:
        replicas: How many replicas.
        sentinels: How many sentinels; more than half of them decide.
        name: The name under which the sentinels know the primary.
        down_after: Seconds after which a silent server counts as down. Below 1 s a
            busy machine makes healthy servers look down.
        args: Further options of the primary and the replicas, as for
            `EmbeddedServer`.
        binary: The server program; see `find_binary`.

    Attributes:
        primary: The server that started as primary.
        replicas: The servers that started as replicas.
        sentinels: The sentinels; they need the password too.
        name: The name of the primary.
        password: The password of every server and sentinel.

    Raises:
        EmbeddedFailed: A server did not start, or they did not find each other in
            20 s.
    """

    primary: EmbeddedServer

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        name: str = "oddswire",
        down_after: float = 1.0,
        args: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(binary)
        if replicas < 0 or sentinels < 1:
            raise EmbeddedFailed("a group has at least 1 sentinel and 0 replicas")
        self.name = name
        self.sentinels: list[EmbeddedServer] = []
        self._replica_count = replicas
        self._sentinel_count = sentinels
        self._down_after = round(down_after * 1000)
        self._args = ("--masterauth", self.password, *_REPLICATION, *args)

    @property
    def servers(self) -> Sequence[EmbeddedServer]:
        """The server that started as primary, then the replicas; no sentinels."""
        return (self.primary, *self.replicas)

    async def _open(self) -> None:
        self.primary = await self._start(*self._args)
        address = (_HOST, str(self.primary.port))
        for _ in range(self._replica_count):
            self.replicas.append(
                await self._start(*self._args, "--replicaof", *address)
            )
        await _until(self._in_touch, "the replicas to follow the primary")
        for _ in range(self._sentinel_count):
            self.sentinels.append(await self._start_sentinel(address))
        await _until(self._sentinels_agree, "the sentinels to find each other")

    async def _start_sentinel(self, address: tuple[str, str]) -> EmbeddedServer:
        quorum = str(self._sentinel_count // 2 + 1)
        sentinel = await self._start(
            *("--sentinel", "monitor", self.name, *address, quorum),
            *("--sentinel", "auth-pass", self.name, self.password),
            *("--sentinel", "sentinel-pass", self.password),
            *("--sentinel", "down-after-milliseconds", self.name),
            str(self._down_after),
            *("--sentinel", "failover-timeout", self.name, "3000"),
            kind=_Sentinel,
        )
        # By default a sentinel greets the others every 2 s, reads the roles every 10 s,
        # and refuses to act for 30 s after a stall of 2 s: that only makes tests slow.
        # It pings once a second, so that one slow answer would count as down. But five
        # pings must last longer than a second: while the primary is down, a sentinel
        # reads each replica once a second, and promotes none that it last read
        # more than five pings ago.
        await ask(
            sentinel.url,
            *("SENTINEL", "DEBUG", "PUBLISH-PERIOD", 200, "INFO-PERIOD", 500),
            *("TILT-PERIOD", 1000, "PING-PERIOD", 400),
        )
        return sentinel

    async def _sentinels_agree(self) -> bool:
        for sentinel in self.sentinels:
            primary = await ask(sentinel.url, "SENTINEL", "MASTER", self.name)
            others = int(primary["num-other-sentinels"])
            if primary["flags"] != "master" or others != self._sentinel_count - 1:
                return False
            found = await ask(sentinel.url, "SENTINEL", "REPLICAS", self.name)
            good = [one for one in found if one["master-link-status"] == "ok"]
            if len(good) != self._replica_count:
                return False
        return True


class _Sentinel(EmbeddedServer):
    _argv = ("--sentinel",)
    _marker = b"Sentinel ID is"


async def _owner_port(server: EmbeddedServer, slot: int) -> int:
    """The port of the slot's owner, as this node sees it."""
    ranges = await ask(server.url, "CLUSTER", "SLOTS")
    return next((r[2][1] for r in ranges if r[0] <= slot <= r[1]), 0)


async def _peers(server: EmbeddedServer) -> list[str]:
    """The flags of each node that this node is connected to, itself included."""
    text: str = await ask(server.url, "CLUSTER", "NODES")
    nodes = [line.split(" ") for line in text.splitlines()]
    return [
        flags
        for _, _, flags, _, _, _, _, link, *_ in nodes
        if link == "connected" and "handshake" not in flags and "fail" not in flags
    ]


async def _until(check: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll the check: no server announces that all the others agree with it."""
    pause = _POLL_FIRST
    try:
        async with asyncio.timeout(_SETTLE_SECONDS):
            while not await check():
                await asyncio.sleep(pause)
                pause = min(2 * pause, _POLL_MOST)
    except TimeoutError:
        raise EmbeddedFailed(
            f"waited {_SETTLE_SECONDS:.0f} s for {what}; is the machine overloaded?"
        ) from None
    except (ResponseError, OSError) as error:
        raise EmbeddedFailed(
            f"a server failed while waiting for {what}: {error}"
        ) from error
