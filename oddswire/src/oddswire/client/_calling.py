"""`Calling`: how a call is made, sent again, refused and counted."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import redis.asyncio as aredis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import RedisError, ResponseError

from oddswire._text import text
from oddswire.client import _hooks
from oddswire.client._commands import OF_EARLIER_WRITES, Command, Route
from oddswire.client._exclusive import (
    catch_up,
    exclusively,
    refused_by_replica,
    unhurried,
)
from oddswire.client._retries import again
from oddswire.connection.deadline import Deadline
from oddswire.connection.errors import for_waiters, from_redis, is_from_script
from oddswire.connection.packing import MOST_BITS, pack, pack_as_redis_py, unencodable
from oddswire.counters import Window
from oddswire.errors import (
    CommandTimeout,
    Loading,
    NoPermission,
    NoReplicas,
    NotShared,
    OddswireError,
    Outcome,
    ReadOnly,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.client._connections import Connections
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.connection.reconnect import ReconnectingConnection
    from oddswire.settings import Settings


# Names of commands come from code. Should they ever come from users, the table stops
# growing here and the rest is looked up each time.
_KNOWN_AT_MOST = 2_000

# Seconds for the reply of a call that waited past its deadline: only a stall of the
# loop lets it wait so long, and the stall is not the server's.
_AFTER_A_STALL = 0.1


_Redis = aredis.Redis


class Calling(aredis.Redis):
    """The half of `Client` through which every command goes; no use without the other.

    Attributes:
        timeout: Seconds that a call may take, retries included.
        multiplexed: Whether ordinary commands go on the command connection.
        decodes: Whether replies are text.
    """

    timeout: float
    multiplexed: bool
    decodes: bool
    _settings: Settings
    _connections: Connections
    _command: ReconnectingConnection
    _packs_text: bool
    # Whether the connection of a single-connection client is no longer as the pool's
    # others are: another user, another database, answers that nobody asked for.
    _altered: bool

    def _start_counting(self) -> None:
        self._known: dict[Any, Command] = {}
        self._failures: dict[str, int] = {}
        self._failing: dict[str, Window] = {}

    # --- a call

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; every command method ends here."""
        command = self._known.get(args[0])
        if command is None:
            command = self._learn(args[0])
        connection = self._command.current
        if (
            connection is None
            or not command.plain
            or not connection.flow.open
            or connection.loop is not get_running_loop()
            or _Redis.execute_command is not _hooks.PLAIN
        ):
            return await self._the_long_way(command, args, options)
        command.calls += 1
        try:
            for each in args:
                kind = each.__class__
                if kind is memoryview or (
                    kind is int and each.bit_length() > MOST_BITS
                ):
                    data = self.pack(command, args)
                    break
            else:
                data = pack(args)
        except (TypeError, ValueError):
            data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        future = connection.send(data, self.timeout, command, raw=raw)
        started = connection.tick
        try:
            reply = await future
        except asyncio.CancelledError:
            connection.abandon()
            raise
        except OddswireError as error:
            reply = await self._again(
                error, command, args, data, started + self.timeout, raw=raw
            )
        if isinstance(reply, Exception):
            return await self._refused(
                reply, command, args, options, started + self.timeout
            )
        callback = command.callback
        if callback is None:
            return reply
        if options or command.awaits:
            return await self.shaped(reply, command, options)
        return callback(reply)

    async def _the_long_way(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Not connected, no room, or not an ordinary command."""
        command.calls += 1
        alone = self.single_connection_client or self.connection is not None
        if not alone:
            self._connections.follow()
        route = command.route_for(args)
        if self.multiplexed and not alone and route is Route.SHARED:
            return await self._seen(self._shared, command, args, options)
        if alone and route is Route.REFUSED:
            self._altered = True
        try:
            if route is Route.ASIDE and not self._altered:
                return await self._seen(self._aside, command, args, options)
            if alone or command.name == "HIMPORT":
                return await super().execute_command(*args, **options)
            if route is Route.REFUSED:
                raise NotShared(
                    f"{' '.join(command.words).upper()} is about the connection it is "
                    f"sent on, and others share that one; {command.instead}"
                )
            if route is Route.SHARED:
                reply = await self._by_pool(command, args, options)
                self._connections.metrics.answered.record(monotonic())
                return reply
            reply = await self._seen(self._exclusive, command, args, options)
            self._connections.metrics.answered.record(monotonic())
        except OddswireError as error:
            self.counted(error)
            raise
        except UnicodeEncodeError as error:
            raise unencodable(error) from None
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError):
                self._connections.metrics.answered.record(monotonic())
            raise self.counted(_translated(error), command) from error
        return await self.shaped(reply, command, options)

    async def _seen(
        self,
        run: Callable[[Command, tuple[Any, ...], dict[str, Any]], Awaitable[Any]],
        command: Command,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Run a command that does not go by redis-py's method, under its hooks."""
        if _hooks.commands_are_seen():
            done = partial(run, command, args, options)
            return await _hooks.command(self, args, options, done)
        return await run(command, args, options)

    async def _shared(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        deadline = monotonic() + self.timeout
        reply = await self._send(command, args, data, deadline, raw=raw)
        if isinstance(reply, Exception):
            return await self._refused(reply, command, args, options, deadline)
        if command.name == "CLIENT" and command.subcommand(args) == b"SETNAME":
            self._connections.dialer.client_name = args[-1]
        return await self.shaped(reply, command, options)

    async def _send(
        self,
        command: Command,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        """Send it, and again where that is safe; an error reply is returned."""
        try:
            return await self.send_once(data, deadline, command, raw=raw)
        except OddswireError as error:
            return await self._again(error, command, args, data, deadline, raw=raw)

    def ready_connection(self) -> Multiplexer | None:
        """Return the command connection if it takes a call now; None: use `send_once`.

        For library code, which sends on it before its next `await`.
        """
        connection = self._command.current
        if (
            connection is None
            or not connection.flow.open
            or connection.loop is not get_running_loop()
        ):
            return None
        return connection

    def command_connection(self) -> Multiplexer | None:
        """Return the command connection, if there is one in this loop."""
        connection = self._command.current
        return (
            None
            if connection is None or connection.loop is not get_running_loop()
            else connection
        )

    async def send_once(
        self,
        data: bytes,
        deadline: float,
        label: Any,
        *,
        count: int = 1,
        raw: bool = False,
        on_reply: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send packed bytes on the command connection, waiting for it if need be.

        For library code. Returns the reply, or the list of `count` replies; an error
        reply is returned, not raised. See `Multiplexer.send`.

        Args:
            data: Packed commands.
            deadline: By `time.monotonic`.
            label: Something with a `name`, for the errors.
            count: Commands in `data`.
            raw: Do not decode.
            on_reply: The parser's hook.
        """
        connection = self._command.current
        if connection is None or connection.loop is not get_running_loop():
            connection = await self._connections.ready(deadline - monotonic())
        if connection.error is None and not connection.flow.open:
            connection.count_wait()
            await connection.flow.wait(len(data), _left(deadline), connection.load)
        if connection.error is not None:
            # It ended after it was handed over, before this task had its turn.
            raise for_waiters(connection.error, Outcome.NOT_SENT)
        future = connection.send(
            data, _left(deadline), label, count=count, raw=raw, on_reply=on_reply
        )
        try:
            return await future
        except asyncio.CancelledError:
            connection.abandon()
            raise

    async def _again(
        self,
        error: OddswireError,
        command: Command,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        try:
            return await again(
                error,
                lambda: self.send_once(data, deadline, command, raw=raw),
                deadline,
                most=self._settings.retries,
                repeatable=command.may_repeat(args),
            )
        except OddswireError as failure:
            raise self.counted(failure) from failure.__cause__

    async def _by_pool(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run an ordinary command as redis-py does; the pool's wait counts too."""
        scope = Deadline(self.timeout)
        try:
            async with scope:
                return await super().execute_command(*args, **options)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CommandTimeout(
                f"{command.name}: no reply within {self.timeout:g} s"
            ) from None

    async def _exclusive(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run it on an exclusive connection; again if that primary was demoted."""
        sent = monotonic()
        pool = self.connection_pool
        try:
            return await exclusively(pool, command, args, options, self.timeout)
        except ResponseError as error:
            if not await self.left(error, sent) or not _as_if_unsent(error):
                raise
        return await exclusively(pool, command, args, options, self.timeout)

    async def _send_command_parse_response(
        self, conn: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        """Send it on this very connection (redis-py's).

        A command that blocks has the time it asks for, and one that a demoted primary
        refuses is sent to the new one, unless the connection was changed by its user.
        """
        command = self.known_command(args[0])
        send = super()._send_command_parse_response
        for last in (self._altered, True):
            sent = monotonic()
            try:
                if not command.longest(args):
                    return await send(conn, command_name, *args, **options)
                if not conn.is_connected:
                    await conn.connect()  # within redis-py's own limit
                async with unhurried(conn, command, args, self.timeout):
                    if command.name in OF_EARLIER_WRITES and not self._altered:
                        # The connection of the writes may have been lost since. Not
                        # after what alters it: in MULTI this would be one command more.
                        await catch_up(conn)
                    return await send(conn, command_name, *args, **options)
            except ResponseError as error:
                if not await self.left(error, sent):
                    raise
                await conn.disconnect()
                if last or not _as_if_unsent(error):
                    raise
        raise AssertionError("the second attempt is the last")

    async def left(self, error: ResponseError, sent: float) -> bool:
        """Leave the server that refused a call as a replica; False: it was not that."""
        return refused_by_replica(error) and await self._connections.left(sent)

    async def _aside(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Send it on a connection opened for it, past everything that waits."""
        deadline = monotonic() + self.timeout
        data = self.pack(command, args)
        async with self._connections.aside(self.timeout) as connection:
            reply = await connection.send(data, deadline - monotonic(), command)
        if isinstance(reply, Exception):
            raise reply
        return await self.shaped(reply, command, options)

    # --- replies

    async def _refused(
        self,
        reply: Exception,
        command: Command,
        args: tuple[Any, ...],
        options: dict[str, Any],
        deadline: float,
    ) -> Any:
        """The server answered with an error: shape or raise it.

        While it loads its data it is up and changes nothing: ask again until the
        deadline. Where it has become a replica, ask the new primary.
        """
        pause = 0.02
        data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        # An attempt that has no time left for its answer would end as unknown.
        while isinstance(reply, Loading) and monotonic() + 2 * pause < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.25)
            reply = await self._send(command, args, data, deadline, raw=raw)
        # A primary that was demoted refused it, so it may go to the new one.
        sent = deadline - self.timeout
        while (
            isinstance(reply, ReadOnly)
            and self._connections.demoted(sent)
            # What a script published before it was refused would be published twice.
            and not is_from_script(reply)
        ):
            sent = monotonic()
            reply = await self._send(command, args, data, deadline, raw=raw)
        if isinstance(reply, NoReplicas):
            self._connections.ask()
        if not isinstance(reply, Exception):
            return await self.shaped(reply, command, options)
        if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
            return options[EMPTY_RESPONSE]
        raise self.counted(reply, command)

    async def shaped(
        self, reply: Any, command: Command, options: dict[str, Any]
    ) -> Any:
        callback = command.callback
        if callback is None:
            return reply
        if options:
            options.pop("keys", None)  # redis-py's note to its own cache
            options.pop(NEVER_DECODE, None)
            options.pop(EMPTY_RESPONSE, None)
        value = callback(reply, **options)
        return await value if command.awaits else value

    def set_response_callback(self, command: str, callback: Any) -> None:
        """Set what turns a command's reply into its result (redis-py's)."""
        super().set_response_callback(command, callback)
        for name, known in self._known.items():
            known.use(self.response_callbacks.get(name))

    # --- packing and knowing

    def known_command(self, name: Any) -> Command:
        """Return what is known of a command, by the name that redis-py gives it."""
        return self._known.get(name) or self._learn(name)

    def _learn(self, name: Any) -> Command:
        spelled = text(name)
        command = Command(
            spelled,
            self.response_callbacks.get(name),
            plain=self.multiplexed and self._packs_text,
        )
        if len(self._known) < _KNOWN_AT_MOST:
            self._known[name] = command
        return command

    def pack(self, command: Command, args: tuple[Any, ...]) -> bytes:
        """Pack as redis-py does, with its errors for what cannot be packed.

        Raises:
            DataError: An argument that is no text, bytes or number, text that cannot be
                encoded, or an int of thousands of digits.
        """
        return pack_as_redis_py(command.words, args[1:], self.get_encoder().encode)

    # --- what a batch needs too

    @property
    def retries(self) -> int:
        """How often a call may be repeated, where that is safe."""
        return self._settings.retries

    def demoted(self, sent: float) -> bool:
        """Leave the server of a call sent then: it refused a write as a replica.

        False where it was a replica when we connected to it: then that is the answer.
        """
        return self._connections.demoted(sent)

    def refused(self, error: OddswireError, sent: float) -> None:
        """Ask where the primary is: the server refused a write that was sent then.

        Args:
            error: `ReadOnly`: the server is left. `NoReplicas`: it may have been
                deposed. Of anything else, nothing follows.
            sent: By `time.monotonic`.
        """
        if isinstance(error, ReadOnly):
            self._connections.demoted(sent)
        elif isinstance(error, NoReplicas):
            self._connections.ask()

    def counted(self, error: Exception, command: Command | None = None) -> Exception:
        """Count a failed call, and return its error.

        Args:
            error: What it is to fail with.
            command: What the server refused, where it was the server.
        """
        if command is not None and isinstance(error, NoPermission):
            # Of a key or a channel the server names neither the command nor the user.
            what = " ".join(command.words).upper()
            error.args = (f"{what}: {error} (user {self._connections.dialer.user!r})",)
        kind = type(error).__name__
        self._failures[kind] = self._failures.get(kind, 0) + 1
        if kind not in self._failing:
            self._failing[kind] = Window()
        # An error reply is counted among the answered already.
        answered = isinstance(error, ResponseError)
        self._failing[kind].record(monotonic(), calls=not answered, failed=1)
        return error


def _as_if_unsent(error: Exception) -> bool:
    """Whether a write that was refused did nothing, so that it may go elsewhere.

    A script may have told somebody before it was refused. What was ended while it
    blocked has used up some of its time.
    """
    ours = from_redis(error)
    return (
        isinstance(ours, ReadOnly)
        and ours.outcome is Outcome.REJECTED
        and not is_from_script(ours)
    )


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    return left if left > 0.0 else _AFTER_A_STALL


def _translated(error: Exception) -> Exception:
    if isinstance(error, OSError) and not isinstance(error, RedisError):
        return Unavailable(str(error))
    return from_redis(error)
