"""`Cache`: two tiers, coherent across processes, fenced, loaded once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from oddswire.cache._flight import Fresh
from oddswire.cache._many import Many
from oddswire.cache._record import check_version
from oddswire.cache._warming import WarmReport, warm
from oddswire.cache.decorator import Cached, returned_type
from oddswire.cache.entry import Entry
from oddswire.cache.namespace import check_ttl
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")
P = ParamSpec("P")


_STORED_AT_ONCE = 100
_NAMED = 3


class Cache(Many):
    """Two tiers, coherent across processes, fenced, loaded once. ``async with``.

    A key is ``namespace:rest``. Values in memory are shared between their readers: do
    not change them. Reading raises when Redis cannot be asked; `get_or_set` then loads
    without it.

    Args:
        client: Whose server. It stays yours to close.
        namespaces: What is declared; other names get the defaults.
        prefix: What every key in Redis begins with; None: as the client's settings say.
        ttl: Seconds for which a value is fresh, where nothing else says.
        l1_bytes: Memory of this process, at most; 0 keeps nothing here.
        timeout: Seconds for one call of Redis.
        coherence: Seconds for which memory is believed after a proof that it is right.
        heartbeat: Seconds between proofs, while memory is read.
        load_lease: Seconds after which the load of a process that died is taken over.
        max_load: Seconds after which a loader is given up.
        compress_above: Values of more bytes are compressed, if that saves a tenth.
        max_size: Bytes of all entries in Redis; what was not used for longest goes.
        fallback: ``"pubsub"``: writes are published too, for processes that are refused
            CLIENT TRACKING. All must have it. Memory there may be 5 s and a heartbeat
            behind what is written by other means. ``"off"``: no memory there.
        clock: The time.

    Raises:
        SettingsError: An argument is out of range.
        InvalidKey: A namespace is declared twice, or its name has a colon.
    """

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
        # As `glance`, but here: a call would be a fifth of it.
        try:
            held = self._items[key]
        except KeyError:
            pass
        else:
            if (type is held.asked or type is held.kind) and (
                (held.mark is self._nonces.mark and self._now() < held.sure_until)
                or self._is_sure(held)
            ):
                if held.uses < 3:
                    held.uses += 1
                held.counts.l1_hits += 1
                return held.value
        place = self._spaces.place(key)
        kind = (
            place.space.config.type if type is None else self._lookup.kind(place, type)
        )
        if key in self._items:
            item = self._lookup.recall(key, kind)
            if item is not None:
                return item.value if self._lookup.is_fresh(item) else default
        found = await self._shared.fetch(place, kind)
        return found.item.value if found.item and found.fresh else default

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
        kind = self._lookup.kind(place, type)
        item = near = self._lookup.recall(key, kind)
        if item is None:
            item = (await self._shared.fetch(place, kind)).item
        if item is None:
            return None
        now = self._now()
        details = item.details
        return Entry(
            value=item.value,
            tier="l1" if near else "l2",
            stale=item.fresh_until <= now,
            age=max(0.0, now - details.stored_at),
            ttl=item.fresh_until - now,
            version=details.version,
        )

    # --- loading

    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Awaitable[T]],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[T], int] | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        type: Any = None,
    ) -> T: ...
    @overload
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., T],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[T], int] | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        type: Any = None,
    ) -> T: ...
    async def get_or_set(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[Any], int] | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Any:
        """Return a value, loading it where there is none.

        One load at a time for a key in all processes; who comes meanwhile waits for it.
        A stale value serves at once and is refreshed behind the caller's back. Where
        Redis cannot be asked, each process loads by itself and keeps the value for as
        long as memory would be believed.

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
        held = self.glance(key, type)
        if held is not None:
            return held.value
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
        if soft_timeout is not None:
            check_ttl("soft_timeout", soft_timeout, zero=True)
        if hard_timeout is not None:
            check_ttl("hard_timeout", hard_timeout)
        item = await self._lookup.obtain(want, soft_timeout, hard_timeout)
        return item.value

    def cached(
        self,
        *,
        key: str,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[Any], int] | None = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Cache what an async function returns; it keeps its signature and types.

        Args:
            key: With the function's parameters in braces: ``"market:{market_id}"``.
            tags: Likewise.
            ttl: As for `get_or_set`, like all that follow.
            stale: Likewise.
            negative_ttl: Likewise.
            version: Likewise.
            soft_timeout: Likewise.
            hard_timeout: Likewise.

        Returns:
            A decorator; what it makes also has `invalidate`, `refresh`, `peek` and
            `prime`.

        Raises:
            InvalidKey: A template names what is no parameter.
            SettingsError: A duration is out of range.
        """
        check_ttl("ttl", ttl, optional=True)
        check_ttl("stale", stale, zero=True, optional=True)
        check_ttl("negative_ttl", negative_ttl, zero=True, optional=True)
        options = {
            "ttl": ttl,
            "stale": stale,
            "negative_ttl": negative_ttl,
            "version": version,
            "soft_timeout": soft_timeout,
            "hard_timeout": hard_timeout,
        }

        def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
            space = self._spaces.named(key.partition(":")[0])
            kind = space.config.type
            if kind is Any:
                kind = returned_type(function) or Any
            return Cached(self, function, key, tuple(tags), kind, options)

        return decorate

    async def warm(
        self,
        items: Iterable[tuple[str, Callable[..., Any]]],
        *,
        concurrency: int = 8,
        **options: Any,
    ) -> WarmReport:
        """Load what is missing before somebody asks; one failure stops no other load.

        Args:
            items: (key, loader).
            concurrency: Loads at a time.
            **options: As for `get_or_set`.
        """
        return await warm(self.get_or_set, items, concurrency, options)

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
        """Store values, in one trip for each 100 of them.

        Each value has the time of a `set`, and the event loop runs between two trips.
        Cancelled, some may be stored.

        Raises:
            ExceptionGroup: Of what `set` raised for some; the message names the first
                keys, each exception has its key as a note, the others are stored.
        """
        marks, items = tuple(tags), list(mapping.items())
        failed: dict[str, Exception] = {}
        for first in range(0, len(items), _STORED_AT_ONCE):
            some = items[first : first + _STORED_AT_ONCE]
            results = await asyncio.gather(
                *(
                    self.set(key, value, ttl=ttl, tags=marks, stale=stale)
                    for key, value in some
                ),
                return_exceptions=True,
            )
            for (key, _), result in zip(some, results, strict=True):
                if isinstance(result, Exception):
                    result.add_note(f"key {plain(key)}")
                    failed[key] = result
        if failed:
            named = ", ".join(map(plain, list(failed)[:_NAMED]))
            more = ", ..." if len(failed) > _NAMED else ""
            raise ExceptionGroup(
                f"{len(failed)} of {len(items)} not stored: {named}{more}",
                list(failed.values()),
            )


def _nothing() -> None:
    return None
