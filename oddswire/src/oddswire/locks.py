"""Locks between processes: renewed while held, first come first served, fenced.

A lease alone excludes nobody: a holder that was paused goes on as if it still had the
lock (Kleppmann, How to do distributed locking, 2016). So each holder gets a number that
grows, and what it writes goes through a script that refuses any number but the newest.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import msgspec
from redis.exceptions import ResponseError

from oddswire import keys as families
from oddswire._fifo_locks import FifoLocks
from oddswire._numbers import check_duration, check_int, shown
from oddswire._tasks import spawn
from oddswire.client import keyspace
from oddswire.clock import SystemClock
from oddswire.connection.backoff import OutageBackoff
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import (
    ClosedError,
    InvalidKey,
    LockHeld,
    LockLost,
    OddswireError,
    SettingsError,
)
from oddswire.scripts import Script, load, require_one_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from oddswire._fifo_locks import Ticket
    from oddswire.client import Client
    from oddswire.clock import Clock

_PATIENCE = 3.0
"""Seconds after which a waiter that says nothing is taken for dead, at most; of a lock
with a shorter lease, that lease: a dead waiter costs no more than a dead holder."""
_MOST_SEATS = 100
_RELEASE_TIMEOUT = 1.0
_REMEMBERED = 86_400.0
"""Seconds that a fencing number is kept after its holder."""
_CONNECTIONS = 4
"""Exclusive connections that waiting may take at once; the pool serves others too."""
_FOR_A_CONNECTION = 0.25
"""Seconds, beside those of the wait itself, to get one: together with the wait they
stay within the patience."""
_POLL = 0.1
"""Seconds between two requests of a waiter without one."""
_FAMILIES = (
    families.LOCK_FENCE, families.LOCK_QUEUE, families.LOCK_WAITING,
    families.LOCK_RELEASED,
)  # fmt: skip
_ACQUIRE = load("lock_acquire")
_RELEASE = load("lock_release")
_RENEW = load("lock_renew")
_FENCED = load("lock_fenced").source


class LockStats(msgspec.Struct, frozen=True, kw_only=True):
    """The locks of a process, since its `Locks` was made.

    Attributes:
        held: Blocks that hold a lock now.
        waiting: Tasks that wait for one now.
        acquired: Locks that were taken.
        contended: Those that another process had first.
        lost: Leases that ended before their block did.
    """

    held: int = 0
    waiting: int = 0
    acquired: int = 0
    contended: int = 0
    lost: int = 0


class Locks:
    """The locks of a process.

    Args:
        client: Where. Waiting for a lock that another process holds takes an exclusive
            connection, four of them at most for each `Locks`; the tasks that want the
            same lock share one. A waiter for a further lock asks ten times a second.
        prefix: The beginning of the keys; None: the prefix of the client's settings.
        clock: Of this process.
    """

    def __init__(
        self, client: Client, *, prefix: str | None = None, clock: Clock | None = None
    ) -> None:
        self.client = client
        self.space = keyspace(client, prefix)
        self.clock: Clock = SystemClock() if clock is None else clock
        self.local: FifoLocks[str] = FifoLocks()
        # Of locks with several seats, how many of them a task has.
        self.seated: Counter[tuple[str, asyncio.Task[Any] | None]] = Counter()
        self._cached_keys = lru_cache(1024)(self._make_keys)
        self._fenced: dict[str, Script] = {}
        self._waiting_connections = 0
        self._counted: Counter[str] = Counter()

    def lock(
        self,
        name: str,
        ttl: float,
        *,
        patience: float | None = None,
        seats: int = 1,
        on_lost: Callable[[], object] | None = None,
    ) -> Lock:
        """Return a lock, to be held by ``async with``.

        Args:
            name: Of what it protects.
            ttl: Seconds that it outlives a holder that was killed; a holder that lives
                renews it three times within.
            patience: Seconds that a waiter keeps its place without a sign of life; one
                that lives gives three within. Default: 3 s, or `ttl` if that is less.
                A lower one brings the next waiter sooner when one was killed, and costs
                a waiter of a process that stands still for longer its place.
            seats: How many may hold the lock at a time, 1 to 100; the same number in
                every call for this name. With several there is no `run`.
            on_lost: Called, once, when the lease ended before the block did; the block
                then goes on, and the loop's exception handler gets what it raised. For
                what needs an order, and no fence: without it such a block is cancelled.

        Raises:
            SettingsError: `ttl` or `patience` is shorter than 0.1 s: no renewal would
                come in time; `seats` is out of range; `on_lost` is no plain function.
            InvalidKey: `name` is empty or too long.
        """
        return Lock(self, name, ttl, patience, seats, on_lost)

    def stats(self) -> LockStats:
        """Return what was counted since it was made, and what is held now."""
        return LockStats(**self._counted)

    def count(self, what: str, by: int = 1) -> None:
        """Count a field of `LockStats`."""
        self._counted[what] += by

    def keys(self, name: str, seats: int) -> tuple[str, ...]:
        """Return the keys of a lock: fence, queue, waiting, released, then its seats.

        Raises:
            InvalidKey: `name` is too long.
        """
        return self._cached_keys(name, seats)

    def _make_keys(self, name: str, seats: int) -> tuple[str, ...]:
        return (
            *(self.space.key(family, name) for family in _FAMILIES),
            self.space.key(families.LOCK, name),
            *(
                self.space.key(families.LOCK_SEAT, name, number)
                for number in range(1, seats)
            ),
        )

    async def wait(
        self, released: str, last: str, most: float, patience: float = _PATIENCE
    ) -> None:
        """Wait for a release after the `last` one, or for so many seconds."""
        if self._waiting_connections == _CONNECTIONS:
            await self.clock.sleep(min(most, _POLL))
            return
        self._waiting_connections += 1
        client = self.client.bounded(min(_FOR_A_CONNECTION, patience / 3))
        try:
            await client.xread({released: last}, block=round(most * 1e3))
        except TRANSIENT_ERRORS:
            # A server whose clock went back blocks for longer than it was asked to, a
            # middlebox cuts silent connections, other tasks have the whole pool, and a
            # demoted primary unblocks its clients. The next request tells which.
            await self.clock.sleep(min(most, _POLL))
        finally:
            self._waiting_connections -= 1

    def fenced(self, script: Script) -> Script:
        """Return a script that only the newest holder may run."""
        if script.sha not in self._fenced:
            source = f"{_FENCED}\n{script.source}"
            self._fenced[script.sha] = Script(f"{script.name}, fenced", source)
        return self._fenced[script.sha]


class Lock:
    """A lock: ``async with wire.lock("settle:0xabc", ttl=10) as lock``.

    Entering waits, for as long as it takes: among the tasks of a process and among
    processes, first come first served. Once it has a place in the queue it waits out
    outages of the server too. Bound it by `asyncio.timeout`. While the block
    runs the lock is renewed. Should the lease end all the same (the server is away, or
    another holder has the lock), the block is cancelled and ends with `LockLost`.

    Cancelled while waiting, the place in the queue is given up; a lock that was perhaps
    taken is given back. Cancelled in the block, it is released.

    Raises:
        LockLost: On leaving: the lease ended before the block did.
        ClosedError: It was entered twice.
        LockHeld: On entering: this task holds one of this name from the same `Locks`.
        OddswireError: The server could not be asked; nothing is held.

    Attributes:
        name: As given.
        ttl: As given.
        fence: A number greater than that of any earlier holder.
        contended: Whether the server answered that others come first.
        seat: Which of its seats this holder has, from 0.
    """

    def __init__(
        self,
        locks: Locks,
        name: str,
        ttl: float,
        patience: float | None = None,
        seats: int = 1,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        if name == "":
            raise InvalidKey("a lock has a name: what it protects")
        check_duration("ttl", ttl, 0.1, 86_400, SettingsError)
        patience = min(_PATIENCE, ttl) if patience is None else patience
        check_duration("patience", patience, 0.1, 3600, SettingsError)
        check_int("seats", seats, 1, _MOST_SEATS, SettingsError)
        if on_lost is not None and (
            not callable(on_lost) or inspect.iscoroutinefunction(on_lost)
        ):
            raise SettingsError(
                f"on_lost {shown(on_lost)}: accepted is a plain function; it may begin "
                "a task"
            )
        self.name = name
        self.ttl = ttl
        self.fence = 0
        self.contended = False
        self.seat = 0
        self._locks = locks
        self._patience = patience
        self._keys = locks.keys(name, seats)
        self._fence, self._queue, self._waiting, self._released, *self._seats = (
            self._keys
        )
        self._token = secrets.token_hex(16)
        self._terms = (
            self._token, round(ttl * 1e3),
            round((2 * ttl if on_lost else max(_REMEMBERED, 2 * ttl)) * 1e3),
        )  # fmt: skip
        self._on_lost = on_lost
        self._lost = False
        self._until = 0.0
        self._ticket: Ticket | None = None
        self._holder: tuple[str, asyncio.Task[Any] | None] = (name, None)
        self._scope: asyncio.Timeout | None = None
        self._renewing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Lock({self.name!r}, ttl={self.ttl:g})"

    # --- for the holder

    @property
    def left(self) -> float:
        """Seconds until the lease ends for certain; by this process's own clock."""
        return max(0.0, self._until - self._locks.clock.boottime())

    def check(self) -> None:
        """Make sure that the lease has not ended.

        Raises:
            LockLost: It has.
        """
        if self.left <= 0:
            raise LockLost(f"the lease of lock {self.name!r} has ended")

    def key(self, part: str) -> str:
        """Return a key in the lock's slot, for scripts that run under it."""
        family = families.Family("locked", str, str, tag=1)
        return self._locks.space.key(family, self.name, part)

    async def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Any] = ()
    ) -> Any:
        """Run a script, unless somebody has got the lock since.

        Args:
            script: As for `Script`; its first statement may be anything.
            keys: In the lock's slot; see `key`.
            args: As for `Script`.

        Raises:
            LockLost: The lease has ended, or a newer holder was found; nothing ran.
            InvalidKey: A key is not in the lock's slot; see `key`.
            ValueError: The lock has several seats, and so no newest holder.
            OddswireError: As from any script.
        """
        if len(self._seats) > 1:
            raise ValueError("a lock with seats has no newest holder: use a plain lock")
        self.check()
        keys = (self._fence, *keys)
        require_one_slot(script.name, keys)
        fenced = self._locks.fenced(script)
        try:
            return await fenced.run(self._locks.client, keys, (self.fence, *args))
        except ResponseError as error:
            if str(error).startswith("FENCED"):
                raise LockLost(
                    f"another holder has taken lock {self.name!r} since"
                ) from None
            raise

    # --- acquire, renew, release

    async def __aenter__(self) -> Self:
        if self._ticket is not None:
            raise ClosedError("a Lock is used once; ask for another")
        local = self._locks.local
        self._holder = (self.name, asyncio.current_task())
        if self._locks.seated[self._holder] >= len(self._seats):
            raise LockHeld(
                f"this task has every seat of {self.name!r} already and would wait for "
                "itself for ever"
            )
        ticket = self._ticket = local.acquire(self.name)
        self._locks.count("waiting")
        try:
            await ticket
            try:
                await self._acquire()
            except BaseException:
                # The request may be on its way: on the same connection this follows it.
                with suppress(OddswireError):
                    await self._release()
                raise
        except BaseException:
            self._ticket = None
            local.release(self.name, ticket)
            raise
        finally:
            self._locks.count("waiting", -1)
        self._locks.count("held")
        self._locks.count("acquired")
        self._locks.count("contended", int(self.contended))
        if len(self._seats) > 1:
            # The next task of this process may have another seat.
            local.release(self.name, ticket)
            self._locks.seated[self._holder] += 1
        loop = asyncio.get_running_loop()
        if self._on_lost is None:
            # A stall does not postpone it: the lease ends at the server meanwhile.
            self._scope = asyncio.timeout_at(loop.time() + self.left)
            await self._scope.__aenter__()
        self._renewing = spawn(self._renew(), name=f"lock {self.name}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._renewing is not None  # noqa: S101 - it was entered
        assert self._ticket is not None  # noqa: S101 - as above
        lost = self.left <= 0
        self._renewing.cancel()
        try:
            if self._scope is not None:
                await self._scope.__aexit__(exc_type, exc, tb)
        except TimeoutError:
            lost, exc = True, None
        finally:
            try:
                # A lease that cannot be given back ends by itself.
                with suppress(OddswireError):
                    lost |= not await self._release()
                await asyncio.gather(self._renewing, return_exceptions=True)
            finally:
                self._until = 0.0
                self._locks.local.release(self.name, self._ticket)
                if len(self._seats) > 1:
                    self._locks.seated -= Counter((self._holder,))
                self._locks.count("held", -1)
                self._locks.count("lost", int(lost))
        if self._on_lost is not None:
            if lost:
                self._lose()
        elif lost and exc is None:
            raise LockLost(
                f"the lease of lock {self.name!r} ended before its block did"
            ) from None

    def _lose(self) -> None:
        self._until = 0.0
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
        elif self._on_lost is not None and not self._lost:
            self._lost = True
            try:
                self._on_lost()
            except Exception as error:  # noqa: BLE001 - it may raise anything; it is reported
                asyncio.get_running_loop().call_exception_handler(
                    {
                        "message": f"on_lost of lock {self.name!r} failed",
                        "exception": error,
                    }
                )

    async def _acquire(self) -> None:
        client, clock = self._locks.client, self._locks.clock
        args = (*self._terms, round(self._patience * 1e3))
        outage = OutageBackoff()
        while True:
            # Taken before the request: the server counts the lease from later.
            sent = clock.boottime()
            try:
                taken, *rest = await _ACQUIRE.run(client, self._keys, args)
            except OddswireError as error:
                if not self.contended:
                    raise
                # The next request has the same token: if the server took the lock for
                # it and the reply was lost, the reply to the next one says so.
                await outage.wait(error)
                continue
            outage.over()
            if taken:
                self.fence, self.seat = int(rest[0]), rest[1]
                self._until = sent + self.ttl
                if self.left > 0:
                    return
                continue  # the answer took longer than the lease: take it again
            self.contended = True
            wait, last = rest
            await self._locks.wait(self._released, last, wait / 1e3, self._patience)

    async def _renew(self) -> None:
        clock, loop = self._locks.clock, asyncio.get_running_loop()
        client = self._locks.client.bounded(self.ttl / 3)
        pause = self.ttl / 3
        while True:
            await asyncio.sleep(pause)
            sent = clock.boottime()
            still, pause = True, self.ttl / 3
            try:
                still = await _RENEW.run(
                    client, (self._seats[self.seat], self._fence), self._terms
                )
            except OddswireError:
                sent, pause = self._until - self.ttl, self.ttl / 10
            if self._scope is not None and self._scope.expired():
                return
            # A lease that was over before the answer came is not revived.
            if not still or self.left <= 0:
                self._lose()
                return
            self._until = sent + self.ttl
            if self._scope is not None:
                self._scope.reschedule(loop.time() + self.left)

    async def _release(self) -> bool:
        """Release the lock; False when this lock did not own it."""
        client = self._locks.client.bounded(_RELEASE_TIMEOUT)
        keys = (self._queue, self._waiting, self._released, *self._seats)
        return bool(await _RELEASE.run(client, keys, (self._token,)))
