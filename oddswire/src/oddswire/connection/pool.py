"""`WirePool`: exclusive wires, for who needs a connection alone.

WATCH, blocking commands, MONITOR, raw pub/sub and very large batches. It is a redis-py
`ConnectionPool`, so redis-py's own classes lease from it; what it decides is in
`Roster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import cache, partial
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import redis.asyncio as aredis
from redis import exceptions as redis_errors
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import SSLConnection

from oddswire._tasks import spawn
from oddswire.connection.access import Access, hello_of, server_of
from oddswire.connection.deadline import Alarm, Deadline
from oddswire.connection.dial import (
    lost_hint,
    staggered,
    unless_plaintext,
    with_system_words,
)
from oddswire.connection.handshake import Refusals, accept
from oddswire.connection.owner import Owner
from oddswire.connection.packing import pack
from oddswire.connection.reply_errors import from_redis
from oddswire.connection.roster import Roster, Work
from oddswire.connection.threads import in_own_thread
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    CommandTimeout,
    ConnectionLost,
    NoPermission,
    Outcome,
    PoolTimeout,
    ProtocolBroken,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis.asyncio.connection import AbstractConnection

    _Turn = asyncio.Future["AbstractConnection"]


# Seconds: redis-py's own limit for one read is not to end it before ours does. redis-py
# 7 knows no infinity here, and uvloop none anywhere.
_FOREVER = 1e9

# Seconds that an attempt after a failed one may be put off, while others take turns.
_PACED = 5.0

# Seconds that a connection which is closed may take to send what was written, and to
# end TLS.
_IN_ORDER = 0.5


_INTRODUCED = (
    *("username", "password", "credential_provider", "protocol", "db", "client_name"),
)

_LIBRARY = ("driver_info", "lib_name", "lib_version")


def _nothing() -> None:
    pass


class _Whole:
    """redis-py's connection, open with its handshake done, or closed; and mended.

    redis-py keeps the socket of a handshake that was cancelled, and whoever uses that
    connection next is then somebody else (the default user, database 0). A leased wire
    connects again by itself when it is used, so the pool alone cannot prevent it. And
    it dials the addresses of a name as the command wire does, reads no files in the
    event loop, sends memoryviews as they are meant, and its writes swallow no
    cancellation.
    """

    connected_at = 0.0
    """By `time.monotonic`."""

    # What its pool sets on each connection; those to sentinels have no such pool.
    access: Access | None = None
    token = 0  # which of a streaming provider's tokens it was opened with
    library: Mapping[str, Any] = MappingProxyType({})

    async def on_connect_check_health(
        self: Any,
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """Shake hands (redis-py's) as the command connection does.

        In one write, with the same words when it is refused, and without asking for
        what another connection of the client was refused.
        """
        if not isinstance(self._parser, _AsyncHiredisParser):
            await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
            return
        # A server session of its own begins (redis-py 8.1).
        getattr(self, "_reset_himport_state", _nothing)()
        self._parser.on_connect(self)
        refusals = Refusals() if self.access is None else self.access.refusals
        if self.access is not None:
            self.token = self.access.token
        own = {name: getattr(self, name) for name in _INTRODUCED}
        hello = await hello_of({**self.library, **own}, refusals)
        where = self._host_error()
        replies: list[Any] = []
        lost: Exception | None = None
        for batch in hello.batches():
            if not self.is_connected:
                # Sending would connect again, and shake hands from the start.
                lost = ConnectionLost("the connection was closed")
                break
            try:
                async with Deadline(self.socket_connect_timeout):
                    await self.send_packed_command(map(pack, batch), check_health=False)
                    replies += [await self._reply_or_refusal() for _ in batch]
            except TimeoutError:
                lost = CommandTimeout(f"no answer in {self.socket_connect_timeout:g} s")
                break
            except (ConnectionLost, CommandTimeout, ProtocolBroken) as error:
                lost = error
                break
        # What it said before it closed is the cause; that it closed is not.
        accept(hello, replies, where, refusals)
        if lost is not None:
            tls = isinstance(self, SSLConnection)
            raise Unavailable(
                f"{where}: {lost}, during the handshake{lost_hint(tls=tls)}",
                outcome=Outcome.REJECTED if isinstance(lost, ProtocolBroken) else None,
            ) from lost
        activate = getattr(
            self, "activate_maint_notifications_handling_if_enabled", None
        )
        if activate is not None:  # since redis-py 8
            await activate(check_health=check_health)

    async def _reply_or_refusal(self: Any) -> Any:
        """Read a reply; an error reply is returned, a lost connection raised."""
        try:
            return await self.read_response(disable_decoding=True, timeout=_FOREVER)
        except redis_errors.RedisError as error:
            ours = from_redis(error)
            if isinstance(ours, ConnectionLost | CommandTimeout | ProtocolBroken):
                raise ours from error
            return ours

    async def read_response(
        self: Any, *args: Any, timeout: float | None = None, **options: Any
    ) -> Any:
        """Read a reply (redis-py's), within a limit that a stall does not use up."""
        limit = self.socket_timeout
        if timeout is not None or limit is None:
            return await super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]
        try:
            async with Deadline(limit):
                return await super().read_response(  # type: ignore[misc]
                    *args, timeout=_FOREVER, **options
                )
        except TimeoutError:
            if options.get("disconnect_on_error", True):
                await self.disconnect(nowait=True)
            raise redis_errors.TimeoutError(
                f"Timeout reading from {self._host_error()}"
            ) from None

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect (redis-py's); every way of connecting comes by here."""
        try:
            if isinstance(self, SSLConnection) and not self.is_connected:
                # It reads files, those of now: certificates rotate. What it raises is
                # raised again below, as any failure to connect.
                self.ssl_context.context = None
                with contextlib.suppress(Exception):
                    await in_own_thread(self.ssl_context.get)
            await super().connect_check_health(*args, **options)  # type: ignore[misc]
            self.connected_at = monotonic()
        except BaseException:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise

    async def _connect(self: Any) -> None:
        """Open the socket (redis-py's); TLS to a plain port is found out at once."""
        opening = super()._connect()  # type: ignore[misc]
        if isinstance(self, SSLConnection):
            opening = unless_plaintext(self.host, self.port, opening)
        await opening

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack (redis-py's), with the bytes of a memoryview as they are meant."""
        plain = (bytes(each) if isinstance(each, memoryview) else each for each in args)
        try:
            packed: list[bytes] = super().pack_command(*plain)  # type: ignore[misc]
        except UnicodeError:
            raise
        except ValueError as error:
            raise redis_errors.DataError(
                f"a number that cannot be packed: {error}"
            ) from None
        return packed

    def _connection_arguments(self) -> Any:
        """Return what `asyncio.open_connection` is to be called with (redis-py's)."""
        arguments = super()._connection_arguments()  # type: ignore[misc]
        return {**arguments, **staggered(arguments["host"])}

    async def send_packed_command(
        self: Any,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """Write (redis-py's), with a limit that swallows no cancellation.

        redis-py's is `asyncio.wait_for`: before Python 3.12 a task that is cancelled
        just when the bytes have left goes on as if it had not been.
        """
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()
        if self._writer is None:
            # The server closed it during one of the checks, and redis-py does not look.
            raise redis_errors.ConnectionError("Connection closed by server.")
        if isinstance(command, str):
            command = command.encode()
        try:
            async with Deadline(self.socket_timeout):
                await self._send_packed_command(
                    [command] if isinstance(command, bytes) else command
                )
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise redis_errors.TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(
                f"Error while writing to socket: {error}"
            ) from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have left
            raise


@cache
def whole(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return this class of connections, made `_Whole`."""
    return type(kind.__name__, (_Whole, kind), {"__module__": kind.__module__})


class WirePool(aredis.ConnectionPool):
    """A bounded pool: callers wait in order of arrival, wires are opened on demand.

    Args:
        most: Wires that may exist at once.
        keep: Idle ones kept open however long they are idle.
        idle: Seconds after which other idle wires are closed.
        lifetime: Seconds after which a wire is replaced.
        acquire_timeout: Seconds to wait for a wire.
        connect_timeout: Seconds for opening one, handshake included.
        **connection: redis-py's arguments of a connection, ``connection_class`` too.
    """

    def __init__(
        self,
        *,
        most: int,
        keep: int = 0,
        idle: float = 30.0,
        lifetime: float = 3600.0,
        acquire_timeout: float = 30.0,
        connect_timeout: float = 10.0,
        **connection: Any,
    ) -> None:
        self._roster: Roster[AbstractConnection, _Turn] = Roster(
            most=most, keep=keep, idle=idle, lifetime=lifetime, dice=random.random
        )
        self._acquire_timeout = acquire_timeout
        self._connect_timeout = connect_timeout
        self._reap_every = max(idle / 2, 0.1)
        self._reaper: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._owner = Owner()
        self.access = Access(server_of(connection))
        # Of the newest attempt to open a wire; None: it succeeded.
        self._failure: Exception | None = None
        kind = connection.pop("connection_class", aredis.Connection)
        super().__init__(
            connection_class=whole(kind), max_connections=max(most, 1), **connection
        )

    def __repr__(self) -> str:
        return f"<WirePool {self._roster!r}>"

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
        return self._owner.loop

    @property
    def roster(self) -> Roster[AbstractConnection, _Turn]:
        """The books: how many wires are leased, idle, waited for."""
        return self._roster

    async def get_connection(
        self, command_name: Any = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        """Lease a wire; give it back by `release`.

        Cancelled, nothing stays leased.

        Raises:
            PoolTimeout: None became free within the acquire timeout.
            Unavailable: The server cannot be reached.
            ClosedError: The pool was closed.
            WrongLoop: Another loop, or the process this one was forked from, uses it.
        """
        del command_name, keys, options  # redis-py's signature
        self._owner.claim()
        if self._closed:
            raise ClosedError("the client was closed")
        if self._roster.most == 0:
            raise PoolTimeout(
                "max_connections=1 is the connection for commands, and leaves none for "
                "exclusive use; give 2 or more"
            )
        loop = asyncio.get_running_loop()
        turn: _Turn = loop.create_future()
        self._do(self._roster.ask(turn, loop.time()))
        handle = Alarm(loop, self._acquire_timeout, partial(self._expire, turn))
        try:
            wire = await turn
        except asyncio.CancelledError:
            # Handed a wire and cancelled in the same tick: it must not stay leased.
            if not self._roster.leave(turn) and turn.done() and not turn.cancelled():
                await self._reclaim(turn)
            raise
        finally:
            handle.cancel()
        try:
            await self._freshen(wire)
        except BaseException:
            await asyncio.shield(self.release(wire))
            raise
        return wire

    def get_available_connection(self) -> AbstractConnection:
        """Lease a wire at once, open or not; `ensure_connection` opens it (redis-py's).

        Raises:
            PoolTimeout: None is free.
            ClosedError: The pool was closed.
            WrongLoop: Another loop, or the process this one was forked from, uses it.
        """
        self._owner.claim()
        if self._closed:
            raise ClosedError("the client was closed")
        wire = self._roster.take(self._now(), self.make_connection)
        if wire is None:
            raise PoolTimeout(
                f"no exclusive wire is free ({self._roster.leased} of "
                f"{self._roster.most} leased); `await get_connection()` waits for one"
            )
        self._in_use_connections.add(wire)
        return wire

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Open a leased wire, or replace its socket if the server closed it.

        Raises:
            Unavailable: The server cannot be reached.
        """
        await self._freshen(connection)

    def can_get_connection(self) -> bool:
        """Whether a wire is free, or may be opened (redis-py's)."""
        return self._roster.idle > 0 or self._roster.size < self._roster.most

    async def _reclaim(self, turn: _Turn) -> None:
        if turn.exception() is None:
            await asyncio.shield(self.release(turn.result()))

    def _expire(self, turn: _Turn) -> None:
        if turn.done():
            return
        self._roster.leave(turn)
        within = f"within {self._acquire_timeout:g} s"
        turn.set_exception(
            PoolTimeout(f"no exclusive wire {within}: {self._failure}")
            if self._failure is not None
            else PoolTimeout(
                f"no exclusive wire became free {within} "
                f"({self._roster.leased} of {self._roster.most} leased, "
                f"{self._roster.waiting} waiting); raise pool_max, or look for a WATCH "
                "or a subscription that is never closed"
            )
        )

    @property
    def failure(self) -> Exception | None:
        """Why the newest attempt to open a wire failed; None: it did not."""
        return self._failure

    async def _freshen(self, wire: AbstractConnection) -> None:
        """Replace the socket of a wire that the server closed while it was idle."""
        # Its name before redis-py 8, which warns of it.
        can_read = getattr(wire, "can_read", None) or wire.can_read_destructive
        try:
            if wire.is_connected and not await can_read():
                return
        except (aredis.ConnectionError, aredis.TimeoutError, OSError):
            pass
        # Readable while nothing was asked: the end of the stream, or somebody's reply.
        await wire.disconnect()
        await self._connect(wire)

    async def _connect(self, wire: AbstractConnection) -> None:
        """Open a wire within the connect timeout, with our errors."""
        try:
            async with Deadline(self._connect_timeout):
                await wire.connect()
        except TimeoutError:
            raise Unavailable(
                f"no connection within {self._connect_timeout:g} s"
            ) from None
        except Exception as error:
            raise _unsent(error) from error

    def _do(self, work: Work[AbstractConnection, _Turn]) -> None:
        for turn, wire in work.hand:
            self._in_use_connections.add(wire)
            if turn.done():
                # Its timeout fired in this very tick; the wire goes to the next one.
                self._in_use_connections.discard(wire)
                self._do(self._roster.back(wire, self._now(), usable=True))
            else:
                turn.set_result(wire)
        for _ in range(work.open):
            self._spawn(self._open(), self._opening, "opening")
        for wire in work.close:
            self._spawn(_close(wire), self._closing, "closing")
        if self._roster.idle > self._roster.keep and self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(self._reap_every, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        self._do(self._roster.reap(self._now()))

    @staticmethod
    def _spawn(coroutine: Any, tasks: set[asyncio.Task[None]], what: str) -> None:
        task = spawn(coroutine, name=f"oddswire exclusive wire {what}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _open(self) -> None:
        pacer = self.access.pacer
        try:
            if self._failure is not None:
                # Callers that try again and again are to be no storm.
                pause = pacer.pause(_PACED)
                pause.hasten()
                await pause.wait()
            pacer.attempt_begins(self._now())
            wire = self.make_connection()
            await self._connect(wire)
        except Exception as error:  # noqa: BLE001 - told to who waits for the wire
            self._failure = error
            turn, work = self._roster.failed(self._now())
            if turn is not None and not turn.done():
                turn.set_exception(error)
            self._do(work)
            return
        if self._failure is not None:
            self._failure = None
            pacer.server_answers()
        if self._closed:
            await wire.disconnect()
            return
        self._do(self._roster.opened(wire, self._now()))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def release(self, connection: AbstractConnection) -> None:
        """Take a leased wire back; a broken one is replaced when it is needed.

        Raises:
            KeyError: It was not leased from this pool.
        """
        usable = connection.is_connected and not connection.should_reconnect()
        try:
            if usable and getattr(connection, "token", 0) != self.access.token:
                usable = False  # also if this is cancelled
                usable = await self._follow(connection)
        finally:
            self._in_use_connections.discard(connection)
            self._do(self._roster.back(connection, self._now(), usable=usable))

    async def authenticate(self) -> None:
        """Authenticate the idle wires by the newest token; others follow when idle."""
        idle = self._roster.lend_idle()
        self._in_use_connections.update(idle)
        await asyncio.gather(*(self.release(wire) for wire in idle))

    async def _follow(self, connection: Any) -> bool:
        """Authenticate a wire by the newest token; False: it is of no more use."""
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

    def leave(self, before: float) -> None:
        """Close what was opened before: idle wires now, the others when they come back.

        Args:
            before: By `time.monotonic`.
        """
        for wire in self._roster.empty():
            self._spawn(_close(wire), self._closing, "closing")
        for wire in self._in_use_connections:
            if wire.connected_at <= before:  # type: ignore[attr-defined]
                wire.mark_for_reconnect()

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Close the idle wires, and those in use if asked; the pool stays open."""
        wires = self._roster.empty()
        if inuse_connections:
            wires += list(self._in_use_connections)
        await asyncio.gather(*(wire.disconnect() for wire in wires))

    async def aclose(self) -> None:
        """Close every wire, leased ones too; who waits for one gets `ClosedError`.

        Cancelled, they are closed all the same, and not waited for.
        """
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        idle, turns = self._roster.close()
        for turn in turns:
            if not turn.done():
                turn.set_exception(ClosedError("the client was closed"))
        for task in self._opening:
            task.cancel()
        # Each in a task of its own: a cancellation of what awaits them does not reach
        # them, not even before they have begun.
        for wire in (*idle, *self._in_use_connections):
            self._spawn(_close(wire), self._closing, "closing")
        while tasks := self._opening | self._closing:
            await asyncio.wait(tasks)


async def _close(wire: AbstractConnection) -> None:
    """End a wire in order if that takes a moment; if not, all the same."""
    writer = wire._writer  # noqa: SLF001 - redis-py has no other way to abort
    try:
        async with asyncio.timeout(_IN_ORDER):  # a pause
            await wire.disconnect()
    except (aredis.RedisError, OSError):
        pass  # no reason to keep the others open
    finally:
        if writer is not None:
            # Bytes that nobody takes would keep it open, and who closes waiting.
            writer.transport.abort()


def _unsent(error: Exception) -> Exception:
    """The error of a connection attempt: no caller's bytes were on the way."""
    for wrapped in (error.__cause__, error.__context__):
        if isinstance(wrapped, Unavailable | AuthFailed | NoPermission):
            return wrapped  # ours; redis-py wraps it, on a unix socket without a cause
    ours = from_redis(error)
    if isinstance(error, OSError):
        return Unavailable(with_system_words(str(error), error))
    if getattr(ours, "outcome", None) is Outcome.UNKNOWN:
        return Unavailable(with_system_words(str(error), error.__context__))
    return ours
