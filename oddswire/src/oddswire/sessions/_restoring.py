"""`Restoring`: has Redis be as the source of record is, whatever happened to either."""

from __future__ import annotations

import random
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from oddswire.connection.deadline import Deadline
from oddswire.errors import (
    CodecError,
    OddswireError,
    SessionConflict,
    SessionDamaged,
    SourceError,
)
from oddswire.events import Degradation
from oddswire.sessions._form import Snapshot
from oddswire.sessions._header import HEADER, Header
from oddswire.sessions._layout import DURABLE
from oddswire.sessions._ledger import LEASE, Mark, Place
from oddswire.sessions._packing import decoded, encoded
from oddswire.sessions._seal import NOTHING
from oddswire.sessions._store import TRIES, named_otherwise
from oddswire.sessions.record import Record
from oddswire.sessions.source import Kept

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from oddswire.clock import Clock
    from oddswire.sessions._form import Content, Form
    from oddswire.sessions._ledger import Ledger
    from oddswire.sessions._store import Store
    from oddswire.sessions.source import Source

T = TypeVar("T", bound=Record)
R = TypeVar("R")

DEADLINE = 5.0
"""Seconds that a call of the source may take."""
_PAUSE = 0.004
_CANDIDATES = 16


class _Content(msgspec.Struct, omit_defaults=True):
    """What `Kept.data` holds: durable fields, and members as pairs."""

    fields: msgspec.Raw = msgspec.Raw(b"\x80")
    members: dict[str, list[msgspec.Raw]] = {}


_CONTENT = msgspec.msgpack.Decoder(_Content)
_PAIR: msgspec.msgpack.Decoder[tuple[str, Any]] = msgspec.msgpack.Decoder(
    tuple[str, Any]
)
_EMPTY = encoded(_Content())


class Restoring(Generic[T]):
    """Reads records, and restores sessions from them.

    Args:
        source: Of record.
        store: Of the sessions.
        form: Of the sessions.
        ledger: Of the sessions.
        clock: Of this process.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        form: Form[T],
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self.source = source
        self.ledger = ledger
        self._store = store
        self._form = form
        self._clock = clock
        self._degraded = Degradation(
            store.client.events, "source", "away", clock.boottime
        )

    # --- the source

    async def ask(self, call: Awaitable[R]) -> R:
        """Await a call of the source; what it raises is a `SourceError`."""
        try:
            async with Deadline(DEADLINE):
                answer = await call
        except SourceError as error:
            self._degraded.begin(_failure(error))
            raise
        except OddswireError:
            raise
        except TimeoutError:
            why = f"the source did not answer in {DEADLINE} s"
            self._degraded.begin(why)
            raise SourceError(why) from None
        except Exception as error:
            why = _failure(error)
            self._degraded.begin(why)
            raise SourceError(why) from error
        self._degraded.end()
        return answer

    async def load(self, user_id: int) -> Kept | None:
        """Return a user's record."""
        found = await self.ask(self.source.load([user_id]))
        return found[0] if found else None

    def _kept(self, user_id: int, version: int, state: Content, header: Header) -> Kept:
        members: dict[str, list[msgspec.Raw]] = {}
        for field in sorted(state.members):
            body = msgspec.Raw(state.members[field])
            members.setdefault(field.partition(":")[0], []).append(body)
        content = _Content(members=members)
        if DURABLE in state.plain:
            content.fields = msgspec.Raw(state.plain[DURABLE])
        return Kept(
            user_id=user_id,
            version=version,
            schema=header.schema,
            created=header.created,
            active=header.active,
            on=header.on,
            data=encoded(content),
        )

    def _snapshot(self, kept: Kept) -> Snapshot:
        """Return a record as if it had been read here, with everything to be sealed."""
        form = self._form
        if kept.schema > form.layout.type.schema:
            raise SessionDamaged(
                f"kept with schema {kept.schema}, this program knows "
                f"{form.layout.type.schema}: finish the deployment",
                reason="newer",
            )
        content: _Content = decoded(_CONTENT.decode, kept.data, SessionDamaged)
        members = {}
        for collection, bodies in content.members.items():
            for body in bodies:
                key, _ = decoded(_PAIR.decode, bytes(body), SessionDamaged)
                if collection in form.layout.collections:
                    field = form.member_field(collection, key)
                else:
                    # Of a newer program of the same schema: kept, and not looked at.
                    field = f"{collection}:{form.names.of_value(collection, key)}"
                members[field] = bytes(body)
        fields = bytes(content.fields)
        plain = {} if fields == b"\x80" else {DURABLE: fields}
        header = Header(
            raw=b"", version=0, created=kept.created, active=kept.active, expiry=0,
            deadline=0, schema=kept.schema, on=kept.on, generation="",
        )  # fmt: skip
        stale = frozenset([*plain, *members])
        return Snapshot(
            header=header, live=False, plain=plain, members=members, stale=stale
        )

    @staticmethod
    def is_empty(kept: Kept) -> bool:
        """Whether she asked for nothing."""
        return kept.on and kept.data == _EMPTY

    # --- making Redis as the source is

    async def reconcile(self, user_id: int, *, make_room: bool = True) -> None:
        """Have Redis be as the source is; a late write of another process is refused.

        Raises:
            SourceError: The source cannot be asked; Redis is left as it is.
            SessionDamaged: The record cannot be read.
            SessionConflict: Others marked it all the while.
        """
        mark = await self._mark_any(user_id)
        try:
            await self._finish(user_id, mark, make_room=make_room)
        except (SourceError, SessionDamaged, CodecError):
            if mark.kind == "marked":
                with suppress(OddswireError):
                    await self.ledger.unmark(user_id, mark)
            raise

    async def check(self, user_id: int) -> None:
        """Reconcile one whose record is not of the version that Redis knows of."""
        kept = await self.load(user_id)
        noted = await self.ledger.noted([user_id])
        if (kept.version if kept else None) != noted.get(user_id):
            await self.reconcile(user_id)

    async def _mark_any(self, user_id: int) -> Mark:
        for _ in range(TRIES):
            mark = await self.ledger.mark(user_id, None)
            match mark.kind:
                case "marked" | "taken":
                    return mark
                case "names":
                    raise named_otherwise()
            await self.settled(user_id)
        raise SessionConflict("other processes change the session all the while")

    async def settled(self, user_id: int) -> None:
        """Wait until another process's mark is gone, or old enough to be taken."""
        until = self._clock.boottime() + LEASE
        first = await self.ledger.marked(user_id)
        marked = first
        # Another mark than the first one: it is somebody else's turn to wait.
        while marked is not None and marked == first:
            if self._clock.boottime() >= until:
                return
            await self._clock.sleep(random.uniform(_PAUSE / 4, _PAUSE))  # noqa: S311
            marked = await self.ledger.marked(user_id)

    async def _finish(
        self,
        user_id: int,
        mark: Mark,
        kept: Kept | None = None,
        *,
        make_room: bool = True,
    ) -> None:
        """Make Redis as the source is, under a mark; `kept`: written under it."""
        while kept is None:
            there = await self.load(user_id)
            if there is None:
                break
            version = max(mark.version, there.version + 1)
            claimed = msgspec.structs.replace(there, version=version)
            # What was prepared on the version that was there is refused from now on.
            if await self.ask(self.source.save(claimed, there.version)):
                kept = claimed
        if not await self._restored(user_id, mark, kept, make_room=make_room):
            # Somebody took the mark, and may not have come to the end.
            await self.reconcile(user_id, make_room=make_room)

    async def _restored(
        self, user_id: int, mark: Mark, kept: Kept | None, *, make_room: bool = True
    ) -> bool:
        """Make Redis so; False when the mark is not the caller's any more."""
        away = False
        while True:
            place = await self._place(user_id)
            answer = await self._restore(user_id, mark, place, kept, away=away)
            match answer:
                case "full":
                    away = not (make_room and await self._make_room())
                case "names":
                    raise named_otherwise()
                case "saved" | "lost":
                    return answer == "saved"

    async def _restore(
        self,
        user_id: int,
        mark: Mark,
        place: Place,
        kept: Kept | None,
        *,
        away: bool,
    ) -> str:
        ledger, form = self.ledger, self._form
        if kept is None or (self.is_empty(kept) and not place.header):
            return await ledger.restore(user_id, mark, place, mode="gone")
        snapshot = self._snapshot(kept)
        header = _header_of(place)
        whole = "whole"
        if form.sealer and place.short is None:
            # Somebody changed it: nothing of it is believed, its times neither.
            header, whole = None, "anew"
        generation = secrets.token_hex(8) if header is None else header.generation
        value = form.value(user_id, snapshot)
        content = form.content(snapshot, value)
        change = form.change(user_id, snapshot, content, generation)
        held = {field.partition(":")[0] for field in content.members}
        begins = msgspec.structs.replace(snapshot.header, generation=generation)
        seal = form.seal_restored(
            user_id, header, change, begins=begins, short=place.short or NOTHING
        )
        return await ledger.restore(
            user_id,
            mark,
            place,
            mode="away" if away else whole,
            kept=kept,
            schema=form.layout.type.schema,
            generation=generation,
            tags=content.tags,
            held=() if away else sorted(held & form.layout.collections.keys()),
            fields={} if away else change.main,
            seal=None if away else seal,
        )

    async def _place(self, user_id: int) -> Place:
        main = await self._store.fields(user_id)
        if not main:
            return Place(b"", await self.ledger.away(user_id), [])
        short = self._form.conversation_of(user_id, main) if self._form.sealer else None
        return Place(main.get(HEADER.encode(), b""), *self._form.place(main), short)

    async def _make_room(self) -> bool:
        """Have the least active session leave Redis; False when none can."""
        for user_id in await self.ledger.least_active(_CANDIDATES):
            place = await self._place(user_id)
            if place.header and await self.ledger.evict(user_id, place):
                return True
        return False


def _failure(error: Exception) -> str:
    # Without its text, which may hold the values of a statement: it reaches logs.
    return f"the source failed: {type(error.__cause__ or error).__name__}"


def _header_of(place: Place) -> Header | None:
    try:
        return Header.parse(place.header)
    except SessionDamaged:
        return None
