"""Loads that nobody waits for a value of: anew, and ahead of time."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from oddswire.cache._batches import Batch
from oddswire.cache._invalidating import Invalidating
from oddswire.cache._warming import WarmReport, warm
from oddswire.cache.namespace import check_ttl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from oddswire.cache._flight import Want


class Refreshing(Invalidating):
    """The calls that load anew, and what was hot."""

    async def refresh(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[Any], int] | None = None,
        hard_timeout: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Any:
        """Load a value now, whatever there is, and return it.

        For when the source is known to have changed. What is there serves others until
        then, and stays if the loader fails. Loads of this key that began before, in any
        process, will not be stored. The value itself is fenced as any load's: what was
        invalidated meanwhile, or refreshed by another call, is returned and not stored.
        Cancelled, nothing is stored.

        Args:
            key: ``namespace:rest``.
            loader: As for `get_or_set`, like all that follow. It gets no old value.
            ttl: Likewise.
            tags: Likewise.
            stale: Likewise.
            negative_ttl: Likewise.
            version: Likewise.
            hard_timeout: Likewise.
            type: Likewise.

        Raises:
            InvalidKey: The key or a tag has the wrong form, or there are too many tags.
            SettingsError: A duration or the version is out of range.
            CacheLoadTimeout: It took longer than `hard_timeout`.
            CodecError: What was loaded is not of the type, or too large.
            OddswireError: Redis could not be asked, and the loader was not called; or
                it did not confirm the value, which may be stored.
            Exception: What the loader raised.
        """
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
        check_ttl("hard_timeout", hard_timeout, optional=True)
        flight = self._flights.force(want)
        item = await self._flights.wait_stored(flight, hard_timeout)
        return item.value

    async def refresh_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        *,
        ttl: float | None = None,
        tags: Callable[[str], Iterable[str]] | Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> dict[str, Any]:
        """Load many values now by one call, whatever there is, and return them.

        Each key goes the way of `refresh`, with the same fence. Cancelled, nothing is
        stored but what somebody else waits for.

        Args:
            keys: Each ``namespace:rest``.
            batch_loader: Called with all of them; a key that it leaves out has the
                value None.
            ttl: As for `get_or_set_many`, like all that follow.
            tags: Likewise.
            stale: Likewise.
            negative_ttl: Likewise.
            type: As for `get_or_set_many`.

        Raises:
            Exception: What the loader raised, and as `refresh`; of several, the first.
        """
        self._require_open()
        names = list(dict.fromkeys(keys))
        batch = Batch(batch_loader, names, self._flights)
        wants = batch.wants(
            self._lookup,
            tags,
            ttl=ttl,
            stale=stale,
            negative_ttl=negative_ttl,
            kind=type,
        )

        async def one(want: Want) -> Any:
            try:
                flight = self._flights.force(want)
                return (await self._flights.wait_stored(flight, None)).value
            finally:
                batch.settle(want.place.key)

        values = await asyncio.gather(*map(one, wants), return_exceptions=True)
        for value in values:
            if isinstance(value, BaseException):
                raise value
        return dict(zip(names, values, strict=True))

    async def warm_hot(
        self,
        namespace: str,
        loader: Callable[[str], Any] | None = None,
        *,
        limit: int = 500,
        concurrency: int = 8,
        **options: Any,
    ) -> WarmReport:
        """Bring the hottest keys of a namespace into this process before a reader asks.

        Processes remember once a minute what they use most, for a day. What is still in
        Redis is read; what is not there is loaded, once in all processes.

        Args:
            namespace: Which.
            loader: Called with the key of what is missing; None: leave it missing.
            limit: So many keys, at most 2,000 are remembered.
            concurrency: Keys at a time.
            **options: As for `get_or_set`.

        Raises:
            InvalidKey: Not the name of a namespace.
            OddswireError: Redis could not be asked what is hot.
        """
        self._require_open()
        self._spaces.named(namespace)  # it has to be one

        async def obtain(key: str, load: Callable[[], Any], **how: Any) -> None:
            if loader is None:
                place = self._spaces.place(key)
                kind = self._lookup.kind(place, None)
                held = self._lookup.recall(key, kind)
                if held is None and not (await self._shared.fetch(place, kind)).item:
                    raise LookupError(f"{key}: not there any more")
            else:
                want = self._lookup.want(key, load, **how)
                await self._lookup.obtain(want, None, None)

        hottest = await self._hot.of(namespace, limit)
        return await warm(
            obtain,
            [(key, functools.partial(loader or _nothing, key)) for key in hottest],
            concurrency,
            options,
        )


def _nothing(_: str) -> None:
    return None
