"""The servers of a cache: one, or the primaries of a cluster.

Each has a tracking connection of its own, and is believed by itself (`CoherenceLease`).
What the cache does with a key it does at the server of the key's slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from redis.exceptions import AskError, MovedError

from oddswire.cache._record import TAG_NONCE_BYTES
from oddswire.errors import Outcome, TryAgain, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from oddswire.cache._coherence import CoherenceLease
    from oddswire.cache._tag_version import Snapshot, TagVersion
    from oddswire.cache._tracking import Listener, TrackingConnection
    from oddswire.errors import OddswireError

T = TypeVar("T")


class SlotMoved(Unavailable):
    """A value was made for another server process than the one that has its slot now.

    There it would be void. That of a load may be older than an invalidation which the
    other process never heard of.
    """

    @classmethod
    def found(cls) -> SlotMoved:
        """Return it; nothing was sent."""
        return cls("the slot of the key has moved", outcome=Outcome.NOT_SENT)

    def raised(self) -> Unavailable:
        """Return it as callers know it."""
        return Unavailable(str(self), outcome=self.outcome)


def gone_ahead(error: OddswireError) -> bool:
    """Whether a server says that the key is already where its slot goes (ASK)."""
    return isinstance(error, AskError) and not isinstance(error, MovedError)


def on_its_way(error: OddswireError) -> bool:
    """Whether a server says so, or that some of the keys are (TRYAGAIN)."""
    return gone_ahead(error) or isinstance(error, TryAgain)


class CacheServer:
    """One server as the cache sees it.

    Attributes:
        connection: The tracking connection.
        coherence: Whether it is believed, and its time.
        process: On a cluster the version that stands for the server process: each
            entry carries that of the server it was written to.
        lost: The last `process`, its nonce, and how much this process of ours had
            invalidated when the connection was lost.
        mask: On a cluster, what the nonces of tags from there are combined with.
        down_until: It did not answer; loads do without it until then.
    """

    __slots__ = ("coherence", "connection", "down_until", "lost", "mask", "process")

    def __init__(
        self, connection: TrackingConnection, coherence: CoherenceLease
    ) -> None:
        self.connection = connection
        self.coherence = coherence
        self.process: TagVersion | None = None
        self.lost: tuple[TagVersion, bytes, int] | None = None
        self.mask = bytes(TAG_NONCE_BYTES)
        self.down_until = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether the tracking connection is open."""
        return self.connection.client.command_connection() is not None

    async def identify(self, timeout: float | None = None) -> None:
        """Find out which server process answers, where entries name it."""


class Servers(Protocol):
    """Those of a cache.

    Attributes:
        on_cluster: Whether there are several.
        epoch: Changes whenever memory of any of them was dropped.
    """

    on_cluster: ClassVar[bool]

    epoch: int

    @property
    def untracked(self) -> bool:
        """Whether one of them tells of no changes."""

    @property
    def all(self) -> Sequence[CacheServer]:
        """Those that are known."""

    def slot(self, name: str) -> int:
        """Return the slot of a Redis key."""

    def at(self, slot: int) -> CacheServer | None:
        """Return the server of a slot; None: it is not known."""

    async def find(self, slot: int) -> CacheServer:
        """Return the server of a slot, asking which it is."""

    def run(
        self,
        slot: int,
        call: Callable[[CacheServer], Awaitable[T]],
        *,
        waits: bool = True,
    ) -> Awaitable[T]:
        """Return what a call at the server of a slot returns."""

    async def follow(
        self, error: OddswireError, server: CacheServer, deadline: float
    ) -> bool:
        """Whether to ask again after this error, perhaps another server."""

    def until(self, stamps: Snapshot | None) -> float:
        """Return until when what was stored under these versions is believed."""

    async def believe(self, stamps: Snapshot, server: CacheServer) -> None:
        """Have the servers believed that these versions are from, beside this one."""

    def want(self) -> None:
        """Memory would be read if it were believed."""

    async def remove(self, names: Sequence[str]) -> int:
        """Remove keys of slots that are on their way to another server."""

    def listen(self, prefix: bytes, listener: Listener) -> None:
        """Call `listener` with each change of a key with this prefix."""

    def on_drop(self, handler: Callable[[CacheServer], None]) -> None:
        """Call `handler` when what is known of a server is void."""

    def on_moved(self, handler: Callable[[frozenset[int]], None]) -> None:
        """Call `handler` when slots have another server."""

    async def start(self, timeout: float) -> None:
        """Have the servers believed for the first time."""

    def work(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return what runs until the cache is closed."""

    async def aclose(self) -> None:
        """Close every connection."""


class OneServer:
    """The servers of a cache on one server.

    Args:
        server: That one.

    Attributes:
        server: As given.
        all: It alone.
        epoch: Changes whenever memory was dropped.
    """

    on_cluster: ClassVar[bool] = False

    def __init__(self, server: CacheServer) -> None:
        self.server = server
        self.all = (server,)
        self._connection, self._coherence = server.connection, server.coherence
        self.want = server.coherence.want
        self.epoch = 0
        server.connection.on_drop(self._dropped)

    def _dropped(self) -> None:
        self.epoch += 1

    @property
    def untracked(self) -> bool:
        """Whether it tells of no changes."""
        return self._connection.untracked

    def slot(self, name: str) -> int:
        """Return 0: slots do not matter."""
        del name
        return 0

    def at(self, slot: int) -> CacheServer:
        """Return it."""
        del slot
        return self.server

    async def find(self, slot: int) -> CacheServer:
        """Return it."""
        del slot
        return self.server

    def run(
        self,
        slot: int,
        call: Callable[[CacheServer], Awaitable[T]],
        *,
        waits: bool = True,
    ) -> Awaitable[T]:
        """Return the call, to be awaited: it costs no coroutine of its own."""
        del slot, waits
        return call(self.server)

    async def follow(
        self, error: OddswireError, server: CacheServer, deadline: float
    ) -> bool:
        """Return False: there is no other server."""
        del error, server, deadline
        return False

    def until(self, stamps: Snapshot | None) -> float:
        """Return until when memory is believed."""
        del stamps
        return self._coherence.until

    async def believe(self, stamps: Snapshot, server: CacheServer) -> None:
        """Do nothing: an answer of the server comes behind its messages."""

    async def remove(self, names: Sequence[str]) -> int:
        """Refuse: one server has no slot on its way.

        Raises:
            Unavailable: The server is a node of a cluster, and the URL says otherwise.
        """
        del names
        raise Unavailable(
            "the server moves slots, so it is a node of a cluster: give cluster:// "
            "in place of redis://",
            outcome=Outcome.REJECTED,
        )

    def listen(self, prefix: bytes, listener: Listener) -> None:
        """Call `listener` with each change of a key with this prefix."""
        self._connection.listen(prefix, listener)

    def on_drop(self, handler: Callable[[CacheServer], None]) -> None:
        """Call `handler` when all of memory is void."""
        self._connection.on_drop(lambda: handler(self.server))

    def on_moved(self, handler: Callable[[frozenset[int]], None]) -> None:
        """Do nothing: no slot moves."""

    async def start(self, timeout: float) -> None:
        """Prove once that memory is right; see `CoherenceLease.heartbeat`."""
        await self._coherence.heartbeat(timeout=timeout)

    def work(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return what keeps the lease."""
        return (self._coherence.run(),)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
