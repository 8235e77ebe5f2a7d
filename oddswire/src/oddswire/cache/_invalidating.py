"""What makes entries invalid, here at once and elsewhere within the bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddswire.cache._recalling import Recalling
from oddswire.errors import InvalidationNotConfirmed, OddswireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache._space import Place
    from oddswire.erasure import Erased


class Invalidating(Recalling):
    """The calls that invalidate."""

    def _forget(self, key: str) -> None:
        self._memory.drop(key)
        self._flights.kill(key)

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

    async def invalidate_tags(self, *tags: str, soft: bool = False) -> None:
        """Invalidate every entry that carries one of the tags, whatever their number.

        One command; its cost does not depend on how many entries there are.

        Args:
            *tags: Which.
            soft: As by `expire`: the entries are stale, and may serve while they are
                refreshed, or because that fails. What was loading is stale as well.

        Raises:
            InvalidKey: A tag has the wrong form.
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        found = [tag for each in tags for tag in self._nonces.digests((each,))]
        if not found:
            return
        try:
            await self._nonces.invalidate(found, soft=soft)
        except OddswireError as error:
            raise _unconfirmed(error) from error

    async def erase(self, user_id: int) -> Erased:
        """Invalidate every entry that carries the tag ``user:<id>``, and look again.

        No process reads them from when the bounds of docs/cache.md are over; their
        bytes are in Redis until the time of each is.

        Raises:
            InvalidationNotConfirmed: It is not certain that it was done.
        """
        self._require_open()
        try:
            return await self._nonces.erase(f"user:{user_id}")
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


def _unconfirmed(error: OddswireError) -> InvalidationNotConfirmed:
    return InvalidationNotConfirmed(
        f"not confirmed by Redis: {error}; this process has forgotten it, others may "
        "serve it until its time is over",
        outcome=error.outcome,
    )
