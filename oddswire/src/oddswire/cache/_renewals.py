"""`Renewals`: keeps the lease of a load that takes long; most end before the first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddswire.cache._flight import Flight
    from oddswire.cache._shared import Shared


class Renewals:
    """Renews the lease of one flight at half its length.

    Args:
        shared: Leases in Redis.
        flight: Whose lease.
        lease: Seconds.
        spawn: Runs a renewal as a task, with a name.
    """

    def __init__(
        self,
        shared: Shared,
        flight: Flight,
        lease: float,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._shared = shared
        self._flight = flight
        self._lease = lease
        self._spawn = spawn
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def plan(self) -> None:
        """Renew once, later."""
        self._timer = asyncio.get_running_loop().call_later(self._lease / 2, self._go)

    def _go(self) -> None:
        self._spawn(self._renew(), "oddswire renew")

    async def _renew(self) -> None:
        if self._stopped:
            return
        self._count += 1
        try:
            held = await self._shared.renew(
                self._flight.want.place, self._flight.token, self._count, self._lease
            )
        except OddswireError:
            held = True  # not known: try again
        if held and not self._stopped:
            self.plan()

    def stop(self) -> None:
        """No more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
