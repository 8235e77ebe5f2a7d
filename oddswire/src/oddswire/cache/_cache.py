"""`Cache`: two tiers, coherent across processes, fenced, loaded once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from oddswire.cache._flights import Flights
from oddswire.cache._lease import CoherenceLease
from oddswire.cache._lookup import Lookup
from oddswire.cache._memory import Memory, used_again
from oddswire.cache._nonces import Nonces
from oddswire.cache._shared import Fresh, Shared, check_version
from oddswire.cache._space import Spaces
from oddswire.cache._wire import TrackedWire
from oddswire.cache.entry import Entry
from oddswire.cache.namespace import check_ttl
from oddswire.cache.statistics import CacheStats, total
from oddswire.clock import SystemClock
from oddswire.connection.owner import Owner
from oddswire.errors import (
    ClosedError,
    InvalidationNotConfirmed,
    OddswireError,
    SettingsError,
)
from oddswire.keys import KeySpace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    from oddswire.cache._memory import Item
    from oddswire.cache._space import Place
    from oddswire.cache.namespace import Namespace
    from oddswire.client import Client
    from oddswire.clock import Clock

T = TypeVar("T")
D = TypeVar("D")

_MIB = 1024 * 1024


class Cache:
    """Two tiers, coherent across processes, fenced, loaded once. ``async with``.

    A key is ``namespace:rest``. Values in memory are shared between their readers: do
    not change them. Reading raises when Redis cannot be asked; `get_or_set` then loads
    without it.

    Args:
        client: Whose server. It stays yours to close.
        namespaces: What is declared; other names get the defaults.
        prefix: What every key in Redis begins with.
        ttl: Seconds for which a value is fresh, where nothing else says.
        l1_bytes: Memory of this process, at most; 0 keeps nothing here.
        timeout: Seconds for one call of Redis.
        coherence: Seconds for which memory is believed after a proof that it is right.
        heartbeat: Seconds between proofs, while memory is read.
        load_lease: Seconds after which the load of a process that died is taken over.
        max_load: Seconds after which a loader is given up.
        compress_above: Values of more bytes are compressed, if that saves a tenth.
        clock: The time.

    Raises:
        SettingsError: An argument is out of range.
        InvalidKey: A namespace is declared twice, or its name has a colon.
    """

    def __init__(
        self,
        client: Client,
        namespaces: Iterable[Namespace] = (),
        *,
        prefix: str = "oddswire:",
        ttl: float = 300.0,
        l1_bytes: int = 64 * _MIB,
        timeout: float = 0.05,
        coherence: float = 2.0,
        heartbeat: float = 0.5,
        load_lease: float = 5.0,
        max_load: float = 60.0,
        compress_above: int = 1024,
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
                f"heartbeat {heartbeat!r}: less than coherence, {coherence!r}"
            )
        self._clock: Clock = clock or SystemClock()
        self._now = self._clock.boottime
        self._owner = Owner()
        keyspace = KeySpace(prefix)
        self._spaces = Spaces(keyspace, namespaces, compress_above)
        self._memory = Memory(l1_bytes)
        self._items = self._memory.items
        self._wire = TrackedWire(client, timeout)
        self._nonces = Nonces(self._wire, self._spaces, keyspace, self._clock)
        self._lease = CoherenceLease(
            self._wire,
            client,
            keyspace,
            self._clock,
            length=coherence,
            every=heartbeat,
            uses=self._uses,
            held=self._held,
        )
        self._shared = Shared(
            self._wire,
            self._memory,
            self._nonces,
            self._lease,
            self._clock,
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
        )
        self._beating: asyncio.Task[None] | None = None
        self._closed = False

    # --- its life

    async def __aenter__(self) -> Self:
        if self._closed or self._beating is not None:
            raise ClosedError("a Cache is used once; make another")
        self._owner.claim()
        # Where Redis is away, what follows is done as soon as it is there.
        try:
            await self._lease.beat(timeout=2.0)
        except OddswireError:
            self._lease.want()
        self._beating = asyncio.get_running_loop().create_task(
            self._lease.run(), name="oddswire cache"
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._closed = True
        try:
            await self._flights.aclose()
        finally:
            if self._beating is not None:
                self._beating.cancel()
                await asyncio.wait([self._beating])
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

    # --- reading

    @overload
    async def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...
    @overload
    async def get(self, key: str, *, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, default: Any = None) -> Any: ...
    async def get(
        self,
        key: str,
        default: Any = None,
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Any:
        """Return a fresh value, or `default`.

        Args:
            key: ``namespace:rest``.
            default: Returned where there is none, or a stale one.
            type: What it is; default: the namespace's.

        Raises:
            InvalidKey: The key is not of that form.
            OddswireError: Redis could not be asked. That is not "absent".
        """
        item = self._items.get(key)
        if item is not None and (type is item.asked or type is item.kind):
            now = self._now()
            if now < item.calm_until and now < self._lease.until:
                for cell, nonce in item.pairs:
                    if cell.nonce != nonce:
                        break
                else:
                    if item.uses < 3:
                        item.uses += 1
                    item.counts.l1_hits += 1
                    return item.value
        place = self._spaces.place(key)
        item, _, _ = await self._lookup.find(place, self._lookup.kind(place, type))
        if item is None or not self._lookup.is_fresh(item):
            return default
        return item.value

    def peek(self, key: str, default: Any = None) -> Any:
        """Return a fresh value if this process holds it, without asking anybody."""
        item = self._items.get(key)
        if item is None:
            return default
        now = self._now()
        if now >= item.fresh_until or now >= self._lease.until or not item.lives():
            return default
        item.counts.l1_hits += 1
        used_again(item)
        return item.value

    async def get_entry(
        self,
        key: str,
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Entry | None:
        """Return a value with what is known of it, stale ones too; None: there is none.

        Raises:
            InvalidKey: The key has the wrong form.
            OddswireError: Redis could not be asked.
        """
        place = self._spaces.place(key)
        item, _, near = await self._lookup.find(place, self._lookup.kind(place, type))
        if item is None:
            return None
        now = self._now()
        return Entry(
            value=item.value,
            tier="l1" if near else "l2",
            stale=item.fresh_until <= now,
            age=max(0.0, now - item.stored_at),
            ttl=item.fresh_until - now,
            version=item.version,
        )

    # --- loading

    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Awaitable[T]] | Callable[..., T],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[T], int] | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> T:
        """Return a value, loading it where there is none.

        One load at a time for a key in all processes; who comes meanwhile waits for it.
        A stale value serves at once and is refreshed behind the caller's back. Where
        Redis cannot be asked, each process loads by itself and keeps the value for as
        long as memory would be believed.

        Cancelled, a load goes on for as long as somebody waits for it.

        Args:
            key: ``namespace:rest``.
            loader: Returns the value, or an awaitable of it. One with a parameter gets
                a `Load`. It runs on the event loop, so it must not block.
            ttl: Seconds for which the value is fresh; default: the namespace's.
            tags: At most 16; invalidating one of them invalidates this entry.
            stale: Seconds after that in which it may serve while it is refreshed, or
                when that fails; default: the namespace's.
            negative_ttl: Seconds for which a None is fresh; 0: it is not kept.
            version: Of the source's data: a number, or a function from the value to it.
                An older one never replaces a newer one.
            soft_timeout: Seconds to wait for a refresh before a stale value serves;
                default: none.
            hard_timeout: Seconds to wait for a load.
            type: What the value is; default: the namespace's.

        Raises:
            InvalidKey: The key or a tag has the wrong form, or there are too many tags.
            SettingsError: A duration or the version is out of range.
            CacheLoadTimeout: It took longer than `hard_timeout`.
            CodecError: What was loaded is not of the type, or too large.
            Exception: What the loader raised.
        """
        item = self._items.get(key)
        if item is not None and (type is item.asked or type is item.kind):
            now = self._now()
            if now < item.calm_until and now < self._lease.until and item.lives():
                if item.uses < 3:
                    item.uses += 1
                item.counts.l1_hits += 1
                return item.value  # type: ignore[no-any-return]
        self._require_open()
        want = self._lookup.want(
            key,
            loader,
            ttl=ttl,
            tags=tags,
            stale=stale,
            negative_ttl=negative_ttl,
            version=version,
            kind=type,
        )
        check_ttl("soft_timeout", soft_timeout, zero=True, optional=True)
        check_ttl("hard_timeout", hard_timeout, optional=True)
        item = await self._lookup.obtain(want, soft_timeout, hard_timeout)
        return item.value  # type: ignore[no-any-return]

    # --- writing

    async def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        version: int | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> bool:
        """Store a value; False: a newer version is stored, and stays.

        A load of this key that is under way will not be stored. Cancelled, it may be
        stored or not.

        Raises:
            InvalidKey: The key or a tag has the wrong form.
            SettingsError: A duration or the version is out of range.
            CodecError: Not a value of the type, or too large; nothing was stored.
            OddswireError: Redis did not confirm it; by `outcome`, it may be stored.
        """
        self._require_open()
        want = self._lookup.want(
            key,
            _nothing,
            ttl=ttl,
            tags=tags,
            stale=stale,
            version=version,
            kind=type,
        )
        place = want.place
        number = check_version(version)
        snapshot = await self._nonces.snapshot(
            place.space, want.tags, want.ttl + want.stale
        )
        if not self._lease.knows_time:
            await self._lease.in_time()
        item, data, life = self._shared.pack(
            place,
            want.kind,
            value,
            Fresh(want.ttl, want.stale, number),
            snapshot,
            want.tags,
        )
        self._forget(key)
        try:
            return await self._shared.put(place, item, data, life)
        finally:
            # Before this returns nobody may join what was loaded before.
            self._flights.kill(key)

    async def set_many(
        self,
        mapping: Mapping[str, Any],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
    ) -> None:
        """Store values, all in one trip.

        Raises:
            ExceptionGroup: Of what `set` raised for some; the others are stored.
        """
        marks = tuple(tags)
        results = await asyncio.gather(
            *(
                self.set(key, value, ttl=ttl, tags=marks, stale=stale)
                for key, value in mapping.items()
            ),
            return_exceptions=True,
        )
        failed = [each for each in results if isinstance(each, Exception)]
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(mapping)} not stored", failed)

    def _forget(self, key: str) -> None:
        self._memory.drop(key)
        self._flights.kill(key)

    # --- invalidating

    async def delete(self, *keys: str) -> int:
        """Delete entries; how many there were.

        From when it returns, no `get` of this process sees an older value; another
        process, within the bounds of docs/cache.md. Loads that are under way are not
        stored.

        Raises:
            InvalidKey: A key has the wrong form; nothing was deleted.
            InvalidationNotConfirmed: It is not certain that all were deleted.
        """
        return await self._invalidate_each(keys, self._shared.delete)

    async def expire(self, *keys: str) -> int:
        """Make entries stale, so that their next use refreshes them; how many.

        Raises:
            InvalidKey: A key has the wrong form; nothing was changed.
            InvalidationNotConfirmed: It is not certain that all were.
        """
        return await self._invalidate_each(keys, self._shared.expire)

    async def _invalidate_each(
        self, keys: tuple[str, ...], how: Callable[[Place], Awaitable[bool]]
    ) -> int:
        self._require_open()
        places = [self._spaces.place(key) for key in keys]
        for place in places:
            place.space.counts.invalidations += 1
            self._forget(place.key)
        results = await asyncio.gather(
            *(how(place) for place in places), return_exceptions=True
        )
        for place in places:
            self._forget(place.key)
        for result in results:
            if isinstance(result, OddswireError):
                raise _unconfirmed(result) from result
            if isinstance(result, BaseException):
                raise result
        return sum(result is True for result in results)

    async def invalidate_tags(self, *tags: str) -> None:
        """Invalidate every entry that carries one of the tags, whatever their number.

        One command; its cost does not depend on how many entries there are.

        Raises:
            InvalidKey: A tag has the wrong form.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        found = [tag for each in tags for tag in self._nonces.digests((each,))]
        if not found:
            return
        try:
            await self._nonces.invalidate(found)
        except OddswireError as error:
            raise _unconfirmed(error) from error

    async def clear(self, namespace: str) -> None:
        """Invalidate every entry of a namespace, at the cost of one command.

        Raises:
            InvalidKey: Not the name of a namespace.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        space = self._spaces.named(namespace)
        space.counts.invalidations += 1
        try:
            await self._nonces.clear(space)
        except OddswireError as error:
            raise _unconfirmed(error) from error

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
            coherence=("off" if self._wire.plain or self._lease.failed else "tracking"),
            generations=self._wire.epoch,
        )


def _nothing() -> None:
    return None


def _unconfirmed(error: OddswireError) -> InvalidationNotConfirmed:
    return InvalidationNotConfirmed(
        f"not confirmed by Redis: {error}; this process has forgotten it, others may "
        "serve it until its time is over",
        outcome=error.outcome,
    )
