"""A load that is under way, what was asked for, and what its loader is told."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.errors import CacheLoadCycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oddswire.cache._cell import Snapshot
    from oddswire.cache._memory import Item
    from oddswire.cache._space import Place
    from oddswire.errors import OddswireError


class Fresh(NamedTuple):
    """How long a value shall serve: seconds."""

    ttl: float
    stale: float
    version: int | None = None


class Want(NamedTuple):
    """What a caller asked for.

    Attributes:
        loader: Returns the value or an awaitable of it; may take a `Load`.
        kind: The type of the value.
        negative_ttl: Seconds for which a None is fresh; 0: not kept; None: as others.
        tags: Digests.
        version: Of the value, or a function from the value to it.
        max_age: Seconds after which a value is stale for this caller, fresh or not.
    """

    place: Place
    loader: Callable[..., Any]
    kind: Any
    ttl: float
    stale: float
    negative_ttl: float | None
    tags: tuple[bytes, ...]
    version: int | Callable[[Any], int] | None
    max_age: float | None = None


class Load:
    """What a loader gets as its only argument, if it has one: what is there.

    Attributes:
        found: Whether there is an old value.
        value: The old value, or None.
        version: Its version, 0 without.
        ttl: Set it to keep this value for so many seconds.
    """

    __slots__ = ("found", "ttl", "value", "version")

    def __init__(self, old: Item | None) -> None:
        self.found = old is not None
        self.value: Any = old.value if old is not None else None
        self.version = old.details.version if old is not None else 0
        self.ttl: float | None = None

    def not_modified(self) -> Any:
        """Return the old value, for the loader to return: it is kept for longer.

        Raises:
            LookupError: There is none.
        """
        if not self.found:
            raise LookupError("there is no old value; look at `found` first")
        return self.value


class Flight:
    """A load that is under way.

    Attributes:
        snapshot: The nonces it loads under; None: they are being read.
        began: When, by the boot-time clock.
        born: `Nonces.invalidations` when it began.
        dead: It must not be joined, and what it loads must not be stored.
        held: The lease is, or may be, ours.
        waiters: Callers who wait for it.
        loaders: Flights whose loaders are among them, as often as they wait.
        bypassed: It loads without Redis.
        keep: It goes on when the last of them has left.
        elsewhere: Called when it turns out that another process loads.
        force: It loads whatever is there, and robs whoever loads.
        unstored: Why Redis does not have, for certain, what a forced one loaded.
    """

    __slots__ = (
        "began",
        "born",
        "bypassed",
        "dead",
        "elsewhere",
        "force",
        "future",
        "held",
        "keep",
        "loaders",
        "old",
        "snapshot",
        "task",
        "token",
        "unstored",
        "waiters",
        "want",
    )

    def __init__(
        self, want: Want, born: int, old: Item | None, *, keep: bool, began: float
    ) -> None:
        self.want = want
        self.began = began
        self.born = born
        self.old = old
        self.keep = keep
        self.elsewhere: Callable[[], None] | None = None
        self.token = secrets.token_bytes(16)
        self.snapshot: Snapshot | None = None
        self.dead = False
        self.force = False
        self.unstored: OddswireError | None = None
        self.held = False
        self.waiters = 0
        self.loaders: list[Flight] = []
        self.bypassed = False
        self.future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        # All may have left; an error that nobody waits for is counted, not reported.
        self.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.task: asyncio.Task[None] | None = None

    def hold(self) -> None:
        """From the parser: the lease is ours, or may be."""
        self.held = True


loading: ContextVar[tuple[Flight, ...]] = ContextVar("oddswire_loading", default=())
"""The flights whose loader this code is part of, also in tasks that the loader began.

One, but for the loader of a batch: it is that of every key of the batch.
"""


def refuse_cycle(waiting: Iterable[Flight], wanted: Want, token: bytes = b"") -> None:
    """Make sure that a load does not wait for one that waits for it.

    Each flight knows the flights whose loaders wait for it. Followed upwards from who
    is about to wait, that is a chain of loads, and the ring is closed where it gets to
    what is about to be waited for. Over processes a chain is not known: a load that
    another process holds is told from one of the chain by the token of its lease.

    Args:
        waiting: Who is about to wait.
        wanted: For what.
        token: What holds its lease, where that is not a flight of this cache.

    Raises:
        CacheLoadCycle: It does.
    """
    chains: list[tuple[Flight, ...]] = [(flight,) for flight in waiting]
    seen: set[Flight] = set()
    for chain in chains:
        flight = chain[-1]
        # What has ended waits for nothing: a task may outlive the loader that began it.
        if flight in seen or flight.future.done():
            continue
        seen.add(flight)
        if token:
            found = token.startswith(flight.token)
        else:
            place = flight.want.place
            found = place.key == wanted.place.key and place.space is wanted.place.space
        if found:
            keys = [each.want.place.key for each in reversed(chain)]
            ring = " -> ".join([*keys, wanted.place.key])
            raise CacheLoadCycle(f"a loader waits for itself: {ring}")
        chains += [(*chain, each) for each in flight.loaders]


def takes_load(loader: Callable[..., Any]) -> bool:
    """Whether a loader wants a `Load`: it has a parameter without a default."""
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )
