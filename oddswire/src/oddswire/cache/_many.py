"""Many keys at once: one trip, one load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from oddswire.cache._batches import Batch, Gatherer, obtain_many
from oddswire.cache._refreshing import Refreshing
from oddswire.cache._template import field_text
from oddswire.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

A = TypeVar("A")
T = TypeVar("T")


class Many(Refreshing):
    """The calls that take many keys."""

    async def get_many(
        self,
        keys: Iterable[str],
        *,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> dict[str, Any]:
        """Return the fresh values of those keys that have one, in one trip.

        Raises:
            InvalidKey: A key has the wrong form.
            OddswireError: Redis could not be asked.
        """
        self._require_open()
        places = [self._spaces.place(key) for key in dict.fromkeys(keys)]
        found = await self._lookup.find_many(
            places, [self._lookup.kind(place, type) for place in places]
        )
        return {
            item.key: item.value
            for item, _ in found
            if item is not None and self._lookup.is_fresh(item)
        }

    async def get_or_set_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, T | Exception]]],
        *,
        ttl: float | None = None,
        tags: Callable[[str], Iterable[str]] | Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        max_age: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> dict[str, T]:
        """Return the values of all keys, loading by one call those that are missing.

        Each key is loaded once in the fleet and fenced, as by `get_or_set`.

        Args:
            keys: Each ``namespace:rest``.
            batch_loader: Called with the keys that it falls to this process to load;
                one that it leaves out has the value None, and one to which it gives an
                `Exception` failed with it: nothing is stored for that key.
            ttl: As for `get_or_set`, like all that follow.
            stale: Likewise.
            negative_ttl: Likewise.
            type: Likewise.
            max_age: Seconds after which a value is stale for this caller, though it is
                fresh for others.
            tags: Of all, or a function from the key to its tags. Not from the value:
                what was invalidated while it loaded could not be told.

        Raises:
            Exception: What the loader raised or gave, of several the first; and as
                `get_or_set`.
        """
        found = await self._obtain_many(
            keys,
            batch_loader,
            ttl=ttl,
            tags=tags,
            stale=stale,
            negative_ttl=negative_ttl,
            max_age=max_age,
            kind=type,
        )
        for each in found.values():
            if isinstance(each, Exception):
                raise each
        return found

    async def _obtain_many(
        self,
        keys: Iterable[str],
        batch_loader: Callable[[list[str]], Awaitable[Mapping[str, Any]]],
        *,
        tags: Callable[[str], Iterable[str]] | Iterable[str],
        **options: Any,
    ) -> dict[str, Any]:
        """Do what `get_or_set_many` does; what failed has its exception as value."""
        self._require_open()
        names = list(dict.fromkeys(keys))
        batch = Batch(batch_loader, names, self._flights)
        wants = batch.wants(self._lookup, tags, **options)
        items = await obtain_many(self._lookup, wants, batch)
        return {
            key: item if isinstance(item, Exception) else item.value
            for key, item in items.items()
        }

    def batched(
        self,
        batch_loader: Callable[[list[A]], Awaitable[Mapping[A, T | Exception]]],
        *,
        key: str,
        max_batch: int = 100,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        max_age: float | None = None,
        type: Any = None,  # noqa: A002 - the surface's word
    ) -> Callable[[A], Awaitable[T]]:
        """Return a function of one argument that loads what is asked for together.

        Calls within one turn of the loop become one call of `get_or_set_many`.

        Args:
            batch_loader: Called with arguments; returns values by argument, and an
                `Exception` for one that failed: only who asked for it gets it.
            key: With one field, for the argument: ``"market:{market_id}"``.
            max_batch: Arguments of one call.
            tags: Templates with the same field.
            ttl: As for `get_or_set`, like all that follow.
            stale: Likewise.
            negative_ttl: Likewise.
            max_age: As for `get_or_set_many`.
            type: As for `get_or_set`.

        Raises:
            InvalidKey: The key has no field, or several.
        """
        field = key.partition("{")[2].partition("}")[0]
        if not field or key.count("{") != 1:
            raise InvalidKey(f"{key!r}: a key with one field, as in 'market:{{id}}'")
        start, _, end = key.partition("{" + field + "}")
        marks = tuple(tags)

        async def obtain(arguments: list[A]) -> dict[A, T]:
            names = {start + field_text(field, each) + end: each for each in arguments}

            async def load(keys: list[str]) -> dict[str, T | Exception]:
                values = await batch_loader([names[each] for each in keys])
                return {
                    each: values[names[each]] for each in keys if names[each] in values
                }

            def tagged(name: str) -> list[str]:
                text = field_text(field, names[name])
                return [mark.replace("{" + field + "}", text) for mark in marks]

            found = await self._obtain_many(
                names,
                load,
                ttl=ttl,
                tags=tagged,
                stale=stale,
                negative_ttl=negative_ttl,
                max_age=max_age,
                kind=type,
            )
            return {names[name]: value for name, value in found.items()}

        gatherer = Gatherer(obtain, max_batch)
        self._gatherers.append(gatherer)
        return gatherer
