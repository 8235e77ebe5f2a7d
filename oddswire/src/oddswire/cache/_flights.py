"""Loads: one at a time for a key in this process, and one in the fleet.

A flight is a load that is under way, with all of this process who wait.
The right to load is a lease in Redis with a random token. Who wants to store what was
loaded has to show that token; whoever deletes or sets the key removes it, so a slow
loader cannot write back what was invalidated meanwhile. The nonces of the tags are read
before the load, so that an invalidated tag makes what is stored dead from the start.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oddswire._tasks import spawn
from oddswire.cache._aside import Aside
from oddswire.cache._backoff import Backoff
from oddswire.cache._cell import Stamp
from oddswire.cache._claims import Claims, Elsewhere
from oddswire.cache._flight import (
    Flight,
    Fresh,
    Load,
    loading,
    refuse_cycle,
    takes_load,
)
from oddswire.cache._record import NONCE_BYTES, check_version
from oddswire.cache._renewals import Renewals
from oddswire.cache.namespace import check_ttl
from oddswire.connection.deadline import Deadline
from oddswire.errors import CacheLoadCycle, CacheLoadTimeout, ClosedError, OddswireError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddswire.cache._flight import Want
    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Item
    from oddswire.cache._nonces import Nonces
    from oddswire.cache._shared import Shared
    from oddswire.clock import Clock


class Flights:
    """Every load of this process.

    Args:
        shared: Entries in Redis.
        nonces: Of tags and namespaces.
        coherence: Its length is how old a value may be that was loaded without Redis.
        clock: The time.
        lease: Seconds after which a loader that died is replaced.
        max_load: Seconds after which a load is given up.
    """

    def __init__(
        self,
        shared: Shared,
        nonces: Nonces,
        coherence: CoherenceLease,
        clock: Clock,
        *,
        lease: float,
        max_load: float,
    ) -> None:
        self._shared = shared
        self._nonces = nonces
        self._coherence = coherence
        self._clock = clock
        self._lease = lease
        self._max_load = max_load
        self._flights: dict[str, Flight] = {}
        self._claims = Claims(shared, clock, lease)
        self.changed = self._claims.changed
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of them that run a loader, also for a flight that was replaced.
        self._loads: set[asyncio.Task[None]] = set()
        self._backoff = Backoff()
        self._aside = Aside()

    # --- told by the parser

    def lost(self, key: str) -> None:
        """Somebody took the lease of a key away."""
        flight = self._flights.get(key)
        if flight is not None and flight.held:
            self.kill(key)
        self.changed(key)

    def kill(self, key: str) -> None:
        """This key was invalidated: who comes from now on gets another load."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.dead = True
        self._aside.drop(key)

    # --- asked by callers

    def start(
        self,
        want: Want,
        head: bytes | None,
        old: Item | None,
        *,
        keep: bool = False,
        bypass: bool = False,
        elsewhere: Callable[[], None] | None = None,
    ) -> Flight:
        """Return the flight of a key, beginning one if there is none to join.

        Args:
            want: What for.
            head: Beginning of the record that is no use; None: there was none.
            old: The entry that is refreshed.
            keep: It goes on when all callers have left.
            bypass: Redis cannot be reached.
            elsewhere: Called when it turns out that somebody else loads.
        """
        key = want.place.key
        known = self._flights.get(key)
        if known is not None and self._joinable(known, want, keep=keep):
            if elsewhere is not None:
                elsewhere()
            return known
        rob = b""
        if known and known.want.kind is want.kind and self._is_watched(known):
            # Its tags were invalidated while it loads: it must not hold us up.
            known.dead = True
            rob = known.token
        # Where we would not have heard of that, or it is only of another type, it may
        # store what it loads if its lease stands, and that is for the server to say.
        flight = self._flight(want, old, keep=keep)
        flight.elsewhere = elsewhere
        return self._begin(flight, head, rob, bypass=bypass)

    def force(self, want: Want) -> Flight:
        """Begin a flight whatever is there, and whoever else loads.

        What it loads was asked for after this call, which nobody else's was.
        """
        known = self._flights.get(want.place.key)
        if known is not None:
            known.dead = True
        flight = self._flight(want, None, keep=False)
        flight.force = True
        # Any record begins with nothing, so none is of use.
        return self._begin(flight, b"", known.token if known else b"", bypass=False)

    async def wait_stored(self, flight: Flight, timeout: float | None) -> Item:
        """Return what a forced flight brings, once Redis has it.

        Raises:
            OddswireError: Redis could not be asked, or did not confirm the value.
            Exception: As of `wait`.
        """
        item = await self.wait(flight, timeout)
        if flight.unstored is not None:
            raise flight.unstored
        return item

    def _flight(self, want: Want, old: Item | None, *, keep: bool) -> Flight:
        now = self._clock.boottime()
        return Flight(want, self._nonces.invalidations, old, keep=keep, began=now)

    def _begin(
        self, flight: Flight, head: bytes | None, rob: bytes, *, bypass: bool
    ) -> Flight:
        key = flight.want.place.key
        self._flights[key] = flight
        flight.task = self.spawn(
            self._run(flight, head, rob, bypass=bypass), f"oddswire load {key}"
        )
        self._loads.add(flight.task)
        flight.task.add_done_callback(self._loads.discard)
        return flight

    def _joinable(self, flight: Flight, want: Want, *, keep: bool) -> bool:
        if flight.dead or flight.want.kind is not want.kind:
            return False
        if not self._is_watched(flight):
            return False
        untouched = flight.born == self._nonces.invalidations
        if flight.snapshot is None or self._nonces.untold:
            return untouched
        # It loads for what it was asked for: with other tags it may be older than an
        # invalidation that the caller has seen.
        if not untouched and not set(want.tags) <= set(flight.want.tags):
            return False
        # Who is served what is stale lets it go on though it was softened: replaced by
        # each of them, a refresh would never end. It is stored as stale.
        part = slice(NONCE_BYTES if keep else None)
        return all(
            each.nonce[part]
            in ((each.cell.nonce or b"")[part], (each.cell.coming or b"")[part])
            for each in flight.snapshot
        )

    def _is_watched(self, flight: Flight) -> bool:
        """Whether an invalidation by others since it began would be known by now.

        Else a slow loader of a process that is cut off would go on serving what it
        asked the source for before others invalidated it.
        """
        now = self._clock.boottime()
        coherence = self._coherence
        return now < coherence.until or now < flight.began + coherence.length

    async def wait(self, flight: Flight, timeout: float | None) -> Item:
        """Return what a flight brings; the last who leaves ends it.

        Raises:
            CacheLoadTimeout: It took longer than `timeout` seconds.
            CacheLoadCycle: It waits for the caller.
            Exception: What the loader raised.
        """
        flight.waiters += 1
        loaders = loading.get()
        scope = Deadline(timeout)
        try:
            if loaders:
                refuse_cycle(loaders, flight.want)
                flight.loaders += loaders
            async with scope:
                return await asyncio.shield(flight.future)
        except TimeoutError:
            if not scope.expired():
                raise  # the loader's own
            if flight.future.done():
                # In this very tick: what it brought, or what its loader raised.
                return flight.future.result()
            flight.want.place.space.counts.load_timeouts += 1
            raise CacheLoadTimeout(
                f"{flight.want.place.key}: not loaded within {timeout:g} s"
            ) from None
        finally:
            flight.waiters -= 1
            for each in loaders:
                with suppress(ValueError):  # the ring was found
                    flight.loaders.remove(each)
            if not (flight.waiters or flight.keep or flight.future.done()):
                self._abandon(flight)

    def _abandon(self, flight: Flight) -> None:
        # Out of the table first: who comes before the task has ended must not join it.
        if self._flights.get(flight.want.place.key) is flight:
            del self._flights[flight.want.place.key]
        flight.dead = True
        if flight.task is not None:
            flight.task.cancel()

    def backing_off(self, key: str) -> bool:
        """Whether a refresh failed so lately that it is not tried now."""
        return self._backoff.holds(key, self._clock.boottime())

    def aside(self, key: str, kind: Any) -> Item | None:
        """Return what was loaded without Redis just now."""
        return self._aside.get(
            key, kind, self._nonces.invalidations, self._clock.boottime()
        )

    # --- the load

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin what closing waits for."""
        task = spawn(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(
        self, flight: Flight, head: bytes | None, rob: bytes, *, bypass: bool
    ) -> None:
        key = flight.want.place.key
        try:
            item = await self._load(flight, head, rob, bypass=bypass)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # By the last who waited, or because the cache is closing.
                flight.future.set_exception(ClosedError(f"{key}: the load was ended"))
                raise
            # The loader let a cancellation of its own out; nobody here was cancelled.
            flight.future.set_exception(
                CacheLoadTimeout(f"{key}: what its loader waited for was cancelled")
            )
        except Elsewhere as error:
            flight.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a loader may raise anything
            self._backoff.failed(key, self._clock.boottime())
            flight.future.set_exception(error)
        else:
            self._backoff.succeeded(key)
            flight.future.set_result(item)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if flight.held:
                self.spawn(self._release(flight), f"oddswire release {key}")

    async def _release(self, flight: Flight) -> None:
        with suppress(OddswireError):  # then it ends by itself
            await self._shared.release(flight.want.place, flight.token)

    async def _load(
        self, flight: Flight, head: bytes | None, rob: bytes, *, bypass: bool
    ) -> Item:
        want = flight.want
        config = want.place.space.config
        longest = max(want.ttl, config.adaptive.high if config.adaptive else 0.0)
        if not bypass:
            try:
                flight.snapshot = await self._nonces.snapshot(
                    want.place.space,
                    want.tags,
                    longest + want.stale + self._max_load,
                )
                item = await self._claims.claim(flight, head, rob)
            except CacheLoadCycle:
                raise
            except OddswireError as error:
                if flight.force:
                    flight.unstored = error
                    raise
                bypass = True
            else:
                if item is not None:
                    return item
        if bypass:
            flight.bypassed = True
            kept = self.aside(want.place.key, want.kind)
            if kept is not None:
                return kept
        started = self._clock.boottime()
        load = Load(flight.old)
        value = await self._call(flight, load)
        fresh = self._fresh(want, load, value)
        cost = self._clock.boottime() - started
        item, data, life = self._shared.pack(
            want.place,
            want.kind,
            value,
            fresh or Fresh(1.0, 0.0),
            flight.snapshot or (Stamp(want.place.space.cell, bytes(8)),),
            want.tags if flight.snapshot else (),
            cost=cost,
            old=flight.old,
        )
        if bypass:
            self._put_aside(flight, item, started)
            return item
        if fresh is None or flight.dead:
            want.place.space.counts.fenced += flight.dead
            return item
        try:
            stored = await self._shared.fill(want.place, flight.token, item, data, life)
        except OddswireError as error:
            # The caller who forced it wants to know; those who joined have their value.
            flight.unstored = error
            self._put_aside(flight, item, started)
            return item
        flight.held = False
        if not stored:
            want.place.space.counts.fenced += 1
        return item

    def _fresh(self, want: Want, load: Load, value: Any) -> Fresh | None:
        """Return for how long to keep what was loaded; None: not at all."""
        ttl, stale = want.ttl, want.stale
        if load.ttl is not None:
            check_ttl("ttl of a load", load.ttl)
            ttl = load.ttl
        elif value is None and want.negative_ttl is not None:
            if want.negative_ttl == 0.0:
                return None
            ttl, stale = want.negative_ttl, 0.0
        version = want.version
        if callable(version):
            version = check_version(version(value))
        return Fresh(ttl, stale, version)

    def _put_aside(self, flight: Flight, item: Item, started: float) -> None:
        """Keep it for as long as memory would be believed, from when it was asked for.

        Longer, and what others invalidate meanwhile would be served beyond the bound.
        """
        want = flight.want
        want.place.space.counts.bypassed += 1
        if flight.dead:
            return
        self._aside.put(
            want.place.key,
            item,
            min(started + self._coherence.length, item.fresh_until),
            flight.born,
            self._clock.boottime(),
        )

    async def _call(self, flight: Flight, load: Load) -> Any:
        want = flight.want
        counts = want.place.space.counts
        counts.loads += 1
        counts.refreshes += flight.keep
        renewals = Renewals(self._shared, flight, self._lease, self.spawn)
        if flight.held:
            renewals.plan()
        started = self._clock.monotonic()
        loading.set((flight,))  # of this task, which is the flight's own
        scope = Deadline(self._max_load)
        try:
            async with scope:
                value = want.loader(load) if takes_load(want.loader) else want.loader()
                if inspect.isawaitable(value):
                    value = await value
                return value
        except TimeoutError:
            counts.load_errors += 1
            if not scope.expired():
                raise
            counts.load_timeouts += 1
            raise CacheLoadTimeout(
                f"{want.place.key}: its loader did not end within {self._max_load:g} s"
            ) from None
        except Exception:
            counts.load_errors += 1
            raise
        finally:
            renewals.stop()
            counts.load_time.observe(self._clock.monotonic() - started)

    async def aclose(self) -> None:
        """End every load; leases are given back."""
        for task in list(self._loads):
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
