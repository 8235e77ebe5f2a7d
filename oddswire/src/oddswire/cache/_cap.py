"""The bound of the second tier on a server that it shares.

A server that evicts by itself would take sessions too. So the cache counts its own
entries and removes those that were not used for longest, and no key of anybody else.
Counting means to look at every key of the server, so it is done only where the whole
server has more than the cap, and again only after so much was written that it matters.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any

from oddswire import keys
from oddswire.errors import NoPermission, OddswireError
from oddswire.logs import log_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oddswire.client import Client
    from oddswire.keys import KeySpace

_log = logging.getLogger("oddswire.cache")

# Bytes written by this process between two looks, as a part of the cap.
_STEP = 100
# What is removed at once: a tenth, so that the next time is not soon.
_TARGET = 0.9
# Bytes beside MEMORY USAGE: the server remembers which connections have read an entry,
# and its lease. Measured on Valkey 9: 165 for each of the two.
_WATCHED = 330
_PAGE = 500
_PATIENCE = 5.0
_ALONE_MS = 60_000


class Cap:
    """Keeps the entries of a prefix below so many bytes of the server's memory.

    Args:
        client: Whose server.
        keyspace: The prefix.
        limit: Bytes of the server's memory: of each entry what MEMORY USAGE counts and
            what the server keeps to watch it.

    Attributes:
        evicted: Entries that this process removed.
    """

    def __init__(self, client: Client, keyspace: KeySpace, limit: int) -> None:
        self.limit = limit
        self.evicted = 0
        self._client = client
        self._pattern = keyspace.pattern(keys.CACHE)
        self._lock = keyspace.key(keys.CACHE_CAP)
        # The first look is at the first write: what is there is not known.
        self._left = 0
        self._due = asyncio.Event()

    def wrote(self, size: int) -> None:
        """Count what this process has written."""
        self._left -= size
        if self._left < 0:
            self._due.set()

    async def run(self) -> None:
        """Look whenever it is due; ends by cancellation."""
        client = self._client.bounded(_PATIENCE)
        while True:
            await self._due.wait()
            self._due.clear()
            self._left = self.limit // _STEP
            try:
                await self._look(client)
            except NoPermission as error:
                log_line(_log, logging.WARNING, "cache_size_unbounded", reason=error)
                return
            except OddswireError as error:
                log_line(_log, logging.DEBUG, "cache_size_unknown", reason=error)

    async def _look(self, client: Client) -> None:
        memory = await client.info("memory")
        limit = int(memory.get("maxmemory", 0))
        policy = str(memory.get("maxmemory_policy", ""))
        if 0 < limit <= self.limit and policy.startswith("allkeys"):
            return  # the server sees to it: an instance of the cache's own
        if int(memory["used_memory"]) <= self.limit:
            return
        token = secrets.token_hex(8)
        if not await client.set(self._lock, token, nx=True, px=_ALONE_MS):
            return  # another process does
        await self.enforce(client)
        # Where it took longer than the lock lives, another may hold it by now: that
        # two look at once does no harm.
        await client.unlink(self._lock)

    async def enforce(self, client: Client) -> None:
        """Weigh all entries, and remove the least recently used of what is too much.

        Raises:
            OddswireError: Redis did not answer, or refuses to.
        """
        # By how long they were not used: a power of two of seconds.
        by_age = [0] * 64
        async for _, size, age in self._entries(client):
            by_age[age] += size
        total = sum(by_age)
        if total <= self.limit:
            self._left = max(self._left, (self.limit - total) // 16)
            return
        excess = total - int(self.limit * _TARGET)
        oldest, found = len(by_age), 0
        while found < excess:
            oldest -= 1
            found += by_age[oldest]
        spare = found - excess
        doomed: list[bytes | str] = []
        async for name, size, age in self._entries(client):
            if age < oldest or (age == oldest and size <= spare):
                spare -= size if age == oldest else 0
                continue
            doomed.append(name)
            if len(doomed) >= _PAGE:
                self.evicted += await client.unlink(*doomed)
                doomed.clear()
        if doomed:
            self.evicted += await client.unlink(*doomed)

    async def _entries(
        self, client: Client
    ) -> AsyncIterator[tuple[bytes | str, int, int]]:
        """Yield name, bytes and age of each entry."""
        cursor = 0
        while True:
            cursor, names = await client.scan(cursor, self._pattern, _PAGE)
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.memory_usage(name)
                pipeline.object("IDLETIME", name)
            replies = iter(await pipeline.execute(raise_on_error=False))
            for name, size, idle in zip(names, replies, replies, strict=False):
                if isinstance(size, NoPermission):
                    raise size
                if isinstance(size, int):
                    yield name, size + _WATCHED, _age(idle)
            if not cursor:
                return


def _age(idle: Any) -> int:
    # Under an LFU policy the server does not say when a key was used: all are alike.
    return idle.bit_length() if isinstance(idle, int) else 0
