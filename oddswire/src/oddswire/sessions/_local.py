"""What this process remembers of sessions and indexes, and how it follows changes.

`LocalCache` has sessions, `IndexReplica` the indexes; the `Follower` applies the
changes of a feed to both. Memory answers for `LEASE` seconds after the moment up to
which the feed was complete last; without word from the feed, the server is asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from oddswire.errors import OddswireError
from oddswire.sessions._codec import Snapshot
from oddswire.sessions.feed import Changes, LogFeed, Reset
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from oddswire.client import ReadLease
    from oddswire.clock import Clock
    from oddswire.sessions._rebuild import Rebuild
    from oddswire.sessions._scripts import IndexEntry
    from oddswire.sessions._store import SessionStore
    from oddswire.sessions._write_through import IntentLog
    from oddswire.sessions.feed import Change, Feed

T = TypeVar("T", bound=Record)

LEASE = 2.0
"""Seconds that memory is believed after the last word of changes."""
IDLE = 5.0
"""Seconds without a read or a lookup after which changes are not followed any more."""
_PAUSE = 0.2


class ReadTicket:
    """A read under way: which version of its session was announced since it began.

    Attributes:
        seen: The newest one.
    """

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0.0


class _Entry(msgspec.Struct, frozen=True):
    snapshot: Snapshot
    body: bytes
    until: float


class LocalCache(Generic[T]):
    """The newest sessions that were read or written in this process.

    A save names the version that it read, so an entry that is out of date costs a
    retry, and never a change.

    Args:
        decoder: Of the type.
        size: Most sessions; 0 keeps none.
        clock: By which a conversation ends.

    Attributes:
        hits: Reads that were answered from it.
        following: Whether changes are followed; without, nothing is kept.
        trusted_until: By the clock's `boottime`; past it nothing is answered.
    """

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[T], size: int, clock: Clock
    ) -> None:
        self.hits = 0
        self.following = False
        self.trusted_until = 0.0
        self._decode = decoder.decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._size = size
        self._clock = clock
        self._entries: dict[int, _Entry] = {}
        self._tickets: dict[int, list[ReadTicket]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, user_id: int) -> T | None:
        """Return a session of the caller's own; None: ask the server."""
        entry = self._entries.get(user_id)
        if entry is None:
            return None
        now = self._clock.boottime()
        if now >= entry.until or now >= self.trusted_until:
            return None
        self.hits += 1
        return self._decode(entry.body)

    def snapshot(self, user_id: int) -> Snapshot | None:
        """Return what a change may begin with; None: ask the server."""
        entry = self._entries.get(user_id)
        if entry is None:
            return None
        now = self._clock.boottime()
        current = now < entry.until and now < self.trusted_until
        return entry.snapshot if current else None

    # A change may be announced between a read's answer on the server and its arrival
    # here. The ticket sees the announcement, and `put` then leaves the answer out.

    def begin(self, user_id: int) -> ReadTicket:
        """Begin a read or a write of a session."""
        ticket = ReadTicket()
        self._tickets.setdefault(user_id, []).append(ticket)
        return ticket

    def end(self, user_id: int, ticket: ReadTicket) -> None:
        """End a read or a write, whether it succeeded or not."""
        left = [each for each in self._tickets[user_id] if each is not ticket]
        if left:
            self._tickets[user_id] = left
        else:
            del self._tickets[user_id]

    def put(
        self, user_id: int, snapshot: Snapshot, value: T, now: int, ticket: ReadTicket
    ) -> None:
        """Keep what was read or written.

        Args:
            user_id: Whose.
            snapshot: As it is stored.
            value: The same, decoded.
            now: The server's time of that, in milliseconds.
            ticket: What `begin` returned before the server was asked.
        """
        # A change was announced while the answer was on its way: the answer may be from
        # before it, and no later announcement would remove it.
        if not self.following or snapshot.header.version < ticket.seen:
            return
        left = (snapshot.header.expiry - now) / 1e3
        if left <= 0:
            return
        self._entries.pop(user_id, None)
        if not self._size:
            return
        while len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[user_id] = _Entry(
            snapshot, self._encode(value), self._clock.boottime() + left
        )

    def drop(self, user_id: int) -> None:
        """Forget a session."""
        self.announced(user_id, 0)

    def announced(self, user_id: int, version: int) -> None:
        """Forget what is older than a version; 0: the session was deleted."""
        entry = self._entries.get(user_id)
        # This process announces its own changes too, and has them here already.
        if entry and (version == 0 or entry.snapshot.header.version < version):
            del self._entries[user_id]
        for ticket in self._tickets.get(user_id, ()):
            ticket.seen = max(ticket.seen, version or float("inf"))

    def clear(self) -> None:
        """Forget everything: changes may have been missed."""
        self._entries.clear()
        for tickets in self._tickets.values():
            for ticket in tickets:
                ticket.seen = float("inf")


class IndexReplica:
    """Names by index entry, built from the server and kept by the changes since.

    Attributes:
        complete: Whether it has everything up to the last change of the feed.
        rebuilds: How often it was built.
    """

    def __init__(self) -> None:
        self.complete = False
        self.rebuilds = 0
        self._names: dict[IndexEntry, set[str]] = {}
        self._off: set[str] = set()

    def names(self, entry: IndexEntry) -> list[str]:
        """Return the names of active users with an index entry."""
        off = self._off
        return [name for name in self._names.get(entry, ()) if name not in off]

    def clear(self) -> None:
        """Forget everything."""
        self.complete = False
        self._names = {}
        self._off = set()

    def apply(self, change: Change) -> None:
        """Make a change; the second time it changes nothing."""
        for entry in change.index_adds:
            self._names.setdefault(entry, set()).add(change.name)
        for entry in change.index_removes:
            names = self._names.get(entry)
            if names is not None:
                names.discard(change.name)
                if not names:
                    del self._names[entry]
        if change.on:
            self._off.discard(change.name)
        else:
            self._off.add(change.name)

    async def build(
        self, store: SessionStore, intents: IntentLog | None = None
    ) -> None:
        """Read every session's index entries, without opening one.

        A session that changes meanwhile is read before its change or after it. Applying
        the changes since the beginning makes it right: it is not `complete` before.
        """
        self.clear()
        self.rebuilds += 1
        async for page in store.everybody():
            for name, fields in await store.entries([name for name, _ in page]):
                # Also of a damaged session: one must not keep all the others from
                # being found.
                for entry in store.codec.registered(fields)[0]:
                    self._names.setdefault(entry, set()).add(name)
        if intents is not None:
            async for known in intents.everybody():
                for name, _, evicted in known:
                    for entry in evicted or ():
                        self._names.setdefault(entry, set()).add(name)
        self._off = await store.switched_off()


class Follower:
    """Applies the changes of a feed to sessions and indexes in memory.

    Args:
        store: The sessions in Redis.
        local: The sessions in memory.
        reads: Whether the server is believed.
        rebuild: From the source of record, if there is one.

    Attributes:
        replica: The indexes in memory.
        wanted: Set while somebody reads.
    """

    def __init__(
        self,
        store: SessionStore,
        local: LocalCache[Any],
        reads: ReadLease,
        rebuild: Rebuild | None,
    ) -> None:
        self.replica = IndexReplica()
        self.wanted = asyncio.Event()
        self._store = store
        self._local = local
        self._clock = store.clock
        self._rebuild = rebuild
        self._log = LogFeed(store.client, store.log, store.clock, reads)
        self._asked = 0

    @property
    def foreign(self) -> int:
        """Entries of the log that no session wrote."""
        return self._log.foreign

    async def keep_following(self) -> None:
        """Follow the log for ever; it begins with the first `want`."""
        self._local.following = True
        await self.follow(self._log)

    def stop(self) -> None:
        """Forget everything, after the end of `keep_following`."""
        self.wanted.clear()
        self._local.following = False
        self._local.trusted_until = 0.0
        self._local.clear()
        self.replica.clear()

    def want(self) -> None:
        """Count a read or a lookup that memory is to answer, now or the next time."""
        self._asked += 1
        self.wanted.set()
        if self._rebuild is not None:
            self._rebuild.use()

    def lookup(self, entry: IndexEntry) -> list[str] | None:
        """Return names from memory; None: ask the server."""
        self.want()
        if not self.replica.complete:
            return None
        if self._clock.boottime() >= self._local.trusted_until:
            return None
        return self.replica.names(entry)

    async def follow(self, feed: Feed) -> None:
        """Apply changes, and believe memory for a while after each word.

        It begins with the first read, and pauses when nobody reads: memory is then
        believed no longer, and after the pause once it has caught up.
        """
        await self.wanted.wait()
        uses, used = 0, self._clock.boottime()
        async for item in feed.follow():
            match item:
                case Reset():
                    # 1. Changes may be missing. The end of trust comes first: building
                    #    the indexes takes seconds, and readers do not wait.
                    self._local.trusted_until = 0.0
                    self._local.clear()
                    await self._build()
                case Changes():
                    # 2. The changes since, also those that the build may have read
                    #    already: the second time they change nothing.
                    for change in item.changes:
                        for _, user_id in self._store.users([change.name]):
                            self._local.announced(user_id, change.version)
                            self.replica.apply(change)
                    # 3. Nothing is missing up to `item.at`, a time before the question
                    #    to the server: a process that was stopped between that and
                    #    here must not believe an old answer.
                    if not item.more:
                        self.replica.complete = True
                        self._local.trusted_until = item.at + LEASE
            # 4. A program that reads nothing costs the server nothing. In the pause the
            #    trust of step 3 lapses.
            now = self._clock.boottime()
            if uses != (uses := self._asked + self._local.hits):
                used = now
            elif now - used >= IDLE:
                self.wanted.clear()
                await self.wanted.wait()

    async def _build(self) -> None:
        while True:
            try:
                intents = None
                if self._rebuild is not None:
                    await self._rebuild.catch_up()
                    intents = self._rebuild.intents
                await self.replica.build(self._store, intents)
            except OddswireError:
                await self._clock.sleep(_PAUSE)
            else:
                return
