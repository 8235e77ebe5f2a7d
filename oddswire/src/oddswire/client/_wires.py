"""`Wires`: the connections of one client, opened on first use and closed together."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING
from weakref import WeakSet

from oddswire.connection.backoff import Backoff, BackoffPolicy
from oddswire.connection.link import Link
from oddswire.connection.owner import Owner

if TYPE_CHECKING:
    import redis.asyncio as aredis

    from oddswire.client._dialer import Dialer
    from oddswire.connection.multiplexer import Multiplexer
    from oddswire.events import Events
    from oddswire.settings import Settings


class Wires:
    """A command wire that comes back, and the pool of exclusive ones.

    Args:
        settings: The spacing of attempts and the heartbeat.
        pool: Exclusive wires.
        dialer: Opens the command wire.
        events: Told of each change of state.
        name: What the events call it.
    """

    def __init__(
        self,
        settings: Settings,
        pool: aredis.ConnectionPool,
        dialer: Dialer,
        events: Events,
        *,
        name: str = "command",
    ) -> None:
        self.pool = pool
        self.traffic = dialer.traffic
        self.owner = Owner()
        policy = BackoffPolicy(
            base=settings.reconnect_delay,
            cap=settings.reconnect_cap,
            attempts=settings.reconnect_attempts,
            probe=settings.reconnect_probe,
        )
        self.link = Link(
            dialer,
            Backoff(policy, random.random),
            events.emit,
            name=name,
            heartbeat=(settings.heartbeat, settings.heartbeat_answer),
            most_waiting=settings.inflight_commands,
        )
        _all.add(self)

    async def ready(self, timeout: float) -> Multiplexer:
        """Return the command wire, connecting on first use.

        Raises:
            WrongLoop: This is not the loop, or not the process, of the first use.
            OddswireError: See `Link.ready`.
        """
        self.owner.claim()
        return await self.link.ready(timeout)


# The commands of a forked child must not be written to its parent's socket. With the
# wire gone they come by `Wires.ready`, which knows; checking the process id for each
# command would cost every one of them.
_all: WeakSet[Wires] = WeakSet()


def _forked() -> None:
    for wires in _all:
        wires.link.wire = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
