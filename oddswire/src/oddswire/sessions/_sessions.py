"""`Sessions`: what is known of each user, changed without losing anything."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from oddswire.errors import (
    SessionConflict,
    SessionError,
    SessionGone,
)
from oddswire.sessions._engine import remember
from oddswire.sessions._members import Members
from oddswire.sessions._store import TRIES
from oddswire.sessions.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from oddswire.erasure import Erased
    from oddswire.sessions._scripts import Tag
    from oddswire.sessions.source import Rebuilt
    from oddswire.sessions.statistics import SessionStatistics

T = TypeVar("T", bound=Record)

_PAGE = 2000


class Sessions(Members[T]):
    """Sessions of one type, in Redis.

    It works as it is; inside ``async with`` it also removes what has ended and follows
    the changes of other processes, so that reads and lookups are answered from memory.

    Args:
        client: Where.
        type: A subclass of `Record`.
        prefix: What the keys begin with; None: as its settings say.
        keyring: Seals everything with AES-256-GCM and hides users and values in keys.
        sealer: Another way to seal.
        names: Another way to name; with a sealer alone, names are plain.
        compressor: Default: zstd.
        compress_above: Fields of fewer bytes are not compressed.
        max_size: Bytes that a section or a member may have.
        ttl: Seconds without activity after which a conversation ends.
        absolute: Seconds after which it ends whatever happens; None: no such limit.
        cap: Most sessions; one who has a session is never refused. With a source, the
            least active leaves Redis, and nobody is refused.
        cleanup: Seconds between removals of what has ended.
        touch_interval: `touch` writes at most once in so many seconds.
        near: Most sessions to keep in memory, inside ``async with``.
        clock: Of this process; expiry is by the server's.
        source: Of record: what is asked for is written there before a change is
            acknowledged, and read from there where Redis has not got it.

    Raises:
        TypeError: The type is no `Record`, or a field of it has no default or a mark
            that does not fit.
    """

    async def __aenter__(self) -> Self:
        await self._upkeep.start(self._cleanup)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._upkeep.stop()

    # --- one session

    async def get(self, user_id: int, *, fresh: bool = False) -> T | None:
        """Return a user's session, or None when she has none.

        Reading is no activity. What is returned is the caller's own: changing it
        changes nothing else. From memory it may be as old as the announcements of
        changes take, at most two seconds; `update` never loses by that.

        Args:
            user_id: Whose.
            fresh: Ask the server in any case.

        Raises:
            SessionDamaged: There is one, and it does not open.
            OddswireError: It could not be read.
        """
        if not fresh:
            near = self._near.get(user_id)
            if near is not None:
                return near
            self._upkeep.want()
        loaded = await self._reads.read(lambda: self._load(user_id))
        return None if loaded is None else loaded[1]

    async def update(
        self,
        user_id: int,
        fn: Callable[[T], object],
        *,
        create: bool = False,
        active: bool = True,
        also: Any = None,
    ) -> T:
        """Change a session, and return it as it is stored.

        Tasks of this process take turns, and those that would wait are saved together:
        each `fn` changes what the one before it left, and sees nothing of one that
        failed. Another process that was faster makes `fn` run again on what it wrote. A
        change that was reported is in every later state. Cancelled or timed out, it may
        be stored, whole, now or later; not if another process's change came in between.

        Args:
            user_id: Whose.
            fn: Changes the session it is given. It may run several times.
            create: Begin a session where there is none.
            active: Whether this is the user's own activity.
            also: What the source stores in the transaction of this change, in the form
                that it takes: both are stored, or neither. Such a change takes a turn
                of its own, and reaches the source also where `fn` changes nothing.

        Returns:
            What `fn` left, of the caller's own; changes that were saved with it and
            came later are not in it.

        Raises:
            SessionGone: There is no session.
            SessionFull: It would be one too many, or have too many members.
            SessionConflict: Others were faster 16 times.
            SessionDamaged: What is stored does not open; it was left as it is.
            SourceError: The source failed: nothing is changed, or, with the outcome
                unknown, the change is stored or will never be.
            SourceDeclined: `also` declined, so nothing is changed.
            CodecError: What `fn` left is not of the type, or too large.
        """
        return await self._changed(user_id, fn, create=create, active=active, also=also)

    @asynccontextmanager
    async def exclusive(
        self, user_id: int, *, create: bool = False, active: bool = True
    ) -> AsyncIterator[T]:
        """Hold a session for a block; changes are stored when the block ends well.

        Tasks of this process take turns, first come first served. Another process is
        not kept out: whoever stores second gets `SessionConflict`, and nothing of it is
        stored. An exception or a cancellation in the block stores nothing.

        Raises:
            SessionConflict: On leaving: another process changed it meanwhile.
            SessionGone: There is no session, or it ended or was deleted meanwhile.
            SessionFull: As for `update`.
            SessionDamaged: As for `update`.
            CodecError: As for `update`.
        """
        # Changes that come later do not join those that wait before this.
        self._groups.close(user_id)
        async with self._turns.of(user_id):
            snapshot = await self._snapshot(user_id)
            value = self._begin(user_id, snapshot, create=create)
            yield value
            content = self._form.content(snapshot, value)
            save = partial(self._save, user_id, snapshot, content, value, active=active)
            while (answer := await save()).kind == "full":
                await self._after(user_id, answer, create=create)
            if answer.kind in ("conflict", "again", "busy"):
                raise SessionConflict("another process changed the session meanwhile")
            if answer.kind != "saved":
                await self._after(user_id, answer, create=False)

    async def touch(self, user_id: int) -> bool:
        """Note that the user did something: her conversation lives on.

        At most one in `touch_interval` is written.

        Returns:
            False when she has no session.
        """
        now = self._clock.boottime()
        last = self._touched.get(user_id)
        if last is not None and now - last < self._touch_interval:
            return True
        there = await self._touch(user_id)
        if not there and self._backing and await self._stored(user_id):
            there = await self._touch(user_id)
        if there:
            remember(self._touched, user_id, now)
        # What is in memory believes that the conversation ends sooner: let it go.
        self._near.drop(user_id)
        return there

    async def _touch(self, user_id: int) -> bool:
        if self._form.sealer is None:
            answer = await self._store.touch(user_id, self._terms)
            return answer.kind == "saved"
        for _ in range(TRIES):
            stored = await self._store.get(user_id)
            if stored is None:
                return False
            snapshot = self._opened(user_id, stored)
            seal = self._form.seal_touched(user_id, snapshot, self._terms)
            answer = await self._store.touch(user_id, self._terms, seal)
            if answer.kind != "again":
                return answer.kind == "saved"
        raise SessionConflict(f"others changed the session first, {TRIES} times")

    async def activate(self, user_id: int) -> bool:
        """Have lookups find the user again; False when there is no session."""
        return await self._switch(user_id, on=True)

    async def deactivate(self, user_id: int) -> bool:
        """Have no lookup find the user; everything is kept. False for no session."""
        return await self._switch(user_id, on=False)

    async def _switch(self, user_id: int, *, on: bool) -> bool:
        try:
            if not self._whole:
                return (await self._store.switch(user_id, on=on)).kind == "saved"
            for _ in range(TRIES):
                snapshot = await self._snapshot(user_id)
                if snapshot is None or snapshot.header.on == on:
                    return snapshot is not None
                if self._backing is not None:
                    if await self._backing.switch(user_id, snapshot, on=on):
                        return True
                    continue
                seal = self._form.seal_switched(user_id, snapshot, on=on)
                answer = await self._store.switch(user_id, on=on, seal=seal)
                if answer.kind != "again":
                    return answer.kind == "saved"
        finally:
            self._near.drop(user_id)
        raise SessionConflict(f"others changed the session first, {TRIES} times")

    async def delete(self, user_id: int, *, also: Any = None) -> bool:
        """Delete a session, also one that does not open; False when there was none.

        A change that began before cannot bring it back.

        Args:
            user_id: Whose.
            also: As for `update`; stored also where there was no session.

        Raises:
            SessionConflict: It was changed each of 16 times in between.
            SourceError: As for `update`.
            SourceDeclined: As for `update`.
        """
        return await self._upkeep.delete(user_id, also)

    async def erase(self, user_id: int, *, search: bool = False) -> Erased:
        """Delete a session and every trace of the user, and look again.

        The second look is at every place where sessions of this user can be: it costs
        the same among ten users and among a million. Where her list of index entries is
        damaged or was taken away, every index is searched.

        Args:
            user_id: Whose.
            search: Search every index in any case, also for what no session wrote, or
                one did under an index that this type names otherwise. It reads the name
                of every key of the server, in pages of a millisecond.
        """
        return await self._upkeep.erase(user_id, search=search)

    async def revoke(self, user_id: int) -> bool:
        """End the conversation and the authentication; keep what was asked for."""

        def end(value: T) -> None:
            for section in ("T", "A"):
                for name in self._layout.sections[section]:
                    setattr(value, name, getattr(self._layout.blank(), name))

        try:
            await self.update(user_id, end, active=False)
        except SessionGone:
            return False
        return True

    async def migrate(self, old: int, new: int) -> bool:
        """Give a session another id, as when a Telegram group becomes a supergroup.

        Returns:
            False when `old` has no session.

        Raises:
            SessionConflict: `new` has one already, or the old one kept changing.
        """
        return await self._upkeep.migrate(old, new)

    # --- all of them

    async def users_for(
        self, index: str, value: str, *, fresh: bool = False
    ) -> frozenset[int]:
        """Return the active users that have a value in an index.

        From the server, up to 2,000 users are exactly those of one instant. Above that
        they are read in pages: whoever had the value all the while is in. From memory
        the answer is as old as announcements take, at most two seconds.

        Args:
            index: A field that is `Indexed`, or the index of a `Collection`.
            value: Exactly as it was stored.
            fresh: Ask the server in any case.

        Raises:
            SessionError: There is no such index.
        """
        if index not in self._layout.index_names:
            known = ", ".join(sorted(self._layout.index_names)) or "none"
            raise SessionError(f"no index {index!r}; declared: {known}")
        tag = (index, self._store.names.of_value(index, value))
        names: Sequence[str] | None = None
        if not fresh:
            names = self._upkeep.mirrored(tag)
        if names is None:
            names = await self._reads.read(lambda: self._looked_up(tag))
        user = self._store.names.user
        try:
            return frozenset([user(name) for name in names])
        except ValueError:
            return frozenset([user_id for _, user_id in self._store.users(names)])

    async def _looked_up(self, tag: Tag) -> list[str]:
        found = await self._found(tag)
        return await self._store.pages(tag) if isinstance(found, int) else found

    async def _found(self, tag: Tag) -> list[str] | int:
        if self._rebuilding is None:
            return await self._store.lookup(tag, _PAGE)
        while True:
            # Who is in no index yet must not look like one who asked for nothing.
            await self._rebuilding.wake()
            await self._rebuilding.ensure()
            found = await self._store.lookup(tag, _PAGE, sourced=True)
            if found != -1:
                return found
            self._rebuilding.lost()

    async def rebuild(
        self, on_progress: Callable[[Rebuilt], object] | None = None
    ) -> Rebuilt:
        """Have Redis be as the source of record is, all of it.

        It is done by itself when sessions are entered, and when Redis lost its data.
        What is right already costs one look for 200 users. Interrupted, it goes on
        where it was, here or in another process; users are served meanwhile.

        Args:
            on_progress: Called after each page and at the end.

        Raises:
            SessionError: There is no source.
            OddswireError: Redis or the source cannot be asked.
        """
        if self._rebuilding is None:
            raise SessionError("there is no source of record: give Sessions a source")
        return await self._rebuilding.run(on_progress)

    async def stats(
        self, windows: Sequence[float] = (3600.0, 86_400.0)
    ) -> SessionStatistics:
        """Count sessions; no session is touched or extended by it.

        What has ended is removed first, so that it is not counted.

        Args:
            windows: Seconds; how many users were active within each.
        """
        return await self._upkeep.stats(self._terms, windows)

    async def sweep(self) -> int:
        """Remove every session that has ended; return how many."""
        return await self._upkeep.sweep()

    async def reencrypt(self) -> int:
        """Seal anew what is not sealed under the primary key; return how many sessions.

        Sessions of an older schema are brought up to date too, and the records of a
        `SealedSource` are sealed anew. Interrupted, it can be run again.
        """
        return await self._upkeep.reencrypt()

    async def retire(self, number: int) -> None:
        """Drop a key from the keyring, once nothing is sealed under it.

        A `SealedSource` is asked too, and drops its key.

        Raises:
            SessionError: Sessions, or records of the source, are still sealed under it;
                run `reencrypt`.
            SettingsError: It is the primary key, or names come from it.
        """
        await self._upkeep.retire(number)
