"""The coherence lease: for how long this process may believe its own memory.

While values are read from memory, a write goes over the tracked wire twice a second.
When it is acknowledged, every message that the server made before has been read, so
memory is right as of the moment the write was sent, and is believed for two seconds
from then. A link that is dead in one direction, a frozen process, a primary that was
deposed: all of them end the belief, by the clock of this process alone. Nothing read,
nothing sent.

The same write is what the server itself is believed by, also where nothing is kept in
memory: see `ReadLease`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire import keys, scripts
from oddswire.client import ReadLease
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache._wire import TrackedWire
    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace

_PUT = scripts.load("cache_put")

_TOUCH_EVERY = 60.0
_TOUCH_AT_MOST = 1_000
_SYNC_EVERY = 60.0
# Where the server does not tell of changes, memory is emptied so often: what was
# changed without this library is then served no longer.
_UNTOLD = 5.0
# Seconds after which tracking is tried again, doubled each time, where it was refused
# or its test failed.
_RETRY = 30.0
_RETRY_AT_MOST = 1800.0


class CoherenceLease:
    """Belief in memory, renewed while it is used.

    Args:
        wire: The tracked wire.
        client: Another one to the same server, for the test at the start.
        keyspace: The prefix.
        clock: The time.
        length: Seconds of belief after a proof.
        every: Seconds between proofs.
        uses: Returns a number that grows with each use of memory.
        held: Returns the Redis keys behind what is held.
        forget: Empties memory.
        remember: Called once a minute, while memory is read.

    Attributes:
        until: Memory is believed until then, by the boot-time clock.
        reads: Whether the server is believed.
        offset: Seconds to add to the boot-time clock for the server's time.
        want: To be called when memory would be read if it were believed.
        timely_until: Until then the server's time is known well enough.
    """

    def __init__(
        self,
        wire: TrackedWire,
        client: Client,
        keyspace: KeySpace,
        clock: Clock,
        *,
        length: float,
        every: float,
        uses: Callable[[], int],
        held: Callable[[], list[str]],
        forget: Callable[[], None],
        remember: Callable[[], Awaitable[None]],
    ) -> None:
        self.until = -math.inf
        self.offset = 0.0
        self.length = length
        self.timely_until = -math.inf
        self._wire = wire
        self._base = client
        self._clock = clock
        self._every = every
        self._uses = uses
        self._held = held
        self._forget = forget
        self._remember = remember
        self._forgot = -math.inf
        self._touched = clock.boottime()
        self._proven = -1
        self._next_try, self._pause = math.inf, _RETRY
        self._now = clock.boottime
        self._wanted = asyncio.Event()
        self.want = self._wanted.set
        self._heard: set[bytes] = set()
        process = secrets.token_hex(8)
        self._beat_key = keyspace.key(keys.CACHE_BEAT, process, "beat")
        self._proof_key = keyspace.key(keys.CACHE_BEAT, process, "proof")
        self._proof_lease = keyspace.key(keys.CACHE_BEAT, process, "proof-lease")
        self.reads = ReadLease(
            lambda: wire.client,
            self._beat_key,
            clock.boottime,
            length=length,
            on_reply=self._replied,
        )
        wire.on_drop(self._lapse)
        wire.listen(self._proof_key.encode(), self._hear)

    def _lapse(self) -> None:
        self.until = -math.inf

    def _replied(self, sent: float | None) -> None:
        """From the parser: the server acknowledged, or refused, a write."""
        self._wire.expected.clear()  # as for every reply
        if sent is None:
            self.until = -math.inf
        elif self._proven == self._wire.epoch and not self._wire.plain:
            self.until = max(self.until, sent + self.length)

    def _hear(self, name: bytes, _: Any, *, own: bool) -> None:
        del own
        self._heard.add(name)

    async def run(self) -> None:
        """Renew the lease for as long as it is wanted; ends by cancellation."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            used = -1
            while used != (used := self._uses()):
                with suppress(OddswireError):
                    await self._step_up()
                    if not self._wire.plain:
                        await self.beat()
                await self._clock.sleep(self._every)

    async def _step_up(self) -> None:
        """Where tracking was given up: try it again, at first after half a minute."""
        wire, now = self._wire, self._now()
        if not (wire.plain or wire.listens):
            self._next_try, self._pause = math.inf, _RETRY
        elif self._next_try == math.inf:
            self._next_try = now + self._pause
        elif now >= self._next_try:
            self._pause = min(2 * self._pause, _RETRY_AT_MOST)
            self._next_try = now + self._pause
            await wire.step_up(wire.timeout)

    async def beat(self, timeout: float | None = None) -> None:
        """Prove once that memory is right.

        Raises:
            OddswireError: No proof came; what was believed lapses in its time.
        """
        for _ in range(2):  # one way, and if that does not do, the other
            if self._proven != self._wire.epoch and not self._wire.plain:
                await self._prove(timeout)
        if self._wire.plain:
            await self.sync()
            return
        sent = self._clock.boottime()
        if self._wire.listens and sent - self._forgot >= _UNTOLD:
            self._forgot = sent
            self._forget()

        def replied(reply: Any, *, current: bool) -> None:
            connection = self._wire.client.command_connection()
            if current and connection is not None:
                self.reads.replied(connection, sent, reply)

        await self._wire.call(
            self.reads.command,
            replied,
            timeout=max(self.length / 2, timeout or 0.0),
        )
        if sent > self.timely_until - _SYNC_EVERY:
            await self.sync()
        if sent - self._touched > _TOUCH_EVERY:
            self._touched = sent
            names = self._held()[:_TOUCH_AT_MOST]
            if names:
                await self._wire.call(("TOUCH", *names))
            await self._remember()

    async def sync(self, timeout: float | None = None) -> None:
        """Learn the server's time, to half a round trip."""

        def told(reply: Any, *, current: bool) -> None:
            del current
            if isinstance(reply, Exception):
                return
            now = self._clock.boottime()
            seconds, microseconds = reply
            self.offset = int(seconds) + int(microseconds) / 1e6 - (sent + now) / 2
            self.timely_until = now + 2 * _SYNC_EVERY

        sent = self._clock.boottime()
        await self._wire.call(("TIME",), told, repeatable=True, timeout=timeout)

    async def in_time(self) -> None:
        """Have the server's time, which is then at most a minute old."""
        if self._now() > self.timely_until:
            await self.sync()

    async def _prove(self, timeout: float | None) -> None:
        """See that this server tells us of own and foreign writes after a script.

        Scripts and tracking differ between servers and proxies. What comes before a
        later reply is here when that reply is, so no time is waited for.
        """
        limit = timeout or self._wire.timeout
        await self.sync(limit)  # connects, and by that finds what is refused
        if self._wire.plain:
            return
        epoch, used = self._wire.epoch, self._wire.client
        if self._wire.listens:
            good = await self._hears(limit)
        else:
            good = await self._is_tracked(limit)
        if epoch != self._wire.epoch:
            return
        if good:
            self._proven = epoch
            self._wire.proven()
        else:
            await self._wire.step_down(used)

    async def _hears(self, limit: float) -> bool:
        self._heard.clear()
        message = self._wire.message(self._proof_key, sender="proof")
        base = self._base.bounded(max(limit, self._every))
        await base.publish(self._wire.channel, message)
        await self._wire.call(("PING",), timeout=limit)
        return bool(self._heard)

    async def _is_tracked(self, limit: float) -> bool:
        self._heard.clear()
        await self._wire.script(
            _PUT, (self._proof_key, self._proof_lease), ("1", "60000", "")
        )
        await self._wire.call(("PING",), timeout=limit)
        told_of_own = bool(self._heard)
        self._heard.clear()
        base = self._base.bounded(max(limit, self._every))
        await base.set(self._proof_key, "2", px=60_000)
        await self._wire.call(("PING",), timeout=limit)
        return told_of_own and bool(self._heard)

    async def wait(self, seconds: float) -> bool:
        """Wait until memory is believed; for tests and for warming. False: in vain."""
        end = monotonic() + seconds
        while self._clock.boottime() >= self.until and monotonic() < end:
            self.want()
            await asyncio.sleep(0.005)
        return self._clock.boottime() < self.until
