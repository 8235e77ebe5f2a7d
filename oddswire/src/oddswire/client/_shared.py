"""Clients on one pool share its command connection.

Many programs make a client for each request on one pool of theirs. Each such client
would open a command connection of its own. Therefore the connections are the pool's:
the first client opens them, the others use them, and they end when the pool is
disconnected or closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import ref

from oddswire.events import Events
from oddswire.logs import log_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio as aredis

    from oddswire.client._connections import Connections
    from oddswire.settings import Settings

    _Held = tuple[Settings, Callable[[], Connections | None]]

# The attribute of a pool that holds the connections of the clients on it.
_HELD = "_oddswire_connections"


def shared_connections(
    settings: Settings,
    pool: aredis.ConnectionPool,
    make: Callable[[aredis.ConnectionPool, Events], Connections],
) -> Connections:
    """Return the connections of the clients on a pool, made by the first of them.

    They are shared by clients of the same settings, in the same loop.
    """
    held: list[_Held] = pool.__dict__.setdefault(_HELD, [])
    held[:] = [each for each in held if not _is_over(each[1]())]
    for of, found in held:
        there = found()
        if there is not None and of == settings and _is_ours(there):
            return there
    events = Events()
    log_events(events)
    connections = make(pool, events)
    connections.slot = CommandSlot(connections)
    # The pool keeps them: the clients on it come and go.
    held.append((settings, lambda: connections))
    return connections


def settings_on(pool: aredis.ConnectionPool) -> Settings | None:
    """Return the settings of a client on this pool that is still there."""
    for settings, found in pool.__dict__.get(_HELD, ()):
        if not _is_over(found()):
            return settings  # type: ignore[no-any-return]
    return None


def share(settings: Settings, connections: Connections) -> None:
    """Let later clients on the pool of these connections use them, while they live."""
    connections.pool.__dict__.setdefault(_HELD, []).append((settings, ref(connections)))


def _is_over(connections: Connections | None) -> bool:
    if connections is None:
        return True
    loop = connections.loop_guard.loop
    return connections.command.closed or (loop is not None and loop.is_closed())


def _is_ours(connections: Connections) -> bool:
    loop_guard = connections.loop_guard
    if loop_guard.loop is None:
        return True
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = loop_guard.loop  # decided by the first call
    return loop_guard.is_this_process() and loop_guard.loop is running


class CommandSlot:
    """The command connection, as one of the connections that are leased from a pool.

    It counts towards the pool's size, and ends when the pool disconnects those in use.
    """

    # What redis-py's pool asks of its connections, or sets on them.
    is_connected = True
    retry: Any = None

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """End the command connection until the next call needs it."""
        await self._connections.disconnect()

    def should_reconnect(self) -> bool:
        """Whether the pool is to replace it: it never does."""
        return False

    def mark_for_reconnect(self) -> None:
        """Nothing: it connects again by itself."""

    def set_re_auth_token(self, token: object) -> None:
        """Nothing: credentials are asked for at each connect."""
