"""The first tier: values of this process, bounded by bytes, in S3-FIFO order.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi 2023, "FIFO queues are all you need for cache
eviction"): what is new waits in a small queue, and only what was used there again gets
into the main one, so that a scan of things used once cannot push out what is used
often.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, NamedTuple

import msgspec

from oddswire.cache._cell import Snapshot
from oddswire.cache._record import NONCE_BYTES, head_of

# What an item takes beside its value: the object, its places in the tables, its key.
ITEM_BYTES = 600

_SMALL_SHARE = 0.1
_USES_AT_MOST = 3


class Details(NamedTuple):
    """Of an item: what its record says beside what a hit needs.

    Attributes:
        stored_at: By the boot-time clock.
        cost: Seconds that loading took.
        interval: Mean seconds between loads.
        refreshes: Loads since the first one.
        changes: Those that brought another value.
        content: Digest of the value's bytes.
    """

    version: int
    stored_at: float
    cost: float
    interval: float
    refreshes: int
    changes: int
    content: bytes


class Item(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """A decoded entry. Times are seconds of the boot-time clock.

    The garbage collector does not visit it: with 60,000 items a full collection stopped
    the loop for 106 ms. No item is part of a cycle.

    Attributes:
        kind: The type it was decoded as.
        asked: The same, or None if that is the type of its namespace.
        stamps: Of the namespace and of each tag; the item lives while all agree.
        calm_until: Until then there is nothing to decide: it is fresh, and too early to
            think of a refresh.
        head: The record's first bytes; what a hit does not need is read from them.
        size: Bytes it counts for.
        uses: Since it came to its queue, at most 3.
        mark: `Nonces.mark` when the stamps were last found to agree.
        sure_until: Until then, and while `mark` is the same, it is as good as it was.
    """

    key: str
    size: int
    value: Any = None
    kind: Any = None
    asked: Any = None
    counts: Any = None
    stamps: Snapshot = ()
    calm_until: float = 0.0
    fresh_until: float = 0.0
    usable_until: float = 0.0
    head: bytes = b""
    uses: int = 0
    mark: Any = None
    sure_until: float = 0.0
    in_main: bool = False
    gone: bool = False

    @property
    def details(self) -> Details:
        """What a refresh needs to know."""
        _, _, _, version, usable, stored, cost, interval, *counts, content, _, _ = (
            head_of(self.head)
        )
        return Details(
            version=version,
            # By the clock of the process, as the other end is.
            stored_at=self.usable_until - (usable - stored) / 1000,
            cost=cost / 1000,
            interval=interval / 1000,
            refreshes=counts[0],
            changes=counts[1],
            content=content,
        )

    def lives(self) -> bool:
        """Whether nothing that it depends on was invalidated; softly makes it stale."""
        for stamp in self.stamps:
            current, nonce = stamp.cell.nonce, stamp.nonce
            if current != nonce:
                if current is None or current[:NONCE_BYTES] != nonce[:NONCE_BYTES]:
                    return False
                # A soft nonce never comes back, so this is for good.
                self.fresh_until = self.calm_until = 0.0
        return True


class Memory:
    """Items by key.

    Args:
        limit: Bytes, at most.

    Attributes:
        items: Every item that is held; reading it directly is fine.
        used: Bytes that the items count for.
        evicted: Items that were pushed out so far.
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
        # Keys that were pushed out of the small queue: who comes back is wanted.
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._gone = 0
        self._gone_bytes = 0

    def put(self, item: Item) -> None:
        """Hold an item, in the place of the one that had its key."""
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

    def drop(self, key: str) -> bool:
        """Forget an item; whether there was one."""
        item = self.items.pop(key, None)
        if item is None:
            return False
        self._leave(item)
        # It stays in its queue until it gets to the front; too many of these and the
        # queues are made anew.
        item.gone = True
        self._gone += 1
        self._gone_bytes += item.size
        if self._gone > 1024 + len(self.items) or self._gone_bytes > self.limit / 8:
            self._small = deque(each for each in self._small if not each.gone)
            self._main = deque(each for each in self._main if not each.gone)
            self._gone = self._gone_bytes = 0
        return True

    def clear(self) -> None:
        """Forget every item."""
        self.items.clear()
        self._small.clear()
        self._main.clear()
        self.used = self._small_used = self._gone = self._gone_bytes = 0

    def _leave(self, item: Item) -> None:
        self.used -= item.size
        if not item.in_main:
            self._small_used -= item.size

    def _evict(self) -> None:
        small_is_full = self._small_used > self.limit * _SMALL_SHARE
        if self._small and (small_is_full or not self._main):
            item = self._small.popleft()
            if self._forgotten(item):
                return
            if item.uses > 1:
                item.uses = 0
                item.in_main = True
                self._small_used -= item.size
                self._main.append(item)
                return
            self._push_out(item)
            self._ghosts[hash(item.key)] = None
            while len(self._ghosts) > len(self.items) + 16:
                self._ghosts.popitem(last=False)
            return
        item = self._main.popleft()
        if self._forgotten(item):
            return
        if item.uses > 0:
            item.uses -= 1
            self._main.append(item)
            return
        self._push_out(item)

    def _forgotten(self, item: Item) -> bool:
        if item.gone:
            self._gone -= 1
            self._gone_bytes -= item.size
        return item.gone

    def _push_out(self, item: Item) -> None:
        del self.items[item.key]
        self._leave(item)
        self.evicted += 1


def used_again(item: Item) -> None:
    """Count a use."""
    if item.uses < _USES_AT_MOST:
        item.uses += 1
