"""`ExclusivePool`: connections that are leased to one caller at a time.

WATCH, blocking commands, MONITOR, raw pub/sub and very large batches need a connection
alone. The pool is a redis-py `ConnectionPool`, so redis-py's own classes lease from it.

It is cut in two, as httpcore's pool is: `PoolState` decides, without any I/O, and
`ExclusivePool` does what was decided. The way of a waiter:

1. `get_connection` puts a waiter (a future) into the state's queue.
2. The state assigns a connection to it at once, or asks for one more to be opened. If
   it may do neither, the waiter stays in the queue until `release` brings one back.
3. The assignment resolves the future. From then on the connection is leased, although
   the waiter's task has not run yet.
4. The task runs, checks the connection, and returns it to its caller.
"""

from __future__ import annotations

import asyncio
import random
import select
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import redis.asyncio as aredis

from oddswire._tasks import spawn
from oddswire.connection.access import Access, server_of
from oddswire.connection.deadline import Alarm, Deadline
from oddswire.connection.dial import with_system_words
from oddswire.connection.errors import from_redis
from oddswire.connection.hardened import hardened
from oddswire.connection.loop_guard import LoopGuard
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    NoPermission,
    Outcome,
    PoolTimeout,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

# Seconds that an attempt waits at most after a failed one, while other connections to
# the server take their turns.
_MAX_PAUSE = 5.0

# Seconds that a connection which is closed may take to send its last bytes and end TLS.
_CLOSE_SECONDS = 0.5

_LIBRARY = ("driver_info", "lib_name", "lib_version")

Connection = TypeVar("Connection")
Waiter = TypeVar("Waiter")


class PoolActions(NamedTuple, Generic[Connection, Waiter]):
    """What the pool has to do now.

    Attributes:
        assign: Connections to give to waiters; they are leased already.
        open: How many connections to open; report each by `opened` or `failed`.
        close: Connections that are the pool's no more.
    """

    assign: list[tuple[Waiter, Connection]]
    open: int
    close: list[Connection]


class _Idle(NamedTuple, Generic[Connection]):
    connection: Connection
    since: float
    expires: float


class PoolState(Generic[Connection, Waiter]):
    """The connections that exist, their leases, and the waiters. No I/O, no clock.

    A connection is opening, idle or leased, and in one of the three at a time. Every
    method changes the state and returns the actions that follow from it, so a test can
    try any order of events without a loop.

    Args:
        max_size: Connections that may exist at once.
        min_idle: Idle connections that are never closed for being idle.
        idle: Seconds after which other idle connections are closed.
        lifetime: Seconds after which a connection is closed when it comes back. It is
            shortened at random by up to a tenth: connections that were opened together
            do not end together.
        rng: Returns a float in [0, 1).
    """

    def __init__(
        self,
        *,
        max_size: int,
        min_idle: int,
        idle: float,
        lifetime: float,
        rng: Callable[[], float],
    ) -> None:
        self.max_size = max_size
        self.min_idle = min_idle
        self._idle_for = idle
        self._lifetime = lifetime
        self._rng = rng
        self._idle: list[_Idle[Connection]] = []  # used last at the end
        self._leased: dict[Connection, float] = {}  # with the end of its lifetime
        self._opening = 0
        self._waiters: deque[Waiter] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<PoolState {len(self._leased)} leased, {len(self._idle)} idle, "
            f"{self._opening} opening of {self.max_size}; {len(self._waiters)} waiting>"
        )

    @property
    def leased(self) -> int:
        """Connections in use."""
        return len(self._leased)

    @property
    def idle(self) -> int:
        """Connections that wait for use."""
        return len(self._idle)

    @property
    def opening(self) -> int:
        """Connections on their way."""
        return self._opening

    @property
    def waiting(self) -> int:
        """Callers without a connection."""
        return len(self._waiters)

    @property
    def size(self) -> int:
        """All connections, those on their way included."""
        return len(self._leased) + len(self._idle) + self._opening

    # --- a caller wants a connection

    def acquire(self, waiter: Waiter, now: float) -> PoolActions[Connection, Waiter]:
        """Queue a waiter; waiters are served in the order in which they came."""
        self._waiters.append(waiter)
        return self._next_actions(now)

    def acquire_now(
        self, now: float, make: Callable[[], Connection]
    ) -> Connection | None:
        """Lease the connection used last, or a new one; None: the caller has to wait.

        Waiters come first.
        """
        if self._closed or self._waiters:
            return None
        if self._idle:
            entry = self._idle.pop()
            self._leased[entry.connection] = entry.expires
            return entry.connection
        if self.size >= self.max_size:
            return None
        connection = make()
        self._leased[connection] = self._expiry(now)
        return connection

    def cancel(self, waiter: Waiter) -> bool:
        """Remove a waiter; False: it is not in the queue, and may have a connection."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return False
        return True

    # --- a connection was opened, or not, or comes back

    def opened(
        self, connection: Connection, now: float
    ) -> PoolActions[Connection, Waiter]:
        """A connection that the actions asked for is open."""
        self._opening -= 1
        self._idle.append(_Idle(connection, now, self._expiry(now)))
        return self._next_actions(now)

    def failed(
        self, now: float
    ) -> tuple[Waiter | None, PoolActions[Connection, Waiter]]:
        """A connection could not be opened; return the waiter that has to fail.

        Only the waiter in front fails: the connections of the others may still come.
        """
        self._opening -= 1
        waiter = self._waiters.popleft() if self._waiters else None
        return waiter, self._next_actions(now)

    def release(
        self, connection: Connection, now: float, *, usable: bool
    ) -> PoolActions[Connection, Waiter]:
        """A leased connection comes back.

        Raises:
            KeyError: It was not leased from here, or came back before.
        """
        expires = self._leased.pop(connection)
        if usable and not self._closed and now < expires:
            self._idle.append(_Idle(connection, now, expires))
            return self._next_actions(now)
        actions = self._next_actions(now)
        return actions._replace(close=[connection, *actions.close])

    # --- the idle connections

    def reap(self, now: float) -> PoolActions[Connection, Waiter]:
        """Time has passed: close what was idle for too long or has become too old."""
        return self._next_actions(now)

    def lease_idle(self) -> list[Connection]:
        """Lease every idle connection at once; each is to come back by `release`."""
        for entry in self._idle:
            self._leased[entry.connection] = entry.expires
        return self.remove_idle()

    def remove_idle(self) -> list[Connection]:
        """Forget the idle connections and return them, to be closed."""
        connections = [entry.connection for entry in self._idle]
        self._idle.clear()
        return connections

    def close(self) -> tuple[list[Connection], list[Waiter]]:
        """Lease nothing any more; return the idle connections and all waiters."""
        self._closed = True
        waiters = list(self._waiters)
        self._waiters.clear()
        return self.remove_idle(), waiters

    # --- the decision

    def _next_actions(self, now: float) -> PoolActions[Connection, Waiter]:
        """Decide from the state alone; every event ends here.

        1. Connections that are too old, or were idle for too long, are closed first:
           no waiter is to get one of them.
        2. The waiter in front gets the idle connection that was used last, so that the
           others become idle enough to be closed.
        3. For each waiter that is left one connection is opened, unless it is on its
           way already or the pool is full: then the waiter is served by a release.
        """
        close = self._expired(now)
        assign: list[tuple[Waiter, Connection]] = []
        while self._waiters and self._idle:
            entry = self._idle.pop()
            self._leased[entry.connection] = entry.expires
            assign.append((self._waiters.popleft(), entry.connection))
        wanted = len(self._waiters) - self._opening
        room = self.max_size - self.size
        grow = 0 if self._closed else max(0, min(wanted, room))
        self._opening += grow
        return PoolActions(assign, grow, close)

    def _expired(self, now: float) -> list[Connection]:
        young = [entry for entry in self._idle if now < entry.expires]
        # Oldest use first, so that `min_idle` spares the connections used last.
        surplus = young[: max(0, len(young) - self.min_idle)]
        stale = sum(now - entry.since >= self._idle_for for entry in surplus)
        close = [entry.connection for entry in self._idle if now >= entry.expires]
        close += [entry.connection for entry in young[:stale]]
        self._idle = young[stale:]
        return close

    def _expiry(self, now: float) -> float:
        return now + self._lifetime * (1.0 - 0.1 * self._rng())


class ExclusivePool(aredis.ConnectionPool):
    """A bounded pool: callers wait in order of arrival, connections open on demand.

    Args:
        max_size: Connections that may exist at once.
        min_idle: Idle ones kept open however long they are idle.
        idle: Seconds after which other idle connections are closed.
        lifetime: Seconds after which a connection is replaced.
        acquire_timeout: Seconds to wait for a connection.
        connect_timeout: Seconds for opening one, handshake included.
        **arguments: redis-py's arguments of a connection, ``connection_class`` too.

    Attributes:
        state: Which connections exist, who leases them, who waits.
        failure: Why the newest attempt to open a connection failed; None: it did not.
    """

    def __init__(
        self,
        *,
        max_size: int,
        min_idle: int = 0,
        idle: float = 30.0,
        lifetime: float = 3600.0,
        acquire_timeout: float = 30.0,
        connect_timeout: float = 10.0,
        **arguments: Any,
    ) -> None:
        self.state: PoolState[AbstractConnection, asyncio.Future[AbstractConnection]]
        self.state = PoolState(
            max_size=max_size,
            min_idle=min_idle,
            idle=idle,
            lifetime=lifetime,
            rng=random.random,
        )
        self._acquire_timeout = acquire_timeout
        self._connect_timeout = connect_timeout
        self._reap_every = max(idle / 2, 0.1)
        self._reaper: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop_guard = LoopGuard()
        self.access = Access(server_of(arguments))
        self.failure: Exception | None = None
        kind = arguments.pop("connection_class", aredis.Connection)
        super().__init__(
            connection_class=hardened(kind),
            max_connections=max(max_size, 1),
            **arguments,
        )

    def __repr__(self) -> str:
        return f"<ExclusivePool {self.state!r}>"

    def make_connection(self) -> AbstractConnection:
        """Return a new connection (redis-py's), not connected yet."""
        connection: Any = super().make_connection()
        connection.access = self.access
        connection.library = {
            name: value
            for name, value in self.connection_kwargs.items()
            if name in _LIBRARY
        }
        made: AbstractConnection = connection
        return made

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that uses it; None before the first use."""
        return self._loop_guard.loop

    # --- leasing

    async def get_connection(
        self, command_name: Any = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """Lease a connection; give it back by `release`.

        Cancelled, nothing stays leased.

        Raises:
            PoolTimeout: None became free within the acquire timeout.
            Unavailable: The server cannot be reached.
            ClosedError: The pool was closed.
            WrongLoop: Another loop, or the process this one was forked from, uses it.
        """
        del command_name, keys, options  # redis-py's signature
        self._check_open()
        if self.state.max_size == 0:
            raise PoolTimeout(
                "max_connections=1 is the connection for commands, and leaves none for "
                "exclusive use; give 2 or more"
            )
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[AbstractConnection] = loop.create_future()
        self._perform(self.state.acquire(waiter, loop.time()))
        alarm = Alarm(loop, self._acquire_timeout, partial(self._expire, waiter))
        try:
            # Assigned already, this does not wait: a cancellation that is due comes out
            # of `ensure_connection` below.
            connection = await waiter
        except asyncio.CancelledError:
            # 1. Cancelled in the queue: the waiter leaves it.
            # 2. Cancelled between the assignment and this task's turn: the waiter has a
            #    connection that no other code would give back.
            # 3. Cancelled between a failure and this task's turn: there is nothing to
            #    give back. The error is read, or asyncio would report it as lost.
            self.state.cancel(waiter)
            resolved = waiter.done() and not waiter.cancelled()
            if resolved and waiter.exception() is None:
                await asyncio.shield(self.release(waiter.result()))
            raise
        finally:
            alarm.cancel()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            # Shielded: a second cancellation must not end the release.
            await asyncio.shield(self.release(connection))
            raise
        return connection

    def get_available_connection(self) -> AbstractConnection:
        """Lease a connection without waiting (redis-py's), open or not.

        `ensure_connection` opens it.

        Raises:
            PoolTimeout: None is free.
            ClosedError: The pool was closed.
            WrongLoop: Another loop, or the process this one was forked from, uses it.
        """
        self._check_open()
        connection = self.state.acquire_now(self._now(), self.make_connection)
        if connection is None:
            raise PoolTimeout(
                f"no exclusive connection is free ({self.state.leased} of "
                f"{self.state.max_size} leased); `await get_connection()` waits for one"
            )
        self._in_use_connections.add(connection)
        return connection

    def can_get_connection(self) -> bool:
        """Whether a connection is free, or may be opened (redis-py's)."""
        return self.state.idle > 0 or self.state.size < self.state.max_size

    def _check_open(self) -> None:
        self._loop_guard.check()
        if self._closed:
            raise ClosedError("the client was closed")

    def _expire(self, waiter: asyncio.Future[AbstractConnection]) -> None:
        """Fail a waiter whose time is over, unless it has a connection by now."""
        if waiter.done():
            return
        self.state.cancel(waiter)
        within = f"within {self._acquire_timeout:g} s"
        waiter.set_exception(
            PoolTimeout(f"no exclusive connection {within}: {self.failure}")
            if self.failure is not None
            else PoolTimeout(
                f"no exclusive connection became free {within} "
                f"({self.state.leased} of {self.state.max_size} leased, "
                f"{self.state.waiting} waiting); raise pool_max, or look for a WATCH "
                "or a subscription that is never closed"
            )
        )

    # --- doing what the state decided

    def _perform(
        self,
        actions: PoolActions[AbstractConnection, asyncio.Future[AbstractConnection]],
    ) -> None:
        # A list that grows, not a call of itself: thousands of waiters may be cancelled
        # in one tick, and each of them passes the connection on.
        pending = [actions]
        for each in pending:
            for waiter, connection in each.assign:
                if waiter.done():
                    # Cancelled in this very tick: its task has not run yet, so it was
                    # still in the queue. The connection goes to the next waiter.
                    passed_on = self.state.release(connection, self._now(), usable=True)
                    pending.append(passed_on)
                else:
                    self._in_use_connections.add(connection)
                    waiter.set_result(connection)
            for _ in range(each.open):
                self._spawn(self._open(), self._opening, "opening")
            for connection in each.close:
                self._retire(connection)
        if self.state.idle > self.state.min_idle and self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(self._reap_every, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        self._perform(self.state.reap(self._now()))

    def _retire(self, connection: Any) -> None:
        """Close a connection for good."""
        connection.retired = True
        self._spawn(_close(connection), self._closing, "closing")

    @staticmethod
    def _spawn(coroutine: Any, tasks: set[asyncio.Task[None]], what: str) -> None:
        spawn(coroutine, name=f"oddswire exclusive connection {what}", into=tasks)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- opening

    async def _open(self) -> None:
        """Open a connection for whichever waiter is in front when it is there.

        A task of its own: a waiter that gives up does not end it, and the connection
        is idle if no caller waits any more.
        """
        pacer = self.access.pacer
        try:
            if self.failure is not None:
                # Callers that try again and again must not become a storm.
                pause = pacer.pause(_MAX_PAUSE)
                pause.hasten()
                await pause.wait()
            pacer.attempt_begins(self._now())
            connection = self.make_connection()
            await self._connect(connection)
        except Exception as error:  # noqa: BLE001 - the waiter raises it
            self.failure = error
            waiter, actions = self.state.failed(self._now())
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
            self._perform(actions)
            return
        if self.failure is not None:
            self.failure = None
            pacer.server_answers()
        if self._closed:
            await connection.disconnect()
            return
        self._perform(self.state.opened(connection, self._now()))

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Open a leased connection, or replace its socket if the server closed it.

        Raises:
            Unavailable: The server cannot be reached.
        """
        # Its name before redis-py 8, which warns of it.
        can_read = (
            getattr(connection, "can_read", None) or connection.can_read_destructive
        )
        try:
            if (
                connection.is_connected
                and not _has_unread(connection)
                and not await can_read()
            ):
                return
        except (aredis.ConnectionError, aredis.TimeoutError, OSError):
            pass
        # Readable although no command is under way: the end of the stream, or the reply
        # to a command of the caller before. Neither may reach the next caller.
        await connection.disconnect()
        await self._connect(connection)

    async def _connect(self, connection: AbstractConnection) -> None:
        """Open a connection within the connect timeout, with our errors."""
        try:
            async with Deadline(self._connect_timeout):
                await connection.connect()
        except TimeoutError:
            known = server_of(self.connection_kwargs) is not None
            where = f"{connection._host_error()}: " if known else ""  # noqa: SLF001 - redis-py has no other name for it
            raise Unavailable(
                f"{where}no connection within {self._connect_timeout:g} s"
            ) from None
        except Exception as error:
            ours = _unsent(error)
            if ours in (error, error.__cause__, error.__context__):
                # Its cause is known. If `error` became it, the causes were a circle.
                raise ours from ours.__cause__
            raise ours from error

    # --- giving back

    async def release(self, connection: AbstractConnection) -> None:
        """Take a leased connection back; a broken one is replaced when it is needed.

        Raises:
            KeyError: It was not leased from this pool.
        """
        usable = connection.is_connected and not connection.should_reconnect()
        try:
            if usable and getattr(connection, "token", 0) != self.access.token:
                usable = False  # also if this is cancelled
                usable = await self._reauthenticate(connection)
        finally:
            self._in_use_connections.discard(connection)
            self._perform(self.state.release(connection, self._now(), usable=usable))

    async def authenticate(self) -> None:
        """Authenticate the idle connections by the newest token.

        The leased ones follow in `release`.
        """
        idle = self.state.lease_idle()
        self._in_use_connections.update(idle)
        await asyncio.gather(*(self.release(connection) for connection in idle))

    async def _reauthenticate(self, connection: Any) -> bool:
        """Authenticate a connection by the newest token; False: it is of no use now."""
        token = self.access.token
        try:
            async with Deadline(self._connect_timeout):
                await connection.send_command(*self.access.words)
                await connection.read_response()
        except (aredis.RedisError, OSError, TimeoutError):
            # Replaced when it is needed; the handshake then says what is wrong.
            await connection.disconnect(nowait=True)
            return False
        except BaseException:
            await connection.disconnect(nowait=True)  # half an answer may come yet
            raise
        connection.token = token
        return True

    # --- closing

    def leave(self, before: float) -> None:
        """Close what was opened before: idle ones now, leased ones when they come back.

        Args:
            before: By `time.monotonic`.
        """
        for connection in self.state.remove_idle():
            self._retire(connection)
        for connection in self._in_use_connections:
            if connection.connected_at <= before:  # type: ignore[attr-defined]
                connection.mark_for_reconnect()

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Close the idle connections, and leased ones if asked; the pool stays open."""
        connections = self.state.remove_idle()
        if inuse_connections:
            connections += list(self._in_use_connections)
        await asyncio.gather(*(each.disconnect() for each in connections))

    async def aclose(self) -> None:
        """Close every connection, leased ones too; waiters get `ClosedError`.

        Cancelled, they are closed all the same, and not waited for.
        """
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        idle, waiters = self.state.close()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(ClosedError("the client was closed"))
        for task in self._opening:
            task.cancel()
        # Each in a task of its own: a cancellation of this one does not reach them, not
        # even before they have begun.
        for connection in (*idle, *self._in_use_connections):
            self._retire(connection)
        while tasks := self._opening | self._closing:
            await asyncio.wait(tasks)


async def _close(connection: AbstractConnection) -> None:
    """End a connection in order if that takes a moment; if not, all the same."""
    writer = connection._writer  # noqa: SLF001 - redis-py has no other way to abort
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):  # a pause
            await connection.disconnect()
    except (aredis.RedisError, OSError):
        pass  # no reason to keep the others open
    finally:
        if writer is not None:
            # Bytes that the server does not take would keep the socket open, and
            # `aclose` waiting.
            writer.transport.abort()


def _has_unread(connection: AbstractConnection) -> bool:
    """Whether the kernel has something of it that the event loop has not read yet.

    The server may have closed it while the loop was busy, or while the loop read the
    answer of whoever had it closed: nothing orders two sockets.
    """
    sock = connection._writer.get_extra_info("socket")  # type: ignore[union-attr]  # noqa: SLF001 - redis-py has no other way to it
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _unsent(error: Exception) -> Exception:
    """Return the error of a connection attempt: no caller's bytes were on the way."""
    for wrapped in (error.__cause__, error.__context__):
        if isinstance(wrapped, Unavailable | AuthFailed | NoPermission):
            return wrapped  # ours; redis-py wraps it, on a unix socket without a cause
    ours = from_redis(error)
    if isinstance(error, OSError):
        return Unavailable(with_system_words(str(error), error))
    if getattr(ours, "outcome", None) is Outcome.UNKNOWN:
        return Unavailable(with_system_words(str(error), error.__context__))
    return ours
