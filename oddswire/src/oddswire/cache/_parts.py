"""The parts of a cache, made, opened and closed together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Self

from oddswire import keys
from oddswire._numbers import shown
from oddswire._tasks import spawn
from oddswire.cache._flights import Flights
from oddswire.cache._hot import Hot
from oddswire.cache._lease import CoherenceLease
from oddswire.cache._lookup import Lookup
from oddswire.cache._memory import Memory
from oddswire.cache._nonces import Nonces
from oddswire.cache._shared import Shared
from oddswire.cache._size_limit import SizeLimiter
from oddswire.cache._space import Spaces
from oddswire.cache._wire import TrackedWire
from oddswire.cache.namespace import check_ttl
from oddswire.cache.statistics import CacheStats, total
from oddswire.client import keyspace
from oddswire.clock import SystemClock
from oddswire.connection.loop_guard import LoopGuard
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    NoPermission,
    OddswireError,
    SettingsError,
    WrongLoop,
)
from oddswire.events import Degradation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from oddswire.cache._batches import Gatherer
    from oddswire.cache._memory import Item
    from oddswire.cache.namespace import Namespace
    from oddswire.client import Client
    from oddswire.clock import Clock

_MIB = 1024 * 1024


class Parts:
    """What a cache is made of; `Cache` is what is called."""

    def __init__(
        self,
        client: Client,
        namespaces: Iterable[Namespace] = (),
        *,
        prefix: str | None = None,
        ttl: float = 300.0,
        l1_bytes: int = 64 * _MIB,
        timeout: float = 0.05,
        coherence: float = 2.0,
        heartbeat: float = 0.5,
        load_lease: float = 5.0,
        max_load: float = 60.0,
        compress_above: int = 1024,
        max_size: int = 1024 * _MIB,
        fallback: Literal["off", "pubsub"] = "off",
        clock: Clock | None = None,
    ) -> None:
        for name, seconds in (
            ("ttl", ttl),
            ("timeout", timeout),
            ("coherence", coherence),
            ("heartbeat", heartbeat),
            ("load_lease", load_lease),
            ("max_load", max_load),
        ):
            check_ttl(name, seconds)
        if heartbeat >= coherence:
            raise SettingsError(
                f"heartbeat {shown(heartbeat)}: less than coherence, {shown(coherence)}"
            )
        if fallback not in ("off", "pubsub"):
            raise SettingsError(f"fallback {shown(fallback)}: 'off' or 'pubsub'")
        self._clock: Clock = clock or SystemClock()
        self._now = self._clock.boottime
        self._loop_guard = LoopGuard()
        space = keyspace(client, prefix)
        self._spaces = Spaces(space, namespaces, compress_above)
        self._memory = Memory(l1_bytes)
        self._items = self._memory.items
        channel = space.key(keys.CACHE_CHANGES) if fallback == "pubsub" else ""
        self._wire = TrackedWire(client, timeout, channel)
        self._nonces = Nonces(self._wire, self._spaces, space, self._clock)
        self._lease = CoherenceLease(
            self._wire,
            client,
            space,
            self._clock,
            length=coherence,
            every=heartbeat,
            uses=self._uses,
            held=self._held,
            forget=self._memory.clear,
            remember=self._remember,
        )
        self._hot = Hot(client.bounded(timeout), space)
        self._size_limit = SizeLimiter(client, space, max_size)
        self._shared = Shared(
            self._wire,
            self._memory,
            self._nonces,
            self._lease,
            self._clock,
            size_limit=self._size_limit,
            max_load=max_load,
        )
        self._flights = Flights(
            self._shared,
            self._nonces,
            self._lease,
            self._clock,
            lease=load_lease,
            max_load=max_load,
        )
        self._wire.listen(self._spaces.entries_prefix, self._on_entry)
        self._wire.listen(self._spaces.leases_prefix, self._on_lease)
        self._lookup = Lookup(
            self._spaces,
            self._memory,
            self._lease,
            self._nonces,
            self._shared,
            self._flights,
            self._clock,
            ttl=ttl,
            degraded=Degradation(
                client.events, "cache", "bypassed", self._clock.boottime
            ),
        )
        self._gatherers: list[Gatherer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # --- its life

    async def __aenter__(self) -> Self:
        if self._closed or self._tasks:
            raise ClosedError("a Cache is used once; make another")
        self._loop_guard.check()
        # Where Redis is away, what follows is done as soon as it is there.
        try:
            await self._lease.beat(timeout=2.0)
        except (AuthFailed, NoPermission, WrongLoop):
            await self._wire.aclose()
            raise
        except OddswireError:
            self._lease.want()
        self._tasks = [
            spawn(self._lease.run(), name="oddswire cache"),
            spawn(self._size_limit.run(), name="oddswire cache size"),
        ]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._closed = True
        try:
            for gatherer in self._gatherers:
                await gatherer.aclose()
            await self._flights.aclose()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._wire.aclose()

    # --- told by the parser

    def _on_entry(self, name: bytes, expected: Item | None, /, *, own: bool) -> None:
        key = self._spaces.key_of(name, self._spaces.entries_prefix)
        if own and expected is not None:
            self._memory.put(expected)
        else:
            item = self._items.get(key)
            if item is not None:
                item.counts.invalidated += 1
                self._memory.drop(key)
        self._flights.changed(key)

    def _on_lease(self, name: bytes, _: object, /, *, own: bool) -> None:
        key = self._spaces.key_of(name, self._spaces.leases_prefix)
        if not own:
            self._flights.lost(key)

    def _uses(self) -> int:
        return sum(space.counts.l1_hits for space in self._spaces.by_name.values())

    def _held(self) -> list[str]:
        used = [key for key, item in self._items.items() if item.uses]
        return self._nonces.warm_keys() + [
            self._spaces.place(key).entry for key in used[:1000]
        ]

    async def _remember(self) -> None:
        await self._hot.remember(list(self._items.values()))

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the cache was closed")

    # --- looking at it

    def stats(self, namespace: str | None = None) -> CacheStats:
        """Return what was counted, of one namespace or of all."""
        if namespace is None:
            counts = [space.counts for space in self._spaces.by_name.values()]
        else:
            counts = [self._spaces.named(namespace).counts]
        return total(
            counts,
            l1_entries=len(self._items),
            l1_bytes=self._memory.used,
            l1_evicted=self._memory.evicted,
            l2_evicted=self._size_limit.evicted,
            coherence=(
                "off"
                if self._wire.plain
                else "pubsub"
                if self._wire.listens
                else "tracking"
            ),
            generations=self._wire.epoch,
        )
