"""`Connections`: those of one client, opened on first use and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod, WeakSet

from oddswire._tasks import spawn
from oddswire.connection.access import Access, access_of
from oddswire.connection.backoff import ReconnectBackoff, ReconnectPolicy
from oddswire.connection.loop_guard import LoopGuard
from oddswire.connection.pool import ExclusivePool
from oddswire.connection.reconnect import ReconnectingConnection
from oddswire.errors import ClosedError, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis.asyncio as aredis

    from oddswire.client._dialer import Dialer
    from oddswire.client._sentinel import Primary
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.events import Events
    from oddswire.settings import Settings


class Connections:
    """A command connection that comes back, and the pool of exclusive ones.

    Args:
        settings: The spacing of attempts.
        pool: Exclusive connections.
        dialer: Opens the command connection.
        events: Told of each change of state.
        name: What the events call it.
        idle: Seconds of silence before a ping; default: those of the command
            connection.
    """

    def __init__(
        self,
        settings: Settings,
        pool: aredis.ConnectionPool,
        dialer: Dialer,
        events: Events,
        *,
        name: str = "command",
        idle: float | None = None,
    ) -> None:
        self.pool = pool
        self.metrics = dialer.metrics
        self.loop_guard = LoopGuard()
        policy = ReconnectPolicy(
            base=settings.reconnect_delay,
            cap=settings.reconnect_cap,
            attempts=settings.reconnect_attempts,
            probe=settings.reconnect_probe,
        )
        self.command = ReconnectingConnection(
            dialer,
            ReconnectBackoff(policy, random.random),
            events.emit,
            name=name,
            heartbeat=(
                settings.heartbeat if idle is None else idle,
                settings.heartbeat_answer,
            ),
            pacer=dialer.pacer,
            progress=dialer.progress,
            refusals=dialer.refusals,
        )
        self.dialer = dialer
        self.events = events
        # Stands for the command connection in a pool that counts it; None: it does not.
        self.slot: Any = None
        # What the connections share to get in; the same for those of their views.
        self.access: Access = access_of(pool)
        self.rotation: Any = None  # a `Rotation`, where credentials are renewed
        self._primary = dialer.primary
        self._following: object | None = None
        self._announced: tuple[str, int] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        _all.add(self)

    def __del__(self) -> None:
        # The client was dropped: without this its connection would stay, and
        # connect again after each loss, for as long as the loop runs.
        loop = self.loop_guard.loop
        if loop is None or not self.loop_guard.is_this_process():
            return
        if self.command.idle and not self._tasks and self._following is None:
            return
        warnings.warn(
            "a client was dropped without `await client.aclose()`",
            ResourceWarning,
            stacklevel=2,
        )
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all with it
            loop.call_soon_threadsafe(
                _abandon, self.command, self._tasks, self._primary, self._following
            )

    async def ready(self, timeout: float) -> Multiplexer:
        """Return the command connection, connecting on first use.

        Args:
            timeout: Seconds to wait for it.

        Raises:
            WrongLoop: This is not the loop, or not the process, of the first use.
            OddswireError: See `ReconnectingConnection.ready`.
        """
        self.loop_guard.check()
        if self.slot is not None:
            self.pool._in_use_connections.add(self.slot)  # noqa: SLF001 - redis-py has no other way
        connection = await self.command.ready(timeout)
        if not self.command.idle:
            self.follow()
        return connection

    def follow(self) -> None:
        """Have the connections leave a primary that was deposed, from the first use."""
        if self._primary is not None and self._following is None:
            self._following = self._primary.follow(_weakly(self._moved))

    @asynccontextmanager
    async def out_of_band(self, timeout: float) -> AsyncIterator[Multiplexer]:
        """Open a connection for one command that must wait for nothing; then close it.

        It is none of the pool's: that may be lent out to what the command is to end.

        Raises:
            OddswireError: As from any connect.
        """
        self.loop_guard.check()
        if self.command.closed:
            raise ClosedError("the client was closed")
        connection = await self.dialer.out_of_band(timeout)
        try:
            yield connection
        finally:
            connection.abort(ClosedError("its one command is done"))

    def leave_if_demoted(self, sent: float) -> bool:
        """Leave a primary that has become a replica, with every connection.

        The command connection ends and the next one asks again where the primary is;
        idle exclusive ones are closed, and those in use when they come back.

        Args:
            sent: When the call was sent that it refused, by `time.monotonic`.

        Returns:
            False: it was a replica all along, so that its refusal is the answer.
        """
        if self.command.server_info is not None and not self.command.leave_if_demoted(
            sent
        ):
            return False
        self.ask_sentinels()
        if isinstance(self.pool, ExclusivePool):
            self.pool.leave(sent)
        elif self._leaving is None or self._leaving.done():
            self._leaving = spawn(
                self.pool.disconnect(inuse_connections=False),
                name="oddswire leaving a demoted primary",
                into=self._tasks,
            )
        return True

    async def leave_demoted(self, sent: float) -> bool:
        """Do as `leave_if_demoted`, and wait until no idle connection to it is left."""
        demoted = self.leave_if_demoted(sent)
        if demoted and self._leaving is not None:
            await asyncio.wait([self._leaving])
        return demoted

    def _moved(self, address: tuple[str, int]) -> None:
        """The sentinels name this address: leave the primary of before."""
        host, port = address
        here, primary = self.command.server_info, self._primary
        connection = self.command.current
        if (
            connection is not None
            and here is not None
            and here.address != f"{host}:{port}"
        ):
            self.command.leave(
                ConnectionLost(f"the primary is now {host}:{port}, say the sentinels")
            )
            self.command.server_moved()
        elif connection is None and self._announced not in (None, address):
            self.command.server_moved()
        self._announced = address
        if primary is None or primary.named == address:
            return
        before, primary.named = primary.named, address
        if before is not None:
            # Those in use too: a BLPOP there would wait for a push to another server.
            spawn(
                self.pool.disconnect(),
                name="oddswire leaving the old primary",
                into=self._tasks,
            )

    async def authenticate(self) -> None:
        """Authenticate the open connection by the newest token.

        Without one, the next caller connects at once, whatever was refused before.

        Raises:
            OddswireError: The server refused it; what the connection may is unchanged.
        """
        if self.command.current is not None:
            await self.dialer.authenticate(self.command.current)
        else:
            self.command.credentials_renewed()

    def ask_sentinels(self) -> None:
        """Have the sentinels asked at once: the primary may have been deposed."""
        if self._primary is not None:
            self._primary.ask()

    async def disconnect(self) -> None:
        """End the command connection until the next call needs it.

        Questions to the sentinels end too: one that goes on would open a connection
        after the caller has closed those to the sentinels.
        """
        if self._primary is not None and self._following is not None:
            self._primary.unfollow(self._following)
        self._following = None
        await self.command.disconnect(ConnectionLost("the pool was disconnected"))
        if self._primary is not None:
            await self._primary.rest()

    async def aclose(self, drain: float) -> None:
        """Close the command connection; see `ReconnectingConnection.aclose`."""
        primary, self._primary = self._primary, None
        if primary is not None:
            primary.unfollow(self._following)
        self._following = None
        try:
            await self.command.aclose(drain)
        finally:
            # All of them before the first is waited for: that may be cancelled.
            for task in self._tasks:
                task.cancel()
            # Again and again: before Python 3.12 redis-py may swallow it.
            while tasks := list(self._tasks):
                await asyncio.wait(tasks, timeout=0.1)
                for task in tasks:
                    task.cancel()
            if primary is not None:
                await primary.rest()


def _weakly(
    method: Callable[[tuple[str, int]], None],
) -> Callable[[tuple[str, int]], None]:
    """Return what calls a method while its object lives, and does not keep it alive."""
    alive = WeakMethod(method)

    def call(address: tuple[str, int]) -> None:
        if (method := alive()) is not None:
            method(address)

    return call


def _abandon(
    command: ReconnectingConnection,
    tasks: set[asyncio.Task[None]],
    primary: Primary | None,
    following: object,
) -> None:
    if primary is not None:
        primary.unfollow(following)
    for task in tasks:
        task.cancel()
    command.abandon()


# The commands of a forked child must not be written to its parent's socket. With the
# connection gone they come by `Connections.ready`, which knows; checking the process id
# for each command would cost every one of them.
_all: WeakSet[Connections] = WeakSet()


def _forked() -> None:
    for connections in _all:
        connections.command.current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
