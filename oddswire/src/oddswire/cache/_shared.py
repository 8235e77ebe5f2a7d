"""The second tier: entries in Redis, read and written by way of the tracked wire."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire import scripts
from oddswire.cache._reading import Found, Held, Reader
from oddswire.cache._record import SEEN_BYTES, version_bytes
from oddswire.cache._wire import LABEL
from oddswire.client import ReadTicket
from oddswire.errors import ConnectionLost, OddswireError, WrongType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Item, Memory
    from oddswire.cache._nonces import Nonces
    from oddswire.cache._size_limit import SizeLimiter
    from oddswire.cache._space import Place
    from oddswire.cache._wire import TrackedWire
    from oddswire.clock import Clock

_LOOK = scripts.load("cache_look")
_FILL = scripts.load("cache_fill")
_PUT = scripts.load("cache_put")
_DELETE = scripts.load("cache_delete")
_EXPIRE = scripts.load("cache_expire")
_RENEW = scripts.load("cache_renew")
_RELEASE = scripts.load("cache_release")


class Shared:
    """Entries in Redis.

    Args:
        wire: The tracked wire.
        memory: Where what is read and written is kept too.
        nonces: Of tags and namespaces.
        lease: Knows the server's time.
        clock: The time of this process.
        size_limit: Counts what is written.
        max_load: Seconds that a load may take.
    """

    def __init__(
        self,
        wire: TrackedWire,
        memory: Memory,
        nonces: Nonces,
        lease: CoherenceLease,
        clock: Clock,
        *,
        size_limit: SizeLimiter,
        max_load: float,
    ) -> None:
        self._wire = wire
        self._memory = memory
        self._nonces = nonces
        self._lease = lease
        self._clock = clock
        self._now = clock.boottime
        self._reader = Reader(wire, memory, nonces, lease, clock)
        self.pack = self._reader.pack
        self._size_limit = size_limit
        self._max_load = max_load

    # --- reading

    async def fetch(self, place: Place, kind: Any) -> Found:
        """Read an entry; what cannot be read is missing. It counts as a lookup.

        Raises:
            OddswireError: Redis did not answer.
        """
        wire, lease, space = self._wire, self._lease, place.space
        reads = lease.reads
        if space.config.l1:
            lease.want()
        while True:
            epoch = wire.epoch
            now = self._now()
            if now > lease.timely_until:
                await lease.sync()
            if space.cell.nonce is None or wire.plain:
                await self._nonces.namespace(space)
            found = Found(self._reader, place, kind)
            link = wire.client.ready_connection()
            ticket = None
            if now >= reads.until or link is not reads.connection:
                # Rarely: while memory is read, the heartbeat keeps the lease.
                ticket = reads.begin()
            try:
                if link is None:
                    await wire.send(place.ask, found, repeatable=True)
                else:
                    # The usual case, without a coroutine of its own.
                    sent = monotonic()
                    try:
                        reply = await link.send(
                            place.ask,
                            wire.timeout,
                            LABEL,
                            raw=True,
                            on_reply=found,
                        )
                    except asyncio.CancelledError:
                        link.abandon()
                        raise
                    except ConnectionLost:
                        left = sent + wire.timeout - monotonic()
                        if left <= 0.0:
                            raise
                        # By another server, perhaps: read again when it is believed.
                        ticket = ReadTicket(None, now)
                        await wire.send(place.ask, found, timeout=left)
                    else:
                        if isinstance(reply, Exception):
                            raise reply
            except WrongType:
                # Somebody else's list under this name: overwritten like foreign bytes.
                space.counts.corrupt += 1
            if found.unjudged is not None:
                await self._settle(found, place)
            if ticket is not None and not reads.accept(ticket):
                continue
            # The wire was lost half way: what was read is judged by nonces that were
            # dropped, and would be missing for that alone.
            if found.item is not None or epoch == wire.epoch:
                found.count()
                return found

    async def fetch_many(
        self, places: Sequence[Place], kinds: Sequence[Any]
    ) -> list[Found]:
        """Read entries with one MGET; they are not counted.

        Raises:
            OddswireError: Redis did not answer.
        """
        while True:
            epoch = self._wire.epoch
            found = await self._lease.reads.read(
                lambda: self._fetch_many(places, kinds)
            )
            if epoch == self._wire.epoch:
                return found

    async def _fetch_many(
        self, places: Sequence[Place], kinds: Sequence[Any]
    ) -> list[Found]:
        found = [
            Found(self._reader, place, kind)
            for place, kind in zip(places, kinds, strict=True)
        ]
        await self._lease.in_time()
        for space in {place.space for place in places}:
            await self._nonces.namespace(space)

        def take(reply: Any, *, current: bool) -> None:
            if isinstance(reply, list):
                for each, data in zip(found, reply, strict=True):
                    each(data, current=current)

        names = [place.entry for place in places]
        await self._wire.call(("MGET", *names), take, repeatable=True)
        unknown = {tag: cell for each in found for tag, cell in each.unknown()}
        if unknown:
            await self._nonces.verify(unknown.items())
        for space in {place.space for place in places}:
            await self._nonces.namespace(space)
        for each in found:
            each.judge()
        return found

    async def _settle(self, found: Found, place: Place) -> None:
        # Cleared meanwhile, by somebody whose new entry this may be.
        await self._nonces.namespace(place.space)
        await self._nonces.verify(found.unknown())
        found.judge()

    async def look(
        self,
        place: Place,
        kind: Any,
        token: bytes,
        lease: float,
        *,
        seen: bytes | None,
        rob: bytes,
        granted: Callable[[], None],
    ) -> Found | Held | None:
        """Look for an entry; None: there is none, and the right to load it is ours.

        Args:
            place: Which.
            kind: The type of its value.
            token: Ours, 16 bytes.
            lease: Seconds.
            seen: Beginning of a record that is no use.
            rob: Beginning of a holder that is dead; empty: nobody.
            granted: Called by the parser when the lease is ours, or may be.

        Raises:
            OddswireError: Redis did not answer; the lease may be ours all the same.
        """
        found = Found(self._reader, place, kind)
        ticket = self._lease.reads.begin()

        def hook(reply: Any, *, current: bool) -> None:
            if isinstance(reply, bytes):
                found(reply, current=current)
            elif isinstance(reply, OddswireError) or reply in (1, 2):
                # Not before: until here a change of the lease is another's.
                granted()
            if reply == 2:
                self._wire.expect(place.lease.encode(), None)

        reply = await self._wire.script(
            _LOOK,
            (place.entry, place.lease),
            (
                token,
                int(lease * 1000),
                (seen or b"")[:SEEN_BYTES],
                "0" if seen is None else "1",
                rob,
            ),
            hook,
            repeatable=True,
        )
        if isinstance(reply, int):
            return None
        if found.unjudged is not None:
            await self._settle(found, place)
        if not self._lease.reads.accept(ticket):
            # As if nothing had been found yet: the caller looks again.
            return Found(self._reader, place, kind)
        return Held(reply[0]) if isinstance(reply, list) else found

    # --- writing

    async def fill(
        self, place: Place, token: bytes, item: Item, data: bytes, life: int
    ) -> bool:
        """Store what was loaded; False: it was fenced off.

        Raises:
            OddswireError: Redis did not answer; it may be stored all the same.
        """
        if self._size_limit.full:
            await self._size_limit.wait_for_room()
        version = version_bytes(item.details.version or None)
        reply = await self._wire.script(
            _FILL,
            (place.entry, place.lease),
            (token, data, life, version),
            self._write_hook(place, item),
            repeatable=True,
        )
        return self._wrote(place, data) if reply == 1 else False

    async def put(self, place: Place, item: Item, data: bytes, life: int) -> bool:
        """Store a value that was brought; False: a newer version is there.

        Raises:
            OddswireError: Redis did not answer; it may be stored all the same.
        """
        if self._size_limit.full:
            await self._size_limit.wait_for_room()
        # Not repeatable: after a delete by somebody else it would bring it back.
        reply = await self._wire.script(
            _PUT,
            (place.entry, place.lease),
            (data, life, version_bytes(item.details.version or None)),
            self._write_hook(place, item),
        )
        return self._wrote(place, data) if reply == 1 else False

    def _wrote(self, place: Place, data: bytes) -> bool:
        place.space.counts.writes += 1
        place.space.counts.bytes_written += len(data)
        self._size_limit.wrote(len(data))
        return True

    def _write_hook(self, place: Place, item: Item) -> Any:
        def hook(reply: Any, *, current: bool) -> None:
            # Whatever came of it, what was held is not known to be right any more.
            self._memory.drop(place.key)
            if reply in (1, -1):
                self._wire.expect(place.lease.encode(), None)
            if reply == 1:
                keep = current and place.space.config.l1
                self._wire.expect(place.entry.encode(), item if keep else None)

        return hook

    async def delete(self, place: Place) -> bool:
        """Delete an entry and void its load; whether there was one.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        return await self._spoil(_DELETE, place, int(self._max_load * 1000))

    async def expire(self, place: Place) -> bool:
        """Make an entry stale and void its load; whether there was one.

        Raises:
            OddswireError: It is not certain that it was done.
        """
        return await self._spoil(_EXPIRE, place)

    async def _spoil(self, script: scripts.Script, place: Place, *args: int) -> bool:
        def hook(reply: Any, *, current: bool) -> None:
            del reply, current
            self._memory.drop(place.key)

        keys = (place.entry, place.lease)
        return bool(await self._wire.script(script, keys, args, hook, repeatable=True))

    # --- the load lease

    async def renew(self, place: Place, token: bytes, count: int, lease: float) -> bool:
        """Hold the lease for longer; False: it is not ours any more.

        Raises:
            OddswireError: Redis did not answer.
        """
        return await self._own_lease(
            _RENEW, place, (token, token + str(count).encode(), int(lease * 1000))
        )

    async def release(self, place: Place, token: bytes) -> bool:
        """Give the lease back.

        Raises:
            OddswireError: Redis did not answer; then it ends by itself.
        """
        return await self._own_lease(_RELEASE, place, (token,))

    async def _own_lease(
        self, script: scripts.Script, place: Place, args: tuple[Any, ...]
    ) -> bool:
        def hook(reply: Any, *, current: bool) -> None:
            del current
            if reply == 1:
                self._wire.expect(place.lease.encode(), None)

        reply = await self._wire.script(
            script, (place.lease,), args, hook, repeatable=True
        )
        return bool(reply)
