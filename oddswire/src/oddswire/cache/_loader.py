"""The loader: one load of a key at a time in this process, and one in all processes.

`Loader.load` is the way of one caller, `Loader._perform` the load itself:

1. Memory: an entry that may serve is returned.
2. Redis: an entry that may serve is returned; a stale one is refreshed meanwhile. The
   step is skipped after a lookup of the namespace that found nothing: a miss is likely
   then, and the claim of step 4 reads the entry in any case.
3. Flight: the caller joins the load of this key that is under way, or begins one.
4. Nonces and claim: the flight reads the nonces of its tags and takes the lease of the
   key, the right to load. Where another process has the lease, it waits for its value.
5. Loader: it is called while the lease is renewed.
6. Store: the value is written under the nonces of step 4, and only with the lease.

Steps 4 and 6 are the fence. A delete or a set of the key removes the lease, so a slow
loader cannot store what was invalidated meanwhile. An invalidated tag gets a new nonce,
so an entry that is stored under the nonces of step 4 is dead from the start.

If the process dies after step 4, its lease expires after `load_lease`, and one of the
waiters takes it. If it dies within step 6, the script has stored the value and removed
the lease, or done neither.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from oddswire._tasks import retrieve, spawn
from oddswire.cache._flight import Flight, loading, refuse_cycle
from oddswire.cache._l2 import Lifetime, LockedBy, LookupResult
from oddswire.cache._record import NONCE_BYTES, check_version
from oddswire.cache._servers import SlotMoved
from oddswire.cache._tag_version import Stamp
from oddswire.cache.entry import LoadContext
from oddswire.cache.namespace import check_ttl
from oddswire.connection.deadline import Deadline
from oddswire.errors import (
    CacheLoadCycle,
    CacheLoadTimeout,
    ClosedError,
    OddswireError,
    WrongLoop,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from oddswire.cache._l1 import L1, Item
    from oddswire.cache._l2 import L2
    from oddswire.cache._namespaces import CacheKey
    from oddswire.cache._tags import TagVersions
    from oddswire.cache.entry import LoadRequest
    from oddswire.clock import Clock
    from oddswire.events import Degradation

# Seconds for which loads do without Redis after it did not answer.
_REDIS_DOWN = 1.0
# Waiters get a message at the end of a load; they also look again without one.
_POLL = 0.1
# Keys whose refresh failed, and keys that were loaded without Redis, at most.
_REMEMBERED = 10_000
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0


class LoadingElsewhere(Exception):
    """Another process refreshes the key, and no caller waits for it here."""


class Loader:
    """Every load of this process.

    Args:
        l1: Entries of this process.
        l2: Entries in Redis.
        tags: The nonces of tags and namespaces.
        clock: The time.
        coherence: Seconds, how old a value may get that was loaded without Redis.
        lease: Seconds after which the load of a process that died is replaced.
        max_load: Seconds after which a loader is ended.
        degraded: The mode in which loads go on without Redis.
    """

    def __init__(
        self,
        l1: L1,
        l2: L2,
        tags: TagVersions,
        clock: Clock,
        *,
        coherence: float,
        lease: float,
        max_load: float,
        degraded: Degradation,
    ) -> None:
        self._items = l1.items
        self._l2 = l2
        self._tags = tags
        self._servers = l2.servers
        self._coherence_length = coherence
        self._clock = clock
        self._now = clock.boottime
        self._lease = lease
        self._max_load = max_load
        self._degraded = degraded
        self._flights: dict[str, Flight] = {}
        self._waiting_elsewhere: dict[str, set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of them that run a loader, also for a flight that was replaced.
        self._loads: set[asyncio.Task[None]] = set()
        self._closed = False
        self._backoff = Backoff()
        self._degraded_store = DegradedStore()

    # --- 1, 2, 3: the way of one caller

    async def load(self, request: LoadRequest) -> Item:
        """Return an entry, loading it where there is none; see `Cache.get_or_set`."""
        key = request.key
        item, known_header = None, None
        bypass, lookup_skipped = self.redis_down(key.slot), False
        if not bypass:
            try:
                # 1. Memory.
                item = self.peek(key.name, request.value_type)
                if item is not None:
                    known_header = item.header
                elif key.namespace.expect_miss:
                    # One round trip less: the claim of step 4 reads the entry too.
                    lookup_skipped = True
                else:
                    # 2. Redis.
                    found = await self._l2.fetch(key, request.value_type)
                    item, known_header = found.item, found.header
                    if self._degraded.active:
                        self._restored()
                    if item is not None and not found.refresh_due:
                        return item
            except WrongLoop:
                raise  # a mistake of the program, which an outage is not
            except OddswireError as error:
                self.note_redis_down(error, key.slot)
                bypass = True
        if bypass:
            key.namespace.counters.misses += 1
        # 3. Flight: behind the caller's back if an entry may serve meanwhile.
        if item is not None:
            return await self._serve(request, item, known_header)
        if lookup_skipped:
            return await self._load_without_lookup(request)
        return await self.load_missing(request, known_header, bypass=bypass)

    def peek(self, key: str, value_type: Any) -> Item | None:
        """Return an entry of memory that may serve, also a stale one, as a hit."""
        item = self._items.get(key)
        if item is None or item.value_type is not value_type:
            return None
        now = self._now()
        if (
            now >= self._servers.until(item.stamps)
            or now >= item.usable_until
            or not item.lives()
        ):
            self._servers.want()
            return None
        item.use()
        item.counters.l1_hits += 1
        item.counters.stale += item.fresh_until <= now
        return item

    async def find_many(
        self, keys: Sequence[CacheKey], value_types: Sequence[Any]
    ) -> list[tuple[Item | None, bytes | None]]:
        """Return entries that may serve, and the beginnings of the records there were.

        With one MGET for all that memory does not have.

        Raises:
            OddswireError: Redis could not be asked.
        """
        items = [
            self.peek(key.name, value_type)
            for key, value_type in zip(keys, value_types, strict=True)
        ]
        missing = [at for at, item in enumerate(items) if item is None]
        found = [(item, item.header if item else None) for item in items]
        if missing:
            self._servers.want()
            answers = await self._l2.fetch_many(
                [keys[at] for at in missing], [value_types[at] for at in missing]
            )
            for at, answer in zip(missing, answers, strict=True):
                answer.count()
                found[at] = answer.item, answer.header
        return found

    def note_redis_down(self, error: OddswireError, *slots: int) -> None:
        """Redis did not answer: the next loads do without it for a moment."""
        servers = {each for slot in slots if (each := self._servers.at(slot))}
        lost = {each for each in servers if not each.is_connected}
        for server in lost or servers:
            server.down_until = self._now() + _REDIS_DOWN
        self._degraded.begin(error)

    def redis_down(self, slot: int) -> bool:
        """Whether Redis did not answer a moment ago."""
        server = self._servers.at(slot)
        return server is not None and self._now() < server.down_until

    def _restored(self) -> None:
        now = self._now()
        if not any(now < each.down_until for each in self._servers.all):
            self._degraded.end()

    async def _load_without_lookup(self, request: LoadRequest) -> Item:
        """Return an entry that Redis probably does not have: step 2 is skipped."""
        namespace = request.key.namespace
        if namespace.config.l1:
            self._servers.want()
        flight = self._join_or_begin(request, lookup_skipped=True)
        try:
            item = await self._wait_or_bypass(flight, request)
        finally:
            namespace.counters.misses += not flight.found
            if flight.bypass:
                # The next lookup finds out whether Redis answers reads.
                namespace.expect_miss = False
            elif self._degraded.active:
                self._restored()
        if not flight.found:
            return item
        # The guess was wrong: the look of the claim found an entry.
        namespace.expect_miss = False
        namespace.counters.l2_hits += 1
        namespace.counters.stale += self._now() >= item.fresh_until
        return await self._serve(request, item, item.header)

    async def load_missing(
        self, request: LoadRequest, known_header: bytes | None, *, bypass: bool
    ) -> Item:
        """Return an entry that is in neither tier.

        Args:
            request: What is asked for.
            known_header: As of a `Flight`.
            bypass: Redis cannot be reached.
        """
        name = request.key.name
        if bypass:
            item = self._loaded_without_redis(request)
            if item is None and self.is_backing_off(name):
                item = self._last_known(request)
            if item is not None:
                return item
        flight = self._join_or_begin(request, known_header=known_header, bypass=bypass)
        return await self._wait_or_bypass(flight, request, bypass=bypass)

    async def _wait_or_bypass(
        self, flight: Flight, request: LoadRequest, *, bypass: bool = False
    ) -> Item:
        """Return what a flight brings, or what there is without Redis."""
        request.key.namespace.counters.shared += bool(flight.waiters)
        try:
            return await self.wait(flight, request.hard_timeout)
        except Exception as error:
            # The caller had joined a `reload`, which fails without a load where Redis
            # does not answer. This caller wants a value, and loads without Redis.
            not_loaded = flight.unstored is error
            # Neither Redis nor the source answers: stale values are for this.
            last = self._last_known(request) if bypass or flight.bypass else None
            if last is None and not not_loaded:
                raise
        return last or await self.load_missing(request, None, bypass=True)

    async def _serve(
        self, request: LoadRequest, item: Item, known_header: bytes | None
    ) -> Item:
        """Return what is there, refreshing it if it is stale or about to be."""
        flight = self.refresh_if_due(request, item, known_header)
        soft = request.soft_timeout
        if soft is None or flight is None or self._now() < item.fresh_until:
            return item
        try:
            return await self.wait(flight, soft)
        except Exception:  # noqa: BLE001 - a loader may raise anything; stale values are for this
            item.counters.stale_on_error += 1
            return item

    def refresh_if_due(
        self, request: LoadRequest, item: Item, known_header: bytes | None
    ) -> Flight | None:
        """Load an entry behind the caller's back, if it is stale or about to be."""
        now = self._now()
        too_old = request.max_age is not None and now - item.stored_at > request.max_age
        if now < item.fresh_until and not too_old:
            early = request.key.namespace.config.early
            if now < item.early_refresh_at or not self._refreshes_early(
                item, early, now
            ):
                return None
        elif self.is_backing_off(request.key.name):
            item.counters.stale_on_error += 1
            return None
        return self._join_or_begin(
            request, known_header=known_header, old=item, background=True
        )

    def _refreshes_early(self, item: Item, early: float, now: float) -> bool:
        """Decide by chance whether to refresh an entry that is still fresh.

        XFetch (Vattani, Chierichetti, Lowenstein 2015): the nearer the end and the
        longer a load takes, the likelier; one of many readers begins it in time.
        """
        if early == 0.0 or self.is_backing_off(item.key):
            return False
        chance = 1.0 - random.random()  # noqa: S311 - no secret
        lead = -item.details.cost * early * math.log(chance)
        return now + lead >= item.fresh_until

    def is_backing_off(self, key: str) -> bool:
        """Whether a load failed so lately that it is not tried now."""
        return self._backoff.holds(key, self._now())

    def _last_known(self, request: LoadRequest) -> Item | None:
        """Return what memory had when Redis went away, if it may serve stale."""
        item = self._items.get(request.key.name)
        if (
            not request.stale
            or item is None
            or item.value_type is not request.value_type
            or self._now() >= item.usable_until
            or not (
                item.lives()
                or self._tags.were_alive(item.stamps, request.key.namespace)
            )
        ):
            return None
        item.counters.stale_on_error += 1
        return item

    def _loaded_without_redis(self, request: LoadRequest) -> Item | None:
        return self._degraded_store.get(
            request.key.name, request.value_type, self._tags.invalidations, self._now()
        )

    # --- 3: joining and beginning flights

    def _join_or_begin(
        self, request: LoadRequest, *, background: bool = False, **options: Any
    ) -> Flight:
        """Return the flight of a key, beginning one if there is none to join.

        Args:
            request: What is asked for.
            background: As of a `Flight`.
            **options: Likewise.
        """
        known = self._flights.get(request.key.name)
        if known is None:
            return self._begin(request, background=background, **options)
        if self._may_join(known, request, background=background):
            if request.on_elsewhere is not None:
                request.on_elsewhere()
            return known
        steal = b""
        if known.request.value_type is request.value_type and self._is_watched(known):
            # Its tags were invalidated while it loads: the new flight takes its lease.
            # A flight of another type, or one that may have missed an invalidation, may
            # store its value if its lease stands: the server decides that.
            known.dead = True
            steal = known.token
        return self._begin(request, background=background, steal=steal, **options)

    def _may_join(
        self, flight: Flight, request: LoadRequest, *, background: bool
    ) -> bool:
        """Whether the value of a flight is as new as one of a load that begins now."""
        if flight.dead or flight.request.value_type is not request.value_type:
            return False
        if not self._is_watched(flight):
            return False
        untouched = flight.invalidation_epoch == self._tags.invalidations
        if flight.snapshot is None or self._tags.untracked:
            return untouched
        # A flight with other tags may be older than an invalidation that the caller
        # has seen.
        if not untouched and not set(request.tags) <= set(flight.request.tags):
            return False
        # A refresh goes on though its tags were softly invalidated: if each caller
        # that is served a stale value replaced it, it would never end. Its value is
        # stored as stale.
        part = slice(NONCE_BYTES if background else None)
        return all(
            stamp.nonce[part]
            in (
                (stamp.tag_version.nonce or b"")[part],
                (stamp.tag_version.pending or b"")[part],
            )
            for stamp in flight.snapshot
        )

    def _is_watched(self, flight: Flight) -> bool:
        """Whether an invalidation by another process since it began would be known.

        Without this, a process that is cut off and has a slow loader would serve what
        that asked the source for before another process invalidated it.
        """
        now = self._now()
        until = self._servers.until(flight.snapshot)
        return now < until or now < flight.began + self._coherence_length

    async def reload(self, request: LoadRequest) -> Item:
        """Load an entry, also where there is one; Redis has it when this returns.

        A flight that is under way is not joined: its loader may have read the source
        before this call.

        Raises:
            OddswireError: Redis could not be asked, or did not confirm the value.
            Exception: As of `wait`.
        """
        known = self._flights.get(request.key.name)
        if known is not None:
            known.dead = True
        steal = known.token if known else b""
        # Every record begins with nothing: none is of use.
        flight = self._begin(request, known_header=b"", force=True, steal=steal)
        item = await self.wait(flight, request.hard_timeout)
        if flight.unstored is not None:
            raise flight.unstored
        return item

    def _begin(self, request: LoadRequest, **options: Any) -> Flight:
        name = request.key.name
        if self._closed:
            raise ClosedError("the cache was closed")
        future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        # All callers may have left; then an error is counted, and not reported.
        future.add_done_callback(retrieve)
        flight = self._flights[name] = Flight(
            request=request,
            future=future,
            token=secrets.token_bytes(16),
            began=self._now(),
            invalidation_epoch=self._tags.invalidations,
            **options,
        )
        flight.task = self.spawn(self._run(flight), f"oddswire load {name}")
        self._loads.add(flight.task)
        flight.task.add_done_callback(partial(self._ended, flight))
        return flight

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        self._loads.discard(task)
        if not flight.future.done():
            # Cancelled, by the last caller that left, or because the cache is closing.
            # Not in the task: cancelled before its first step, it runs nothing.
            flight.future.set_exception(
                ClosedError(f"{flight.request.key.name}: the load was ended")
            )

    async def wait(self, flight: Flight, timeout: float | None) -> Item:
        """Return what a flight brings; the last caller that leaves ends it.

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
                refuse_cycle(loaders, flight.request)
                flight.loaders += loaders
            async with scope:
                return await asyncio.shield(flight.future)
        except TimeoutError:
            if not scope.expired():
                raise  # the loader's own
            if flight.future.done():
                # In this very turn: its value, or what its loader raised.
                return flight.future.result()
            flight.request.key.namespace.counters.load_timeouts += 1
            raise CacheLoadTimeout(
                f"{flight.request.key.name}: not loaded within {timeout:g} s"
            ) from None
        finally:
            flight.waiters -= 1
            for each in loaders:
                with suppress(ValueError):  # the ring was found
                    flight.loaders.remove(each)
            if not (flight.waiters or flight.background or flight.future.done()):
                self._abandon(flight)

    def _abandon(self, flight: Flight) -> None:
        # Out of the table first: a caller that comes before the task has ended must
        # not join it.
        if self._flights.get(flight.request.key.name) is flight:
            del self._flights[flight.request.key.name]
        flight.dead = True
        if flight.task is not None:
            flight.task.cancel()

    # --- the flight

    async def _run(self, flight: Flight) -> None:
        name = flight.request.key.name
        try:
            item = await self._perform(flight)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # its callers hear it from `_ended`
            # The loader let a cancellation of its own out; no caller was cancelled.
            flight.future.set_exception(
                CacheLoadTimeout(f"{name}: what its loader waited for was cancelled")
            )
        except LoadingElsewhere as error:
            flight.future.set_exception(error)
        except (Exception, BaseExceptionGroup, GeneratorExit) as error:  # noqa: BLE001 - a loader may raise anything
            self._backoff.failed(name, self._now())
            flight.future.set_exception(error)
        else:
            self._backoff.succeeded(name)
            flight.future.set_result(item)
        finally:
            if self._flights.get(name) is flight:
                del self._flights[name]
            # Cancelled before the look was answered, the flight may get the lease after
            # its end, and no other code would give it back: waiters would wait until it
            # expires. The release reaches the server behind the look.
            if flight.owns_lease or flight.asks_for_lease:
                self.spawn(self._release(flight), f"oddswire release {name}")

    async def _release(self, flight: Flight) -> None:
        with suppress(OddswireError):  # then it ends by itself
            await self._l2.release(flight)

    async def _perform(self, flight: Flight) -> Item:
        request = flight.request
        namespace = request.key.namespace
        # 4. Nonces and claim. Both before the loader is called: an invalidation that
        #    runs later removes the lease or the nonce.
        if not flight.bypass:
            try:
                item = await self._claim_with_nonces(flight)
            except (CacheLoadCycle, WrongLoop):
                raise
            except OddswireError as error:
                if flight.force:
                    flight.unstored = error
                    raise
                flight.bypass = True
            else:
                if item is not None:
                    return item
        if flight.bypass:
            item = self._loaded_without_redis(request)
            if item is not None:
                return item
        # 5. Loader. What it reads from the source is at least as new as the nonces.
        started = self._now()
        context = LoadContext(flight.old) if takes_context(request.loader) else None
        value = await self._call_loader(flight, context)
        lifetime = self._lifetime(request, context, value)
        item, data, life = self._l2.pack(
            request,
            value,
            lifetime or Lifetime(1.0, 0.0),
            flight.snapshot or (Stamp(namespace.tag_version, bytes(8)),),
            cost=self._now() - started,
            old=flight.old,
        )
        # 6. Store, with the lease. If another process removed it, the script writes
        #    nothing; the callers get the value in any case.
        if flight.bypass:
            self._keep_without_redis(flight, item, started)
            return item
        if lifetime is None or flight.dead:
            namespace.counters.fenced += flight.dead
            return item
        try:
            stored = await self._l2.put(
                request.key, item, data, life, token=flight.token
            )
        except OddswireError as error:
            # The caller that forced it gets the error; those that joined, the value.
            flight.unstored = error.raised() if isinstance(error, SlotMoved) else error
            self._keep_without_redis(flight, item, started)
            return item
        # Stored or not, there is no lease to give back: the script removed it with its
        # write, or another process had removed or taken it.
        flight.owns_lease = False
        if not stored:
            namespace.counters.fenced += 1
        return item

    # --- 4: nonces and claim

    async def _claim_with_nonces(self, flight: Flight) -> Item | None:
        """Return an entry that another process loaded; None: it is ours to load.

        Raises:
            OddswireError: Redis did not answer.
            Exception: As of `_claim`.
        """
        request = flight.request
        config = request.key.namespace.config
        longest = max(request.ttl, config.adaptive.high if config.adaptive else 0.0)
        life = longest + request.stale + self._max_load
        tags = request.tags
        slot = request.key.slot
        server = self._servers.at(slot) or await self._servers.find(slot)
        if self._now() > server.coherence.current_until:
            # Times in entries are the server's. Most claims come after a lookup, which
            # knows the time; one that looks first may come after a long silence.
            await server.coherence.sync()
        flight.snapshot = self._tags.snapshot_known(request.key, tags, life)
        if flight.snapshot is not None:
            return await self._claim(flight)

        async def read_nonces() -> None:
            flight.snapshot = await self._tags.snapshot(request.key, tags, life)

        # In one round trip: the connection joins what is sent in one tick.
        item, failed = await asyncio.gather(
            self._claim(flight), read_nonces(), return_exceptions=True
        )
        if isinstance(item, LoadingElsewhere) and flight.waiters:
            # A caller joined after the claim had given up, while the nonces were read.
            if failed is not None:
                raise failed
            return await self._claim(flight)
        if isinstance(item, BaseException):
            raise item
        if item is None and failed is not None:
            raise failed
        return item

    async def _claim(self, flight: Flight) -> Item | None:
        """Return the entry if another process loads it; None: it is ours to load.

        1. `look` reads the entry, and where there is none takes the lease.
        2. The lease is ours: this process loads.
        3. An entry is there: a fresh one serves. A stale one serves if no lookup
           preceded this; else it is the old value, and the next look ignores it.
        4. Another process has the lease: wait for a message about the entry or the
           lease, or for a moment, and look again. Its owner renews the lease while it
           loads. If the owner dies, the lease expires, and one of the waiters gets it.

        Raises:
            LoadingElsewhere: No caller waits for the flight, and another process loads.
            CacheLoadCycle: That load waits for this one.
            OddswireError: Redis did not answer.
        """
        request = flight.request
        key = request.key
        known_header, steal, lookup_skipped = (
            flight.known_header,
            flight.steal,
            flight.lookup_skipped,
        )
        holder, since = b"", 0.0
        event = asyncio.Event()
        # Before the first look: a change after it must not be missed.
        self._waiting_elsewhere.setdefault(key.name, set()).add(event)
        try:
            while True:
                event.clear()
                flight.asks_for_lease = True
                answer = await self._l2.look(
                    flight, known_header=known_header, steal=steal
                )
                flight.asks_for_lease = False
                if answer is None:
                    return None
                now = self._now()
                if isinstance(answer, LookupResult):
                    item = answer.item
                    if item is not None and (item.fresh_until > now or lookup_skipped):
                        flight.found = lookup_skipped
                        return item
                    flight.old = item or flight.old
                    known_header, lookup_skipped = answer.header, False
                    continue
                assert isinstance(answer, LockedBy)  # noqa: S101 - the third of three
                lookup_skipped = False
                if flight.force:
                    if flight.dead:
                        # A newer `reload` of this process has the lease, and keeps it.
                        # This flight loads for its callers; its value is not stored.
                        return None
                    steal = answer.holder
                    continue
                refuse_cycle(flight.loaders, request, answer.holder)
                if request.on_elsewhere is not None:
                    request.on_elsewhere()
                if flight.background and not flight.waiters:
                    raise LoadingElsewhere
                if answer.holder != holder:
                    if not holder:
                        key.namespace.counters.waits += 1
                    holder, since = answer.holder, now
                elif now - since > self._lease:
                    # Its owner has not renewed it, and it has not expired: the server's
                    # clock went back.
                    steal = holder
                    continue
                pause = _POLL * (0.5 + random.random() / 2)  # noqa: S311 - no secret
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):  # a pause
                        await event.wait()
        finally:
            events = self._waiting_elsewhere[key.name]
            events.discard(event)
            if not events:
                del self._waiting_elsewhere[key.name]

    # --- called by the parser

    def changed(self, key: str) -> None:
        """The entry or the lease of a key has changed: waiters look again."""
        for event in self._waiting_elsewhere.get(key, ()):
            event.set()

    def lost_lease(self, key: str) -> None:
        """Another process removed or took the lease of a key."""
        flight = self._flights.get(key)
        if flight is not None and flight.owns_lease:
            self.kill(key)
        self.changed(key)

    def kill(self, key: str) -> None:
        """The key was invalidated: later callers get another load."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.dead = True
        self._degraded_store.drop(key)

    # --- 5: the loader

    async def _call_loader(self, flight: Flight, context: LoadContext | None) -> Any:
        request = flight.request
        counters = request.key.namespace.counters
        counters.loads += 1
        counters.refreshes += flight.background
        # Most loads end before the first renewal, so that it is a timer and no task.
        renewal = self._plan_renewal(flight) if flight.owns_lease else None
        started = self._clock.monotonic()
        loading.set((flight,))  # of this task, which is the flight's own
        scope = Deadline(self._max_load)
        try:
            async with scope:
                value = request.loader(context) if context else request.loader()
                if inspect.isawaitable(value):
                    value = await value
                return value
        except TimeoutError:
            counters.load_errors += 1
            if not scope.expired():
                raise
            counters.load_timeouts += 1
            raise CacheLoadTimeout(
                f"{request.key.name}: its loader did not end within "
                f"{self._max_load:g} s"
            ) from None
        except Exception:
            counters.load_errors += 1
            raise
        finally:
            flight.loader_ended = True
            if renewal is not None:
                renewal.cancel()
            counters.load_time.observe(self._clock.monotonic() - started)

    def _plan_renewal(self, flight: Flight) -> asyncio.TimerHandle:
        # After a third of the lease: one that failed is tried again before the end.
        return asyncio.get_running_loop().call_later(
            self._lease / 3, lambda: self.spawn(self._renew(flight), "oddswire renew")
        )

    async def _renew(self, flight: Flight) -> None:
        """Renew the lease; waiters see by it that its owner lives."""
        if flight.loader_ended:
            return
        flight.renewals += 1
        try:
            owned = await self._l2.renew(flight)
        except OddswireError:
            owned = True  # not known: try again
        # `_renew` of a loader that has ended meanwhile plans nothing more.
        if owned and not flight.loader_ended:
            self._plan_renewal(flight)

    def _lifetime(
        self, request: LoadRequest, context: LoadContext | None, value: Any
    ) -> Lifetime | None:
        """Return for how long to keep a loaded value; None: not at all."""
        ttl, stale = request.ttl, request.stale
        if context is not None and context.ttl is not None:
            check_ttl("ttl of a load", context.ttl)
            ttl = context.ttl
        elif value is None and request.negative_ttl is not None:
            if request.negative_ttl == 0.0:
                return None
            ttl, stale = request.negative_ttl, 0.0
        version = request.version
        if callable(version):
            version = check_version(version(value))
        return Lifetime(ttl, stale, version)

    # --- instead of 6: the value of a load without Redis

    def _keep_without_redis(self, flight: Flight, item: Item, started: float) -> None:
        """Keep a value for as long as memory is believed, from when its loader began.

        If it stayed longer, what other processes invalidate meanwhile would be served
        beyond the bound.
        """
        key = flight.request.key
        key.namespace.counters.bypassed += 1
        if flight.dead:
            return
        self._degraded_store.put(
            item,
            min(started + self._coherence_length, item.fresh_until),
            flight.invalidation_epoch,
            self._now(),
        )

    # --- tasks

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task that closing waits for."""
        return spawn(work, name=name, into=self._tasks)

    async def aclose(self) -> None:
        """End every load; leases are given back."""
        self._closed = True
        for task in list(self._loads):
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))


def takes_context(loader: Callable[..., Any]) -> bool:
    """Whether a loader wants a `LoadContext`: it has a parameter without a default."""
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )


class Backoff:
    """Keys whose load failed: each is left alone for a while, longer each time."""

    def __init__(self) -> None:
        # (when to try again, pause before that)
        self._failing: dict[str, tuple[float, float]] = {}

    def failed(self, key: str, now: float) -> None:
        """Leave a key alone for twice as long as last time."""
        _, pause = self._failing.get(key, (0.0, _FIRST_PAUSE / 2))
        pause = min(pause * 2, _LAST_PAUSE)
        _remember(self._failing, key, (now + pause, pause), now)

    def succeeded(self, key: str) -> None:
        """Forget that a key ever failed."""
        self._failing.pop(key, None)

    def holds(self, key: str, now: float) -> bool:
        """Whether a key failed so lately that it is not tried now."""
        failing = self._failing.get(key)
        return failing is not None and now < failing[0]


class DegradedStore:
    """Values that this process loaded without Redis."""

    def __init__(self) -> None:
        # Until when it counts, item, `TagVersions.invalidations` when its load began.
        self._kept: dict[str, tuple[float, Item, int]] = {}

    def put(self, item: Item, until: float, invalidations: int, now: float) -> None:
        """Keep an item, if there is room among those that still count."""
        _remember(self._kept, item.key, (until, item, invalidations), now)

    def get(
        self, key: str, value_type: Any, invalidations: int, now: float
    ) -> Item | None:
        """Return an item; None if this process invalidated anything since its load."""
        until, item, at_its_load = self._kept.get(key, (0.0, None, 0))
        if item is None or item.value_type is not value_type or now >= until:
            return None
        return item if at_its_load == invalidations else None

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._kept.pop(key, None)


def _remember(
    table: dict[str, Any], key: str, value: tuple[Any, ...], now: float
) -> None:
    """Add a value, which begins with its end, if there is room for it."""
    if len(table) >= _REMEMBERED:
        for name in [name for name, each in table.items() if each[0] <= now]:
            del table[name]
    if len(table) < _REMEMBERED:
        table[key] = value
