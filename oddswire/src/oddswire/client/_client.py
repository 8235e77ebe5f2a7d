"""`Client`: redis-py's asyncio API on one multiplexed connection.

The way of an ordinary command, from `execute_command` on:

1. Everything that can be known of a command by its name alone was resolved once
   (`CommandSpec`). With an open connection the call packs its arguments, queues the
   bytes and awaits the reply. This is the fast path: one coroutine, no other call of
   ours but `Multiplexer.send`.
2. Whatever is not ordinary goes by `_execute_slow`: no connection yet, no room on it, a
   command that blocks or changes the connection, redis-py's own transport.
3. A call whose connection was lost is sent again by `_retry`, within the one deadline
   and only where that is safe.
4. An error reply goes by `_on_error_reply`, which waits out a server that loads and
   follows a primary that was demoted.
"""

from __future__ import annotations

import asyncio
import copy
import math
from asyncio import get_running_loop
from functools import partial
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self

import redis.asyncio as aredis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.event import EventDispatcher
from redis.exceptions import RedisError, ResponseError

from oddswire._numbers import check_duration, shown
from oddswire._text import text
from oddswire.client import _hooks
from oddswire.client._cluster_keys import keys_of
from oddswire.client._commands import OF_EARLIER_WRITES, CommandSpec, Route
from oddswire.client._connections import Connections
from oddswire.client._dialer import Dialer
from oddswire.client._exclusive import (
    blocking_deadline,
    cover_earlier_writes,
    refused_by_replica,
    run_exclusively,
)
from oddswire.client._listening import Monitor, PubSub
from oddswire.client._pipeline import Pipeline
from oddswire.client._pools import (
    open_pool,
    refuse_insecure,
    settings_of_pool,
    settings_with,
    split_options,
)
from oddswire.client._retries import retry
from oddswire.client._rotation import Rotation
from oddswire.client._shared import settings_on, share, shared_connections
from oddswire.client._statistics import ClientStats, FailureCounts, summarize
from oddswire.connection.access import access_of
from oddswire.connection.backoff import Backoff
from oddswire.connection.credentials import FannedOut, fan_out
from oddswire.connection.deadline import Deadline
from oddswire.connection.errors import for_waiters, from_redis, is_from_script
from oddswire.connection.packing import MOST_BITS, pack, pack_as_redis_py, unencodable
from oddswire.errors import (
    CommandTimeout,
    Loading,
    NoPermission,
    NoReplicas,
    NotShared,
    OddswireError,
    Outcome,
    ReadOnly,
    SettingsError,
    Unavailable,
    WrongType,
)
from oddswire.events import Events
from oddswire.logs import log_events
from oddswire.plain import plain
from oddswire.settings.endpoint import CLUSTER_SCHEMES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.exceptions import AskError
    from redis.typing import AbsExpiryT, EncodableT, ExpiryT, KeyT

    from oddswire.connection.multiplexer import CallLabel, Multiplexer
    from oddswire.settings import Settings
    from oddswire.settings.values import ReadFrom

# Names of commands come from code. Should they ever come from users, the table stops
# growing here and the rest is looked up each time.
_KNOWN_AT_MOST = 2_000

# Seconds for the reply of a call that waited past its deadline: only a stall of the
# loop causes that, and the server is not to blame for it.
_AFTER_A_STALL = 0.1

# Keys that an error names.
_NAMED_AT_MOST = 8

# Globals: the fast path looks at them in each call.
_Redis, _ORIGINAL = aredis.Redis, _hooks.ORIGINAL


class Client(aredis.Redis):
    """A `redis.asyncio.Redis` whose ordinary commands share one connection.

    Every command, argument and reply type is redis-py's. What callers send at the same
    time travels together; blocking commands, WATCH, MONITOR and pub/sub get a
    connection of their own from a bounded pool. It connects on first use and again by
    itself, for ever.

    Each call has one deadline, retries included. Cancelling a call harms no other; if
    its bytes had left, the command may still run.

    Args:
        settings: Timeouts, limits, spacing of attempts; and the server, unless a pool
            or redis-py's ``host``, ``port`` ... name it.
        connection_pool: A pool of yours, which stays yours to close. Its timeouts,
            retries and size hold here too; the command connection is one of its, and
            all clients on the pool share it.
        transport: ``"multiplexed"``, or ``"pool"``: one connection per running call,
            as redis-py does it; the way out should the first misbehave.
        single_connection_client: redis-py's: everything on one exclusive connection.
        events: Where changes of state go; default: events of its own, which are
            logged (`oddswire.logs`).
        **options: Fields of `Settings`, and redis-py's arguments.

    Raises:
        SettingsError: A setting is wrong, or there is none of that name.
        OddswireError: From any command, with its `outcome`. Errors about arguments
            (`redis.DataError`) and a failed WATCH stay redis-py's own.

    Attributes:
        events: Where changes of state of its connections can be subscribed to.
        timeout: Seconds that a call may take, retries included.
        multiplexed: Whether ordinary commands go on the command connection.
        decodes: Whether replies are text.
        is_cluster: Whether it is the client of a cluster, and not of one server.
        in_cluster: Whether it is that, or the client of one of its nodes.
    """

    is_cluster: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = False
    # What each socket of the command connection begins with.
    _on_connect: ClassVar[tuple[tuple[str | int, ...], ...]] = ()

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        connection_pool: aredis.ConnectionPool | None = None,
        transport: str = "multiplexed",
        single_connection_client: bool = False,
        events: Events | None = None,
        **options: Any,
    ) -> None:
        if transport not in ("multiplexed", "pool"):
            raise SettingsError(
                f"transport {shown(transport)}: accepted is 'multiplexed' or 'pool'"
            )
        ours, theirs = split_options(options)
        if settings is None and connection_pool is not None:
            settings = settings_on(connection_pool)
            if settings is None:
                ours = {**settings_of_pool(connection_pool), **ours}
        self._settings = settings = settings_with(settings, ours)
        self.timeout = self._settings.command_timeout
        multiplexed = transport == "multiplexed" and not single_connection_client
        pool = connection_pool or open_pool(settings, theirs, shared=multiplexed)
        if multiplexed:
            _refuse_special(pool)
        refuse_insecure(settings, pool)
        super().__init__(
            connection_pool=pool, single_connection_client=single_connection_client
        )
        self.auto_close_connection_pool = connection_pool is None
        self.multiplexed = multiplexed
        encoder = pool.get_encoder()
        self.decodes = encoder.decode_responses
        # hiredis packs text as strict UTF-8; any other encoding takes the slow path.
        self._packs_text = (
            encoder.encoding.lower() in {"utf-8", "utf8"}
            and encoder.encoding_errors == "strict"
        )
        # A view by `bounded`: the client it was made of closes the connections.
        self._borrowed = False
        # Whether the one connection of a single-connection client is no longer as the
        # pool's others are: another user, another database, unasked-for answers.
        self._altered = False
        self._reset_counters()
        # Whether the connections are the pool's, and closing this client closes none.
        self._shares = connection_pool is not None and multiplexed and events is None
        if self._shares:
            self._use(shared_connections(settings, pool, self._opened))
            self.events = self._connections.events
            return
        self.events = events or Events()
        if events is None:
            log_events(self.events)
        self._use(self._opened(pool, self.events))
        if multiplexed and events is None:
            share(settings, self._connections)

    def __repr__(self) -> str:
        """Name the pool (redis-py's); also of one whose settings were refused."""
        pool = vars(self).get("connection_pool", "not opened")
        return f"<{type(self).__module__}.{type(self).__name__}({pool})>"

    def _opened(self, pool: aredis.ConnectionPool, events: Events) -> Connections:
        access = access_of(pool)
        connections = Connections(
            self._settings,
            pool,
            Dialer(
                self._settings,
                pool,
                access,
                on_connect=self._on_connect,
                in_cluster=self.in_cluster,
            ),
            events,
            name=self._named("command"),
        )
        connections.access = access
        provider = fan_out(pool.connection_kwargs.get("credential_provider"))
        if provider is not None:
            # Also in a pool of the caller's: redis-py's own classes register there, and
            # would silence the clients on it.
            pool.connection_kwargs["credential_provider"] = provider
        if isinstance(provider, FannedOut):
            connections.rotation = Rotation(provider, pool, access)
        return connections

    def _use(self, connections: Connections) -> None:
        self._connections = connections
        self._command = connections.command
        if connections.rotation is not None:
            connections.rotation.add(connections)

    def _reset_counters(self) -> None:
        self._specs: dict[Any, CommandSpec] = {}
        self._failures = FailureCounts()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:  # type: ignore[override]
        """Return a client for a URL; it connects on first use.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://``, or ``cluster://``, which
                makes a client of a whole cluster, with the same commands.
            **options: Fields of `Settings` (``command_timeout=2.0``), and redis-py's
                arguments (``decode_responses=True``).

        Raises:
            SettingsError: The URL or a setting is wrong.
        """
        if not isinstance(url, str):
            # Not repeated: it may hold a password.
            raise SettingsError(f"url must be a str, not {type(url).__name__}")
        is_cluster = str(url).partition("://")[0].lower() in CLUSTER_SCHEMES
        return (cls._for_cluster() if is_cluster else cls)(url=url, **options)

    @classmethod
    def from_settings(cls, settings: Settings, **options: Any) -> Self:
        """Return a client for the server that the settings name; see `from_url`."""
        endpoint = settings.endpoint
        kind = cls._for_cluster() if endpoint and endpoint.seeds else cls
        return kind(settings=settings, **options)

    @classmethod
    def _for_cluster(cls) -> type[Self]:
        """Return the kind of this client that serves a cluster."""
        import_module("oddswire.client._cluster")  # most programs need it never
        return next((each for each in cls.__subclasses__() if each.is_cluster), cls)

    @property
    def settings(self) -> Settings:
        """The settings it was made with: timeouts, limits, the prefix of the keys."""
        return self._settings

    # --- a call

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; every command method ends here."""
        command = self._specs.get(args[0])
        if command is None:
            command = self.command_spec(args[0])
        connection = self._command.current
        if (
            connection is None
            or not command.is_fast_path
            or not connection.flow.open
            or connection.loop is not get_running_loop()
            or _Redis.execute_command is not _ORIGINAL
        ):
            return await self._execute_slow(command, args, options)
        command.calls += 1
        try:
            for each in args:
                kind = type(each)
                if kind is str or kind is bytes:
                    continue
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
        future = connection.send(data, self.timeout, command, raw)
        started = connection.tick
        try:
            reply = await future
        except asyncio.CancelledError:
            connection.abandon()
            raise
        except OddswireError as error:
            deadline = started + self.timeout
            reply = await self._retry(error, command, args, data, deadline, raw=raw)
        if isinstance(reply, Exception):
            deadline = started + self.timeout
            return await self._on_error_reply(reply, command, args, options, deadline)
        callback = command.callback
        if callback is None:
            return reply
        if options or command.awaits:
            return await self.parse_reply(reply, command, options)
        return callback(reply)

    async def execute_packed(self, data: bytes, args: tuple[Any, ...]) -> Any:
        """Send a command that was packed before, for library code that repeats it.

        In all else it is `execute_command`, of a command whose reply has no callback.

        Args:
            data: `args`, packed.
            args: The command, its name the same text each time.
        """
        command = self._specs.get(args[0]) or self.command_spec(args[0])
        connection = self._command.current
        if (
            connection is None
            or not command.is_fast_path
            or not connection.flow.open
            or connection.loop is not get_running_loop()
            or _Redis.execute_command is not _ORIGINAL
        ):
            return await self._execute_slow(command, args, {})
        command.calls += 1
        future = connection.send(data, self.timeout, command)
        started = connection.tick
        try:
            reply = await future
        except asyncio.CancelledError:
            connection.abandon()
            raise
        except OddswireError as error:
            deadline = started + self.timeout
            reply = await self._retry(error, command, args, data, deadline, raw=False)
        if isinstance(reply, Exception):
            deadline = started + self.timeout
            return await self._on_error_reply(reply, command, args, {}, deadline)
        return reply

    async def _execute_slow(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Not connected, no room, or not an ordinary command."""
        command.calls += 1
        alone = self.single_connection_client or self.connection is not None
        if not alone:
            self._connections.follow()
        route = command.route_for(args)
        if self.multiplexed and not alone and route is Route.SHARED:
            return await self._instrumented(self._run_shared, command, args, options)
        if alone and route is Route.REFUSED:
            self._altered = True
        answered = self._connections.metrics.answered
        try:
            if route is Route.OUT_OF_BAND and not self._altered:
                run = self._run_out_of_band
                return await self._instrumented(run, command, args, options)
            if alone or command.name == "HIMPORT":
                return await super().execute_command(*args, **options)
            if route is Route.REFUSED:
                raise NotShared(
                    f"{' '.join(command.words).upper()} is about the connection it is "
                    f"sent on, and others share that one; {command.instead}"
                )
            if route is Route.SHARED:
                reply = await self._run_by_pool(command, args, options)
                answered.record(monotonic())
                return reply
            reply = await self._instrumented(
                self._run_exclusive, command, args, options
            )
            answered.record(monotonic())
        except OddswireError as error:
            self.count_failure(error)
            raise
        except UnicodeEncodeError as error:
            raise unencodable(error) from None
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError):
                answered.record(monotonic())
            failure = (
                from_redis(error)
                if isinstance(error, RedisError)
                else Unavailable(str(error))
            )
            raise self.count_failure(failure, command, args) from error
        return await self.parse_reply(reply, command, options)

    async def _instrumented(
        self,
        run: Callable[[CommandSpec, tuple[Any, ...], dict[str, Any]], Awaitable[Any]],
        command: CommandSpec,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Run a command that does not go by redis-py's method, under its hooks."""
        if _hooks.commands_are_instrumented():
            done = partial(run, command, args, options)
            return await _hooks.command(self, args, options, done)
        return await run(command, args, options)

    # --- one way for each route

    async def _run_shared(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run it on the command connection, waiting for that or for room on it."""
        data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        deadline = monotonic() + self.timeout
        reply = await self._send(command, args, data, deadline, raw=raw)
        if isinstance(reply, Exception):
            return await self._on_error_reply(reply, command, args, options, deadline)
        if command.name == "CLIENT" and command.subcommand(args) == b"SETNAME":
            self._connections.dialer.client_name = args[-1]
        return await self.parse_reply(reply, command, options)

    async def _run_by_pool(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
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

    async def _run_exclusive(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run it on an exclusive connection; again if that primary was demoted."""
        sent = monotonic()
        pool = self.connection_pool
        try:
            return await run_exclusively(pool, command, args, options, self.timeout)
        except ResponseError as error:
            if not await self.leave_demoted(error, sent) or not _as_if_unsent(error):
                raise
        return await run_exclusively(pool, command, args, options, self.timeout)

    async def _run_out_of_band(
        self, command: CommandSpec, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Run it on a connection opened for it, past everything that waits."""
        deadline = monotonic() + self.timeout
        data = self.pack(command, args)
        async with self._connections.out_of_band(self.timeout) as connection:
            reply = await connection.send(data, deadline - monotonic(), command)
        if isinstance(reply, Exception):
            raise reply
        return await self.parse_reply(reply, command, options)

    async def _send_command_parse_response(
        self, conn: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        """Send it on this very connection (redis-py's).

        A blocking command has the time that it asks for. A command that a demoted
        primary refuses is sent to the new one, unless the caller has altered the
        connection.
        """
        command = self.command_spec(args[0])
        send = super()._send_command_parse_response
        for last in (self._altered, True):
            sent = monotonic()
            try:
                if not command.blocking_timeout(args):
                    return await send(conn, command_name, *args, **options)
                if not conn.is_connected:
                    await conn.connect()  # within redis-py's own limit
                async with blocking_deadline(conn, command, args, self.timeout):
                    if command.name in OF_EARLIER_WRITES and not self._altered:
                        # The connection of the writes may have been lost since. Not
                        # after what alters it: in MULTI this would be one command more.
                        await cover_earlier_writes(conn)
                    return await send(conn, command_name, *args, **options)
            except ResponseError as error:
                if not await self.leave_demoted(error, sent):
                    raise
                await conn.disconnect()
                if last or not _as_if_unsent(error):
                    raise
        raise AssertionError("the second attempt is the last")

    # --- the command connection, for library code

    def command_connection(self) -> Multiplexer | None:
        """Return the command connection, if there is one in this loop."""
        connection = self._command.current
        if connection is None or connection.loop is not get_running_loop():
            return None
        return connection

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

    async def open_connection(self, timeout: float) -> Multiplexer:
        """Return the live command connection, connecting if need be.

        Raises:
            OddswireError: As from any command that cannot be sent.
        """
        return await self._connections.ready(timeout)

    async def send_once(
        self,
        data: bytes,
        deadline: float,
        label: CallLabel,
        *,
        count: int = 1,
        raw: bool = False,
        on_reply: Callable[[Any], None] | None = None,
    ) -> Any:
        """Send packed bytes on the command connection, waiting for it if need be.

        Returns the reply, or the list of `count` replies; an error reply is returned,
        not raised. See `Multiplexer.send`.

        Args:
            data: Packed commands.
            deadline: By `time.monotonic`.
            label: Names the call in its errors.
            count: Commands in `data`.
            raw: Do not decode.
            on_reply: The parser's hook.
        """
        connection = self.command_connection()
        if connection is None:
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

    # --- which server, for library code

    @property
    def address(self) -> str:
        """Where it leads to: ``host:port`` or a path; empty for a pool of a caller."""
        endpoint = self._settings.endpoint
        return "" if endpoint is None else endpoint.address

    async def primaries(self) -> tuple[Client, ...]:
        """Return a client of each primary: on one server, this one."""
        return (self,)

    async def server_of(self, key: bytes, deadline: float) -> Client:  # noqa: ARG002 - of a cluster
        """Return the client of the server that has a key; of one server, this one.

        Args:
            key: A key, or a channel.
            deadline: By `time.monotonic`.

        Raises:
            OddswireError: Of a cluster: as from a call on this key.
        """
        return self

    def server_now(self, key: bytes) -> Client:  # noqa: ARG002 - of a cluster
        """Return the same by what is known now; this one if nothing is known."""
        return self

    def doubt(self) -> None:
        """Have the map of a cluster read: this node does not answer."""

    def redirected(self, error: AskError) -> Client | None:  # noqa: ARG002 - of a cluster
        """Return the client of the node that MOVED or ASK names; None: not followed."""
        return None

    # --- sent again

    async def _send(
        self,
        command: CommandSpec,
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
            return await self._retry(error, command, args, data, deadline, raw=raw)

    async def _retry(
        self,
        error: OddswireError,
        command: CommandSpec,
        args: tuple[Any, ...],
        data: bytes,
        deadline: float,
        *,
        raw: bool,
    ) -> Any:
        try:
            return await retry(
                error,
                lambda: self.send_once(data, deadline, command, raw=raw),
                deadline,
                attempts=self.retries,
                repeatable=command.may_repeat(args),
                on_retry=self.count_retry,
            )
        except OddswireError as failure:
            raise self.count_failure(failure) from failure.__cause__

    @property
    def retries(self) -> int:
        """How often a call may be repeated, where that is safe."""
        return self._settings.retries

    # --- replies

    async def _on_error_reply(
        self,
        reply: Exception,
        command: CommandSpec,
        args: tuple[Any, ...],
        options: dict[str, Any],
        deadline: float,
    ) -> Any:
        """Send the call again where the refusal will pass; return its result or raise.

        1. A server that loads its data is up and ran nothing: ask again until the
           deadline.
        2. A primary that became a replica ran nothing: leave it, ask the new primary.
        3. A primary without its replicas may have been deposed: ask the sentinels.
        """
        data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        backoff = Backoff(base=0.02, cap=0.25)
        while isinstance(reply, Loading):
            pause = backoff.failed()
            if monotonic() + 2 * pause >= deadline:
                # An attempt without time for its answer would end as unknown.
                break
            await asyncio.sleep(pause)
            reply = await self._send(command, args, data, deadline, raw=raw)
        sent = deadline - self.timeout
        while (
            isinstance(reply, ReadOnly)
            and self._connections.leave_if_demoted(sent)
            # A message that a script published before the refusal would be published
            # a second time.
            and not is_from_script(reply)
        ):
            sent = monotonic()
            reply = await self._send(command, args, data, deadline, raw=raw)
        if isinstance(reply, NoReplicas):
            self._connections.ask_sentinels()
        if not isinstance(reply, Exception):
            return await self.parse_reply(reply, command, options)
        if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
            return options[EMPTY_RESPONSE]
        raise self.count_failure(reply, command, args)

    async def parse_reply(
        self, reply: Any, command: CommandSpec, options: dict[str, Any]
    ) -> Any:
        """Turn a reply into the result of redis-py's method."""
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
        """Set the function from a command's reply to its result (redis-py's)."""
        super().set_response_callback(command, callback)
        for name, known in self._specs.items():
            known.use(self.response_callbacks.get(name))

    # --- a server that refuses writes

    def leave_if_demoted(self, sent: float) -> bool:
        """Leave the server that refused a write sent then: it became a replica.

        False: it was a replica when we connected to it, so its refusal is the answer.
        """
        return self._connections.leave_if_demoted(sent)

    async def leave_demoted(self, error: ResponseError, sent: float) -> bool:
        """Leave the server if it refused a call as a replica; False: it did not."""
        return refused_by_replica(error) and await self._connections.leave_demoted(sent)

    def on_refused_write(self, error: OddswireError, sent: float) -> None:
        """Find the primary: a server refused a write that was sent then.

        Args:
            error: `ReadOnly`: the server is left. `NoReplicas`: it may have been
                deposed, and the sentinels are asked. Any other: nothing follows.
            sent: By `time.monotonic`.
        """
        if isinstance(error, ReadOnly):
            self._connections.leave_if_demoted(sent)
        elif isinstance(error, NoReplicas):
            self._connections.ask_sentinels()

    # --- commands, by name

    def command_spec(self, name: Any) -> CommandSpec:
        """Return what is known of a command, by the name that redis-py gives it."""
        command = self._specs.get(name)
        if command is None:
            command = CommandSpec(
                text(name),
                self.response_callbacks.get(name),
                is_fast_path=self.multiplexed and self._packs_text,
            )
            if len(self._specs) < _KNOWN_AT_MOST:
                self._specs[name] = command
        return command

    def pack(self, command: CommandSpec, args: tuple[Any, ...]) -> bytes:
        """Pack as redis-py does, with its errors for what cannot be packed.

        Raises:
            DataError: An argument that is no text, bytes or number, text that cannot be
                encoded, or an int of thousands of digits.
        """
        return pack_as_redis_py(command.words, args[1:], self.get_encoder().encode)

    # --- views of the same connections

    def bounded(self, seconds: float) -> Self:
        """Return this client with another deadline: same connections, same statistics.

        Closing it closes nothing.

        Raises:
            NotShared: This client has one exclusive connection, which is its own to
                close; there `asyncio.timeout` does the same.
            SettingsError: `seconds` is no number, NaN or negative.
        """
        # A deadline that is no number would break the queue of calls on the connection.
        check_duration("a deadline of", seconds, 0.0, math.inf, SettingsError)
        if self.single_connection_client:
            raise NotShared(
                "a client with one exclusive connection does not share it; bound the "
                "call by `asyncio.timeout`"
            )
        view = copy.copy(self)
        view.timeout = seconds
        view._borrowed = True  # noqa: SLF001 - a copy of this very object
        return view

    def reading_from(self, where: ReadFrom) -> Self:
        """Return this client with its reads sent to primaries, or to replicas.

        It matters on a cluster alone (`ClusterClient.reading_from`): one server answers
        its reads itself.
        """
        del where
        return self

    def at(self, key: KeyT) -> Self:
        """Return this client with what is about one server asked of that of a key.

        It matters on a cluster alone (`ClusterClient.at`).
        """
        del key
        return self

    def tracked(
        self,
        on_push: Callable[[list[Any]], None],
        *options: str,
    ) -> Self:
        """Return a client on a tracking connection of its own, for a cache.

        The server tells that connection, in order with its replies, which keys that
        were read on it have changed. Close it by `aclose`. It returns bytes whatever
        this client decodes to: the name of a key that changed need not be text.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
            *options: Of CLIENT TRACKING ON, such as ``"BCAST"``.
        """
        return self._on_own_connection(
            self._named("tracked"),
            on_push,
            on_connect=(("CLIENT", "TRACKING", "ON", *options),),
        )

    def subscriber(self, on_push: Callable[[list[Any]], None], *channels: str) -> Self:
        """Return a client on a connection of its own for subscriptions.

        Messages come in order with the replies of that connection. So a value that is
        read on it after SUBSCRIBE divides the messages into earlier and later ones.
        Close it by `aclose`. It returns bytes, as `tracked` does.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
            *channels: Subscribed to before anything else is sent, also after a loss.
        """
        return self._on_own_connection(
            self._named("subscriber"),
            on_push,
            channels=channels,
            idle=self._settings.heartbeat_subscriber,
        )

    def _on_own_connection(
        self,
        name: str,
        on_push: Callable[[list[Any]], None],
        *,
        on_connect: tuple[tuple[str | int, ...], ...] = (),
        channels: tuple[str, ...] = (),
        idle: float | None = None,
    ) -> Self:
        shared = self._connections
        dialer = Dialer(
            self._settings,
            shared.pool,
            shared.access,
            protocol=3,
            on_push=on_push,
            on_connect=on_connect,
            channels=channels,
            in_cluster=self.in_cluster,
        )
        connections = Connections(
            self._settings, shared.pool, dialer, self.events, name=name, idle=idle
        )
        connections.access, connections.rotation = shared.access, shared.rotation
        view = copy.copy(self)
        view._move_to(connections)  # noqa: SLF001 - a copy of this very object
        return view

    def _named(self, connection: str) -> str:
        """Return what events call a connection of this kind."""
        return connection

    def _move_to(self, connections: Connections) -> None:
        """Make this copy a client of its own, with one connection of its own."""
        self._reset_counters()
        self._borrowed = self._shares = self.auto_close_connection_pool = False
        # The client it was made of may have an exclusive connection; the copy has none.
        self.single_connection_client, self.connection = False, None
        self.multiplexed = True
        # `async with` counts its users, and the copy has none yet.
        self._usage_counter = 0
        self.decodes = False
        self._use(connections)

    def client(self) -> Client:
        """Return a client that has one exclusive connection for itself (redis-py's)."""
        return type(self)(
            settings=self._settings,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's signature
        """Return a pipeline: commands are collected and sent together by `execute`."""
        return Pipeline(self, transaction, shard_hint)

    def pubsub(self, **kwargs: Any) -> PubSub:
        """Return redis-py's pub/sub object, on an exclusive connection.

        It waits for a message for as long as it is asked to, however long a command
        may take.
        """
        # One for each: redis-py's has the newest of its objects authenticate again.
        kwargs.setdefault("event_dispatcher", EventDispatcher())
        return PubSub(self.connection_pool, **kwargs)

    def monitor(self) -> Monitor:
        """Return redis-py's MONITOR, on an exclusive connection."""
        return Monitor(self.connection_pool)

    # --- commands that are faster than redis-py's

    def set(
        self,
        name: KeyT,
        value: EncodableT,
        ex: ExpiryT | None = None,
        px: ExpiryT | None = None,
        nx: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
        xx: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
        keepttl: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
        get: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
        exat: AbsExpiryT | None = None,
        pxat: AbsExpiryT | None = None,
        ifeq: bytes | str | None = None,
        ifne: bytes | str | None = None,
        ifdeq: str | None = None,
        ifdne: str | None = None,
    ) -> Awaitable[Any]:
        """Set a key: redis-py's `set`.

        It exists for speed alone: redis-py's takes 3 us, more than a third of the call,
        to look at options that are rarely there. What is not the everyday form is left
        to it.
        """
        if value.__class__ is memoryview:
            value = bytes(value)
        if (
            keepttl
            or get
            or (nx and xx)
            or exat is not None
            or pxat is not None
            or ifeq is not None
            or ifne is not None
            or ifdeq is not None
            or ifdne is not None
            or (ex is not None and (px is not None or type(ex) is not int))
            or (px is not None and type(px) is not int)
        ):
            rare: dict[str, Any] = {
                "ifeq": ifeq,
                "ifne": ifne,
                "ifdeq": ifdeq,
                "ifdne": ifdne,
            }
            # redis-py warns of each of these that is given, None too.
            given = {key: what for key, what in rare.items() if what is not None}
            return super().set(
                name, value, ex, px, nx, xx, keepttl, get, exat, pxat, **given
            )
        # Written out: unpacking a tuple of options costs more than the choice.
        if not nx and not xx:
            if ex is not None:
                return self.execute_command("SET", name, value, "EX", ex)
            if px is not None:
                return self.execute_command("SET", name, value, "PX", px)
            return self.execute_command("SET", name, value)
        condition = "NX" if nx else "XX"
        if ex is not None:
            return self.execute_command("SET", name, value, condition, "EX", ex)
        if px is not None:
            return self.execute_command("SET", name, value, condition, "PX", px)
        return self.execute_command("SET", name, value, condition)

    def evalsha(
        self, sha: str, numkeys: int, *keys_and_args: KeyT | EncodableT
    ) -> Awaitable[Any]:
        """Run a script by its digest: redis-py's `evalsha`, without its second call."""
        return self.execute_command("EVALSHA", sha, numkeys, *keys_and_args)

    # --- counted, and closed

    def stats(self) -> ClientStats:
        """Return what was counted since the client was made."""
        commands = self._specs.values()
        return summarize(self._connections, commands, self._failures, monotonic())

    def count_failure(
        self,
        error: Exception,
        command: CommandSpec | None = None,
        args: tuple[Any, ...] = (),
    ) -> Exception:
        """Count a failed call, and return its error.

        Args:
            error: The call is about to fail with it.
            command: What the server refused, where it was the server.
            args: The whole of the command.
        """
        if command is not None and isinstance(error, NoPermission):
            # Of a key or a channel the server names neither the command nor the user.
            what = " ".join(command.words).upper()
            error.args = (f"{what}: {error} (user {self._connections.dialer.user!r})",)
        elif command is not None and isinstance(error, WrongType):
            # Behind redis-py's words, for the server does not say which key it was.
            what = " ".join(command.words).upper()
            keys = (keys_of((*command.words, *args[1:])) or ())[:_NAMED_AT_MOST]
            named = ", ".join(plain(text(key)) for key in keys)
            error.args = (f"{error} ({what} {named})" if named else str(error),)
        self._failures.count(error, monotonic())
        return error

    def count_retry(self, error: Exception) -> None:
        """Count an attempt that is made again for this error."""
        self._failures.count_retry(error)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        """Let running calls finish within the drain timeout, then close everything.

        Calls on exclusive connections (those that block, WATCH, pub/sub, large batches;
        with ``transport="pool"`` all) are not waited for. Calls made after this raise
        `ClosedError`. Closing twice is fine. Cancelled, it closes without waiting.

        A client on a pool of the caller's closes nothing: its command connection is the
        pool's, and ends when that is closed or disconnected.

        Raises:
            WrongLoop: It was used in another event loop, or before a fork.
        """
        if self._borrowed:
            return
        if self.single_connection_client:
            if self._altered and self.connection is not None:
                # Not before: redis-py would connect it again at the next command.
                self.connection.mark_for_reconnect()
            self._altered = False
            await super().aclose(close_connection_pool)
            return
        try:
            if not self._shares:
                self._connections.loop_guard.check()
                await self._connections.aclose(self._settings.drain_timeout)
        finally:
            if close_connection_pool or (
                close_connection_pool is None and self.auto_close_connection_pool
            ):
                await self.connection_pool.aclose()


def _as_if_unsent(error: Exception) -> bool:
    """Whether a write that was refused did nothing, so that it may go elsewhere.

    A script may have published before it was refused. A call that was ended while it
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


def _refuse_special(pool: aredis.ConnectionPool) -> None:
    """Refuse a pool whose connections do what a multiplexed connection does not do.

    Raises:
        SettingsError: It runs a function of its own on each new connection, or its
            connections go to replicas.
    """
    if pool.connection_kwargs.get("redis_connect_func") is not None:
        what = "redis_connect_func"
        how = "give transport='pool'"
    elif not getattr(pool, "is_master", True):
        what = "a Sentinel pool of replicas"
        # `Sentinel.slave_for` has no way to pass it on.
        how = (
            "give it transport='pool': Client(connection_pool=SentinelConnectionPool("
            "name, sentinel, is_master=False), transport='pool')"
        )
    else:
        return
    raise SettingsError(f"{what} is not supported on the multiplexed connection; {how}")
