"""From a value to the bytes of an entry, and back to an item, in the parser."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.cache._cell import Stamp
from oddswire.cache._memory import ITEM_BYTES, Item
from oddswire.cache._record import SEEN_BYTES, Record, digest, opened, tags_of
from oddswire.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.cache._cell import Snapshot
    from oddswire.cache._flight import Fresh
    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Memory
    from oddswire.cache._nonces import Nonces
    from oddswire.cache._record import Hit
    from oddswire.cache._space import Place
    from oddswire.cache._wire import TrackedWire
    from oddswire.clock import Clock

_JITTER = 0.1
# The estimate of changes forgets: at this many loads both counts are halved.
_REMEMBERED = 64

# At less than e^-12 a read would refresh early; not worth a logarithm.
_EARLY_COSTS = 12.0


class Held(NamedTuple):
    """Another one loads; what its lease holds."""

    holder: bytes


class Reader:
    """Makes items.

    Args:
        wire: Where entries are read.
        memory: Where they are kept.
        nonces: Of tags and namespaces.
        lease: Knows the server's time.
        clock: The time of this process.
    """

    def __init__(
        self,
        wire: TrackedWire,
        memory: Memory,
        nonces: Nonces,
        lease: CoherenceLease,
        clock: Clock,
    ) -> None:
        self.wire = wire
        self.memory = memory
        self.now = clock.boottime
        self._nonces = nonces
        self._lease = lease

    def item(
        self, place: Place, kind: Any, value: Any, data: bytes, hit: Hit, body: bytes
    ) -> Item:
        """Return an entry as it is held in memory."""
        fresh, usable, cost, namespace, tags = hit
        space = place.space
        config = space.config
        offset = self._lease.offset
        fresh_until = calm_until = fresh / 1000 - offset
        if cost:
            calm_until -= _EARLY_COSTS * config.early * cost / 1000
        stamps: Snapshot = (Stamp(space.cell, namespace),)
        if tags:
            cell = self._nonces.cell
            stamps += tuple(Stamp(cell(tag), n) for tag, n in tags_of(data, tags))
        # A compressed body is several times as large when decoded.
        factor = 8 if len(body) > 1 and body[1] & 1 else 2
        return Item(
            key=place.key,
            size=ITEM_BYTES + len(data) + factor * len(body),
            value=value,
            kind=kind,
            asked=None if kind is config.type else kind,
            counts=space.counts,
            stamps=stamps,
            calm_until=calm_until,
            fresh_until=fresh_until,
            usable_until=usable / 1000 - offset,
            head=data[:SEEN_BYTES],
        )

    def pack(
        self,
        place: Place,
        kind: Any,
        value: Any,
        fresh: Fresh,
        snapshot: Snapshot,
        tags: Sequence[bytes],
        *,
        cost: float = 0.0,
        old: Item | None = None,
    ) -> tuple[Item, bytes, int]:
        """Return a value as an item, its bytes, and their life in milliseconds.

        Raises:
            CodecError: Not a value of the type, one that would come back with another,
                or too large.
        """
        config = place.space.config
        codec = place.space.codec(kind)
        body = codec.encode(value)
        # What others will read, and nobody can change from outside.
        copy = codec.decode(body)
        now = self.now()
        content = digest(body)
        refreshes = changes = 0
        interval = 0.0
        if old is not None:
            was = old.details
            refreshes = was.refreshes + 1
            changes = was.changes + (content != was.content)
            since = max(0.0, now - was.stored_at)
            interval = was.interval * 0.75 + since * 0.25 if was.interval else since
            if refreshes > _REMEMBERED:
                refreshes, changes = refreshes // 2, changes // 2
        ttl = fresh.ttl
        if config.adaptive is not None:
            ttl = config.adaptive.ttl(refreshes, changes, interval)
        # So that what was stored together does not end together.
        spread = 1.0 - _JITTER * random.random()  # noqa: S311 - no secret
        server_now = now + self._lease.offset
        fresh_until = server_now + ttl * spread
        usable_until = fresh_until + fresh.stale
        record = Record(
            fresh_until=int(fresh_until * 1000),
            usable_until=int(usable_until * 1000),
            stored_at=int(server_now * 1000),
            namespace=snapshot[0].nonce,
            body=body,
            tags=tuple(
                (tag, stamp.nonce)
                for tag, stamp in zip(tags, snapshot[1:], strict=True)
            ),
            version=fresh.version or 0,
            cost=int(cost * 1000),
            interval=int(interval * 1000),
            refreshes=refreshes,
            changes=changes,
            content=content,
        )
        data = record.to_bytes()
        hit: Hit = (
            record.fresh_until,
            record.usable_until,
            record.cost,
            record.namespace,
            0,  # its tags are in the snapshot
        )
        item = self.item(place, kind, copy, data, hit, body)
        # These very cells were read for it.
        item.stamps = snapshot
        return item, data, max(1, int((usable_until - server_now) * 1000))


class Found:
    """What Redis has under a key; it is told so by the parser.

    Attributes:
        item: The entry, if it may serve.
        fresh: It is not stale.
        calm: Nor near to it: there is nothing to decide.
        head: The beginning of whatever was there; None: nothing was.
        unjudged: The entry, while it is not known whether it may serve: nonces have to
            be read, then comes `judge`.
    """

    __slots__ = (
        "_epoch",
        "_kind",
        "_place",
        "_reader",
        "_tags",
        "calm",
        "fresh",
        "head",
        "item",
        "unjudged",
    )

    def __init__(self, reader: Reader, place: Place, kind: Any) -> None:
        self._reader = reader
        self._place = place
        self._kind = kind
        self._epoch = reader.wire.epoch
        self.item: Item | None = None
        self.fresh = self.calm = False
        self.head: bytes | None = None
        self.unjudged: Item | None = None
        self._tags: tuple[tuple[bytes, bytes], ...]

    def __call__(self, reply: Any, /, *, current: bool | None = None) -> None:
        """Turn the bytes of an entry into an item, and into memory.

        Args:
            reply: To the call.
            current: As for every `Hook`; None: this is the wire's own hook of a call
                that was sent when this was made.
        """
        if current is None:
            wire = self._reader.wire
            if wire.expected:
                wire.expected.clear()  # as for every reply
            current = self._epoch == wire.epoch and not wire.plain
        if type(reply) is not bytes:
            # None: there is nothing. Else a key of another type, written by somebody
            # else; or the call failed, and its error is raised where it was made.
            self.head = None if reply is None else b""
            return
        place = self._place
        space = place.space
        try:
            whole = opened(reply)
            if whole is None:
                self.head = reply
                return
            hit, body = whole
            value = space.codec(self._kind).decode(body)
        except CodecError:
            space.counts.corrupt += 1
            self.head = reply[:SEEN_BYTES]
            return
        reader = self._reader
        item = reader.item(place, self._kind, value, reply, hit, body)
        self.head = item.head
        if current and space.config.l1:
            # Also where a nonce is not known yet: the entry does not live until it is,
            # and a message in between takes it out again.
            reader.memory.put(item)
        if item.lives():
            now = reader.now()
            if now < item.usable_until:
                self.item, self.fresh = item, now < item.fresh_until
                self.calm = now < item.calm_until
        else:
            self.unjudged, self._tags = item, tags_of(reply, hit[4])

    def unknown(self) -> list[tuple[bytes, Any]]:
        """Return the tags whose nonces have to be read, with their cells."""
        if self.unjudged is None:
            return []
        cells = (stamp.cell for stamp in self.unjudged.stamps[1:])
        return [
            (tag, cell)
            for (tag, _), cell in zip(self._tags, cells, strict=True)
            if cell.nonce is None
        ]

    def judge(self) -> None:
        """Say whether the entry may serve, by the nonces that are known now."""
        item, self.unjudged = self.unjudged, None
        if item is not None and item.lives():
            self._serve(item)

    def count(self) -> None:
        """Count a lookup in Redis."""
        counts = self._place.space.counts
        if self.item is None:
            counts.misses += 1
        else:
            counts.l2_hits += 1
            if not self.fresh:
                counts.stale += 1

    def _serve(self, item: Item) -> None:
        now = self._reader.now()
        if now < item.usable_until:
            self.item, self.fresh = item, now < item.fresh_until
            self.calm = now < item.calm_until
