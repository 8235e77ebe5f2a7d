"""The first tier: values of this process, bounded by bytes, in S3-FIFO order.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi 2023, "FIFO queues are all you need for cache
eviction"): a new item waits in a small queue, and only an item that was used there
again gets into the main one. So a scan of items that are used once cannot evict those
that are used often.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire.cache._record import NONCE_BYTES, Details, details_of

if TYPE_CHECKING:
    from oddswire.cache._tag_version import Snapshot  # noqa: TC004 - msgspec does not ask

# Bytes of an item beside its value: the object, its places in the tables, its key.
ITEM_BYTES = 600

_SMALL_SHARE = 0.1
_MAX_USES = 3


class Item(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """A decoded entry. Times are seconds of the boot-time clock.

    The garbage collector does not visit it: with 60,000 items a full collection stopped
    the loop for 106 ms. No item is part of a cycle.

    Attributes:
        key: As the user wrote it.
        size: Bytes that it counts for.
        value_type: The type it was decoded as.
        asked_type: The same, or None if that is the type of its namespace.
        stamps: Of the namespace and of each tag; the item lives while all agree.
        early_refresh_at: Before that the item is fresh and too young to be refreshed
            early: there is nothing to decide.
        header: The record's first bytes; what a hit does not need is read from them.
        uses: Since it came to its queue, at most 3.
        generation: `TagVersions.generation` when the stamps were last found to agree.
        valid_until: Until then, in the same `generation`, a hit needs no other check.
        slot: Of its Redis key, on a cluster.
        in_main: It is in the main queue.
        dropped: It was removed from the tier, and is still in its queue.
    """

    key: str
    size: int
    value: Any = None
    value_type: Any = None
    asked_type: Any = None
    counters: Any = None
    stamps: Snapshot = ()
    early_refresh_at: float = 0.0
    fresh_until: float = 0.0
    usable_until: float = 0.0
    header: bytes = b""
    uses: int = 0
    generation: object = None
    valid_until: float = 0.0
    slot: int = 0
    in_main: bool = False
    dropped: bool = False

    @property
    def details(self) -> Details:
        """What a refresh needs to know."""
        return details_of(self.header)

    @property
    def stored_at(self) -> float:
        """By the boot-time clock of the process, as `usable_until` is."""
        details = self.details
        return self.usable_until - (details.usable_until - details.stored_at) / 1000

    def lives(self) -> bool:
        """Whether no tag of it was invalidated; a soft invalidation makes it stale."""
        for stamp in self.stamps:
            current, nonce = stamp.tag_version.nonce, stamp.nonce
            if current != nonce:
                if current is None or current[:NONCE_BYTES] != nonce[:NONCE_BYTES]:
                    return False
                # A soft nonce never comes back, so this is for good.
                self.fresh_until = self.early_refresh_at = 0.0
        return True

    def use(self) -> None:
        """Count a use."""
        if self.uses < _MAX_USES:
            self.uses += 1


class L1:
    """Items by key.

    Args:
        limit: Bytes, at most.

    Attributes:
        items: Every item; reading it directly is fine.
        used: Bytes that the items count for.
        evicted: Items that were evicted so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._largest = limit * (1 - _SMALL_SHARE)
        self.items: dict[str, Item] = {}
        self.used = 0
        self.evicted = 0
        self._small: deque[Item] = deque()
        self._main: deque[Item] = deque()
        self._small_used = 0
        # Keys that were evicted from the small queue: one that comes back is used.
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._dropped = 0
        self._dropped_bytes = 0

    def put(self, item: Item) -> None:
        """Keep an item, in the place of the one that had its key."""
        if item.size > self._largest:
            self.drop(item.key)
            return
        old = self.items.get(item.key)
        if old is not None:
            item.in_main, item.uses = old.in_main, old.uses
            self.drop(item.key)
        elif self._ghosts.pop(hash(item.key), 0) is None:
            item.in_main = True
        self.items[item.key] = item
        self.used += item.size
        if item.in_main:
            self._main.append(item)
        else:
            self._small.append(item)
            self._small_used += item.size
        while self.used > self.limit:
            self._evict()

    def drop(self, key: str) -> None:
        """Remove an item, if there is one."""
        item = self.items.pop(key, None)
        if item is None:
            return
        self._subtract(item)
        # It stays in its queue until it gets to the front. Too many of these, and the
        # queues are built without them.
        item.dropped = True
        self._dropped += 1
        self._dropped_bytes += item.size
        if (
            self._dropped > 1024 + len(self.items)
            or self._dropped_bytes > self.limit / 8
        ):
            self._small = deque(each for each in self._small if not each.dropped)
            self._main = deque(each for each in self._main if not each.dropped)
            self._dropped = self._dropped_bytes = 0

    def clear(self) -> None:
        """Remove every item."""
        self.items.clear()
        self._small.clear()
        self._main.clear()
        self.used = self._small_used = self._dropped = self._dropped_bytes = 0

    def _subtract(self, item: Item) -> None:
        self.used -= item.size
        if not item.in_main:
            self._small_used -= item.size

    def _evict(self) -> None:
        small_is_full = self._small_used > self.limit * _SMALL_SHARE
        if self._small and (small_is_full or not self._main):
            item = self._small.popleft()
            if self._was_dropped(item):
                return
            if item.uses > 1:
                item.uses = 0
                item.in_main = True
                self._small_used -= item.size
                self._main.append(item)
                return
            self._remove(item)
            self._ghosts[hash(item.key)] = None
            while len(self._ghosts) > len(self.items) + 16:
                self._ghosts.popitem(last=False)
            return
        item = self._main.popleft()
        if self._was_dropped(item):
            return
        if item.uses > 0:
            item.uses -= 1
            self._main.append(item)
            return
        self._remove(item)

    def _was_dropped(self, item: Item) -> bool:
        if item.dropped:
            self._dropped -= 1
            self._dropped_bytes -= item.size
        return item.dropped

    def _remove(self, item: Item) -> None:
        del self.items[item.key]
        self._subtract(item)
        self.evicted += 1
