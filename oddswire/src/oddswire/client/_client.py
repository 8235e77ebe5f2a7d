"""`Client`: redis-py's asyncio API on a multiplexed wire."""

from __future__ import annotations

import asyncio
import copy
from asyncio import get_running_loop
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import msgspec
import redis.asyncio as aredis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import RedisError, ResponseError

from oddswire.client._commands import TAKES_OVER, Command, Route
from oddswire.client._dialer import Dialer
from oddswire.client._exclusive import exclusively
from oddswire.client._pipeline import Pipeline
from oddswire.client._pools import open_pool, split_options
from oddswire.client._retries import again
from oddswire.client._statistics import Statistics, summarize
from oddswire.client._wires import Wires
from oddswire.connection.failures import for_others
from oddswire.connection.packing import pack, pack_as_redis_py, unencodable
from oddswire.connection.reply_errors import from_redis
from oddswire.counters import Window
from oddswire.errors import (
    CommandTimeout,
    Loading,
    NotShared,
    OddswireError,
    Outcome,
    ReadOnly,
    SettingsError,
    Unavailable,
)
from oddswire.events import Events
from oddswire.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.typing import AbsExpiryT, EncodableT, ExpiryT, KeyT

    from oddswire.connection.multiplexer import Multiplexer


# Names of commands come from code. Should they ever come from users, the table stops
# growing here and the rest is looked up each time.
_KNOWN_AT_MOST = 2_000


class Client(aredis.Redis):
    """A `redis.asyncio.Redis` whose ordinary commands share one connection.

    Every command, argument and reply type is redis-py's. What callers send at the same
    time travels together; blocking commands, WATCH, MONITOR and pub/sub get a
    connection of their own from a bounded pool. It connects on first use and again by
    itself, for ever.

    Each call has one deadline, retries included. Cancelling a call harms no other; if
    its bytes had left, the command may still run.

    Args:
        settings: Timeouts, caps, spacing of attempts; and the server, unless a pool or
            redis-py's ``host``, ``port`` ... name it.
        connection_pool: A pool of yours, which stays yours to close.
        transport: ``"multiplexed"``, or ``"pool"``: one connection per running call,
            as redis-py does it; the way out should the first misbehave.
        single_connection_client: redis-py's: everything on one exclusive connection.
        events: Where changes of state are told; default: a hub of its own.
        **options: Fields of `Settings`, and redis-py's arguments.

    Raises:
        SettingsError: A setting is wrong, or there is none of that name.
        OddswireError: From any command, with its `outcome`. Errors about arguments
            (`redis.DataError`) and a failed WATCH stay redis-py's own.

    Attributes:
        events: Where changes of state of its wires can be subscribed to.
    """

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
                f"transport {transport!r}: accepted is 'multiplexed' or 'pool'"
            )
        ours, theirs = split_options(options)
        if settings is None:
            settings = Settings(**ours)
        elif ours:
            settings = msgspec.structs.replace(settings, **ours)
        self._settings = settings
        self.timeout = self._settings.command_timeout
        pool = connection_pool or open_pool(self._settings, theirs)
        if transport == "multiplexed" and not single_connection_client:
            _refuse_special(pool)
        super().__init__(
            connection_pool=pool, single_connection_client=single_connection_client
        )
        self.auto_close_connection_pool = connection_pool is None
        self.multiplexed = transport == "multiplexed" and not single_connection_client
        encoder = pool.get_encoder()
        self.decodes = encoder.decode_responses
        # hiredis packs text as strict UTF-8; any other encoding takes the long way.
        self._packs_text = (
            encoder.encoding.lower() in {"utf-8", "utf8"}
            and encoder.encoding_errors == "strict"
        )
        self._borrowed = False
        # Whether the connection of a single-connection client is still as the pool's
        # others are: same user, same database, answers to each command.
        self._altered = False
        self._start_counting()
        self.events = Events() if events is None else events
        dialer = Dialer(self._settings, pool)
        self._use(Wires(self._settings, pool, dialer, self.events))

    def _start_counting(self) -> None:
        self._known: dict[Any, Command] = {}
        self._failures: dict[str, int] = {}
        self._failing: dict[str, Window] = {}

    def _use(self, wires: Wires) -> None:
        self._wires = wires
        self._link = wires.link

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:  # type: ignore[override]
        """Return a client for a URL; it connects on first use.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.
            **options: Fields of `Settings` (``command_timeout=2.0``), and redis-py's
                arguments (``decode_responses=True``).

        Raises:
            SettingsError: The URL or a setting is wrong.
        """
        return cls(url=url, **options)

    @classmethod
    def from_settings(cls, settings: Settings, **options: Any) -> Self:
        """Return a client for the server that the settings name; see `from_url`."""
        return cls(settings=settings, **options)

    # --- views of the same wires

    def bounded(self, seconds: float) -> Self:
        """Return this client with another deadline: same wires, same statistics.

        Closing it closes nothing.

        Raises:
            NotShared: This client has one exclusive connection, which is its own to
                close; there `asyncio.timeout` does the same.
        """
        if self.single_connection_client:
            raise NotShared(
                "a client with one exclusive connection does not share it; bound the "
                "call by `asyncio.timeout`"
            )
        view = copy.copy(self)
        view.timeout = seconds
        view._borrowed = True  # noqa: SLF001 - a copy of this very object
        return view

    def tracked(
        self,
        on_push: Callable[[list[Any]], None],
        *options: str,
    ) -> Self:
        """Return a client on a wire of its own with CLIENT TRACKING on, for a cache.

        The server tells that wire, in order with its replies, which keys that were read
        on it have changed. Close it by `aclose`. It returns bytes whatever this client
        decodes to: the name of a key that changed need not be text.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
            *options: Of CLIENT TRACKING ON, such as ``"BCAST"``.
        """
        return self._on_own_wire(
            "tracked", on_push, arm=(("CLIENT", "TRACKING", "ON", *options),)
        )

    def subscriber(self, on_push: Callable[[list[Any]], None]) -> Self:
        """Return a client on a wire of its own for subscriptions.

        What is published comes in order with the replies of that wire, so a value read
        on it after SUBSCRIBE divides the messages into those before and after it. Close
        it by `aclose`. It returns bytes, as `tracked` does.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
        """
        return self._on_own_wire(
            "subscriber", on_push, idle=self._settings.heartbeat_subscriber
        )

    def _on_own_wire(
        self,
        name: str,
        on_push: Callable[[list[Any]], None],
        *,
        arm: tuple[tuple[str | int, ...], ...] = (),
        idle: float | None = None,
    ) -> Self:
        view = copy.copy(self)
        view._start_counting()  # noqa: SLF001 - a copy of this very object
        view._borrowed = False  # noqa: SLF001 - a copy of this very object
        view.auto_close_connection_pool = False
        # Whatever this client does with connections, the view has this one wire.
        view.single_connection_client = False
        view.connection = None
        view.multiplexed = True
        # `async with` counts its users, and the view has none yet.
        view._usage_counter = 0  # noqa: SLF001 - a copy of this very object
        view.decodes = False
        dialer = Dialer(
            self._settings, self.connection_pool, protocol=3, on_push=on_push, arm=arm
        )
        view._use(  # noqa: SLF001 - a copy of this very object
            Wires(
                self._settings,
                self.connection_pool,
                dialer,
                self.events,
                name=name,
                idle=idle,
            )
        )
        return view

    async def wire(self, timeout: float) -> Multiplexer:
        """Return the live command wire, connecting if need be; for library code.

        Raises:
            OddswireError: As from any command that cannot be sent.
        """
        return await self._wires.ready(timeout)

    def client(self) -> Self:
        """Return a client that has one exclusive connection for itself (redis-py's)."""
        return type(self)(
            settings=self._settings,
            connection_pool=self.connection_pool,
            single_connection_client=True,
        )

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's signature
        """Return a pipeline: commands are collected and sent together by `execute`."""
        return Pipeline(self, transaction, shard_hint)

    # --- commands

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
        condition = ("NX",) if nx else ("XX",) if xx else ()
        if ex is not None:
            return self.execute_command("SET", name, value, *condition, "EX", ex)
        if px is not None:
            return self.execute_command("SET", name, value, *condition, "PX", px)
        return self.execute_command("SET", name, value, *condition)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; every command method ends here."""
        command = self._known.get(args[0])
        if command is None:
            command = self._learn(args[0])
        wire = self._link.wire
        if (
            wire is None
            or not command.plain
            or not wire.gate.open
            or wire.loop is not get_running_loop()
        ):
            return await self._the_long_way(command, args, options)
        command.calls += 1
        try:
            data = pack(args)
        except (TypeError, ValueError):
            data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        future = wire.send(data, self.timeout, command, raw=raw)
        started = wire.tick
        try:
            reply = await future
        except asyncio.CancelledError:
            wire.give_up()
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
        route = command.route_for(args)
        if self.multiplexed and not alone and route is Route.SHARED:
            return await self._shared(command, args, options)
        if alone and (route is Route.REFUSED or command.name in TAKES_OVER):
            self._altered = True
        try:
            if alone or command.name == "HIMPORT":
                return await super().execute_command(*args, **options)
            if route is Route.REFUSED:
                raise NotShared(
                    f"{' '.join(command.words).upper()} changes the state of a "
                    "connection that others share; use it on `client.client()`, which "
                    "has one for itself"
                )
            if route is Route.SHARED:
                reply = await self._by_pool(command, args, options)
                self._wires.traffic.answered.record(monotonic())
                return reply
            reply = await exclusively(
                self.connection_pool, command, args, options, self.timeout
            )
            self._wires.traffic.answered.record(monotonic())
        except OddswireError as error:
            self.counted(error)
            raise
        except UnicodeEncodeError as error:
            raise unencodable(error) from None
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError):
                self._wires.traffic.answered.record(monotonic())
            raise self.counted(_translated(error)) from error
        return await self.shaped(reply, command, options)

    async def _shared(
        self, command: Command, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        data = self.pack(command, args)
        raw = self.decodes and NEVER_DECODE in options
        deadline = monotonic() + self.timeout
        reply = await self._send(command, args, data, deadline, raw=raw)
        if isinstance(reply, Exception):
            return await self._refused(reply, command, args, options, deadline)
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
        """Send packed bytes on the command wire, waiting for it if need be.

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
        wire = self._link.wire
        if wire is None or wire.loop is not get_running_loop():
            wire = await self._wires.ready(deadline - monotonic(), len(data))
        if wire.error is None and not wire.gate.open:
            wire.count_wait()
            await wire.gate.wait(len(data), deadline - monotonic(), wire.load)
        if wire.error is not None:
            # It ended after it was handed over, before this task had its turn.
            raise for_others(wire.error, Outcome.NOT_SENT)
        future = wire.send(
            data, deadline - monotonic(), label, count=count, raw=raw, on_reply=on_reply
        )
        try:
            return await future
        except asyncio.CancelledError:
            wire.give_up()
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
        scope = asyncio.timeout(self.timeout)
        try:
            async with scope:
                return await super().execute_command(*args, **options)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CommandTimeout(
                f"{command.name}: no reply within {self.timeout:g} s"
            ) from None

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
            pause = min(pause * 2, 0.5)
            reply = await self._send(command, args, data, deadline, raw=raw)
        # A primary that was demoted refused it, so it may go to the new one.
        sent = deadline - self.timeout
        while (
            isinstance(reply, ReadOnly)
            and self._link.demoted(sent)
            # A script may have written, or told somebody, before it was refused.
            and reply.outcome is Outcome.REJECTED
        ):
            sent = monotonic()
            reply = await self._send(command, args, data, deadline, raw=raw)
        if not isinstance(reply, Exception):
            return await self.shaped(reply, command, options)
        if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
            return options[EMPTY_RESPONSE]
        raise self.counted(reply)

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
        spelled = name.decode() if isinstance(name, bytes) else str(name)
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
            DataError: An argument that is no text, bytes or number, or text that
                cannot be encoded.
        """
        return pack_as_redis_py(command.words, args[1:], self.get_encoder().encode)

    # --- the rest

    @property
    def retries(self) -> int:
        """How often a call may be repeated, where that is safe."""
        return self._settings.retries

    def statistics(self) -> Statistics:
        """Return what was counted since the client was made."""
        return summarize(
            self._wires,
            self._known.values(),
            self._failures,
            self._failing,
            monotonic(),
        )

    def demoted(self, sent: float) -> None:
        """Leave the server of a call sent then: it refused a write as a replica."""
        self._link.demoted(sent)

    def counted(self, error: Exception) -> Exception:
        """Count a failed call, and return its error."""
        kind = type(error).__name__
        self._failures[kind] = self._failures.get(kind, 0) + 1
        if kind not in self._failing:
            self._failing[kind] = Window()
        # An error reply is counted among the answered already.
        answered = isinstance(error, ResponseError)
        self._failing[kind].record(monotonic(), calls=not answered, failed=1)
        return error

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        """Let running calls finish within the drain timeout, then close every wire.

        Calls on exclusive wires (those that block, WATCH, pub/sub, large batches; with
        ``transport="pool"`` all) are not waited for. Calls made after this raise
        `ClosedError`. Closing twice is fine. Cancelled, it closes without waiting.

        Raises:
            WrongLoop: It was used in another event loop, or before a fork.
        """
        if self._borrowed:
            return
        if self.single_connection_client:
            if self._altered and self.connection is not None:
                # Not before: redis-py would connect it anew after the next command.
                self.connection.mark_for_reconnect()
            self._altered = False
            await super().aclose(close_connection_pool)
            return
        self._wires.owner.claim()
        try:
            await self._wires.aclose(self._settings.drain_timeout)
        finally:
            if close_connection_pool or (
                close_connection_pool is None and self.auto_close_connection_pool
            ):
                await self.connection_pool.aclose()


def _refuse_special(pool: aredis.ConnectionPool) -> None:
    """Refuse a pool whose connections do what a multiplexed wire does not do.

    Raises:
        SettingsError: It runs a function of its own on each new connection, or its
            connections go to replicas.
    """
    if pool.connection_kwargs.get("redis_connect_func") is not None:
        what = "redis_connect_func"
    elif not getattr(pool, "is_master", True):
        what = "a Sentinel pool of replicas"
    else:
        return
    raise SettingsError(
        f"{what} is not supported on the multiplexed wire; give transport='pool'"
    )


def _translated(error: Exception) -> Exception:
    if isinstance(error, OSError) and not isinstance(error, RedisError):
        return Unavailable(str(error))
    return from_redis(error)
