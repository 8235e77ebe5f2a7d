"""The bound of the second tier on a server that it shares.

A server that evicts by itself would take sessions too. So the cache counts its own
entries and removes those that were not used for longest, and no key of anybody else.
Counting looks at every key of the server. Therefore the cache counts only if the whole
server is above the limit, and again only after it has written much.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from oddswire import keys
from oddswire.errors import NoPermission, OddswireError
from oddswire.logs import log_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.client import Client
    from oddswire.keys import KeySpace

_log = logging.getLogger("oddswire.cache")

# Bytes written by this process between two checks, as a part of the limit.
_STEP = 100
# Bytes that it may write beyond that while a check runs; then its writes wait.
_AHEAD = 20
# Eviction removes a tenth at once, so that the next one is not soon. Weighing is most
# of the work: if it finds that little room is left, eviction follows at once.
_TARGET = 0.9
_CLOSE = 0.95
# Bytes beside MEMORY USAGE: the server remembers which connections have read an entry.
# Measured on Valkey 9.
_TRACKED = 165
# Bytes of a key that are not in its record: name, object, place in the server's table.
_KEY = 100
_PAGE = 500
_WEIGHED_FOR = 60.0
_PATIENCE = 5.0
_LOCK_MS = 10_000
_POLL = 0.02


class SizeLimiter:
    """Keeps the entries of a prefix below so many bytes of the server's memory.

    Args:
        client: Whose server. Of a cluster, each primary has its share of the limit.
        keyspace: The prefix.
        limit: Bytes of the server's memory: of each entry what MEMORY USAGE counts and
            what the server keeps to track it.

    Attributes:
        evicted: Entries that this process removed; where Redis did not answer, it is
            not known how many, and none is counted.
        full: This process has written so much during a check that it has to wait.
    """

    def __init__(self, client: Client, keyspace: KeySpace, limit: int) -> None:
        self.limit = limit
        self.evicted = 0
        self.full = False
        self._client = client
        self._pattern = keyspace.pattern(keys.CACHE)
        self._lock = keyspace.key(keys.CACHE_CAP)
        # The first check is at the first write: what is there is not known.
        self._left = 0
        self._written = 0
        self._weighed: dict[Client, _Weighing] = {}
        self._due = asyncio.Event()
        self._has_room = asyncio.Event()
        self._running = False

    def wrote(self, size: int) -> None:
        """Count a record that this process has written."""
        size += _KEY + _TRACKED
        self._written += size
        self._left -= size
        if self._left < 0:
            self._due.set()
            if self._left < -(self.limit // _AHEAD) and self._running:
                # A check of many keys takes longer than this process needs to write
                # as many again.
                self.full = True
                self._has_room.clear()

    async def wait_for_room(self) -> None:
        """Wait until the check that runs has ended; 5 s at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):  # a pause
                await self._has_room.wait()

    async def run(self) -> None:
        """Check whenever it is due; ends by cancellation."""
        client = self._client.bounded(_PATIENCE)
        self._running = True
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                self._left = self.limit // _STEP
                try:
                    await self._check(client)
                except NoPermission as error:
                    log_line(
                        _log, logging.WARNING, "cache_size_unbounded", reason=error
                    )
                    return
                except OddswireError as error:
                    log_line(_log, logging.DEBUG, "cache_size_unknown", reason=error)
                self._resume()
        finally:
            self._running = False
            self._resume()

    def _resume(self) -> None:
        self.full = False
        self._has_room.set()

    async def _check(self, client: Client) -> None:
        nodes = await client.primaries()
        self._weighed = {each: self._weighed.get(each, _Weighing()) for each in nodes}
        share = self.limit // len(nodes)
        used = {node: await self._used(node, share) for node in nodes}
        full = [node for node, size in used.items() if size]
        if not full:
            return
        token = secrets.token_hex(8)
        if not await client.set(self._lock, token, nx=True, px=_LOCK_MS):
            # Another process evicts. Until it has, many writes of this one wait too.
            while await client.exists(self._lock):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_POLL)
            return
        for node in full:
            weighing = self._weighed[node]
            weighing.written = self._written
            total, removed = await self._enforce(node, share)
            weighing.at, weighing.used = monotonic(), used[node] - removed
            weighing.slack = share - (total - removed)
        # Where it took longer than the lock lives, another may hold it by now: that
        # two evict at once does no harm.
        await client.unlink(self._lock)

    async def _used(self, client: Client, share: int) -> int:
        """Return the bytes of a server that may have too many entries, else 0."""
        memory = await client.info("memory")
        limit = int(memory.get("maxmemory", 0))
        policy = str(memory.get("maxmemory_policy", ""))
        if 0 < limit <= share and policy.startswith("allkeys"):
            return 0  # the server sees to it: an instance of the cache's own
        used = int(memory["used_memory"])
        last = self._weighed[client]
        grown = max(used - last.used, self._written - last.written)
        # Other data may have shrunk while entries of other processes grew: what the
        # last weighing says holds for a minute.
        lately = monotonic() - last.at < _WEIGHED_FOR
        return 0 if used <= share or (lately and grown <= last.slack) else used

    async def enforce(self, client: Client) -> tuple[int, int]:
        """Weigh the entries of each server; see `_enforce`. Returns the sums."""
        nodes = await client.primaries()
        share = self.limit // len(nodes)
        results = [await self._enforce(node, share) for node in nodes]
        return sum(total for total, _ in results), sum(less for _, less in results)

    async def _enforce(self, client: Client, share: int) -> tuple[int, int]:
        """Weigh all entries, and remove the least recently used of what is too much.

        Returns how many bytes there were, and how many of them were removed.

        Raises:
            OddswireError: Redis did not answer, or refuses to.
        """
        # 1. Weigh, by how long the entries were not used: a power of two of seconds.
        by_age = [0] * 64
        async for page in self._pages(client):
            for _, size, age in page:
                by_age[age] += size
        total = sum(by_age)
        if total <= share * _CLOSE:
            return total, 0
        # 2. Find the age above which all of them have to go, and of that age a part.
        excess = part = total - int(share * _TARGET)
        oldest = len(by_age) - 1
        while by_age[oldest] < part:
            part -= by_age[oldest]
            oldest -= 1
        # 3. Remove as much and no more: entries have aged since they were weighed, so
        #    that more of them are old now than were counted.
        async for page in self._pages(client):
            doomed: list[bytes | str] = []
            for name, size, age in page:
                if excess > 0 and (age > oldest or (age == oldest and part > 0)):
                    part -= size if age == oldest else 0
                    excess -= size
                    doomed.append(name)
            if doomed:
                # Not in one statement: `+=` would read the sum before it waits, and
                # lose what another removal adds meanwhile.
                # By the whole client: on a cluster they are of many slots.
                removed = await self._client.bounded(_PATIENCE).unlink(*doomed)
                self.evicted += removed
            if excess <= 0:
                break
        return total, total - int(share * _TARGET) - excess

    async def _pages(
        self, client: Client
    ) -> AsyncIterator[list[tuple[bytes | str, int, int]]]:
        """Yield name, bytes and age of the entries, some hundreds at a time."""
        cursor = 0
        while True:
            cursor, names = await client.scan(cursor, self._pattern, _PAGE)
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.memory_usage(name)
                pipeline.object("IDLETIME", name)
            replies = iter(await pipeline.execute(raise_on_error=False))
            page = []
            for name, size, idle in zip(names, replies, replies, strict=False):
                if isinstance(size, NoPermission):
                    raise size
                if isinstance(size, int):
                    page.append((name, size + _TRACKED, _age(idle)))
            yield page
            if not cursor:
                return


class _Weighing:
    """The last weighing of a server.

    Attributes:
        at: When, by `time.monotonic`.
        used: Bytes of the server.
        written: Bytes that this process had written.
        slack: Bytes by which the entries may grow from there.
    """

    def __init__(self) -> None:
        self.at = -math.inf
        self.used = self.written = self.slack = 0


def _age(idle: Any) -> int:
    # Under an LFU policy the server does not say when a key was used: all are alike.
    return idle.bit_length() if isinstance(idle, int) else 0
