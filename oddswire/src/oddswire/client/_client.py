"""`Client`: redis-py's asyncio API on a multiplexed connection."""

from __future__ import annotations

import asyncio
import copy
import math
from asyncio import get_running_loop
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import msgspec
from redis.event import EventDispatcher

from oddswire._numbers import check_duration, shown
from oddswire.client import _hooks
from oddswire.client._calling import Calling
from oddswire.client._connections import Connections
from oddswire.client._dialer import Dialer
from oddswire.client._listening import Monitor, PubSub
from oddswire.client._pipeline import Pipeline
from oddswire.client._pools import (
    open_pool,
    refuse_insecure,
    settings_of_pool,
    split_options,
)
from oddswire.client._rotation import Rotation
from oddswire.client._shared import settings_on, share, shared_connections
from oddswire.client._statistics import Statistics, summarize
from oddswire.connection.access import access_of
from oddswire.connection.credentials import FannedOut, fan_out
from oddswire.errors import NotShared, OddswireError, SettingsError
from oddswire.events import Events
from oddswire.logs import log_events
from oddswire.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio as aredis
    from redis.typing import AbsExpiryT, EncodableT, ExpiryT, KeyT

    from oddswire.connection.multiplexer import Multiplexer


class Client(Calling):
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
                f"transport {shown(transport)}: accepted is 'multiplexed' or 'pool'"
            )
        if settings is not None and not isinstance(settings, Settings):
            raise SettingsError("settings must be an oddswire.Settings; a URL is url=")
        ours, theirs = split_options(options)
        if settings is None and connection_pool is not None:
            settings = settings_on(connection_pool)
            if settings is None:
                ours = {**settings_of_pool(connection_pool), **ours}
        if settings is None:
            settings = Settings(**ours)
        elif ours:
            settings = msgspec.structs.replace(settings, **ours)
        self._settings = settings
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
        # hiredis packs text as strict UTF-8; any other encoding takes the long way.
        self._packs_text = (
            encoder.encoding.lower() in {"utf-8", "utf8"}
            and encoder.encoding_errors == "strict"
        )
        self._borrowed = False
        self._altered = False
        self._start_counting()
        # Closing it closes nothing: the connections are the pool's.
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

    def _opened(self, pool: aredis.ConnectionPool, events: Events) -> Connections:
        access = access_of(pool)
        connections = Connections(
            self._settings, pool, Dialer(self._settings, pool, access), events
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

    @property
    def settings(self) -> Settings:
        """The settings it was made with: timeouts, limits, the prefix of the keys."""
        return self._settings

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
        check_duration("seconds", seconds, 0.0, math.inf, SettingsError)
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
        """Return a client on a tracking connection of its own, for a cache.

        The server tells that connection, in order with its replies, which keys that
        were read on it have changed. Close it by `aclose`. It returns bytes whatever
        this client decodes to: the name of a key that changed need not be text.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
            *options: Of CLIENT TRACKING ON, such as ``"BCAST"``.
        """
        return self._on_own_connection(
            "tracked", on_push, arm=(("CLIENT", "TRACKING", "ON", *options),)
        )

    def subscriber(self, on_push: Callable[[list[Any]], None], *channels: str) -> Self:
        """Return a client on a connection of its own for subscriptions.

        What is published comes in order with the replies of that connection, so a value
        read on it after SUBSCRIBE divides the messages into those before and after it.
        Close it by `aclose`. It returns bytes, as `tracked` does.

        Args:
            on_push: Called by the parser with each push message; it must not raise.
            *channels: Subscribed to before anything else is sent, also after a loss.
        """
        return self._on_own_connection(
            "subscriber",
            on_push,
            channels=channels,
            idle=self._settings.heartbeat_subscriber,
        )

    def _on_own_connection(
        self,
        name: str,
        on_push: Callable[[list[Any]], None],
        *,
        arm: tuple[tuple[str | int, ...], ...] = (),
        channels: tuple[str, ...] = (),
        idle: float | None = None,
    ) -> Self:
        view = copy.copy(self)
        view._start_counting()  # noqa: SLF001 - a copy of this very object
        view._borrowed = False  # noqa: SLF001 - a copy of this very object
        view._shares = False  # noqa: SLF001 - a copy of this very object
        view.auto_close_connection_pool = False
        # Whatever this client does with connections, the view has this one connection.
        view.single_connection_client = False
        view.connection = None
        view.multiplexed = True
        # `async with` counts its users, and the view has none yet.
        view._usage_counter = 0  # noqa: SLF001 - a copy of this very object
        view.decodes = False
        dialer = Dialer(
            self._settings,
            self.connection_pool,
            self._connections.access,
            protocol=3,
            on_push=on_push,
            arm=arm,
            channels=channels,
        )
        connections = Connections(
            self._settings,
            self.connection_pool,
            dialer,
            self.events,
            name=name,
            idle=idle,
        )
        connections.access, connections.rotation = (
            self._connections.access,
            self._connections.rotation,
        )
        view._use(connections)  # noqa: SLF001 - a copy of this very object
        return view

    async def open_connection(self, timeout: float) -> Multiplexer:
        """Return the live command connection, connecting if need be; for library code.

        Raises:
            OddswireError: As from any command that cannot be sent.
        """
        return await self._connections.ready(timeout)

    async def execute_packed(self, data: bytes, args: tuple[Any, ...]) -> Any:
        """Send a command that was packed before, for library code that repeats it.

        In all else it is `execute_command`, of a command whose reply is not shaped.

        Args:
            data: `args`, packed.
            args: The command, its name the same text each time.
        """
        command = self.known_command(args[0])
        connection = self._command.current
        if (
            connection is None
            or not command.plain
            or not connection.flow.open
            or connection.loop is not get_running_loop()
            or _hooks.REDIS.execute_command is not _hooks.PLAIN
        ):
            return await self._the_long_way(command, args, {})
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
            reply = await self._again(error, command, args, data, deadline, raw=False)
        if isinstance(reply, Exception):
            return await self._refused(reply, command, args, {}, started + self.timeout)
        return reply

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

    # --- the one command that is faster than redis-py's

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
        condition = ("NX",) if nx else ("XX",) if xx else ()
        if ex is not None:
            return self.execute_command("SET", name, value, *condition, "EX", ex)
        if px is not None:
            return self.execute_command("SET", name, value, *condition, "PX", px)
        return self.execute_command("SET", name, value, *condition)

    # --- counted, and closed

    def statistics(self) -> Statistics:
        """Return what was counted since the client was made."""
        return summarize(
            self._connections,
            self._known.values(),
            self._failures,
            self._failing,
            monotonic(),
        )

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
                # Not before: redis-py would connect it anew after the next command.
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


def _refuse_special(pool: aredis.ConnectionPool) -> None:
    """Refuse a pool whose connections do what a multiplexed connection does not do.

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
        f"{what} is not supported on the multiplexed connection; give transport='pool'"
    )
