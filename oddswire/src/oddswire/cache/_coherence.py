"""The coherence lease: for how long this process may believe its own memory.

While values are read from memory, a write goes over the tracking connection twice a
second.

1. The write is sent at a time t.
2. Its acknowledgement is read. Every message that the server made before has been read
   by then, so memory was right at t.
3. Memory is believed for two seconds from t.

A link that is dead in one direction, a frozen process, a primary that was deposed: each
of them ends the belief, by the clock of this process alone. While nothing is read,
nothing is sent.

The same write decides whether the server itself is believed, also where nothing is kept
in memory: see `ReadLease`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from oddswire import keys, scripts
from oddswire.client import ReadLease
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.cache._tracking import TrackingConnection
    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace

_PUT = scripts.load("cache_put")

_TOUCH_EVERY = 60.0
_MAX_TOUCHED = 1_000
_SYNC_EVERY = 60.0
# Where messages come by pub/sub alone, memory is emptied so often: what was changed
# without this library is then served no longer.
_EMPTY_EVERY = 5.0
# Seconds after which tracking is tried again, doubled each time, where it was refused
# or its test failed.
_RETRY = 30.0
_MAX_RETRY = 1800.0


class CoherenceLease:
    """Belief in memory, renewed while it is used.

    Args:
        connection: The tracking connection.
        client: Another connection to the same server, for the test at the start.
        keyspace: The prefix.
        clock: The time.
        length: Seconds of belief after a proof.
        heartbeat: Seconds between proofs.
        uses: Returns a number that grows with each use of memory.
        warm_keys: Returns the Redis keys behind what is in memory.
        forget: Empties memory.
        remember: Called once a minute, while memory is read.

    Attributes:
        until: Memory is believed until then, by the boot-time clock.
        reads: Whether the server is believed.
        offset: Seconds to add to the boot-time clock for the server's time.
        want: To be called when memory would be read if it were believed.
        current_until: Until then the server's time is known well enough.
        now: The boot-time clock.
    """

    def __init__(
        self,
        connection: TrackingConnection,
        client: Client,
        keyspace: KeySpace,
        clock: Clock,
        *,
        length: float,
        heartbeat: float,
        uses: Callable[[], int],
        warm_keys: Callable[[], list[str]],
        forget: Callable[[], None],
        remember: Callable[[], Awaitable[None]],
    ) -> None:
        self.until = -math.inf
        self.offset = 0.0
        self.length = length
        self.current_until = -math.inf
        self._connection = connection
        self._base = client
        self._clock = clock
        self._heartbeat = heartbeat
        self._uses = uses
        self._warm_keys = warm_keys
        self._forget = forget
        self._remember = remember
        self._emptied = -math.inf
        self._touched = clock.boottime()
        self._proven = -1
        self._next_try, self._pause = math.inf, _RETRY
        self.now = clock.boottime
        self._wanted = asyncio.Event()
        self.want: Callable[[], None] = self._wanted.set
        self._heard: set[bytes] = set()
        self._keyspace = keyspace
        self.reads = self._read_lease(
            client=partial(getattr, connection, "client"),
            key=self._name_keys(secrets.token_hex(8)),
            now=clock.boottime,
            length=length,
            on_reply=self._replied,
        )
        connection.on_drop(self._lapse)
        prefix = f"{keyspace.prefix}{keys.CACHE_BEAT.name}:{{"
        connection.listen(prefix.encode(), self._hear)

    def _read_lease(self, **options: Any) -> ReadLease:
        return ReadLease(**options)

    def _name_keys(self, process: str) -> str:
        """Take keys of this name, all in one slot; return that of the heartbeat."""
        key = self._keyspace.key
        self._proof_key = key(keys.CACHE_BEAT, process, "proof")
        self._proof_lease = key(keys.CACHE_BEAT, process, "proof-lease")
        return key(keys.CACHE_BEAT, process, "beat")

    def _lapse(self) -> None:
        self.until = -math.inf

    def _replied(self, sent: float | None) -> None:
        """From the parser: the server acknowledged, or refused, a write."""
        self._connection.expected.clear()  # as for every reply
        if sent is None:
            self.until = -math.inf
        elif self._proven == self._connection.epoch and not self._connection.untracked:
            self.until = max(self.until, sent + self.length)

    def _hear(self, name: bytes, _: Any, *, own: bool) -> None:
        del own
        if name.startswith(self._proof_key.encode()):
            self._heard.add(name)

    async def run(self) -> None:
        """Renew the lease while memory is used; ends by cancellation."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            used = -1
            while used != (used := self._uses()):
                with suppress(OddswireError):
                    await self._retry_tracking()
                    if not self._connection.untracked:
                        await self.heartbeat()
                await self._clock.sleep(self._heartbeat)

    async def _retry_tracking(self) -> None:
        """Try tracking again where it was given up, at first after half a minute."""
        connection, now = self._connection, self.now()
        if not (connection.untracked or connection.by_pubsub):
            self._next_try, self._pause = math.inf, _RETRY
        elif self._next_try == math.inf:
            self._next_try = now + self._pause
        elif now >= self._next_try:
            self._pause = min(2 * self._pause, _MAX_RETRY)
            self._next_try = now + self._pause
            await connection.retry_tracking(connection.timeout)

    async def heartbeat(self, timeout: float | None = None) -> None:
        """Prove once that memory is right.

        Raises:
            OddswireError: No proof came; what was believed lapses in its time.
        """
        for _ in range(2):  # by tracking, and if that fails, by pub/sub
            if (
                self._proven != self._connection.epoch
                and not self._connection.untracked
            ):
                await self._prove(timeout)
        if self._connection.untracked:
            await self.sync()
            return
        sent = self._clock.boottime()
        if self._connection.by_pubsub and sent - self._emptied >= _EMPTY_EVERY:
            self._emptied = sent
            self._forget()

        def replied(reply: Any, *, current: bool) -> None:
            connection = self._connection.client.command_connection()
            if current and connection is not None:
                self.reads.replied(connection, sent, reply)

        await self._connection.call(
            self.reads.command, replied, timeout=max(self.length / 2, timeout or 0.0)
        )
        if sent > self.current_until - _SYNC_EVERY:
            await self.sync()
        if sent - self._touched > _TOUCH_EVERY:
            self._touched = sent
            names = self._warm_keys()[:_MAX_TOUCHED]
            if names:
                await self._touch(names)
            await self._remember()

    async def _touch(self, names: list[str]) -> None:
        await self._connection.call(("TOUCH", *names))

    async def sync(self, timeout: float | None = None) -> None:
        """Learn the server's time, to half a round trip."""

        def take(reply: Any, *, current: bool) -> None:
            del current
            if isinstance(reply, Exception):
                return
            now = self._clock.boottime()
            seconds, microseconds = reply
            self.offset = int(seconds) + int(microseconds) / 1e6 - (sent + now) / 2
            self.current_until = now + 2 * _SYNC_EVERY

        sent = self._clock.boottime()
        await self._connection.call(("TIME",), take, repeatable=True, timeout=timeout)

    async def ensure_current(self) -> None:
        """Read the server's time if it is not known, or not lately."""
        if self.now() > self.current_until:
            await self.sync()

    async def _prove(self, timeout: float | None) -> None:
        """Check that this server sends messages of own and foreign writes.

        Scripts and tracking differ between servers and proxies. A message comes before
        the reply to a later PING, so the check waits for no time.
        """
        limit = timeout or self._connection.timeout
        await self.sync(limit)  # it connects, and so finds out what is refused
        if self._connection.untracked:
            return
        epoch, used = self._connection.epoch, self._connection.client
        if self._connection.by_pubsub:
            good = await self._hears(limit)
        else:
            good = await self._is_tracked(limit)
        if epoch != self._connection.epoch:
            return
        if good:
            self._proven = epoch
            self._connection.proven()
        else:
            await self._connection.fall_back(used)

    async def _hears(self, limit: float) -> bool:
        self._heard.clear()
        message = self._connection.message(self._proof_key, sender="proof")
        base = self._base.bounded(max(limit, self._heartbeat))
        await base.publish(self._connection.channel, message)
        await self._connection.call(("PING",), timeout=limit)
        return bool(self._heard)

    async def _is_tracked(self, limit: float) -> bool:
        self._heard.clear()
        await self._connection.script(
            _PUT, (self._proof_key, self._proof_lease), ("1", "60000", "")
        )
        await self._connection.call(("PING",), timeout=limit)
        own = bool(self._heard)
        self._heard.clear()
        base = self._base.bounded(max(limit, self._heartbeat))
        await base.set(self._proof_key, "2", px=60_000)
        await self._connection.call(("PING",), timeout=limit)
        return own and bool(self._heard)
