"""`Upkeep`: what is done with sessions as a whole, by hand and by itself."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._tasks import spawn
from oddswire._text import text
from oddswire.codec import AesGcm
from oddswire.erasure import Erased
from oddswire.errors import (
    CodecError,
    NoPermission,
    OddswireError,
    SessionConflict,
    SessionDamaged,
    SessionError,
    SessionGone,
    SourceError,
)
from oddswire.sessions._header import Header
from oddswire.sessions._mirror import Mirror
from oddswire.sessions._store import TRIES, named_otherwise
from oddswire.sessions.feed import Heard, LogFeed, Missed
from oddswire.sessions.record import Record
from oddswire.sessions.source import SealedSource
from oddswire.sessions.statistics import SessionStatistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from oddswire.client import ReadLease
    from oddswire.clock import Clock
    from oddswire.sessions._form import Form
    from oddswire.sessions._near import Near
    from oddswire.sessions._rebuilding import Rebuilding
    from oddswire.sessions._scripts import Tag, Terms
    from oddswire.sessions._store import Store
    from oddswire.sessions.feed import Feed

T = TypeVar("T", bound=Record)

_SWEEP = 200
_COUNT = re.compile(rb"-?[0-9]{1,19}")
_HEARD = 0.03
LEASE = 2.0
"""Seconds that memory is believed after the last word of changes."""
IDLE = 5.0
"""Seconds without a read or a lookup after which changes are not followed any more."""


class Upkeep(Generic[T]):
    """The sweeper, the follower of changes, and what looks at all sessions.

    Args:
        rewrite: Stores a session again, as it is.
        store: Of them.
        form: Of them.
        near: Of them.
        reads: Whether the server is believed.
        clock: Of this process.
        rebuilding: From the source of record, if there is one.

    Attributes:
        failures: Sweeps that failed.
        mirror: The indexes in memory.
    """

    def __init__(
        self,
        rewrite: Callable[[int], Awaitable[object]],
        store: Store,
        form: Form[T],
        near: Near[T],
        reads: ReadLease,
        clock: Clock,
        rebuilding: Rebuilding[T] | None = None,
    ) -> None:
        self.failures = 0
        self.mirror = Mirror()
        self._rewritten = rewrite
        self._store = store
        self._form = form
        self._near = near
        self._reads = reads
        self._rebuilding = rebuilding
        self._tasks: list[asyncio.Task[None]] = []
        self._clock = clock
        self._feed: LogFeed | None = None
        self._asked = 0
        self._wanted = asyncio.Event()

    # --- by itself

    async def start(self, cleanup: float) -> None:
        """Start the tasks; raises where the sessions are named under another key."""
        try:
            naming = await self._store.client.execute_command(
                "HGET", self._store.stats, "names"
            )
        except NoPermission:
            # Who may not read this may not read a session either, and is told by each
            # call; a process that uses none needs no rights to them.
            naming = None
        if naming is not None and text(naming) != self._store.naming:
            raise named_otherwise()
        if self._rebuilding is not None:
            await self._rebuilding.start()
        self._near.following = True
        feed = self._feed = LogFeed(
            self._store.client, self._store.log, self._clock, self._reads
        )
        self._tasks = [
            spawn(self._keep_sweeping(cleanup), name="sessions: sweeper"),
            spawn(self.follow(feed), name="sessions: follower"),
        ]

    async def stop(self) -> None:
        """End the tasks and wait for them."""
        if self._rebuilding is not None:
            await self._rebuilding.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._wanted.clear()
        self._near.following = False
        self._near.trusted_until = 0.0
        self._near.clear()
        self.mirror.clear()

    async def _keep_sweeping(self, cleanup: float) -> None:
        while True:
            await self._clock.sleep(cleanup)
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - the next round is the repair
                self.failures += 1

    def want(self) -> None:
        """Note a read or a lookup that memory is to answer, now or the next time."""
        self._asked += 1
        self._wanted.set()
        if self._rebuilding is not None:
            self._rebuilding.use()

    async def follow(self, feed: Feed) -> None:
        """Apply changes to what is in memory, and believe that for a while.

        It begins with the first read, and pauses when nobody reads: what was kept is
        then believed no longer, and after the pause again once it has caught up.
        """
        await self._wanted.wait()
        uses, used = 0, self._clock.boottime()
        async for item in feed.follow():
            match item:
                case Missed():
                    self._near.trusted_until = 0.0
                    self._near.clear()
                    await self._rebuild()
                case Heard():
                    for change in item.changes:
                        for _, user_id in self._store.users([change.name]):
                            self._near.announced(user_id, change.version)
                            self.mirror.apply(change)
                    if not item.more:
                        self.mirror.whole = True
                        # From before it was asked for: a process that was stopped in
                        # between must not believe an old answer.
                        self._near.trusted_until = item.at + LEASE
            now = self._clock.boottime()
            if uses != (uses := self._asked + self._near.hits):
                used = now
            elif now - used >= IDLE:
                self._wanted.clear()
                await self._wanted.wait()

    async def _rebuild(self) -> None:
        while True:
            try:
                ledger = None
                if self._rebuilding is not None:
                    await self._rebuilding.catch_up()
                    ledger = self._rebuilding.backing.ledger
                await self.mirror.build(self._store, self._form, ledger)
            except OddswireError:
                await self._clock.sleep(0.2)
            else:
                return

    def mirrored(self, tag: Tag) -> list[str] | None:
        """Return names from memory, or None when it cannot be believed now."""
        self.want()
        if not self.mirror.whole:
            return None
        if self._clock.boottime() >= self._near.trusted_until:
            return None
        return self.mirror.names(tag)

    # --- by hand

    async def sweep(self) -> int:
        """Remove what has ended; any number may run at once, or be killed."""
        removed, more = 0, True
        while more:
            found, more = await self._store.ended(_SWEEP)
            if self._rebuilding is None:
                if found:
                    removed += await self._store.reap(name for name, _ in found)
                continue
            # At the source too, so one after the other.
            for _, user_id in found:
                removed += await self._rebuilding.backing.end(user_id)
        return removed

    async def stats(self, terms: Terms, windows: Sequence[float]) -> SessionStatistics:
        """Count."""
        # What cannot be removed at the source now is removed later, and counted here.
        with suppress(SourceError):
            await self.sweep()
        milliseconds = [round(each * 1e3) for each in windows]
        reply = await self._store.count(terms.ttl, milliseconds)
        now, total, off, flat, conversations, within = reply
        names = [text(name) for name in flat[::2]]
        counters = dict(zip(names, map(_whole, flat[1::2]), strict=True))
        age = now - counters.get("created", 0) / total if total else 0.0
        return SessionStatistics(
            total=total,
            active=total - off,
            inactive=off,
            conversations=conversations,
            having={
                name: counters.get(f"with:{name}", 0)
                for name in self._form.layout.collections
            },
            mean_age=age / 1e3,
            active_within=dict(zip(windows, within, strict=True)),
            created=counters.get("creations", 0),
            near_hits=self._near.hits,
            mirror_rebuilt=self.mirror.rebuilt,
            upkeep_failures=self.failures,
            foreign=self._store.foreign
            + (0 if self._feed is None else self._feed.foreign),
        )

    async def delete(self, user_id: int, also: Any = None) -> bool:
        """Delete a session whatever is stored of it."""
        try:
            if self._rebuilding is not None:
                return await self._rebuilding.backing.delete(user_id, also)
            if also is not None:
                raise SessionError("also= is stored by the source, and there is none")
            for _ in range(TRIES):
                main = await self._store.fields(user_id)
                if not main:
                    return False
                header, (tags, held) = main.get(b"h", b""), self._form.place(main)
                if await self._store.delete(user_id, header, tags, held):
                    return True
        finally:
            self._near.drop(user_id)
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def erase(self, user_id: int, *, search: bool = False) -> Erased:
        """Delete a session, and what speaks of it anywhere."""
        store, form = self._store, self._form
        main = await store.fields(user_id)
        tags = form.place(main)[0]
        backing = None if self._rebuilding is None else self._rebuilding.backing
        if not main and backing is not None:
            tags = await backing.ledger.away(user_id)
        # Her fields tell where she is, unless they are damaged or were taken away once.
        known = bool(main) or await store.registered(user_id)
        search |= (known and not form.tells_all(main)) or await store.unlisted()
        removed = len(main)
        deleted = await self.delete(user_id)
        if known and not main:
            # Somebody took her fields away: what else there is of her goes.
            deleted = await store.delete(user_id, b"", (), ())
        if deleted:
            # A process that has not read of the deletion when the log is emptied builds
            # all its indexes again, which takes seconds; reading it takes milliseconds.
            await self._clock.sleep(_HEARD)
        removed += await store.purge(user_id)
        left = await store.traces(user_id, tags)
        if search:
            left += [key for key in await store.search(user_id) if key not in left]
        if backing is not None and await backing.load(user_id) is not None:
            left.append("the source")
        return Erased("sessions", removed, tuple(left))

    async def migrate(self, old: int, new: int) -> bool:
        """Move a session to another user id."""
        if self._rebuilding is not None:
            try:
                return await self._rebuilding.backing.move(old, new)
            finally:
                self._near.drop(old)
                self._near.drop(new)
        for _ in range(TRIES):
            stored = await self._store.get(old)
            if stored is None:
                return False
            before = self._form.snapshot(old, stored)
            value = self._form.value(old, before)
            generation = secrets.token_hex(8)
            content = self._form.content(None, value)
            change = self._form.change(new, None, content, generation)
            answer = await self._store.move(
                old,
                new,
                read=before.header.version,
                schema=self._form.layout.type.schema,
                generation=generation,
                tags=sorted(before.tags | content.tags),
                main=change.main,
                short=change.short,
                seal=self._form.seal_moved(new, before, change, generation),
            )
            self._near.drop(old)
            self._near.drop(new)
            match answer.kind:
                case "saved":
                    return True
                case "gone":
                    return False
                case "taken":
                    raise SessionConflict(f"user {new} has a session already")
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def reencrypt(self) -> int:
        """Rewrite every session in which something is sealed under another key."""
        rewritten, damaged = 0, []
        async for page in self._store.everybody():
            for _, user_id in page:
                try:
                    rewritten += await self._rewrite(user_id)
                except SessionDamaged as error:
                    damaged.append(error)
        source = self._sealed_source()
        if source is not None:
            await source.reseal()
        if damaged:
            raise SessionDamaged(
                f"{rewritten} sessions were rewritten, and {len(damaged)} sessions do "
                f"not open; the first: {damaged[0]}",
                reason=damaged[0].reason,
            )
        return rewritten

    async def _rewrite(self, user_id: int) -> bool:
        stored = await self._store.get(user_id)
        if stored is None:
            return False
        found = self._form.snapshot(user_id, stored)
        old = found.header.schema < self._form.layout.type.schema
        if not found.stale and not old:
            return False
        # A copy in memory does not know what it is sealed under.
        self._near.drop(user_id)
        try:
            await self._rewritten(user_id)
        except SessionGone:
            return False
        return True

    async def retire(self, number: int) -> None:
        """Drop a key that nothing is sealed under."""
        sealer = self._form.sealer
        if not isinstance(sealer, AesGcm):
            raise SessionError("only the keys of a Keyring can be retired here")
        keyring = sealer.keyring.without(number)
        used = 0
        async for page in self._store.everybody():
            for _, user_id in page:
                used += await self._uses(user_id, number)
        if used:
            raise SessionError(
                f"{used} sessions are sealed under key {number}: run reencrypt first"
            )
        source = self._sealed_source()
        if source is not None:
            await source.retire(number)
        sealer.use(keyring)

    def _sealed_source(self) -> SealedSource | None:
        source = self._rebuilding and self._rebuilding.backing.source
        return source if isinstance(source, SealedSource) else None

    async def _uses(self, user_id: int, number: int) -> bool:
        stored = await self._store.get(user_id)
        if stored is None:
            return False
        blobs = [data for name, data in stored.main.items() if name not in (b"h", b"i")]
        blobs += (stored.short or {}).values()
        with suppress(SessionDamaged):
            blobs.append(Header.parse(stored.main.get(b"h", b"")).seal)
        return any(self._number(data) == number for data in blobs)

    def _number(self, data: bytes) -> int | None:
        assert self._form.sealer is not None  # noqa: S101 - retire has looked
        try:
            return self._form.sealer.key_number(data)
        except CodecError:
            return None


def _whole(value: bytes) -> int:
    """Return a counter; 0 for what is none."""
    return int(value) if _COUNT.fullmatch(value) else 0
