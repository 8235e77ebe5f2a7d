"""From the bytes of an entry to an item, in the parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.cache._memory import ITEM_BYTES, Item
from oddswire.cache._record import SEEN_BYTES, Record
from oddswire.errors import CodecError

if TYPE_CHECKING:
    from oddswire.cache._lease import CoherenceLease
    from oddswire.cache._memory import Memory
    from oddswire.cache._nonces import Nonces
    from oddswire.cache._space import Place
    from oddswire.clock import Clock

# At less than e^-12 a read would refresh early; not worth a logarithm.
_EARLY_COSTS = 12.0


class Found(NamedTuple):
    """What Redis had.

    Attributes:
        item: The entry, if it may serve (fresh or stale).
        head: The beginning of whatever was there; None: nothing was.
    """

    item: Item | None
    head: bytes | None


class Held(NamedTuple):
    """Another one loads; what its lease holds."""

    holder: bytes


class Reader:
    """Makes items.

    Args:
        memory: Where they are kept.
        nonces: Of tags and namespaces.
        lease: Knows the server's time.
        clock: The time of this process.
    """

    def __init__(
        self, memory: Memory, nonces: Nonces, lease: CoherenceLease, clock: Clock
    ) -> None:
        self.memory = memory
        self.clock = clock
        self._nonces = nonces
        self._lease = lease

    def item(
        self, place: Place, kind: Any, record: Record, value: Any, data: bytes
    ) -> Item:
        """Return an entry as it is held in memory."""
        config = place.space.config
        offset = self._lease.offset
        item = Item()
        item.key = place.key
        item.kind = kind
        item.asked = None if kind is config.type else kind
        item.value = value
        item.counts = place.space.counts
        item.fresh_until = record.fresh_until / 1000 - offset
        item.usable_until = record.usable_until / 1000 - offset
        item.stored_at = record.stored_at / 1000 - offset
        item.cost = record.cost / 1000
        item.calm_until = item.fresh_until - _EARLY_COSTS * config.early * item.cost
        item.pairs = (
            (place.space.cell, record.namespace),
            *((self._nonces.cell(tag), nonce) for tag, nonce in record.tags),
        )
        item.head = data[:SEEN_BYTES]
        item.version = record.version
        item.interval = record.interval / 1000
        item.refreshes = record.refreshes
        item.changes = record.changes
        item.content = record.content
        # A compressed body is several times as large when decoded.
        factor = 8 if len(record.body) > 1 and record.body[1] & 1 else 2
        item.size = ITEM_BYTES + len(data) + factor * len(record.body)
        return item


class Take:
    """A hook that turns the bytes of an entry into an item, and into memory.

    Attributes:
        found: What was found, where nothing is left to ask.
    """

    __slots__ = ("_head", "_item", "_kind", "_place", "_reader", "_tags", "found")

    def __init__(self, reader: Reader, place: Place, kind: Any) -> None:
        self._reader = reader
        self._place = place
        self._kind = kind
        self._item: Item | None = None
        self._head: bytes | None = None
        self._tags: tuple[tuple[bytes, bytes], ...] = ()
        self.found: Found | None = None

    def __call__(self, reply: Any, /, *, current: bool) -> None:
        reader, place = self._reader, self._place
        if reply is None:
            self.found = Found(None, None)
            return
        if type(reply) is not bytes:
            # A key of another type, written by somebody else; or the call failed, and
            # its error is raised where it was made.
            self.found = Found(None, b"")
            return
        self._head = reply[:SEEN_BYTES]
        try:
            record = Record.from_bytes(reply)
            if record is None:
                self.found = Found(None, self._head)
                return
            value = place.space.codec(self._kind).decode(record.body)
        except CodecError:
            place.space.counts.corrupt += 1
            self.found = Found(None, self._head)
            return
        item = reader.item(place, self._kind, record, value, reply)
        self._item, self._tags = item, record.tags
        if current and place.space.config.l1:
            # Also where a nonce is not known yet: the entry does not live until it is,
            # and a message in between takes it out again.
            reader.memory.put(item)
        if item.lives():
            usable = reader.clock.boottime() < item.usable_until
            self.found = Found(item if usable else None, self._head)

    def unknown(self) -> list[tuple[bytes, Any]]:
        """Return the tags whose nonces have to be read."""
        if self._item is None:
            return []
        return [
            (tag, cell)
            for (tag, _), (cell, _) in zip(
                self._tags, self._item.pairs[1:], strict=True
            )
            if cell.nonce is None
        ]

    def judged(self) -> Found:
        """Say whether the entry may serve."""
        item = self._item
        if (
            item is None
            or not item.lives()
            or self._reader.clock.boottime() >= item.usable_until
        ):
            return Found(None, self._head)
        return Found(item, self._head)
