"""Loads: one at a time for a key in this process, and one in the fleet.

A flight is a load that is under way, with all in this process who wait for it.
The right to load is a lease in Redis with a random token. Who wants to store what was
loaded has to show that token; whoever deletes or sets the key removes it, so that a slow
loader cannot write back what was invalidated meanwhile. The nonces of the tags are read
before the load, so that an invalidated tag makes what is stored dead from the start.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.cache._shared import Found, Fresh, Held, check_version
from oddswire.cache.namespace import check_ttl
from oddswire.errors import CacheLoadTimeout, OddswireError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Item
    from oddswire.cache._nonces import Nonces, Snapshot
    from oddswire.cache._shared import Shared
    from oddswire.cache._space import Place
    from oddswire.clock import Clock

_POLL = 0.1
_BACKOFF_FIRST = 1.0
_BACKOFF_LAST = 30.0
_REMEMBERED = 10_000


class Want(NamedTuple):
    """What a caller asked for.

    Attributes:
        loader: Returns the value or an awaitable of it; may take a `Load`.
        kind: The type of the value.
        negative_ttl: Seconds for which a None is fresh; 0: not kept; None: as others.
        tags: Digests.
        version: Of the value, or a function from the value to it.
    """

    place: Place
    loader: Callable[..., Any]
    kind: Any
    ttl: float
    stale: float
    negative_ttl: float | None
    tags: tuple[bytes, ...]
    version: int | Callable[[Any], int] | None


class Load:
    """What a loader gets as its only argument, if it has one: what is there.

    Attributes:
        found: Whether there is an old value.
        value: The old value, or None.
        version: Its version, 0 without.
        ttl: Set it to keep this value for so many seconds.
    """

    __slots__ = ("found", "ttl", "value", "version")

    def __init__(self, old: Item | None) -> None:
        self.found = old is not None
        self.value: Any = old.value if old is not None else None
        self.version = old.version if old is not None else 0
        self.ttl: float | None = None

    def not_modified(self) -> Any:
        """Return the old value, for the loader to return: it is kept for longer.

        Raises:
            LookupError: There is none.
        """
        if not self.found:
            raise LookupError("there is no old value; look at `found` first")
        return self.value


class Flight:
    """A load that is under way.

    Attributes:
        snapshot: The nonces it loads under; None: they are being read.
        born: `Nonces.invalidations` when it began.
        dead: It must not be joined, and what it loads must not be stored.
        held: The lease is, or may be, ours.
        waiters: Callers who wait for it.
        keep: It goes on when the last of them has left.
    """

    __slots__ = (
        "born",
        "dead",
        "future",
        "held",
        "keep",
        "old",
        "snapshot",
        "task",
        "token",
        "waiters",
        "want",
    )

    def __init__(self, want: Want, born: int, old: Item | None, *, keep: bool) -> None:
        self.want = want
        self.born = born
        self.old = old
        self.keep = keep
        self.token = secrets.token_bytes(16)
        self.snapshot: Snapshot | None = None
        self.dead = False
        self.held = False
        self.waiters = 0
        self.future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        # All may have left; an error that nobody waits for is counted, not reported.
        self.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.task: asyncio.Task[None] | None = None

    def hold(self) -> None:
        """From the parser: the lease is ours, or may be."""
        self.held = True


class _Elsewhere(Exception):
    """Another process refreshes it."""


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
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # (seconds until which it is not tried again, pause) of keys whose refresh failed
        self._failing: dict[str, tuple[float, float]] = {}
        # (item, until, invalidations) of what was loaded while Redis was away
        self._aside: dict[str, tuple[Item, float, int]] = {}

    # --- told by the parser

    def changed(self, key: str) -> None:
        """The entry or the lease of a key has changed: look again."""
        for event in self._watchers.get(key, ()):
            event.set()

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
        self._aside.pop(key, None)

    # --- asked by callers

    def start(
        self,
        want: Want,
        head: bytes | None,
        old: Item | None,
        *,
        keep: bool = False,
        bypass: bool = False,
    ) -> Flight:
        """Return the flight of a key, beginning one if there is none to join.

        Args:
            want: What for.
            head: Beginning of the record that is no use; None: there was none.
            old: The entry that is refreshed.
            keep: It goes on when all callers have left.
            bypass: Redis cannot be reached.
        """
        key = want.place.key
        known = self._flights.get(key)
        if known is not None and self._joinable(known, want):
            return known
        rob = b""
        if known is not None:
            # Its tags were invalidated while it loads: it must not hold us up.
            known.dead = True
            rob = known.token
        flight = Flight(want, self._nonces.invalidations, old, keep=keep)
        self._flights[key] = flight
        flight.task = self._spawn(
            self._run(flight, head, rob, bypass=bypass), f"oddswire load {key}"
        )
        return flight

    def _joinable(self, flight: Flight, want: Want) -> bool:
        if flight.dead or flight.want.kind is not want.kind:
            return False
        untouched = flight.born == self._nonces.invalidations
        if flight.snapshot is None:
            return untouched
        # It loads for what it was asked for: with other tags it may be older than an
        # invalidation that the caller has seen.
        if not untouched and not set(want.tags) <= set(flight.want.tags):
            return False
        return all(
            nonce in (cell.nonce, cell.coming) for cell, nonce in flight.snapshot
        )

    async def wait(self, flight: Flight, timeout: float | None) -> Item:
        """Return what a flight brings; the last who leaves ends it.

        Raises:
            CacheLoadTimeout: It took longer than `timeout` seconds.
            Exception: What the loader raised.
        """
        flight.waiters += 1
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await asyncio.shield(flight.future)
        except TimeoutError:
            if not scope.expired() or flight.future.done():
                raise
            flight.want.place.space.counts.load_timeouts += 1
            raise CacheLoadTimeout(
                f"{flight.want.place.key}: not loaded within {timeout:g} s"
            ) from None
        finally:
            flight.waiters -= 1
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
        failing = self._failing.get(key)
        return failing is not None and self._clock.boottime() < failing[0]

    def aside(self, key: str, kind: Any) -> Item | None:
        """Return what was loaded without Redis just now."""
        kept = self._aside.get(key)
        if kept is None or kept[0].kind is not kind:
            return None
        item, until, born = kept
        if self._clock.boottime() >= until or born != self._nonces.invalidations:
            return None
        return item

    # --- the load

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
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
                flight.future.cancel()
                raise
            # The loader let a cancellation of its own out; nobody here was cancelled.
            flight.future.set_exception(
                CacheLoadTimeout(f"{key}: what its loader waited for was cancelled")
            )
        except _Elsewhere as error:
            flight.future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - a loader may raise anything; who waits gets it
            self._failed(flight)
            flight.future.set_exception(error)
        else:
            self._failing.pop(key, None)
            flight.future.set_result(item)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if flight.held:
                self._spawn(self._release(flight), f"oddswire release {key}")

    def _failed(self, flight: Flight) -> None:
        now = self._clock.boottime()
        key = flight.want.place.key
        _, pause = self._failing.get(key, (0.0, _BACKOFF_FIRST / 2))
        pause = min(pause * 2, _BACKOFF_LAST)
        if len(self._failing) >= _REMEMBERED:
            self._failing = {
                name: each for name, each in self._failing.items() if each[0] > now
            }
            if len(self._failing) >= _REMEMBERED:
                return
        self._failing[key] = (now + pause, pause)

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
                item = await self._claim(flight, head, rob)
            except OddswireError:
                bypass = True
            else:
                if item is not None:
                    return item
        if bypass:
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
            flight.snapshot or ((want.place.space.cell, bytes(8)),),
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
        except OddswireError:
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
        now = self._clock.boottime()
        if len(self._aside) >= _REMEMBERED:
            self._aside = {
                key: each for key, each in self._aside.items() if each[1] > now
            }
            if len(self._aside) >= _REMEMBERED:
                return
        until = min(started + self._coherence.length, item.fresh_until)
        self._aside[want.place.key] = (item, until, flight.born)

    async def _claim(
        self, flight: Flight, head: bytes | None, rob: bytes
    ) -> Item | None:
        """Return the entry if another loads it; None: it is ours to load."""
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
                if flight.keep and not flight.waiters:
                    raise _Elsewhere
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
                    async with asyncio.timeout(pause):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            watchers = self._watchers[place.key]
            watchers.discard(event)
            if not watchers:
                del self._watchers[place.key]

    async def _call(self, flight: Flight, load: Load) -> Any:
        want = flight.want
        counts = want.place.space.counts
        counts.loads += 1
        counts.refreshes += flight.keep
        loop = asyncio.get_running_loop()
        renewals = _Renewals(self, flight)
        if flight.held:
            renewals.plan(loop, self._lease / 2)
        started = self._clock.monotonic()
        scope = asyncio.timeout(self._max_load)
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

    async def renew(self, flight: Flight, count: int) -> bool:
        """Renew the lease of a flight; False: it is lost."""
        try:
            return await self._shared.renew(
                flight.want.place, flight.token, count, self._lease
            )
        except OddswireError:
            return True  # not known: try again

    def spawn_renewal(self, renewals: _Renewals) -> None:
        """Have a renewal run now."""
        self._spawn(renewals.run(self._lease / 2), "oddswire renew")

    async def aclose(self) -> None:
        """End every load; leases are given back."""
        for flight in list(self._flights.values()):
            self._abandon(flight)
        while self._tasks:
            await asyncio.wait(list(self._tasks))


class _Renewals:
    """Renews the lease of a load that takes long; most end before the first one."""

    def __init__(self, flights: Flights, flight: Flight) -> None:
        self._flights = flights
        self._flight = flight
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def plan(self, loop: asyncio.AbstractEventLoop, after: float) -> None:
        """Renew once after so many seconds."""
        self._timer = loop.call_later(after, self._flights.spawn_renewal, self)

    async def run(self, again: float) -> None:
        """Renew, and plan the next."""
        if self._stopped:
            return
        self._count += 1
        held = await self._flights.renew(self._flight, self._count)
        if held and not self._stopped:
            self.plan(asyncio.get_running_loop(), again)

    def stop(self) -> None:
        """No more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()


def takes_load(loader: Callable[..., Any]) -> bool:
    """Whether a loader wants a `Load`: it has a parameter without a default."""
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )
