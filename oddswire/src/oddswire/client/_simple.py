"""`SimpleClient`: one connection, the same commands, nothing else."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, Self

import redis.asyncio as aredis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ResponseError

from oddswire._tasks import retrieve, spawn
from oddswire._text import text
from oddswire.client._commands import OF_EARLIER_WRITES, CommandSpec, Route
from oddswire.client._dialer import Dialer
from oddswire.client._exclusive import (
    BLOCKING_GRACE,
    COVERING_COMMANDS,
    refused_by_replica,
)
from oddswire.client._pools import open_pool, settings_with, split_options
from oddswire.client._rotation import Rotation
from oddswire.connection.access import access_of
from oddswire.connection.credentials import FannedOut
from oddswire.connection.errors import clone_error
from oddswire.connection.loop_guard import LoopGuard
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack, pack_as_redis_py
from oddswire.connection.reconnect import LINGER, STAYS
from oddswire.errors import (
    ClosedError,
    ConnectionLost,
    NotShared,
    OddswireError,
    Outcome,
)

if TYPE_CHECKING:
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.settings import Settings


class SimpleClient(aredis.Redis):
    """One connection, made on first use, with redis-py's commands; for scripts.

    No pool, no retries, no heartbeat, no statistics. A lost connection fails the calls
    on it and the next call makes another; so does a primary that has become a replica,
    after it refused a call. A renewed token of a streaming provider is followed. Calls
    share the connection, so one that
    blocks holds up those behind it; WATCH, pipelines and pub/sub are `Client`'s, and
    what would change the connection under the others is refused.

    Args:
        settings: The server and the timeouts.
        **options: Fields of `Settings`, which count before those of `settings`, and
            redis-py's arguments.

    Raises:
        SettingsError: A setting is wrong, or there is none of that name.
    """

    def __init__(self, *, settings: Settings | None = None, **options: Any) -> None:
        ours, theirs = split_options(options)
        self._settings = settings_with(settings, ours)
        # It holds the connection's arguments; nothing is ever leased from it.
        super().__init__(connection_pool=open_pool(self._settings, theirs))
        access = access_of(self.connection_pool)
        self._dial = Dialer(self._settings, self.connection_pool, access)
        self._connection: Multiplexer | None = None
        self._role = ""  # of the server, when the connection was made
        self._was_primary = False
        self._left: set[Multiplexer] = set()
        self.loop_guard = LoopGuard()
        provider = self.connection_pool.connection_kwargs.get("credential_provider")
        if isinstance(provider, FannedOut):
            self._rotation = Rotation(provider, self.connection_pool, access)
            self._rotation.add(self)
        self._connecting: asyncio.Task[Multiplexer] | None = None

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:  # type: ignore[override]
        """Return a client for a URL; it connects on first use.

        Raises:
            SettingsError: The URL or a setting is wrong.
        """
        return cls(url=url, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its reply; every command method ends here."""
        command = self._spec(args[0])
        route = command.route_for(args)
        if route is Route.REFUSED:
            raise NotShared(
                f"{' '.join(command.words).upper()}: all calls share one connection "
                "here; use oddswire.Client"
            )
        data = pack_as_redis_py(command.words, args[1:], self.get_encoder().encode)
        out_of_band = route is Route.OUT_OF_BAND
        usual = self._settings.command_timeout
        connection = await (
            self._dial.out_of_band(usual) if out_of_band else self._connected()
        )
        if connection.error is not None:
            raise clone_error(connection.error, Outcome.NOT_SENT)
        if command.name in OF_EARLIER_WRITES:
            await self._cover_earlier_writes(connection)
        sent = monotonic()
        future = connection.send(
            data,
            max(usual, command.blocking_timeout(args) + BLOCKING_GRACE),
            command,
            raw=NEVER_DECODE in options,
        )
        try:
            reply = await future
        except asyncio.CancelledError:
            connection.abandon()
            raise
        finally:
            if out_of_band:
                connection.abort(ClosedError("its one command is done"))
        if isinstance(reply, Exception):
            if refused_by_replica(reply):
                self._leave(connection, sent)
            if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                return options[EMPTY_RESPONSE]
            raise reply
        if command.callback is None:
            return reply
        for note in ("keys", NEVER_DECODE, EMPTY_RESPONSE):
            options.pop(note, None)
        value = command.callback(reply, **options)
        return await value if command.awaits else value

    def _spec(self, name: Any) -> CommandSpec:
        spelled = text(name)
        return CommandSpec(
            spelled, self.response_callbacks.get(name), is_fast_path=False
        )

    async def _connected(self) -> Multiplexer:
        """Return the open connection; all callers share one attempt to connect."""
        self.loop_guard.check()
        if self._connection is not None and self._connection.error is None:
            return self._connection
        task = self._connecting
        if task is None or task.done():
            task = spawn(self._connect(), name="oddswire simple client connecting")
            task.add_done_callback(retrieve)  # all callers may have given up
            self._connecting = task
        # Not awaited itself: a caller that gives up leaves the attempt to the others.
        await asyncio.wait([task])
        if task.cancelled():
            raise ClosedError("the client was closed")
        failure = task.exception()
        if isinstance(failure, OddswireError):
            raise clone_error(failure, failure.outcome) from failure
        return task.result()

    async def _connect(self) -> Multiplexer:
        self._connection, server_info = await self._dial()
        self._role = server_info.role
        self._was_primary |= server_info.role == "master"
        return self._connection

    async def _cover_earlier_writes(self, connection: Multiplexer) -> None:
        """Have WAIT speak of what was written on connections that were lost, too."""
        for words in COVERING_COMMANDS:
            reply = await connection.send(
                pack(words), self._settings.command_timeout, CallLabel(words[0])
            )
            if "unknown command" not in str(reply):
                return  # refused, WAIT speaks of this connection alone

    def _leave(self, connection: Multiplexer, sent: float) -> None:
        """Leave a primary that has become a replica; the next call makes a connection.

        A name may be moved later than the role: what is a replica again is left again,
        after some time.
        """
        young = sent - connection.connected_at < STAYS
        if connection is self._connection and self._was_primary:
            if self._role != "master" and young:
                return
            self._connection = None
            self._left.add(connection)
            # Meanwhile the calls on it have their replies.
            connection.loop.call_later(LINGER, self._forget, connection)

    def _forget(self, connection: Multiplexer) -> None:
        self._left.discard(connection)
        connection.abort(ConnectionLost("the server became a replica"))

    async def authenticate(self) -> None:
        """Authenticate the open connection by the newest token.

        Raises:
            OddswireError: The server refused it; what the connection may is unchanged.
        """
        if self._connection is not None and self._connection.error is None:
            await self._dial.authenticate(self._connection)

    def pipeline(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here: use `Client`."""
        del args, kwargs
        raise NotShared("SimpleClient has one shared connection; use oddswire.Client")

    pubsub = monitor = client = pipeline

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        """Wait for running calls, then close; a call after that connects again."""
        del close_connection_pool
        self.loop_guard.check()
        for left in list(self._left):
            self._forget(left)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose(self._settings.drain_timeout)
