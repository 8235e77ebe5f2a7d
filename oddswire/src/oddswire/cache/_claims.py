"""Claims: who in the fleet may load a key, and waiting for who does."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from oddswire.cache._flight import refuse_cycle
from oddswire.cache._reading import Found, Held

if TYPE_CHECKING:
    from oddswire.cache._flight import Flight
    from oddswire.cache._memory import Item
    from oddswire.cache._shared import Shared
    from oddswire.clock import Clock

# The server tells waiters of the end of a load; where it does not, they look again.
_POLL = 0.1


class Elsewhere(Exception):
    """Another process refreshes it."""


class Claims:
    """The claims of this process.

    Args:
        shared: Entries and leases in Redis.
        clock: The time.
        lease: Seconds after which a loader that died is replaced.
    """

    def __init__(self, shared: Shared, clock: Clock, lease: float) -> None:
        self._shared = shared
        self._clock = clock
        self._lease = lease
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def changed(self, key: str) -> None:
        """The entry or the lease of a key has changed: look again."""
        for event in self._watchers.get(key, ()):
            event.set()

    async def claim(
        self, flight: Flight, head: bytes | None, rob: bytes
    ) -> Item | None:
        """Return the entry if another loads it; None: it is ours to load.

        Args:
            flight: For which.
            head: Beginning of the record that is no use; None: there was none.
            rob: Token of a dead flight of ours; empty: none.

        Raises:
            Elsewhere: Nobody waits for the flight, and another process loads.
            CacheLoadCycle: That load waits for this one.
            OddswireError: Redis did not answer.
        """
        want = flight.want
        place = want.place
        holder, since = b"", 0.0
        event = asyncio.Event()
        # Before the first look: what changes after it must not be missed.
        self._watchers.setdefault(place.key, set()).add(event)
        try:
            while True:
                event.clear()
                answer = await self._shared.look(
                    place,
                    want.kind,
                    flight.token,
                    self._lease,
                    seen=head,
                    rob=rob,
                    granted=flight.hold,
                )
                if answer is None:
                    return None
                if isinstance(answer, Found):
                    item = answer.item
                    if item is not None and item.fresh_until > self._clock.boottime():
                        return item
                    flight.old = item or flight.old
                    head = answer.head
                    continue
                assert isinstance(answer, Held)  # noqa: S101 - the third of three
                if flight.force:
                    if flight.dead:
                        return None  # by another that was begun after it
                    rob = answer.holder
                    continue
                refuse_cycle(flight.loaders, want, answer.holder)
                if flight.elsewhere is not None:
                    flight.elsewhere()
                if flight.keep and not flight.waiters:
                    raise Elsewhere
                now = self._clock.boottime()
                if answer.holder != holder:
                    if not holder:
                        place.space.counts.waits += 1
                    holder, since = answer.holder, now
                elif now - since > self._lease:
                    # Its holder has not renewed it and it has not expired: the
                    # server's clock went back.
                    rob = holder
                    continue
                pause = _POLL * (0.5 + random.random() / 2)  # noqa: S311 - no secret
                try:
                    async with asyncio.timeout(pause):  # a pause
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            watchers = self._watchers[place.key]
            watchers.discard(event)
            if not watchers:
                del self._watchers[place.key]
