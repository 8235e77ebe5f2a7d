"""`Flight`: a load that is under way, and what keeps flights from waiting in a ring."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oddswire.errors import CacheLoadCycle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from oddswire.cache._l1 import Item
    from oddswire.cache._tag_version import Snapshot
    from oddswire.cache.entry import LoadRequest
    from oddswire.errors import OddswireError


@dataclass(slots=True, eq=False, kw_only=True)
class Flight:
    """A load that is under way, with all callers of this process that wait for it.

    Attributes:
        request: What it loads, and how.
        future: The entry; its callers wait for it.
        token: What its lease holds.
        began: By the boot-time clock.
        invalidation_epoch: `TagVersions.invalidations` when it began.
        known_header: The first bytes of the record that it is to replace; None: none is
            known. A look treats that record as absent, and finds any newer one.
        old: The entry that it refreshes.
        background: It goes on when the last caller has left.
        bypass: It loads without Redis.
        lookup_skipped: No lookup in Redis preceded it: an entry that its first look
            finds may serve, also a stale one.
        found: Its first look found such an entry, so the loader was not called.
        force: It loads although an entry is there, and steals the lease of another.
        steal: The token of a dead flight of this process, whose lease it takes; empty:
            there is none.
        asks_for_lease: A look was sent and not answered: it may have taken the lease.
        owns_lease: The lease is ours, or may be.
        snapshot: The nonces it loads under; None: they are being read.
        dead: No caller may join it, and its value must not be stored.
        unstored: Why Redis does not have, for certain, the value of a forced flight.
        waiters: Callers that wait for it.
        loaders: Flights whose loaders wait for it, each as often as it waits.
        loader_ended: Its lease needs no renewal any more.
        renewals: How often the lease was renewed.
        task: What performs it.
    """

    request: LoadRequest
    future: asyncio.Future[Item]
    token: bytes
    began: float
    invalidation_epoch: int
    known_header: bytes | None = None
    old: Item | None = None
    background: bool = False
    bypass: bool = False
    lookup_skipped: bool = False
    found: bool = False
    force: bool = False
    steal: bytes = b""
    asks_for_lease: bool = False
    owns_lease: bool = False
    snapshot: Snapshot | None = None
    dead: bool = False
    unstored: OddswireError | None = None
    waiters: int = 0
    loaders: list[Flight] = field(default_factory=list)
    loader_ended: bool = False
    renewals: int = 0
    task: asyncio.Task[None] | None = None


loading: ContextVar[tuple[Flight, ...]] = ContextVar("oddswire_loading", default=())
"""The flights whose loader this code is part of, also in tasks that the loader began.

One, except in the loader of a batch: that one is the loader of every key of the batch.
"""


def refuse_cycle(
    waiting: Iterable[Flight], wanted: LoadRequest, token: bytes = b""
) -> None:
    """Make sure that a load does not wait for one that waits for it.

    Each flight knows the flights whose loaders wait for it. Followed upwards from the
    flights that are about to wait, that is a chain of loads; the ring is closed where
    it gets to the wanted load. Of other processes no chain is known: the token of a
    lease tells whether the load that has it is one of the chain.

    Args:
        waiting: Flights whose loader is about to wait.
        wanted: What for.
        token: Of the lease of the wanted load, where that is no flight of this cache.

    Raises:
        CacheLoadCycle: It does.
    """
    chains: list[tuple[Flight, ...]] = [(flight,) for flight in waiting]
    seen: set[Flight] = set()
    for chain in chains:
        flight = chain[-1]
        # A flight that has ended waits for nothing: a task may outlive the loader that
        # began it.
        if flight in seen or flight.future.done():
            continue
        seen.add(flight)
        key, ring_key = flight.request.key, wanted.key
        if token:
            found = token.startswith(flight.token)
        else:
            found = key.name == ring_key.name and key.namespace is ring_key.namespace
        if found:
            names = [each.request.key.name for each in reversed(chain)]
            ring = " -> ".join([*names, ring_key.name])
            raise CacheLoadCycle(f"a loader waits for itself: {ring}")
        chains += [(*chain, each) for each in flight.loaders]
