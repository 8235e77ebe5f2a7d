"""The way of one lookup: memory, Redis, the load; and what a stale value is for."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from oddswire.cache._flight import Want
from oddswire.cache._memory import used_again
from oddswire.cache._record import check_version
from oddswire.cache.namespace import check_ttl
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from oddswire.cache._flight import Flight
    from oddswire.cache._flights import Flights
    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Item, Memory
    from oddswire.cache._nonces import Nonces
    from oddswire.cache._reading import Found
    from oddswire.cache._shared import Shared
    from oddswire.cache._space import Place, Spaces
    from oddswire.clock import Clock
    from oddswire.events import Degradation

# After Redis did not answer, loads do without it for so long.
_AWAY = 1.0


class Lookup:
    """Finds a value, and decides when to load it.

    Args:
        spaces: The namespaces.
        memory: The first tier.
        lease: Whether memory is believed.
        nonces: Of tags and namespaces.
        shared: The second tier.
        flights: The loads.
        clock: The time.
        ttl: Seconds for which a value is fresh, where nothing else says.
        degraded: The mode in which loads go on without Redis.
    """

    def __init__(
        self,
        spaces: Spaces,
        memory: Memory,
        lease: CoherenceLease,
        nonces: Nonces,
        shared: Shared,
        flights: Flights,
        clock: Clock,
        *,
        ttl: float,
        degraded: Degradation,
    ) -> None:
        self._spaces = spaces
        self._items = memory.items
        self._lease = lease
        self._nonces = nonces
        self._shared = shared
        self._flights = flights
        self._now = clock.boottime
        self._ttl = ttl
        self._away_until = -math.inf
        self._degraded = degraded

    UNREACHABLE = OddswireError
    """What a lookup raises when Redis cannot be asked."""

    # --- finding

    def kind(self, place: Place, kind: Any) -> Any:
        """Return the type of a value: as asked, or the namespace's.

        Raises:
            TypeError: msgspec does not support the type.
        """
        if kind is None:
            return place.space.config.type
        # Here, for in the parser an exception would close the wire.
        place.space.codec(kind)
        return kind

    def recall(self, key: str, kind: Any) -> Item | None:
        """Return what memory has that may serve, stale or not."""
        item = self._items.get(key)
        if item is None or item.kind is not kind:
            return None
        now = self._now()
        if now >= self._lease.until or now >= item.usable_until or not item.lives():
            self._lease.want()
            return None
        used_again(item)
        item.counts.l1_hits += 1
        item.counts.stale += item.fresh_until <= now
        return item

    async def find_many(
        self, places: Sequence[Place], kinds: Sequence[Any]
    ) -> list[tuple[Item | None, bytes | None]]:
        """Return entries that may serve, and the heads of what was there.

        With one MGET for what memory does not have.

        Raises:
            OddswireError: Redis could not be asked.
        """
        recalled = [
            self.recall(place.key, kind)
            for place, kind in zip(places, kinds, strict=True)
        ]
        wanted = [at for at, item in enumerate(recalled) if item is None]
        found: dict[int, Found] = {}
        if wanted:
            self._lease.want()
            answers = await self._shared.fetch_many(
                [places[at] for at in wanted], [kinds[at] for at in wanted]
            )
            for answer in answers:
                answer.count()
            found = dict(zip(wanted, answers, strict=True))
        return [
            (item, item.head) if item is not None else (found[at].item, found[at].head)
            for at, item in enumerate(recalled)
        ]

    def is_fresh(self, item: Item | None) -> bool:
        """Whether an entry is there and not stale."""
        return item is not None and self._now() < item.fresh_until

    # --- loading

    def want(
        self,
        key: str,
        loader: Callable[..., Any],
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        stale: float | None = None,
        negative_ttl: float | None = None,
        version: int | Callable[[Any], int] | None = None,
        kind: Any = None,
        max_age: float | None = None,
    ) -> Want:
        """Return what a caller asks for, checked.

        Raises:
            InvalidKey: The key or a tag has the wrong form.
            SettingsError: A duration or the version is out of range.
        """
        place = self._spaces.place(key)
        config = place.space.config
        # Most calls give none of these: asked here, that costs nothing.
        if ttl is not None:
            check_ttl("ttl", ttl)
        if stale is not None:
            check_ttl("stale", stale, zero=True)
        if negative_ttl is not None:
            check_ttl("negative_ttl", negative_ttl, zero=True)
        if max_age is not None:
            check_ttl("max_age", max_age, zero=True)
        if version is not None and not callable(version):
            version = check_version(version)
        return Want(
            place,
            loader,
            self.kind(place, kind),
            ttl or config.ttl or self._ttl,
            config.stale if stale is None else stale,
            config.negative_ttl if negative_ttl is None else negative_ttl,
            self._nonces.digests(tags) if tags else (),
            version,
            max_age,
        )

    async def obtain(self, want: Want, soft: float | None, hard: float | None) -> Item:
        """Return an entry, loading it where there is none; see `Cache.get_or_set`."""
        bypass = self.away
        item, head = None, None
        if not bypass:
            try:
                item = self.recall(want.place.key, want.kind)
                if item is not None:
                    head = item.head
                else:
                    found = await self._shared.fetch(want.place, want.kind)
                    item, head = found.item, found.head
                    if self._degraded.active:
                        self._degraded.end()
                    if item is not None and found.calm:
                        return item
            except OddswireError as error:
                self.gone_away(error)
                bypass = True
        if bypass:
            want.place.space.counts.misses += 1
        if item is None:
            return await self.load(want, head, hard, bypass=bypass)
        return await self.serve(want, item, head, soft)

    def gone_away(self, error: OddswireError) -> None:
        """Redis did not answer: let the next loads do without it for a moment."""
        self._away_until = self._now() + _AWAY
        self._degraded.begin(error)

    @property
    def away(self) -> bool:
        """Whether Redis did not answer a moment ago."""
        return self._now() < self._away_until

    async def load(
        self,
        want: Want,
        head: bytes | None,
        hard: float | None,
        *,
        bypass: bool,
        elsewhere: Callable[[], None] | None = None,
    ) -> Item:
        """Load what is not there; `elsewhere` is called if another process does."""
        key = want.place.key
        if bypass:
            kept = self._flights.aside(key, want.kind)
            if kept is None and self._flights.backing_off(key):
                kept = self._last_known(want)
            if kept is not None:
                return kept
        flight = self._flights.start(
            want, head, None, bypass=bypass, elsewhere=elsewhere
        )
        want.place.space.counts.shared += bool(flight.waiters)
        try:
            return await self._flights.wait(flight, hard)
        except Exception as error:
            # A refresh that this caller joined could not ask Redis and loaded nothing.
            unasked = flight.unstored is error
            # Neither Redis nor the source: this is what a stale value is for.
            last = self._last_known(want) if bypass or flight.bypassed else None
            if last is None and not unasked:
                raise
        if last is not None:
            return last
        return await self.load(want, None, hard, bypass=True, elsewhere=elsewhere)

    def _last_known(self, want: Want) -> Item | None:
        """Return what memory had when Redis went away, if it may serve stale."""
        item = self._items.get(want.place.key)
        if (
            not want.stale
            or item is None
            or item.kind is not want.kind
            or self._now() >= item.usable_until
            or not self._nonces.was_alive(item, want.place.space)
        ):
            return None
        item.counts.stale_on_error += 1
        return item

    async def serve(
        self, want: Want, item: Item, head: bytes | None, soft: float | None
    ) -> Item:
        """Serve what is there, refreshing it if it is stale or about to be."""
        flight = self.refresh(want, item, head)
        if soft is None or flight is None or self.is_fresh(item):
            return item
        try:
            return await self._flights.wait(flight, soft)
        except Exception:  # noqa: BLE001 - whatever the loader raised: this is what a stale value is for
            item.counts.stale_on_error += 1
            return item

    def refresh(
        self,
        want: Want,
        item: Item,
        head: bytes | None,
        elsewhere: Callable[[], None] | None = None,
    ) -> Flight | None:
        """Load it behind the caller's back, if it is stale or about to be."""
        now = self._now()
        too_old = (
            want.max_age is not None and now - item.details.stored_at > want.max_age
        )
        if now < item.fresh_until and not too_old:
            if now < item.calm_until or not self._is_due(want, item, now):
                return None
        elif self._flights.backing_off(want.place.key):
            item.counts.stale_on_error += 1
            return None
        return self._flights.start(want, head, item, keep=True, elsewhere=elsewhere)

    def _is_due(self, want: Want, item: Item, now: float) -> bool:
        """Whether to refresh a value that is still fresh.

        XFetch (Vattani, Chierichetti, Lowenstein 2015): the nearer the end and the
        longer a load takes, the likelier; one of many readers begins it in time.
        """
        early = want.place.space.config.early
        if early == 0.0 or self._flights.backing_off(item.key):
            return False
        lead = -item.details.cost * early * math.log(1.0 - random.random())  # noqa: S311 - no secret
        return now + lead >= item.fresh_until
