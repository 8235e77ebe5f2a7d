"""The second tier: entries in Redis, read and written over the tracking connection."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from oddswire import scripts
from oddswire.cache._l1 import ITEM_BYTES, Item
from oddswire.cache._record import (
    PROCESS,
    SEEN_BYTES,
    Record,
    digest,
    hit_of,
    parse_header,
    tags_of,
    version_bytes,
)
from oddswire.cache._servers import SlotMoved, gone_ahead, on_its_way
from oddswire.cache._tag_version import Stamp
from oddswire.cache._tracking import LABEL
from oddswire.client import ReadTicket
from oddswire.errors import CodecError, ConnectionLost, OddswireError, WrongType
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.cache._flight import Flight
    from oddswire.cache._l1 import L1
    from oddswire.cache._namespaces import CacheKey  # noqa: TC004 - msgspec does not ask
    from oddswire.cache._record import Hit
    from oddswire.cache._servers import CacheServer, Servers  # noqa: TC004 - likewise
    from oddswire.cache._size_limit import SizeLimiter
    from oddswire.cache._tag_version import Snapshot, TagVersion
    from oddswire.cache._tags import TagVersions
    from oddswire.cache.entry import LoadRequest
    from oddswire.clock import Clock

_LOOK = scripts.load("cache_look")
_FILL = scripts.load("cache_fill")
_PUT = scripts.load("cache_put")
_DELETE = scripts.load("cache_delete")
_EXPIRE = scripts.load("cache_expire")
_RENEW = scripts.load("cache_renew")
_RELEASE = scripts.load("cache_release")

_JITTER = 0.1
# The estimate of changes forgets: at this many loads both counts are halved.
_REMEMBERED = 64
# A read refreshes early with a probability below e^-12 before that: not worth a
# logarithm.
_EARLY_COSTS = 12.0


class Lifetime(NamedTuple):
    """For how many seconds a value serves, and which version of the source it is."""

    ttl: float
    stale: float
    version: int | None = None


class LockedBy(NamedTuple):
    """Another load has the lease of a key.

    Attributes:
        holder: What the lease holds: the token of that load and, once it was renewed,
            how often.
    """

    holder: bytes


class LookupResult(msgspec.Struct, eq=False):
    """What Redis has under a key; `take` is the parser's hook for the reply.

    Attributes:
        tier: The second tier.
        server: The server that is asked.
        key: The key that is looked up.
        value_type: The type of its value.
        epoch: The connection's when the call is sent: memory of before is void.
        item: The entry, if it may serve.
        fresh: It is not stale.
        refresh_due: It is stale, or so near to it that a refresh is to be considered.
        header: The beginning of any record that is there; None: there is none.
        pending_validation: The entry, while some nonces of its tags are not known.
            They have to be read, and then comes `validate`.
        tags: Digest and nonces of each tag of that entry.
    """

    tier: L2
    server: CacheServer
    key: CacheKey
    value_type: Any
    epoch: int
    item: Item | None = None
    fresh: bool = False
    refresh_due: bool = True
    header: bytes | None = None
    pending_validation: Item | None = None
    tags: tuple[tuple[bytes, bytes], ...] = ()

    # By position: 3.11 calls a function with keyword-only arguments the slow way.
    def take(self, reply: Any, current: bool | None = None) -> None:  # noqa: FBT001
        """Decode an entry into an item, and put it into memory.

        Args:
            reply: The reply to the call.
            current: As for every `Hook`. None: the parser calls this directly, and
                `epoch` is the one of when the call was sent.
        """
        tier = self.tier
        if current is None:
            connection = self.server.connection
            if connection.expected:
                connection.expected.clear()  # as for every reply
            current = self.epoch == connection.epoch and not connection.untracked
        if type(reply) is not bytes:
            # None: there is nothing. Else a key of another type that other software
            # wrote; or the call failed, and its error is raised where it was made.
            self.header = None if reply is None else b""
            return
        key = self.key
        namespace = key.namespace
        try:
            parsed = parse_header(reply)
            if parsed is None:
                self.header = reply
                return
            hit, body = parsed
            value = namespace.codec(self.value_type).decode(body)
        except CodecError:
            namespace.counters.corrupt += 1
            self.header = reply[:SEEN_BYTES]
            return
        item = tier.item(key, self.value_type, value, reply, hit, body, self.server)
        self.header = item.header
        if current and namespace.config.l1:
            # Also where a nonce is not known yet: the entry does not live until it is,
            # and a message in between takes the entry out again.
            tier.l1.put(item)
        if item.lives():
            self._accept(item)
        else:
            self.pending_validation = item
            self.tags = tuple(
                each for each in tags_of(reply, hit[4]) if each[0] != PROCESS
            )

    def unknown_tags(self) -> list[tuple[bytes, TagVersion]]:
        """Return the tags whose nonces have to be read."""
        if self.pending_validation is None:
            return []
        stamps = self.pending_validation.stamps[1:]
        return [
            (tag, stamp.tag_version)
            # On a cluster the last stamp is of the server process, and no tag's.
            for (tag, _), stamp in zip(self.tags, stamps, strict=False)
            if stamp.tag_version.nonce is None
        ]

    def validate(self) -> None:
        """Decide whether the entry may serve, by the nonces that are known now."""
        item, self.pending_validation = self.pending_validation, None
        if item is not None and item.lives():
            self._accept(item)

    def _accept(self, item: Item) -> None:
        now = self.tier.now()
        if now < item.usable_until:
            self.item, self.fresh = item, now < item.fresh_until
            self.refresh_due = now >= item.early_refresh_at

    def count(self) -> None:
        """Count a lookup in Redis."""
        namespace = self.key.namespace
        counters = namespace.counters
        if self.item is None:
            counters.misses += 1
            namespace.expect_miss = True
        else:
            counters.l2_hits += 1
            namespace.expect_miss = False
            if not self.fresh:
                counters.stale += 1


class L2:
    """Entries in Redis.

    Args:
        servers: Where they are.
        l1: Entries that are read and written are kept there too.
        tags: The nonces of tags and namespaces.
        clock: The time of this process.
        size_limit: Counts what is written.
        lease: Seconds of the right to load, from the claim or the last renewal.
        max_load: Seconds that a load may take.
    """

    def __init__(
        self,
        servers: Servers,
        l1: L1,
        tags: TagVersions,
        clock: Clock,
        *,
        size_limit: SizeLimiter,
        lease: float,
        max_load: float,
    ) -> None:
        self.servers = servers
        # Looked up once where there is one.
        self._one = None if servers.on_cluster else servers.at(0)
        self.l1 = l1
        self.now = clock.boottime
        self._tags = tags
        self._size_limit = size_limit
        self._lease_ms = int(lease * 1000)
        self._max_load_ms = int(max_load * 1000)

    # --- items and bytes

    def item(
        self,
        key: CacheKey,
        value_type: Any,
        value: Any,
        data: bytes,
        hit: Hit,
        body: bytes,
        server: CacheServer | None,
        stamps: Snapshot = (),
    ) -> Item:
        """Return an entry as memory keeps it; stamps: default those of the record."""
        fresh, usable, cost, nonce, tags = hit
        namespace = key.namespace
        config = namespace.config
        offset = 0.0 if server is None else server.coherence.offset
        fresh_until = early_refresh_at = fresh / 1000 - offset
        if cost:
            early_refresh_at -= _EARLY_COSTS * config.early * cost / 1000
        if not stamps:
            stamps = (Stamp(namespace.tag_version, nonce),)
            if tags:
                of = self._tags.tag_version
                stamps += tuple(Stamp(of(tag), n) for tag, n in tags_of(data, tags))
            if server is not None and server.process is not None:
                stamps = self._with_process(stamps, data, tags, server.process)
        # A compressed body is several times as large when decoded.
        factor = 8 if len(body) > 1 and body[1] & 1 else 2
        return Item(
            key=key.name,
            size=ITEM_BYTES + len(data) + factor * len(body),
            value=value,
            value_type=value_type,
            asked_type=None if value_type is config.type else value_type,
            counters=namespace.counters,
            stamps=stamps,
            early_refresh_at=early_refresh_at,
            fresh_until=fresh_until,
            usable_until=usable / 1000 - offset,
            header=data[:SEEN_BYTES],
            slot=key.slot,
        )

    def _with_process(
        self, stamps: Snapshot, data: bytes, tags: int, process: TagVersion
    ) -> Snapshot:
        """Return the stamps of an entry on a cluster, that of its process the last."""
        of_tags = zip(stamps[1:], tags_of(data, tags), strict=True)
        named = [stamp for stamp, (tag, _) in of_tags if tag != PROCESS]
        of_process = [nonce for tag, nonce in tags_of(data, tags) if tag == PROCESS]
        # An entry without one is of a server that was no cluster's node.
        return (stamps[0], *named, Stamp(process, (*of_process, b"")[0]))

    def pack(
        self,
        request: LoadRequest,
        value: Any,
        lifetime: Lifetime,
        snapshot: Snapshot,
        *,
        cost: float = 0.0,
        old: Item | None = None,
    ) -> tuple[Item, bytes, int]:
        """Return a value as an item, its bytes, and their life in milliseconds.

        Raises:
            CodecError: Not a value of the type, one that would come back with another,
                or too large.
        """
        key, value_type = request.key, request.value_type
        config = key.namespace.config
        # The decoded value is what others will read, and no caller can change it.
        try:
            body, decoded = key.namespace.codec(value_type).encode_checked(value)
        except CodecError as error:
            raise CodecError(
                f"{plain(key.name)}: {error}", reason=error.reason
            ) from error
        now = self.now()
        content = digest(body)
        refreshes = changes = 0
        interval = 0.0
        if old is not None:
            was = old.details
            refreshes = was.refreshes + 1
            changes = was.changes + (content != was.content)
            since = max(0.0, now - old.stored_at)
            interval = was.interval * 0.75 + since * 0.25 if was.interval else since
            if refreshes > _REMEMBERED:
                refreshes, changes = refreshes // 2, changes // 2
        ttl = lifetime.ttl
        if config.adaptive is not None:
            ttl = config.adaptive.ttl(refreshes, changes, interval)
        # So that what was stored together does not end together.
        spread = 1.0 - _JITTER * random.random()  # noqa: S311 - no secret
        server = self.servers.at(key.slot)
        server_now = now if server is None else now + server.coherence.offset
        fresh_until = server_now + ttl * spread
        usable_until = fresh_until + lifetime.stale
        record = Record(
            fresh_until=int(fresh_until * 1000),
            usable_until=int(usable_until * 1000),
            stored_at=int(server_now * 1000),
            namespace=snapshot[0].nonce,
            body=body,
            tags=tuple(
                (tag, stamp.nonce)
                # Without Redis no nonce is known.
                for tag, stamp in zip(
                    (*request.tags, PROCESS), snapshot[1:], strict=False
                )
            ),
            version=lifetime.version or 0,
            cost=int(cost * 1000),
            interval=int(interval * 1000),
            refreshes=refreshes,
            changes=changes,
            content=content,
        )
        data = record.to_bytes()
        hit = hit_of(data)
        item = self.item(key, value_type, decoded, data, hit, body, server, snapshot)
        return item, data, max(1, int((usable_until - server_now) * 1000))

    # --- reading

    async def fetch(
        self,
        key: CacheKey,
        value_type: Any,
        count: bool = True,  # noqa: FBT001, FBT002 - 3.11 calls it faster so
    ) -> LookupResult:
        """Read an entry; one that cannot be read is missing.

        Args:
            key: Which.
            value_type: Of its value.
            count: It counts as a lookup.

        Raises:
            OddswireError: Redis did not answer.
        """
        servers = self.servers
        namespace = key.namespace
        if namespace.config.l1:
            servers.want()
        deadline = 0.0
        while True:
            server = self._one or servers.at(key.slot) or await servers.find(key.slot)
            connection, coherence = server.connection, server.coherence
            reads = coherence.reads
            epoch = servers.epoch
            now = self.now()
            if now > coherence.current_until:
                await coherence.sync()
            if server.process is not None and server.process.nonce is None:
                await server.identify()
            if namespace.tag_version.nonce is None or connection.untracked:
                await self._tags.ensure_namespace(namespace)
            found = LookupResult(self, server, key, value_type, connection.epoch)
            link = connection.client.ready_connection()
            ticket = None
            if now >= reads.until or link is not reads.connection:
                # Rarely: while memory is read, the heartbeat keeps the lease.
                ticket = reads.begin()
            try:
                if link is None:
                    await connection.send(key.get, found.take, repeatable=True)
                else:
                    # The usual case, without a coroutine of its own.
                    sent = monotonic()
                    try:
                        reply = await link.send(
                            key.get,
                            connection.timeout,
                            LABEL,
                            True,  # noqa: FBT003 - by position for speed
                            1,
                            found.take,
                        )
                    except asyncio.CancelledError:
                        link.abandon()
                        raise
                    except ConnectionLost:
                        left = sent + connection.timeout - monotonic()
                        if left <= 0.0:
                            raise
                        # By another server, perhaps: read again when it is believed.
                        ticket = ReadTicket(None, now)
                        await connection.send(key.get, found.take, timeout=left)
                    else:
                        if isinstance(reply, Exception):
                            raise reply
            except WrongType:
                # A list of other software: overwritten like foreign bytes.
                namespace.counters.corrupt += 1
            except OddswireError as error:
                # Of a slot that is on its way, what has gone ahead is void there.
                if not gone_ahead(error):
                    deadline = deadline or monotonic() + connection.timeout
                    if not await servers.follow(error, server, deadline):
                        raise
                    continue
                ticket = None
            if found.pending_validation is not None:
                await self._validate(found, key)
            if ticket is not None and not reads.accept(ticket):
                continue
            if found.item is not None and servers.on_cluster:
                await servers.believe(found.item.stamps, server)
                if not found.item.lives():
                    continue
            # If the connection was lost half way, the entry was judged by nonces that
            # were dropped, and would be missing for that alone: read it again.
            if found.item is not None or epoch == servers.epoch:
                if count:
                    found.count()
                return found

    async def fetch_many(
        self, keys: Sequence[CacheKey], value_types: Sequence[Any]
    ) -> list[LookupResult]:
        """Read entries with one MGET, on a cluster by one; they are not counted.

        Raises:
            OddswireError: Redis did not answer.
        """
        if self.servers.on_cluster:
            # In one round trip to each server: it joins what is sent in one tick.
            return await asyncio.gather(
                *(
                    self.fetch(key, value_type, False)  # noqa: FBT003 - as there
                    for key, value_type in zip(keys, value_types, strict=True)
                )
            )
        server = await self.servers.find(0)
        while True:
            epoch = server.connection.epoch
            found = await server.coherence.reads.read(
                lambda: self._fetch_many(server, keys, value_types)
            )
            if epoch == server.connection.epoch:
                return found

    async def _fetch_many(
        self, server: CacheServer, keys: Sequence[CacheKey], value_types: Sequence[Any]
    ) -> list[LookupResult]:
        found = [
            LookupResult(self, server, key, value_type, server.connection.epoch)
            for key, value_type in zip(keys, value_types, strict=True)
        ]
        namespaces = {key.namespace for key in keys}
        await server.coherence.ensure_current()
        for namespace in namespaces:
            await self._tags.ensure_namespace(namespace)

        def take(reply: Any, *, current: bool) -> None:
            if isinstance(reply, list):
                for each, data in zip(found, reply, strict=True):
                    each.take(data, current)

        names = [key.entry for key in keys]
        await server.connection.call(("MGET", *names), take, repeatable=True)
        unknown = {tag: of for each in found for tag, of in each.unknown_tags()}
        if unknown:
            await self._tags.verify(unknown.items())
        for namespace in namespaces:
            await self._tags.ensure_namespace(namespace)
        for each in found:
            each.validate()
        return found

    async def _validate(self, found: LookupResult, key: CacheKey) -> None:
        # Another process may have cleared the namespace meanwhile, and stored this.
        await self._tags.ensure_namespace(key.namespace)
        await self._tags.verify(found.unknown_tags())
        found.validate()

    # --- the right to load: a lease in Redis with a random token

    async def look(
        self, flight: Flight, *, known_header: bytes | None, steal: bytes
    ) -> LookupResult | LockedBy | None:
        """Look for an entry; None: there is none, and the right to load it is ours.

        Args:
            flight: For which; it is noted there that the lease is ours, or may be.
            known_header: Beginning of the record that is to be replaced, or None. That
                record counts as no entry.
            steal: Beginning of a holder that is dead; empty: none.

        Raises:
            OddswireError: Redis did not answer; the lease may be ours all the same.
        """
        return await self.servers.run(
            flight.request.key.slot,
            partial(self._look_at, flight, known_header, steal),
        )

    async def _look_at(
        self,
        flight: Flight,
        known_header: bytes | None,
        steal: bytes,
        server: CacheServer,
    ) -> LookupResult | LockedBy | None:
        key, value_type = flight.request.key, flight.request.value_type
        if server.process is not None and server.process.nonce is None:
            await server.identify()
        found = LookupResult(self, server, key, value_type, server.connection.epoch)
        ticket = server.coherence.reads.begin()

        def hook(reply: Any, *, current: bool) -> None:
            if isinstance(reply, bytes):
                found.take(reply, current)
            elif isinstance(reply, OddswireError) or reply in (1, 2):
                # Not before: until here a change of the lease is another process's.
                flight.owns_lease = True
            if reply == 2:
                server.connection.expect_echo(key.lease.encode(), None)

        reply = await server.connection.script(
            _LOOK,
            (key.entry, key.lease),
            (
                flight.token,
                self._lease_ms,
                (known_header or b"")[:SEEN_BYTES],
                "0" if known_header is None else "1",
                steal,
            ),
            hook,
            repeatable=True,
        )
        if isinstance(reply, int):
            return None
        if found.pending_validation is not None:
            await self._validate(found, key)
        if found.item is not None and self.servers.on_cluster:
            await self.servers.believe(found.item.stamps, server)
        if not server.coherence.reads.accept(ticket) or (
            found.item is not None and not found.item.lives()
        ):
            # As if nothing had been found yet: the caller looks again.
            return LookupResult(self, server, key, value_type, found.epoch)
        return LockedBy(reply[0]) if isinstance(reply, list) else found

    async def renew(self, flight: Flight) -> bool:
        """Keep the lease for longer; False: it is not ours any more.

        Raises:
            OddswireError: Redis did not answer.
        """
        renewed = flight.token + str(flight.renewals).encode()
        return await self._change_lease(_RENEW, flight, renewed, self._lease_ms)

    async def release(self, flight: Flight) -> bool:
        """Give the lease back.

        Raises:
            OddswireError: Redis did not answer; then it ends by itself.
        """
        return await self._change_lease(_RELEASE, flight)

    async def _change_lease(
        self, script: scripts.Script, flight: Flight, *args: bytes | int
    ) -> bool:
        key = flight.request.key

        async def change(server: CacheServer) -> bool:
            def hook(reply: Any, *, current: bool) -> None:
                del current
                if reply == 1:
                    server.connection.expect_echo(key.lease.encode(), None)

            return bool(
                await server.connection.script(
                    script, (key.lease,), (flight.token, *args), hook, repeatable=True
                )
            )

        return await self.servers.run(key.slot, change)

    # --- writing

    async def put(
        self, key: CacheKey, item: Item, data: bytes, life: int, *, token: bytes = b""
    ) -> bool:
        """Store a value; False: a newer version is there, or it was fenced off.

        Args:
            key: Where.
            item: As `pack` made it.
            data: Likewise.
            life: Likewise.
            token: Of a load: the value is stored only under the lease that holds this.

        Raises:
            SlotMoved: On a cluster; nothing was sent.
            OddswireError: Redis did not answer; it may be stored all the same.
        """
        args: tuple[Any, ...] = (
            data,
            life,
            version_bytes(item.details.version or None),
        )

        async def write(server: CacheServer) -> Any:
            connection = server.connection
            if (
                server.process is not None
                and item.stamps[-1].tag_version is not server.process
            ):
                raise SlotMoved.found()

            def hook(reply: Any, *, current: bool) -> None:
                # Any outcome: what memory has is not known to be right any more.
                self.l1.drop(key.name)
                if reply in (1, -1):
                    connection.expect_echo(key.lease.encode(), None)
                if reply == 1:
                    keep = current and key.namespace.config.l1
                    connection.expect_echo(key.entry.encode(), item if keep else None)

            return await connection.script(
                _FILL if token else _PUT,
                (key.entry, key.lease),
                (token, *args) if token else args,
                hook,
                # Without a token a repeated write would bring back what another process
                # deleted after the first one.
                repeatable=bool(token),
            )

        if self._size_limit.full:
            await self._size_limit.wait_for_room()
        if await self.servers.run(key.slot, write) != 1:
            return False
        counters = key.namespace.counters
        counters.writes += 1
        counters.bytes_written += len(data)
        self._size_limit.wrote(len(data))
        return True

    async def invalidate(self, key: CacheKey, *, soft: bool) -> bool:
        """Delete an entry and void its load; whether there was one.

        Args:
            key: Which.
            soft: The entry becomes stale, and is not deleted.

        Raises:
            OddswireError: It is not certain that it was done.
        """

        def hook(reply: Any, *, current: bool) -> None:
            del reply, current
            self.l1.drop(key.name)

        script, args = (_EXPIRE, ()) if soft else (_DELETE, (self._max_load_ms,))
        keys = (key.entry, key.lease)

        async def change(server: CacheServer) -> bool:
            return bool(
                await server.connection.script(
                    script, keys, args, hook, repeatable=True
                )
            )

        try:
            return await self.servers.run(key.slot, change, waits=False)
        except OddswireError as error:
            if not on_its_way(error):
                raise
            return bool(await self.servers.remove(keys))
