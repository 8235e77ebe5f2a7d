"""`Engine`: reads, compares and writes sessions; `Sessions` is what it is for."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._lines import Lines
from oddswire.client import ReadLease, keyspace
from oddswire.clock import SystemClock
from oddswire.codec import AesGcm, BlindNames, PlainNames, Zstd
from oddswire.errors import (
    SessionConflict,
    SessionDamaged,
    SessionError,
    SessionFull,
    SessionGone,
    SourceError,
)
from oddswire.sessions._backing import Backing
from oddswire.sessions._form import Content, Form, Snapshot, stamp
from oddswire.sessions._groups import Groups, Wish
from oddswire.sessions._header import Header
from oddswire.sessions._layout import Layout
from oddswire.sessions._ledger import LEASE as MARK_LEASE
from oddswire.sessions._ledger import Ledger
from oddswire.sessions._near import Near
from oddswire.sessions._rebuilding import Rebuilding
from oddswire.sessions._scripts import Answer, Stored, Terms
from oddswire.sessions._store import TRIES, Store, named_otherwise
from oddswire.sessions._upkeep import LEASE, Upkeep
from oddswire.sessions.record import Record, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.codec import Compressor, Keyring, Names, Sealer
    from oddswire.sessions.source import Source

T = TypeVar("T", bound=Record)
K = TypeVar("K")
V = TypeVar("V")

_REMEMBERED = 16_384
_PAUSE = 0.002
_NONE = "there is no session; create=True begins one"


class Engine(Generic[T]):
    """What `Sessions` works with; its arguments are described there."""

    def __init__(
        self,
        client: Client,
        type: type[T] = Session,  # type: ignore[assignment]  # noqa: A002 - as in Codec
        *,
        prefix: str | None = None,
        keyring: Keyring | None = None,
        sealer: Sealer | None = None,
        names: Names | None = None,
        compressor: Compressor = Zstd(),  # noqa: B008 - has no state
        compress_above: int = 256,
        max_size: int = 1024 * 1024,
        ttl: float = 86_400.0,
        absolute: float | None = None,
        cap: int = 10_000,
        cleanup: float = 300.0,
        touch_interval: float = 60.0,
        near: int = 10_000,
        clock: Clock | None = None,
        source: Source | None = None,
    ) -> None:
        if keyring is not None:
            sealer = AesGcm(keyring) if sealer is None else sealer
            names = BlindNames(keyring) if names is None else names
        names = PlainNames() if names is None else names
        self._clock: Clock = SystemClock() if clock is None else clock
        self._layout = Layout(type)
        space = keyspace(client, prefix)
        self._form = Form(
            self._layout,
            sealer=sealer,
            names=names,
            compressor=compressor,
            space=space.prefix,
            compress_above=compress_above,
            max_size=max_size,
        )
        self._store = Store(client, space, names, self._clock, self._form.snapshot)
        self._reads = ReadLease(
            lambda: client, self._store.beat, self._clock.boottime, length=LEASE
        )
        # A touch that was left out must not end a conversation early.
        ttl_ms = round((ttl + touch_interval) * 1e3)
        self._terms = Terms(ttl=ttl_ms, absolute=round((absolute or 0) * 1e3))
        self._cap = cap
        self._touch_interval = touch_interval
        self._touched: OrderedDict[int, float] = OrderedDict()
        self._generations: OrderedDict[int, str] = OrderedDict()
        self._turns: Lines[int] = Lines()
        self._groups = Groups(self._turns, self._commit)
        self._near = Near(self._layout.whole, near, self._clock)
        self._backing: Backing[T] | None = None
        self._rebuilding: Rebuilding[T] | None = None
        if source is not None:
            ledger = Ledger(self._store, cap)
            self._backing = Backing(
                source, self._store, self._form, ledger, self._clock
            )
            self._rebuilding = Rebuilding(self._backing, self._store, self._clock)
        self._upkeep = Upkeep(
            self._rewrite,
            self._store,
            self._form,
            self._near,
            self._reads,
            self._clock,
            self._rebuilding,
        )
        self._cleanup = cleanup

    async def _rewrite(self, user_id: int) -> None:
        """Store a session again, under the key and the schema of now."""
        for _ in range(TRIES):
            snapshot = await self._snapshot(user_id)
            value = self._begin(user_id, snapshot, create=False)
            content = self._form.content(snapshot, value)
            answer = await self._save(user_id, snapshot, content, value, active=False)
            if answer.kind == "saved":
                return
            await self._after(user_id, answer, create=False)
        raise SessionConflict(f"others changed the session {TRIES} times")

    async def _changed(
        self,
        user_id: int,
        fn: Callable[[T], object],
        *,
        create: bool,
        active: bool,
        also: Any = None,
    ) -> T:
        """Make one change: alone, or with those that would wait too."""
        wish: Wish[T] = Wish(fn, create=create, active=active, also=also)
        if also is not None:
            if self._backing is None:
                raise SessionError("also= is stored by the source, and there is none")
            # Declined, it has nothing else of its transaction stored: so it is alone,
            # behind those that wait.
            self._groups.close(user_id)
        if self._turns.free(user_id) or also is not None:
            async with self._turns.of(user_id):
                await self._commit(user_id, [wish])
        else:
            await self._groups.join(user_id, wish)
        return wish.outcome()

    async def _commit(self, user_id: int, wishes: Sequence[Wish[T]]) -> None:
        """Make changes one after another, and save them at once.

        A change that fails is not in it and knows its error; what is raised became of
        the others.
        """
        snapshot = self._near.snapshot(user_id)
        if snapshot is None:
            snapshot = await self._snapshot(user_id)
        for attempt in range(TRIES):
            if attempt:
                pause = _PAUSE * 2 ** min(attempt - 1, 5)
                await self._clock.sleep(random.uniform(0, pause))  # noqa: S311
            content = self._apply(user_id, snapshot, wishes)
            made = [wish for wish in wishes if wish.error is None]
            if content is None:
                return
            answer = await self._save(
                user_id,
                snapshot,
                content,
                made[-1].value,
                active=any(wish.active for wish in made),
                also=made[-1].also,
            )
            if answer.kind == "saved":
                # The last one's value was stamped with what is stored.
                for wish in made[:-1]:
                    _stamp_like(wish.value, made[-1].value)
                return
            create = any(wish.create for wish in made)
            try:
                snapshot = await self._after(user_id, answer, create=create)
            except SessionFull:
                # The session that these went on with was not begun.
                for wish in made:
                    if not wish.create:
                        wish.error = SessionGone(_NONE)
                raise
        raise SessionConflict(
            f"others changed the session first, {TRIES} times; try again later"
        )

    def _apply(
        self, user_id: int, snapshot: Snapshot | None, wishes: Sequence[Wish[T]]
    ) -> Content | None:
        """Return what all changes make of a session; None when each failed."""
        content: Content | None = None
        for wish in wishes:
            wish.error = None
            try:
                # On a copy of its own, so that nothing stays of one that fails.
                if content is None:
                    value = self._begin(user_id, snapshot, create=wish.create)
                else:
                    value = self._form.current(content)
                    if snapshot is None:
                        value.user_id = user_id
                    else:
                        stamp(value, user_id, snapshot.header)
                wish.run(value)
                content = self._form.content(snapshot, value)
            except BaseException as error:  # noqa: BLE001 - its caller raises it
                wish.error = error
        return content

    def _begin(self, user_id: int, snapshot: Snapshot | None, *, create: bool) -> T:
        if snapshot is not None:
            return self._form.value(user_id, snapshot)
        if not create:
            raise SessionGone(_NONE)
        value = self._layout.blank()
        value.user_id = user_id
        return value

    async def _snapshot(self, user_id: int) -> Snapshot | None:
        loaded = await self._load(user_id)
        return None if loaded is None else loaded[0]

    async def _load(self, user_id: int) -> tuple[Snapshot, T] | None:
        reading = self._near.begin(user_id)
        try:
            stored = await self._stored(user_id)
            if stored is None:
                self._near.drop(user_id)
                return None
            snapshot = self._opened(user_id, stored)
            value = self._form.value(user_id, snapshot)
            self._near.put(user_id, snapshot, value, stored.now, reading)
            return snapshot, value
        finally:
            self._near.end(user_id, reading)

    async def _stored(self, user_id: int) -> Stored | None:
        """Read it from Redis; from the source where Redis has not got it."""
        if self._backing is None:
            return await self._store.get(user_id)
        stored, marked = await asyncio.gather(
            self._store.get(user_id), self._backing.ledger.marked(user_id)
        )
        if stored is None:
            kept = await self._backing.load(user_id)
            if kept is None or self._backing.is_empty(kept):
                return None
            await self._backing.reconcile(user_id)
            return await self._store.get(user_id)
        assert self._rebuilding is not None  # noqa: S101 - they come together
        doubtful = marked is not None and abs(stored.now / 1e3 - marked) >= MARK_LEASE
        if doubtful or self._rebuilding.due:
            # With the source away, what Redis has is answered.
            with suppress(SourceError):
                if doubtful:
                    await self._backing.reconcile(user_id)
                else:
                    await self._backing.check(user_id)
                return await self._store.get(user_id)
        return stored

    def _opened(self, user_id: int, stored: Stored) -> Snapshot:
        snapshot = self._form.snapshot(user_id, stored)
        generation = snapshot.header.generation
        remember(self._generations, user_id, generation)
        return snapshot

    async def _save(
        self,
        user_id: int,
        snapshot: Snapshot | None,
        content: Content,
        value: T,
        *,
        active: bool,
        also: Any = None,
    ) -> Answer:
        generation = (
            secrets.token_hex(8) if snapshot is None else snapshot.header.generation
        )
        change = self._form.change(user_id, snapshot, content, generation)
        seal = self._form.seal_saved(
            user_id,
            snapshot,
            change,
            generation=generation,
            terms=self._terms,
            active=active,
        )
        reading = self._near.begin(user_id)
        try:
            asked_for = change.main or change.main_gone or also is not None
            if self._backing and (snapshot is None or asked_for):
                answer = await self._backing.write(
                    user_id,
                    snapshot,
                    content,
                    change,
                    generation=generation,
                    terms=self._terms,
                    cap=self._cap,
                    active=active,
                    seal=seal,
                    also=also,
                )
            else:
                answer = await self._store.save(
                    user_id,
                    change,
                    read=0 if snapshot is None else snapshot.header.version,
                    live=snapshot is not None and snapshot.live,
                    terms=self._terms,
                    cap=self._cap,
                    schema=self._layout.type.schema,
                    generation=generation,
                    active=active,
                    mark="-" if self._backing else "",
                    seal=seal,
                )
            if answer.kind == "kept":
                self._near.drop(user_id)
                newest = await self._snapshot(user_id)
                if newest is not None:
                    stamp(value, user_id, newest.header)
                return Answer("saved")
            if answer.kind == "saved":
                header = Header.parse(answer.header)
                stamp(value, user_id, header)
                now = int(answer.detail[0])
                live = header.expiry > now
                after = Snapshot(
                    header=header,
                    live=live,
                    plain=content.plain,
                    members=content.members,
                    tags=content.tags,
                    seals=change.seals,
                )
                remember(self._generations, user_id, generation)
                self._near.put(user_id, after, value, now, reading)
            else:
                self._near.drop(user_id)
            return answer
        finally:
            self._near.end(user_id, reading)

    async def _after(
        self, user_id: int, answer: Answer, *, create: bool
    ) -> Snapshot | None:
        """Return what to try next with, or raise what the answer means."""
        match answer.kind:
            case "conflict" if answer.stored is not None:
                return self._opened(user_id, answer.stored)
            case "again":
                return await self._snapshot(user_id)
            case "busy" if self._backing is not None:
                await self._backing.settled(user_id)
                return await self._snapshot(user_id)
            case "gone" if self._backing is not None:
                return await self._snapshot(user_id)
            case "gone" if create:
                return None
            case "gone":
                raise SessionGone("the session was deleted or has ended")
            case "full":
                # Those that have ended still counted; one is room enough.
                if not await self._upkeep.sweep():
                    raise SessionFull(
                        f"there are {self._cap} sessions, which is the cap "
                        "(SESSION_MAX_CONCURRENT)"
                    )
                return None
            case "names":
                raise named_otherwise()
            case _:
                raise SessionDamaged("the header is no header", reason="damaged")


def _stamp_like(value: Record, stored: Record) -> None:
    for name in Record.__struct_fields__:
        setattr(value, name, getattr(stored, name))


def remember(
    table: OrderedDict[K, V], key: K, value: V, most: int = _REMEMBERED
) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
