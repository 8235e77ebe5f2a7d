"""`Backing`: keeps Redis and the source of record the same.

A change goes: mark in Redis, write at the source over the version that Redis knows of,
write in Redis and take the mark away in one script. The write at the source is what
makes it so. Killed before it, nothing changed; killed after it, the mark is left, and
who finds it makes Redis as the source is. Whoever does that gives the record a newer
version first: a process that was paused before its write at the source is refused then.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from oddswire.errors import (
    OddswireError,
    Outcome,
    SessionConflict,
    SourceDeclined,
    SourceError,
)
from oddswire.sessions._header import Header
from oddswire.sessions._restoring import Restoring
from oddswire.sessions._scripts import Answer
from oddswire.sessions._store import TRIES, named_otherwise
from oddswire.sessions.record import Record
from oddswire.sessions.source import given

if TYPE_CHECKING:
    from oddswire.sessions._form import Change, Content, Snapshot
    from oddswire.sessions._ledger import Mark
    from oddswire.sessions._scripts import Terms
    from oddswire.sessions._seal import HeaderSeal
    from oddswire.sessions.source import Kept

T = TypeVar("T", bound=Record)


class Backing(Restoring[T]):
    """Writes through to a source, and restores from it; as `Restoring` takes."""

    async def write(
        self,
        user_id: int,
        snapshot: Snapshot | None,
        content: Content,
        change: Change,
        *,
        generation: str,
        terms: Terms,
        cap: int,
        active: bool,
        seal: HeaderSeal | None,
        also: Any = None,
    ) -> Answer:
        """Write a change through; ``again`` when it is to be made on a newer state.

        Raises:
            SourceError: The source failed; its outcome is right.
        """
        read = 0 if snapshot is None else snapshot.header.version
        mark = await self._marked(user_id, read)
        if mark is None:
            return Answer("again")
        schema = self._form.layout.type.schema
        if snapshot is None:
            now = round(self._clock.now() * 1e6)
            header = Header(b"", 0, now, now // 1000, 0, 0, schema, True, "")  # noqa: FBT003
        else:
            header = msgspec.structs.replace(snapshot.header, schema=schema)
        kept = self._kept(user_id, mark.version, content, header)
        if not await self._committed(
            user_id, mark, kept, new=snapshot is None, also=also
        ):
            return Answer("again")
        while True:
            answer = await self._store.save(
                user_id,
                change,
                read=read,
                live=snapshot is not None and snapshot.live,
                terms=terms,
                cap=cap,
                schema=schema,
                generation=generation,
                active=active,
                mark=mark.value,
                sourced=str(kept.version),
                seal=seal,
            )
            if answer.kind == "saved":
                return answer
            if answer.kind != "full" or not await self._make_room():
                break
        # It is stored at the source, and Redis lost it or had no room: from there.
        await self.reconcile(user_id)
        if change.short or change.short_gone:
            raise SourceError(
                "what was asked for is stored; the conversation is not: this process "
                "was held up, or Redis lost data, in between"
            )
        return Answer("kept")

    async def switch(self, user_id: int, snapshot: Snapshot, *, on: bool) -> bool:
        """Switch a session on or off; False: again, on a newer state."""
        mark = await self._marked(user_id, snapshot.header.version)
        if mark is None:
            return False
        header = msgspec.structs.replace(snapshot.header, on=on)
        kept = self._kept(user_id, mark.version, snapshot, header)
        if not await self._committed(user_id, mark, kept, new=False):
            return False
        await self._finish(user_id, mark, kept)
        return True

    async def _marked(self, user_id: int, read: int) -> Mark | None:
        """Mark a change of what was read; None when it is not what is there."""
        mark = await self.ledger.mark(user_id, read)
        match mark.kind:
            case "marked":
                return mark
            case "taken":
                await self._finish(user_id, mark)
            case "busy":
                await self.settled(user_id)
            case "names":
                raise named_otherwise()
        return None

    async def _committed(
        self, user_id: int, mark: Mark, kept: Kept, *, new: bool, also: Any = None
    ) -> bool:
        """Write a record; False when the source has another one, and Redis has it now.

        Cancelled or failed with an unknown outcome, the mark stays, and Redis is made
        as the source is when it is old.
        """
        expected, there = 0 if new else mark.noted, None
        try:
            if not expected:
                there = await self.load(user_id)
                if new and there is not None and self.is_empty(there):
                    # She asked for nothing the last time, and her conversation ended.
                    expected, there = there.version, None
                    version = max(kept.version, expected + 1)
                    kept = msgspec.structs.replace(kept, version=version)
            if there is None and await self.ask(
                self.source.save(kept, expected, *given(also))
            ):
                return True
        except (SourceError, SourceDeclined) as error:
            if error.outcome is not Outcome.UNKNOWN:
                with suppress(OddswireError):
                    await self.ledger.unmark(user_id, mark)
            raise
        await self._finish(user_id, mark)
        return False

    async def delete(self, user_id: int, also: Any = None) -> bool:
        """Delete a record and the session; False when there was neither."""
        there = False
        for _ in range(TRIES):
            mark = await self._mark_any(user_id)
            try:
                kept = await self.load(user_id)
                there |= kept is not None and not self.is_empty(kept)
                version = 0 if kept is None else kept.version
                done = (kept is None and also is None) or await self.ask(
                    self.source.delete(user_id, version, *given(also))
                )
            except (SourceError, SourceDeclined) as error:
                if error.outcome is not Outcome.UNKNOWN and mark.kind == "marked":
                    with suppress(OddswireError):
                        await self.ledger.unmark(user_id, mark)
                raise
            there |= bool((await self._place(user_id)).header)
            # Whoever was first, Redis is as the source is after this.
            await self._finish(user_id, mark)
            if done:
                return there
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def move(self, old: int, new: int) -> bool:
        """Give a record to another user; False when the old one has none.

        Raises:
            SessionConflict: The new one has one.
        """
        for _ in range(TRIES):
            kept = await self.load(old)
            if kept is None:
                return False
            other = await self.load(new)
            if other is not None and not self.is_empty(other):
                raise SessionConflict(f"user {new} has a session already")
            if other is not None:
                await self.ask(self.source.delete(new, other.version))
                continue
            marks = [await self._mark_any(user) for user in sorted((old, new))]
            version = max(kept.version + 1, *(mark.version for mark in marks))
            moved = msgspec.structs.replace(kept, user_id=new, version=version)
            done = await self.ask(self.source.move(old, kept.version, moved))
            for user_id, mark in zip(sorted((old, new)), marks, strict=True):
                await self._finish(user_id, mark)
            if done:
                return True
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def end(self, user_id: int) -> bool:
        """Forget one who asked for nothing and whose conversation has ended.

        Returns:
            False when she came to life meanwhile, or somebody else does it.
        """
        mark = await self.ledger.mark(user_id, None)
        if mark.kind == "taken":
            await self._finish(user_id, mark)
        if mark.kind != "marked":
            return False
        # Before the look: if she comes to life after it, this is not what is there.
        place = await self._place(user_id)
        done = False
        try:
            kept = await self.load(user_id)
            if await self._store.get(user_id) is None:
                done = kept is None or (
                    self.is_empty(kept)
                    and await self.ask(self.source.delete(user_id, kept.version))
                )
        finally:
            if not done:
                with suppress(OddswireError):
                    await self.ledger.unmark(user_id, mark)
        answer = (
            ""
            if not done
            else await self.ledger.restore(user_id, mark, place, mode="gone")
        )
        return answer == "saved"
