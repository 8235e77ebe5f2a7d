"""`Sessions`: what is known of each user, changed without losing anything.

A change goes through these parts: `LocalCache` or `SessionStore` gives the session,
`SessionCodec` decodes it and seals what differs, and a script of the store writes that
over the version that was read. With a source of record, `WriteThrough` writes to both.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from oddswire._fifo_locks import FifoLocks
from oddswire._numbers import check_duration, check_int, shown
from oddswire._tasks import spawn
from oddswire.client import ReadLease, keyspace
from oddswire.clock import SystemClock
from oddswire.codec import (
    AesGcm,
    BlindNames,
    Compressor,
    Keyring,
    Names,
    PlainNames,
    Sealer,
    Zstd,
)
from oddswire.erasure import Erased
from oddswire.errors import (
    NoPermission,
    SessionConflict,
    SessionDamaged,
    SessionError,
    SessionFull,
    SessionGone,
    SettingsError,
    SourceError,
)
from oddswire.sessions._batch import PendingUpdate, UpdateBatcher
from oddswire.sessions._codec import (
    AUTH,
    CONVERSATION,
    Content,
    SessionCodec,
    SessionSchema,
    Snapshot,
    stamp,
)
from oddswire.sessions._local import LEASE, Follower, LocalCache
from oddswire.sessions._maintenance import Maintenance
from oddswire.sessions._rebuild import Rebuild
from oddswire.sessions._scripts import Expiry, ScriptResult, SessionHeader
from oddswire.sessions._store import (
    NO_INTENT,
    TRIES,
    SessionStore,
    wrong_blinding_key_error,
)
from oddswire.sessions._write_through import LEASE as INTENT_LEASE
from oddswire.sessions._write_through import WriteThrough, is_empty
from oddswire.sessions.record import Collection, Record, Session
from oddswire.sessions.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Self

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.sessions._scripts import IndexEntry, Stored
    from oddswire.sessions.source import RebuildProgress
    from oddswire.sessions.statistics import SessionStats

T = TypeVar("T", bound=Record)
K = TypeVar("K")
V = TypeVar("V")

_LONGEST = 1000 * 366 * 86_400.0  # seconds
_MOST = 2**62
_PAGE = 2000
_REMEMBERED = 16_384
_PAUSE = 0.002
_HEARD = 0.03  # seconds in which the other processes read of a deletion
_NONE = "there is no session; create=True begins one"


class _NotThere(Exception):
    """There is nothing to change."""


class Sessions(Generic[T]):
    """Sessions of one type, in Redis.

    It works as it is; inside ``async with`` it also removes ended sessions and follows
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
        absolute: Seconds after which it ends in any case; None: no such limit.
        cap: Most sessions; a user who has a session is never refused. With a source,
            the least active leaves Redis, and nobody is refused.
        cleanup: Seconds between removals of ended sessions.
        touch_interval: `touch` writes at most once in so many seconds; None: a tenth
            of `ttl`, at most 60.
        local_size: Most sessions to keep in memory, inside ``async with``.
        clock: Of this process; expiry is by the server's.
        source: Of record: a change is written there before it is acknowledged, and a
            session that Redis does not have is read from there.

    Raises:
        SettingsError: A number is out of range, or a part is none.
        TypeError: The type is no `Record`, or a field of it has no default, a mark that
            does not fit, or a name of the server's own fields.
    """

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
        touch_interval: float | None = None,
        local_size: int = 10_000,
        clock: Clock | None = None,
        source: Source | None = None,
    ) -> None:
        _check_arguments(
            seconds={"ttl": ttl, "absolute": absolute, "cleanup": cleanup},
            touch_interval=touch_interval,
            numbers={
                "cap": (cap, 1),
                "local_size": (local_size, 0),
                "max_size": (max_size, 1),
                "compress_above": (compress_above, 0),
            },
            parts={
                "source": (source, Source),
                "keyring": (keyring, Keyring),
                "sealer": (sealer, Sealer),
                "names": (names, Names),
                "compressor": (compressor, Compressor),
            },
        )
        if keyring is not None:
            sealer = AesGcm(keyring) if sealer is None else sealer
            names = BlindNames(keyring) if names is None else names
        if touch_interval is None:
            touch_interval = min(60.0, ttl / 10)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._schema = SessionSchema(type)
        space = keyspace(client, prefix)
        self._codec = SessionCodec(
            self._schema,
            sealer=sealer,
            names=PlainNames() if names is None else names,
            compressor=compressor,
            # A touch that was left out must not end a conversation early.
            expiry=Expiry(
                round((ttl + touch_interval) * 1e3), round((absolute or 0) * 1e3)
            ),
            space=space.prefix,
            compress_above=compress_above,
            max_size=max_size,
        )
        self._store = SessionStore(client, space, self._codec, self._clock, cap)
        self._reads = ReadLease(
            lambda: self._store.client,
            self._store.beat,
            self._clock.boottime,
            length=LEASE,
        )
        self._cleanup = cleanup
        self._touch_interval = touch_interval
        self._touched: OrderedDict[int, float] = OrderedDict()
        self._generations: OrderedDict[int, str] = OrderedDict()
        self._locks: FifoLocks[int] = FifoLocks()
        self._batcher = UpdateBatcher(self._locks, self._commit)
        self._local = LocalCache(self._schema.whole, local_size, self._clock)
        self._write_through: WriteThrough | None = None
        self._rebuild: Rebuild | None = None
        if source is not None:
            self._write_through = WriteThrough(source, self._store)
            self._rebuild = Rebuild(self._write_through, self._store)
        self._follower = Follower(self._store, self._local, self._reads, self._rebuild)
        self._tasks: list[asyncio.Task[None]] = []
        self._maintenance = Maintenance(
            self._store, self._local, self._follower, self._write_through
        )

    async def __aenter__(self) -> Self:
        try:
            naming = await self._store.naming()
        except NoPermission:
            # A process without this right may not read a session either: each call says
            # so, and a process that uses no sessions needs no rights to them.
            naming = None
        if naming is not None and naming != self._store.blinding_check:
            raise wrong_blinding_key_error()
        sweeping = self._maintenance.keep_sweeping
        if self._rebuild is not None:
            await self._rebuild.start()
            mender = spawn(self._rebuild.keep_mending(), name="sessions: mender")
            self._tasks.append(mender)
        self._tasks += [
            spawn(sweeping(self._cleanup), name="sessions: sweeper"),
            spawn(self._follower.keep_following(), name="sessions: follower"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._rebuild is not None:
            self._rebuild.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._follower.stop()

    # --- reading

    async def get(self, user_id: int, *, fresh: bool = False) -> T | None:
        """Return a user's session, or None when there is none.

        Reading is no activity. The session is the caller's own: changing it changes
        nothing else. From memory it may be as old as the announcements of changes take,
        at most two seconds; `update` never loses by that.

        Args:
            user_id: Whose.
            fresh: Ask the server in any case.

        Raises:
            SessionDamaged: There is one, and it does not open.
            OddswireError: It could not be read.
        """
        if not fresh:
            value = self._local.get(user_id)
            if value is not None:
                return value
            self._follower.want()
        _, value = await self._reads.read(lambda: self._load(user_id))
        return value

    async def _load(self, user_id: int) -> tuple[Snapshot | None, T | None]:
        """Read, open and decode a session; two Nones when there is none."""
        ticket = self._local.begin(user_id)
        try:
            stored = await self._stored(user_id)
            if stored is None:
                self._local.drop(user_id)
                return None, None
            snapshot = self._opened(user_id, stored)
            value = self._codec.value(user_id, snapshot)
            self._local.put(user_id, snapshot, value, stored.now, ticket)
            return snapshot, value
        finally:
            self._local.end(user_id, ticket)

    def _opened(self, user_id: int, stored: Stored) -> Snapshot:
        snapshot = self._codec.snapshot(user_id, stored)
        _remember(self._generations, user_id, snapshot.header.generation)
        return snapshot

    async def _stored(self, user_id: int) -> Stored | None:
        """Read it from Redis; from the source where Redis does not have it."""
        if self._write_through is None:
            return await self._store.get(user_id)
        stored, begun = await asyncio.gather(
            self._store.get(user_id), self._write_through.intents.begun_at(user_id)
        )
        if stored is None:
            record = await self._write_through.load(user_id)
            if record is None or is_empty(record):
                return None
            await self._write_through.reconcile(user_id)
            return await self._store.get(user_id)
        assert self._rebuild is not None  # noqa: S101 - they come together
        abandoned = begun is not None and abs(stored.now / 1e3 - begun) >= INTENT_LEASE
        if abandoned or self._rebuild.due:
            # While the source is away, a read answers with what Redis has.
            with suppress(SourceError):
                if abandoned:
                    await self._write_through.reconcile(user_id)
                else:
                    await self._write_through.check(user_id)
                return await self._store.get(user_id)
        return stored

    # --- changing

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
        failed. When another process was faster, `fn` runs again on what it wrote. A
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
            LockHeld: This task is in `exclusive` for the same user.
            TypeError: `fn` is not a plain function.
            CodecError: What `fn` left is not of the type, or too large.
        """
        if not callable(fn):
            raise TypeError(
                f"fn must be a function that changes the session, not {shown(fn)}"
            )
        update: PendingUpdate[T] = PendingUpdate(
            fn, create=create, active=active, also=also
        )
        if also is not None:
            self._require_source()
            # Declined, nothing else of its transaction is stored. Therefore it is
            # alone, behind the updates that wait.
            self._batcher.close(user_id)
        if also is not None or self._locks.is_free(user_id):
            async with self._locks.hold(user_id):
                await self._commit(user_id, [update])
        else:
            await self._batcher.join(user_id, update)
        return update.result()

    def _require_source(self) -> None:
        if self._write_through is None:
            raise SessionError("also= is stored by the source, and there is none")

    async def _commit(self, user_id: int, updates: Sequence[PendingUpdate[T]]) -> None:
        """Apply updates one after another, and save them at once.

        The save leaves out an update that fails; its error is set. An error that this
        raises is that of all the others.
        """
        # 1. The session: from memory, where an old copy costs a conflict in step 3 and
        #    nothing else, or from Redis.
        snapshot, value = self._local.snapshot(user_id), None
        if snapshot is None:
            snapshot, value = await self._load(user_id)
        for attempt in range(TRIES):
            if attempt > 1:
                # Step 4 has the session as it was before this pause. A change of the
                # session since then would make the next save a conflict: read it again.
                await self._give_way(attempt)
                snapshot, value = await self._load(user_id)
            # 2. Each `fn`, on what the one before it left.
            content = self._apply(user_id, snapshot, value, updates)
            made = [update for update in updates if update.error is None]
            if content is None:
                return
            # 3. One save, over the version of step 1.
            last = made[-1].value
            active = any(update.active for update in made)
            result = await self._save(
                user_id, snapshot, content, last, active=active, also=made[-1].also
            )
            if result.kind == "saved":
                # The save stamped the last value with the version that is stored.
                for update in made[:-1]:
                    _copy_stamp(last, update.value)
                return
            # 4. Not saved: the session as it is now, and again from step 2.
            create = any(update.create for update in made)
            try:
                snapshot, value = await self._next_attempt(
                    user_id, result, create=create
                )
            except SessionFull:
                # The session that these went on with was not begun.
                for update in made:
                    if not update.create:
                        update.error = SessionGone(_NONE)
                raise
        raise SessionConflict(
            f"others changed the session first, {TRIES} times; try again later"
        )

    async def _give_way(self, attempt: int) -> None:
        """Wait before an attempt that is not the first, number 0.

        Processes that conflict would do so again in the same order.
        """
        if attempt:
            pause = _PAUSE * 2 ** min(attempt - 1, 5)
            await self._clock.sleep(random.uniform(0, pause))  # noqa: S311

    def _apply(
        self,
        user_id: int,
        snapshot: Snapshot | None,
        value: T | None,
        updates: Sequence[PendingUpdate[T]],
    ) -> Content | None:
        """Return what all updates make of a session; None when each failed.

        Args:
            user_id: Whose.
            snapshot: Of the session.
            value: The same decoded, of the caller's own; None: it is decoded here.
            updates: To apply.
        """
        content: Content | None = None
        for update in updates:
            update.error = None
            try:
                # Each on a copy of its own, so that nothing stays of one that fails.
                if content is None:
                    own = self._begin(user_id, snapshot, value, create=update.create)
                    value = None
                else:
                    own = self._codec.current(content)
                    if snapshot is None:
                        own.user_id = user_id
                    else:
                        stamp(own, user_id, snapshot.header)
                update.apply(own)
                content = self._codec.content(snapshot, own)
            except BaseException as error:  # noqa: BLE001 - its caller raises it
                update.error = error
        return content

    def _begin(
        self,
        user_id: int,
        snapshot: Snapshot | None,
        value: T | None,
        *,
        create: bool,
    ) -> T:
        """Return the value that a change begins with."""
        if value is not None:
            return value
        if snapshot is not None:
            return self._codec.value(user_id, snapshot)
        if not create:
            raise SessionGone(_NONE)
        value = self._schema.blank()
        value.user_id = user_id
        return value

    async def _save(
        self,
        user_id: int,
        snapshot: Snapshot | None,
        content: Content,
        value: T,
        *,
        active: bool,
        also: Any = None,
    ) -> ScriptResult:
        """Save content over what was read, and stamp its value.

        1. With a source, a durable change goes to the source first (`WriteThrough`). A
           change of the conversation alone is saved in Redis, as without a source.
        2. ``restored``: the change is made, but Redis got it from the source and not
           from this save. Its version is read again.
        3. ``saved``: memory keeps the session, unless a newer version was announced
           since the ticket was taken. Any other answer: memory forgets it.
        """
        save = self._codec.save(user_id, snapshot, content, active=active, also=also)
        delta = save.delta
        ticket = self._local.begin(user_id)
        try:
            through = self._write_through
            durable = delta.main or delta.main_gone or also is not None
            if through and (snapshot is None or durable):
                result = await through.write(save)
            else:
                intent = NO_INTENT if through else ""
                result = await self._store.save(save, intent=intent)
            if result.kind == "restored":
                self._local.drop(user_id)
                newest, _ = await self._load(user_id)
                if newest is not None:
                    stamp(value, user_id, newest.header)
                return ScriptResult("saved")
            if result.kind != "saved":
                self._local.drop(user_id)
                return result
            header = SessionHeader.parse(result.header)
            stamp(value, user_id, header)
            now = int(result.detail[0])
            after = Snapshot(
                header=header,
                live=header.expiry > now,
                sections=content.sections,
                members=content.members,
                entries=content.entries,
                digests=delta.digests,
            )
            _remember(self._generations, user_id, save.generation)
            self._local.put(user_id, after, value, now, ticket)
            return result
        finally:
            self._local.end(user_id, ticket)

    async def _next_attempt(
        self, user_id: int, result: ScriptResult, *, create: bool
    ) -> tuple[Snapshot | None, T | None]:
        """Return what to try next with, or raise what the result means."""
        through = self._write_through
        match result.kind:
            case "conflict" if result.stored is not None:
                return self._opened(user_id, result.stored), None
            case "again":
                return await self._load(user_id)
            case "busy" if through is not None:
                await through.wait_for_intent(user_id)
                return await self._load(user_id)
            case "gone" if through is not None:
                return await self._load(user_id)
            case "gone" if create:
                return None, None
            case "gone":
                raise SessionGone("the session was deleted or has ended")
            case "full":
                # Ended sessions still count; one that leaves is room enough.
                if not await self._maintenance.sweep():
                    raise SessionFull(
                        f"there are {self._store.cap} sessions, which is the cap "
                        "(SESSION_MAX_CONCURRENT)"
                    )
                return None, None
            case "names":
                raise wrong_blinding_key_error()
            case _:
                raise SessionDamaged("the header is no header", reason="damaged")

    @asynccontextmanager
    async def exclusive(
        self, user_id: int, *, create: bool = False, active: bool = True
    ) -> AsyncIterator[T]:
        """Hold a session for a block; changes are stored when the block ends well.

        Tasks of this process take turns, first come first served. Another process is
        not kept out: the second one to store gets `SessionConflict`, and nothing of it
        is stored. An exception or a cancellation in the block stores nothing.

        Raises:
            SessionConflict: On leaving: another process changed it meanwhile.
            SessionGone: There is no session, or it ended or was deleted meanwhile.
            SessionFull: As for `update`.
            SessionDamaged: As for `update`.
            CodecError: As for `update`.
            LockHeld: As for `update`.
        """
        # Later updates do not join a batch that waits before this block.
        self._batcher.close(user_id)
        async with self._locks.hold(user_id):
            snapshot, value = await self._load(user_id)
            value = self._begin(user_id, snapshot, value, create=create)
            yield value
            content = self._codec.content(snapshot, value)
            while True:
                result = await self._save(
                    user_id, snapshot, content, value, active=active
                )
                if result.kind != "full":
                    break
                await self._next_attempt(user_id, result, create=create)
            if result.kind in ("conflict", "again", "busy"):
                raise SessionConflict("another process changed the session meanwhile")
            if result.kind != "saved":
                await self._next_attempt(user_id, result, create=False)

    # --- one member of a collection

    async def add_to(
        self,
        user_id: int,
        collection: str,
        key: str,
        value: Any = None,
        *,
        active: bool = True,
    ) -> bool:
        """Add a member to a collection, or replace it, whatever else changes.

        Returns:
            Whether it is new.

        Raises:
            SessionGone: There is no session.
            SessionFull: The collection has as many members as it may.
            CodecError: The value is not of the collection's type.
        """
        limit = self._collection(collection).limit
        body = self._codec.check_member(collection, key, value)
        if self._reads_whole:
            decoder, new = self._schema.members[collection], False

            def add(session: T) -> None:
                nonlocal new
                content = getattr(session, collection)
                new = key not in content
                if new and len(content) >= limit:
                    raise SessionFull(f"{collection}: {limit} members is the limit")
                content[key] = decoder.decode(body)[1]

            await self.update(user_id, add, active=active)
            return new
        generation = self._generations.get(user_id, "")
        for _ in range(TRIES):
            result = await self._store.member(
                user_id,
                collection,
                key,
                generation=generation,
                active=active,
                body=body,
            )
            self._local.drop(user_id)
            match result.kind:
                case "saved":
                    return bool(result.detail[0])
                case "full":
                    raise SessionFull(f"{collection}: {limit} members is the limit")
                case "generation":
                    generation = result.detail[0].decode()
                    _remember(self._generations, user_id, generation)
                case "schema":
                    # One member alone cannot have another schema than the rest.
                    await self._rewrite(user_id)
                case _:
                    await self._next_attempt(user_id, result, create=False)
        raise SessionConflict("the session was deleted and created again each time")

    async def remove_from(
        self, user_id: int, collection: str, key: str, *, active: bool = True
    ) -> bool:
        """Remove a member from a collection; False when it was not in.

        Raises:
            SessionGone: There is no session.
        """
        self._collection(collection)
        if self._reads_whole:

            def remove(session: T) -> None:
                if getattr(session, collection).pop(key, _NotThere) is _NotThere:
                    raise _NotThere

            try:
                await self.update(user_id, remove, active=active)
            except _NotThere:
                return False
            return True
        result = await self._store.member(
            user_id, collection, key, generation="", active=active, body=None
        )
        self._local.drop(user_id)
        if result.kind != "saved":
            await self._next_attempt(user_id, result, create=False)
        return bool(result.detail[0])

    @property
    def _reads_whole(self) -> bool:
        # With a source a change writes the whole record, and a sealed header stands for
        # every field: so the rest is read first.
        return self._write_through is not None or self._codec.sealer is not None

    def _collection(self, name: str) -> Collection:
        mark = self._schema.collections.get(name)
        if mark is None:
            known = ", ".join(self._schema.collections) or "none"
            raise SessionError(f"no collection {name!r}; declared: {known}")
        return mark

    # --- activity

    async def touch(self, user_id: int) -> bool:
        """Note that the user did something: the conversation lives on.

        At most one in `touch_interval` is written.

        Returns:
            False when there is no session.
        """
        now = self._clock.boottime()
        last = self._touched.get(user_id)
        if last is not None and now - last < self._touch_interval:
            return True
        there = await self._touch(user_id)
        if not there and self._write_through and await self._stored(user_id):
            there = await self._touch(user_id)
        if there:
            _remember(self._touched, user_id, now)
        # In memory the conversation ends sooner: forget that.
        self._local.drop(user_id)
        return there

    async def _touch(self, user_id: int) -> bool:
        if self._codec.sealer is None:
            return (await self._store.touch(user_id)).kind == "saved"
        for attempt in range(TRIES):
            await self._give_way(attempt)
            stored = await self._store.get(user_id)
            if stored is None:
                return False
            snapshot = self._opened(user_id, stored)
            seal = self._codec.seal_touched(user_id, snapshot)
            result = await self._store.touch(user_id, seal)
            if result.kind != "again":
                return result.kind == "saved"
        raise SessionConflict(f"others changed the session first, {TRIES} times")

    async def activate(self, user_id: int, *, also: Any = None) -> bool:
        """Have lookups find the user again; False when there is no session.

        Args:
            user_id: Whose.
            also: As for `update`; stored also where the session is active already.

        Raises:
            SourceDeclined: As for `update`.
        """
        return await self._switch(user_id, on=True, also=also)

    async def deactivate(self, user_id: int, *, also: Any = None) -> bool:
        """Have no lookup find the user; everything is kept. False for no session.

        Args:
            user_id: Whose.
            also: As for `activate`.

        Raises:
            SourceDeclined: As for `update`.
        """
        return await self._switch(user_id, on=False, also=also)

    async def _switch(self, user_id: int, *, on: bool, also: Any = None) -> bool:
        if also is not None:
            self._require_source()
        try:
            if not self._reads_whole:
                return (await self._store.switch(user_id, on=on)).kind == "saved"
            for attempt in range(TRIES):
                await self._give_way(attempt)
                snapshot, _ = await self._load(user_id)
                if snapshot is None or (snapshot.header.on == on and also is None):
                    return snapshot is not None
                through = self._write_through
                if through is not None:
                    if await through.switch(user_id, snapshot, on=on, also=also):
                        return True
                    continue
                seal = self._codec.seal_switched(user_id, snapshot, on=on)
                result = await self._store.switch(user_id, on=on, seal=seal)
                if result.kind != "again":
                    return result.kind == "saved"
        finally:
            self._local.drop(user_id)
        raise SessionConflict(f"others changed the session first, {TRIES} times")

    # --- the end of a session

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
        if also is not None:
            self._require_source()
        try:
            if self._write_through is not None:
                return await self._write_through.delete(user_id, also)
            for attempt in range(TRIES):
                await self._give_way(attempt)
                main = await self._store.fields(user_id)
                if not main:
                    return False
                entries, held = self._codec.registered(main)
                if await self._store.delete(
                    user_id, main.get(b"h", b""), entries, held
                ):
                    return True
        finally:
            self._local.drop(user_id)
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def erase(self, user_id: int, *, search: bool = False) -> Erased:
        """Delete a session and every trace of the user, and look again.

        The second look is at every place where sessions of this user can be: it costs
        the same among ten users and among a million. Where the list of index entries is
        damaged or was taken away, every index is searched.

        Args:
            user_id: Whose.
            search: Search every index in any case, also for entries that no session
                wrote, or one did under an index that this type names otherwise. It
                reads the name of every key of the server, in pages of a millisecond.
        """
        store, codec, through = self._store, self._codec, self._write_through
        # 1. Before the deletion: which index entries the session has, and whether its
        #    fields tell all of them.
        main = await store.fields(user_id)
        entries = codec.registered(main)[0]
        if not main and through is not None:
            entries = await through.intents.evicted(user_id)
        known = bool(main) or await store.registered(user_id)
        search |= (known and not codec.tells_all(main)) or await store.unlisted()
        # 2. The deletion; without its fields, the session is still in the registers.
        deleted = await self.delete(user_id)
        if known and not main:
            deleted = await store.delete(user_id, b"", (), ())
        # 3. The log. A process that reads of the deletion first, which takes
        #    milliseconds, goes on with the emptied log; any other builds all its
        #    indexes again, which takes seconds.
        if deleted:
            await self._clock.sleep(_HEARD)
        removed = len(main) + await store.purge(user_id)
        # 4. The second look.
        left = await store.traces(user_id, entries)
        if search:
            left += [key for key in await store.search(user_id) if key not in left]
        if through is not None and await through.load(user_id) is not None:
            left.append("the source")
        return Erased("sessions", removed, tuple(left))

    async def revoke(self, user_id: int) -> bool:
        """End the conversation and the authentication; keep what was asked for."""

        def end(value: T) -> None:
            self._schema.reset(value, CONVERSATION, AUTH)

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
        try:
            if self._write_through is not None:
                return await self._write_through.move(old, new)
            for attempt in range(TRIES):
                await self._give_way(attempt)
                stored = await self._store.get(old)
                if stored is None:
                    return False
                before = self._codec.snapshot(old, stored)
                content = self._codec.content(None, self._codec.value(old, before))
                save = self._codec.move(new, before, content)
                match (await self._store.move(old, save)).kind:
                    case "saved":
                        return True
                    case "gone":
                        return False
                    case "taken":
                        raise SessionConflict(f"user {new} has a session already")
        finally:
            self._local.drop(old)
            self._local.drop(new)
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    # --- all of them

    async def users_for(
        self, index: str, value: str, *, fresh: bool = False
    ) -> frozenset[int]:
        """Return the active users that have a value in an index.

        From the server, up to 2,000 users are exactly those of one instant. Above that
        they are read in pages: a user that had the value all the while is in. From
        memory the answer is as old as announcements take, at most two seconds.

        Args:
            index: A field that is `Indexed`, or the index of a `Collection`.
            value: Exactly as it was stored.
            fresh: Ask the server in any case.

        Raises:
            SessionError: There is no such index.
        """
        if index not in self._schema.index_names:
            known = ", ".join(sorted(self._schema.index_names)) or "none"
            raise SessionError(f"no index {index!r}; declared: {known}")
        entry = (index, self._codec.names.of_value(index, value))
        names: Sequence[str] | None = None
        if not fresh:
            names = self._follower.lookup(entry)
        if names is None:
            names = await self._reads.read(lambda: self._lookup(entry))
        user = self._codec.names.user
        try:
            return frozenset([user(name) for name in names])
        except ValueError:
            return frozenset([user_id for _, user_id in self._store.users(names)])

    async def _lookup(self, entry: IndexEntry) -> list[str]:
        rebuild = self._rebuild
        while True:
            if rebuild is not None:
                # A user who is in no index yet must not look like one who asked for
                # nothing.
                await rebuild.wake()
                await rebuild.ensure()
            found = await self._store.lookup(entry, _PAGE, sourced=rebuild is not None)
            if not isinstance(found, int):
                return found
            if rebuild is None or found != -1:
                return await self._store.pages(entry)
            # Redis lost its data between the two.
            rebuild.lost()

    async def rebuild(
        self, on_progress: Callable[[RebuildProgress], object] | None = None
    ) -> RebuildProgress:
        """Make Redis as the source of record is, all of it.

        Entering does it, and each process does when Redis lost its data. A record that
        Redis has costs one look for 200 users. Interrupted, it goes on where it was,
        here or in another process; users are served meanwhile.

        Args:
            on_progress: Called after each page and at the end.

        Raises:
            SessionError: There is no source.
            OddswireError: Redis or the source cannot be asked.
        """
        if self._rebuild is None:
            raise SessionError("there is no source of record: give Sessions a source")
        return await self._rebuild.run(on_progress)

    async def stats(
        self, windows: Sequence[float] = (3600.0, 86_400.0)
    ) -> SessionStats:
        """Count sessions; no session is touched or extended by it.

        Ended sessions are removed first, so that they are not counted.

        Args:
            windows: Seconds; how many users were active within each.
        """
        return await self._maintenance.stats(windows)

    async def sweep(self) -> int:
        """Remove every session that has ended; return how many."""
        return await self._maintenance.sweep()

    async def reencrypt(self) -> int:
        """Seal all sessions under the primary key; return how many were rewritten.

        Sessions of an older schema are brought up to date too, and the records of a
        `SealedSource` are sealed again. Interrupted, it can be run again.
        """
        rewritten, damaged = 0, []
        async for page in self._store.everybody():
            for _, user_id in page:
                try:
                    rewritten += await self._refreshed(user_id)
                except SessionDamaged as error:
                    damaged.append(error)
        if (source := self._maintenance.sealed_source()) is not None:
            await source.reseal()
        if damaged:
            raise SessionDamaged(
                f"{rewritten} sessions were rewritten, and {len(damaged)} sessions do "
                f"not open; the first: {damaged[0]}",
                reason=damaged[0].reason,
            )
        return rewritten

    async def _refreshed(self, user_id: int) -> bool:
        """Rewrite a session if its key or schema is an older one."""
        stored = await self._store.get(user_id)
        if stored is None:
            return False
        snapshot = self._codec.snapshot(user_id, stored)
        old = snapshot.header.schema < self._schema.type.schema
        if not snapshot.stale and not old:
            return False
        try:
            await self._rewrite(user_id)
        except SessionGone:
            return False
        return True

    async def _rewrite(self, user_id: int) -> None:
        """Store a session again, under the primary key and the current schema."""
        # A copy in memory does not know what it is sealed under.
        self._local.drop(user_id)
        await self.update(user_id, lambda _: None, active=False)

    async def retire(self, number: int) -> None:
        """Drop a key from the keyring, once nothing is sealed under it.

        A `SealedSource` looks too, and drops its key.

        Raises:
            SessionError: Sessions, or records of the source, are still sealed under it;
                run `reencrypt`.
            SettingsError: It is the primary key, or names come from it.
        """
        await self._maintenance.retire(number)


def _copy_stamp(stored: Record, value: Record) -> None:
    for name in Record.__struct_fields__:
        setattr(value, name, getattr(stored, name))


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _REMEMBERED:
        table.popitem(last=False)


def _check_arguments(
    *,
    seconds: dict[str, float | None],
    touch_interval: float | None,
    numbers: dict[str, tuple[int, int]],
    parts: dict[str, tuple[object, type[Any]]],
) -> None:
    """Refuse what is out of range, and parts that are none.

    Raises:
        SettingsError: One is; the message names it.
    """
    for name, value in seconds.items():
        if value is not None or name != "absolute":
            check_duration(name, value, 0.001, _LONGEST, SettingsError)
    if touch_interval is not None:
        check_duration("touch_interval", touch_interval, 0.0, _LONGEST, SettingsError)
    for name, (number, low) in numbers.items():
        check_int(name, number, low, _MOST, SettingsError)
    for name, (part, kind) in parts.items():
        if part is not None and not isinstance(part, kind):
            # Not repeated: it may be a key.
            raise SettingsError(
                f"{name} must be an oddswire {kind.__name__}, not {type(part).__name__}"
            )
