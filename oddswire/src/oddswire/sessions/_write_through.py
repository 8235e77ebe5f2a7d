"""`WriteThrough`: a change is in the source of record before it is acknowledged.

The states of one user's record, and the steps between them:

```text
              1 intent            2 commit               3 publish
              in Redis            at the source          in Redis, intent away
    settled -----------> intended ----------> committed ----------------------> settled
       ^                    |                     |
       |  withdraw: the     |                     |  the process is killed, held up,
       |  source refused    |                     |  or loses its connections
       +--------------------+                     |
       |                    +---------+-----------+
       |                              v
       |                  abandoned: the intent is older than LEASE
       |     4 fence at the source, 5 restore in Redis, intent away
       +------------------------------+
```

Step 2 decides. Before it nothing changed, after it the change is made, and Redis
follows: by step 3, or by any process that finds the abandoned intent. That process
cannot know whether the owner is dead or only paused before step 2. Therefore step 4
first saves the record again under a newer version: the source then refuses the paused
write, which names the version from before.

`IntentLog` has what Redis knows of the source: the intents, and the version of each
record. `WriteThrough` makes the steps.
"""

from __future__ import annotations

import random
import re
import secrets
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from oddswire._text import text
from oddswire.connection.deadline import Deadline
from oddswire.errors import (
    CodecError,
    OddswireError,
    Outcome,
    SessionConflict,
    SessionDamaged,
    SourceDeclined,
    SourceError,
)
from oddswire.events import Degradation
from oddswire.sessions import _scripts as scripts
from oddswire.sessions._codec import (
    DURABLE,
    NOTHING,
    Snapshot,
    decode,
    encode,
)
from oddswire.sessions._scripts import (
    ENTRIES,
    HEADER,
    IndexEntry,
    ScriptResult,
    SessionHeader,
    encode_entries,
    random_id,
    to_args,
)
from oddswire.sessions._store import TRIES, wrong_blinding_key_error
from oddswire.sessions.source import SourceRecord, given

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence

    from oddswire.sessions._codec import Content, HeaderSeal, Save
    from oddswire.sessions._store import SessionStore
    from oddswire.sessions.source import Source

R = TypeVar("R")

LEASE = 2.0
"""Seconds that an intent keeps other processes out."""
DEADLINE = 5.0
"""Seconds that a call of the source may take."""
_PAUSE = 0.004
_CANDIDATES = 16

_INTENT = re.compile(r"[0-9]{1,19} ([0-9]{1,19}) .*")
_VERSION = re.compile(r"[0-9]{1,19}")


# --- what Redis knows of the source


class WriteIntent(msgspec.Struct, frozen=True):
    """The answer to a process that wants to change a record.

    Attributes:
        kind: ``begun``: the intent is the caller's. ``taken``: likewise, and its last
            owner did not come back; it may have committed. ``busy``: another process
            has one that is younger than `LEASE`. ``conflict``: the session is not the
            version that was read. ``names``: the user's name in Redis was made with
            another blinding key.
        value: The intent as Redis has it. A script acts only where it finds this one.
        version: The version that the record gets by this change.
        known: The version that the record has, as far as Redis knows; 0 for none.
    """

    kind: str
    value: str = ""
    version: int = 0
    known: int = 0


class RedisState(msgspec.Struct, frozen=True):
    """What Redis has of a session, before it is made as the source has it.

    Attributes:
        header: As it is there; empty when it is not.
        entries: Index entries that it has.
        held: Collections that have members.
        expiring: Digest of all fields of its conversation, which the seal covers. None
            where the seal does not hold, or nothing is sealed.
    """

    header: bytes
    entries: list[IndexEntry]
    held: list[str]
    expiring: bytes | None = None


class IntentLog:
    """Intents and versions, in the slot of the sessions.

    Args:
        store: The sessions in Redis.

    Attributes:
        begun: Intents that this process has begun.
    """

    def __init__(self, store: SessionStore) -> None:
        self.begun = 0
        self._store = store

    async def begin(self, user_id: int, read: int | None) -> WriteIntent:
        """Begin an intent to change the version that was read.

        Args:
            user_id: Whose.
            read: The session's version; 0: there was none; None: any.
        """
        self.begun += 1
        store = self._store
        keys = (
            store.pair(user_id)[0],
            store.intents,
            store.known_versions,
            store.stats,
        )
        args = (
            store.clock_offset, store.names.of_user(user_id), secrets.token_hex(8),
            "" if read is None else read, round(LEASE * 1e6), store.blinding_check,
        )  # fmt: skip
        reply = await scripts.INTENT.run(store.client, keys, args)
        kind, *rest = (each.decode() for each in reply)
        if not rest:
            return WriteIntent(kind)
        return WriteIntent(kind, rest[0], int(rest[1]), int(rest[2]))

    async def withdraw(self, user_id: int, intent: WriteIntent) -> None:
        """Take an intent back: nothing was changed at the source."""
        store = self._store
        args = (store.names.of_user(user_id), intent.value)
        await scripts.WITHDRAW.run(store.client, (store.intents,), args)

    async def begun_at(self, user_id: int) -> float | None:
        """Return when an intent began, in seconds of the server's clock."""
        store = self._store
        found: Any = await store.client.hget(
            store.intents, store.names.of_user(user_id)
        )
        return None if found is None else _begun_at(found) / 1e6

    async def abandoned(self) -> list[int]:
        """Return users with an intent so old that its owner may not come back."""
        store = self._store
        found: Any = await store.client.hgetall(store.intents)
        if not found:
            return []
        seconds, micros = await store.client.time()
        now = seconds * 1_000_000 + micros + store.clock_offset
        old = [
            name
            for name, value in found.items()
            if abs(now - _begun_at(value)) >= LEASE * 1e6
        ]
        return [user_id for _, user_id in store.users(old)]

    async def known_versions(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Return the versions of records that Redis knows of."""
        if not user_ids:
            return {}
        names = [self._store.names.of_user(each) for each in user_ids]
        found: Any = await self._store.client.hmget(self._store.known_versions, names)
        return {
            user_id: int(version[0])
            for user_id, value in zip(user_ids, found, strict=True)
            if value is not None and (version := _VERSION.match(text(value)))
        }

    async def everybody(
        self,
    ) -> AsyncIterator[list[tuple[str, int, list[IndexEntry] | None]]]:
        """Yield names and users in pages, with the index entries of those evicted."""
        cursor = None
        while cursor != 0:
            page: Any
            cursor, page = await self._store.client.hscan(
                self._store.known_versions, cursor or 0, count=500
            )
            evicted = {text(name): _evicted(text(each)) for name, each in page.items()}
            yield [
                (name, user_id, evicted[name])
                for name, user_id in self._store.users(evicted)
            ]

    async def evicted(self, user_id: int) -> list[IndexEntry]:
        """Return the index entries of a session that left Redis for others."""
        name = self._store.names.of_user(user_id)
        found: Any = await self._store.client.hget(self._store.known_versions, name)
        return (_evicted(text(found)) if found is not None else None) or []

    async def restore(
        self,
        user_id: int,
        intent: WriteIntent,
        state: RedisState,
        *,
        mode: str = "gone",
        header: SessionHeader = SessionHeader(),  # noqa: B008 - frozen
        version: int = 0,
        entries: Iterable[IndexEntry] = (),
        fields: Mapping[str, bytes] = MappingProxyType({}),
        seal: HeaderSeal | None = None,
    ) -> str:
        """Make Redis as the source is, under an intent; return the script's answer.

        Args:
            user_id: Whose.
            intent: The caller's.
            state: What is there.
            mode: ``whole``: Redis gets the record, and a conversation that it has goes
                on. ``replace``: likewise, and what Redis has is thrown away.
                ``evicted``: Redis gets the index entries alone. ``gone``: nothing.
            header: Where there is none, the session begins with it.
            version: Of the record.
            entries: The index entries of the record.
            fields: The durable fields of the record.
            seal: Makes the header.
        """
        store, entries = self._store, sorted(entries)
        removes = [entry for entry in state.entries if entry not in entries]
        had, has = set(state.held), store.codec.held(fields)
        balance = dict.fromkeys(has - had, 1) | dict.fromkeys(had - has, -1)
        keys = [
            *store.pair(user_id),
            *(store.activity, store.expiry, store.off, store.stats, store.log),
            *(store.intents, store.known_versions),
            *map(store.index, entries),
            *map(store.index, removes),
        ]
        args: list[Any] = [
            store.clock_offset, store.names.of_user(user_id), intent.value,
            state.header, mode, version, header.schema, header.generation,
            header.created, header.active, int(header.on), store.cap, random_id(),
            encode_entries(entries), encode_entries(removes),
            encode_entries(entries) or b"[]", store.blinding_check,
            len(entries), len(removes), len(fields), len(balance),
        ]  # fmt: skip
        rest = [*to_args(fields), *to_args(balance)]

        # The script compares the header by itself, sealed or not.
        result = await store.call_sealed(
            scripts.RESTORE, keys, args, rest, seal=seal, compares=False
        )
        return result.kind

    async def evict(self, user_id: int, state: RedisState) -> bool:
        """Have a session leave Redis; False when it changed, or is about to."""
        store = self._store
        keys = (
            *store.pair(user_id),
            *(store.activity, store.expiry, store.off, store.stats),
            *(store.intents, store.known_versions),
        )
        name, entries = store.names.of_user(user_id), encode_entries(state.entries)
        args = (name, state.header, entries or b"[]", *state.held)
        return bool(await scripts.EVICT.run(store.client, keys, args))


def _evicted(value: str) -> list[IndexEntry] | None:
    _, _, entries = value.partition(" ")
    try:
        return ENTRIES.decode(entries) if entries else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def _begun_at(value: str | bytes) -> int:
    """Return when, in microseconds; junk began long ago, so that it is taken."""
    match = _INTENT.fullmatch(text(value))
    return 0 if match is None else int(match[1])


# --- what a record holds


class _RecordData(msgspec.Struct, omit_defaults=True):
    """What `SourceRecord.data` holds: durable fields, and members as pairs."""

    fields: msgspec.Raw = msgspec.Raw(b"\x80")
    members: dict[str, list[msgspec.Raw]] = {}


_RECORD_DATA = msgspec.msgpack.Decoder(_RecordData)
_PAIR: msgspec.msgpack.Decoder[tuple[str, Any]] = msgspec.msgpack.Decoder(
    tuple[str, Any]
)
_EMPTY = encode(_RecordData())


def is_empty(record: SourceRecord) -> bool:
    """Whether the user asked for nothing."""
    return record.on and record.data == _EMPTY


def _to_record(
    user_id: int, version: int, content: Content, header: SessionHeader
) -> SourceRecord:
    members: dict[str, list[msgspec.Raw]] = {}
    for field in sorted(content.members):
        body = msgspec.Raw(content.members[field])
        members.setdefault(field.partition(":")[0], []).append(body)
    data = _RecordData(members=members)
    if DURABLE in content.sections:
        data.fields = msgspec.Raw(content.sections[DURABLE])
    return SourceRecord(
        user_id=user_id,
        version=version,
        schema=header.schema,
        created=header.created,
        active=header.active,
        on=header.on,
        data=encode(data),
    )


class WriteThrough:
    """Changes sessions at the source and in Redis, and brings Redis after the source.

    Args:
        source: Of record.
        store: The sessions in Redis.

    Attributes:
        source: As given.
        intents: What Redis knows of the source.
    """

    def __init__(self, source: Source, store: SessionStore) -> None:
        self.source = source
        self.intents = IntentLog(store)
        self._store = store
        self._codec = store.codec
        self._clock = store.clock
        self._degraded = Degradation(
            store.client.events, "source", "away", store.clock.boottime
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

    async def load(self, user_id: int) -> SourceRecord | None:
        """Return a user's record."""
        found = await self.ask(self.source.load([user_id]))
        return found[0] if found else None

    # --- a change: steps 1 to 3

    async def write(self, save: Save) -> ScriptResult:
        """Make a change in both; ``again``: repeat it on a newer state.

        Returns:
            ``saved``; ``restored`` when the change is made and Redis was brought after
            the source; ``again``.

        Raises:
            SourceError: The source failed; the outcome says whether the change may be
                made.
        """
        user_id, before = save.user_id, save.before
        # 1. The intent keeps others out, and fails if Redis has a newer state than was
        #    read. Without it two processes could commit in one order and publish in
        #    the other.
        intent = await self._begin(user_id, save.read_version)
        if intent is None:
            return ScriptResult("again")
        schema = self._codec.schema.type.schema
        if before is None:
            now = round(self._clock.now() * 1e6)
            header = SessionHeader(created=now, active=now // 1000, schema=schema)
        else:
            header = msgspec.structs.replace(before.header, schema=schema)
        record = _to_record(user_id, intent.version, save.content, header)
        # 2. The commit. Killed from here on, this process leaves the intent, and any
        #    other one that finds it finishes the change.
        committed = await self._commit(
            user_id, intent, record, new=before is None, also=save.also
        )
        if committed is None:
            return ScriptResult("again")
        # 3. Redis gets the session, its indexes and the record's version, and loses the
        #    intent, in one script. The script refuses when the intent is not this one.
        while True:
            result = await self._store.save(
                save, intent=intent.value, version=str(committed.version)
            )
            if result.kind == "saved":
                return result
            if result.kind != "full" or not await self._make_room():
                break
        # The change is made, and Redis lost data or had no room: the record decides.
        await self.reconcile(user_id)
        if save.delta.expiring or save.delta.expiring_gone:
            raise SourceError(
                "what was asked for is stored; the conversation is not: this process "
                "was held up, or Redis lost data, in between"
            )
        return ScriptResult("restored")

    async def switch(
        self, user_id: int, snapshot: Snapshot, *, on: bool, also: Any = None
    ) -> bool:
        """Switch a session on or off; False: repeat it on a newer state."""
        intent = await self._begin(user_id, snapshot.header.version)
        if intent is None:
            return False
        header = msgspec.structs.replace(snapshot.header, on=on)
        record = _to_record(user_id, intent.version, snapshot, header)
        committed = await self._commit(user_id, intent, record, new=False, also=also)
        if committed is None:
            return False
        await self._resolve_intent(user_id, intent, committed)
        return True

    async def _begin(self, user_id: int, read: int) -> WriteIntent | None:
        """Begin an intent; None when the session is not what was read any more."""
        intent = await self.intents.begin(user_id, read)
        match intent.kind:
            case "begun":
                return intent
            case "taken":
                # Its owner may have committed: what was read may not be the newest.
                await self._resolve_intent(user_id, intent)
            case "busy":
                await self.wait_for_intent(user_id)
            case "names":
                raise wrong_blinding_key_error()
        return None

    async def _commit(
        self,
        user_id: int,
        intent: WriteIntent,
        record: SourceRecord,
        *,
        new: bool,
        also: Any = None,
    ) -> SourceRecord | None:
        """Save a record over the version that Redis knows; return what was saved.

        Cancelled, or failed with an unknown outcome, it leaves the intent: the process
        that finds it when it is old brings Redis after the source.

        Returns:
            None when the source had another version; Redis has that one now.
        """
        expected = 0 if new else intent.known
        try:
            there = None if expected else await self.load(user_id)
            if new and there is not None and is_empty(there):
                # The user's last conversation ended, and an empty record stayed: the
                # new session begins over that record.
                expected = there.version
                version = max(record.version, expected + 1)
                record = msgspec.structs.replace(record, version=version)
                there = None
            if there is None and await self.ask(
                self.source.save(record, expected, *given(also))
            ):
                return record
        except (SourceError, SourceDeclined, SessionDamaged, CodecError) as error:
            if _changed_nothing(error):
                await self._withdraw(user_id, intent)
            raise
        await self._resolve_intent(user_id, intent)
        return None

    async def _withdraw(self, user_id: int, intent: WriteIntent) -> None:
        # An intent that was taken stays: its last owner may have committed. An intent
        # that cannot be withdrawn now keeps others out until it is older than `LEASE`.
        if intent.kind == "begun":
            with suppress(OddswireError):
                await self.intents.withdraw(user_id, intent)

    # --- bringing Redis after the source: steps 4 and 5

    async def reconcile(self, user_id: int, *, make_room: bool = True) -> None:
        """Make Redis as the source is; a late write of another process is refused.

        Raises:
            SourceError: The source cannot be asked; Redis is left as it is.
            SessionDamaged: The record cannot be read.
            SessionConflict: Other processes had intents all the while.
        """
        intent = await self._take(user_id)
        try:
            await self._resolve_intent(user_id, intent, make_room=make_room)
        except (SourceError, SessionDamaged, CodecError):
            await self._withdraw(user_id, intent)
            raise

    async def check(self, user_id: int) -> None:
        """Reconcile a session whose record has another version than Redis knows."""
        record = await self.load(user_id)
        known = await self.intents.known_versions([user_id])
        if (record.version if record else None) != known.get(user_id):
            await self.reconcile(user_id)

    async def _take(self, user_id: int) -> WriteIntent:
        """Begin an intent on any version; an abandoned one becomes the caller's."""
        for _ in range(TRIES):
            intent = await self.intents.begin(user_id, None)
            match intent.kind:
                case "begun" | "taken":
                    return intent
                case "names":
                    raise wrong_blinding_key_error()
            await self.wait_for_intent(user_id)
        raise SessionConflict("other processes change the session all the while")

    async def wait_for_intent(self, user_id: int) -> None:
        """Wait until another process's intent is gone, or old enough to be taken."""
        until = self._clock.boottime() + LEASE
        first = await self.intents.begun_at(user_id)
        begun = first
        # Another intent than the first one: the caller tries, as all others do.
        while begun is not None and begun == first:
            if self._clock.boottime() >= until:
                return
            # Not all at once: those that wait began together.
            await self._clock.sleep(random.uniform(_PAUSE / 4, _PAUSE))  # noqa: S311
            begun = await self.intents.begun_at(user_id)

    async def _resolve_intent(
        self,
        user_id: int,
        intent: WriteIntent,
        record: SourceRecord | None = None,
        *,
        make_room: bool = True,
    ) -> None:
        """Make Redis as the source is, under an intent.

        Args:
            user_id: Whose.
            intent: The caller's.
            record: What the caller committed under it; None: what the source has.
            make_room: Whether another session may leave for this one.
        """
        # 4. The fence. An owner that was paused before its commit goes on with the
        #    version from before, and the source refuses it from now on. Without the
        #    fence it would commit after the restore, and Redis would never hear of it.
        while record is None:
            there = await self.load(user_id)
            if there is None:
                break
            version = max(intent.version, there.version + 1)
            fenced = msgspec.structs.replace(there, version=version)
            if await self.ask(self.source.save(fenced, there.version)):
                record = fenced
        # 5. The restore. It fails when another process has taken this intent. That
        #    process may have died since; therefore this one reconciles once more.
        if not await self._restore(user_id, intent, record, make_room=make_room):
            await self.reconcile(user_id, make_room=make_room)

    async def _restore(
        self,
        user_id: int,
        intent: WriteIntent,
        record: SourceRecord | None,
        *,
        make_room: bool,
    ) -> bool:
        """Make Redis as a record is; False when the intent is not the caller's."""
        evicted = False
        while True:
            # Read in each round: another process may touch the session without an
            # intent, and the script then finds another header, a ``conflict``.
            state = await self._redis_state(user_id)
            match await self._restore_over(
                user_id, intent, state, record, evicted=evicted
            ):
                case "full":
                    evicted = not (make_room and await self._make_room())
                case "names":
                    raise wrong_blinding_key_error()
                case "saved":
                    return True
                case "lost":
                    return False

    async def _restore_over(
        self,
        user_id: int,
        intent: WriteIntent,
        state: RedisState,
        record: SourceRecord | None,
        *,
        evicted: bool,
    ) -> str:
        codec = self._codec
        if record is None or (is_empty(record) and not state.header):
            return await self.intents.restore(user_id, intent, state)
        snapshot = self._snapshot(record)
        header = _parsed(state)
        mode = "whole"
        if codec.sealer and state.expiring is None:
            # Other software changed the session in Redis. Nothing of it is believed,
            # nor its times.
            header, mode = None, "replace"
        generation = secrets.token_hex(8) if header is None else header.generation
        value = codec.value(user_id, snapshot)
        content = codec.content(snapshot, value)
        delta = codec.delta(user_id, snapshot, content, generation)
        begins = msgspec.structs.replace(
            snapshot.header, generation=generation, schema=codec.schema.type.schema
        )
        restore = partial(
            self.intents.restore,
            user_id,
            intent,
            state,
            header=begins,
            version=record.version,
            entries=content.entries,
        )
        if evicted:
            return await restore(mode="evicted")
        seal = codec.seal_restored(
            user_id, header, delta, begins=begins, expiring=state.expiring or NOTHING
        )
        return await restore(mode=mode, fields=delta.main, seal=seal)

    def _snapshot(self, record: SourceRecord) -> Snapshot:
        """Return a record as if it had been read here, with everything to be sealed."""
        codec = self._codec
        if record.schema > codec.schema.type.schema:
            raise SessionDamaged(
                f"kept with schema {record.schema}, this program knows "
                f"{codec.schema.type.schema}: finish the deployment",
                reason="newer",
            )
        data: _RecordData = decode(_RECORD_DATA, record.data, SessionDamaged)
        members = {}
        for collection, bodies in data.members.items():
            for body in bodies:
                key, _ = decode(_PAIR, bytes(body), SessionDamaged)
                if collection in codec.schema.collections:
                    field = codec.member_field(collection, key)
                else:
                    # Of a newer program of the same schema: kept, and not looked at.
                    field = f"{collection}:{codec.names.of_value(collection, key)}"
                members[field] = bytes(body)
        fields = bytes(data.fields)
        sections = {} if fields == b"\x80" else {DURABLE: fields}
        return Snapshot(
            header=SessionHeader(
                created=record.created,
                active=record.active,
                schema=record.schema,
                on=record.on,
            ),
            live=False,
            sections=sections,
            members=members,
            stale=frozenset([*sections, *members]),
        )

    async def _redis_state(self, user_id: int) -> RedisState:
        codec = self._codec
        main = await self._store.fields(user_id)
        if not main:
            return RedisState(b"", await self.intents.evicted(user_id), [])
        expiring = codec.conversation_of(user_id, main) if codec.sealer else None
        entries, held = codec.registered(main)
        return RedisState(main.get(HEADER.encode(), b""), entries, held, expiring)

    async def _make_room(self) -> bool:
        """Have the least active session leave Redis; False when none can."""
        store = self._store
        names: Any = await store.client.zrange(store.activity, 0, _CANDIDATES - 1)
        for _, user_id in store.users(names):
            state = await self._redis_state(user_id)
            if state.header and await self.intents.evict(user_id, state):
                return True
        return False

    # --- the end of a session: the same steps, with a deletion for the commit

    async def delete(self, user_id: int, also: Any = None) -> bool:
        """Delete a record and the session; False when there was neither."""
        existed = False
        for _ in range(TRIES):
            intent = await self._take(user_id)
            try:
                record = await self.load(user_id)
                existed |= record is not None and not is_empty(record)
                version = 0 if record is None else record.version
                deleted = (record is None and also is None) or await self.ask(
                    self.source.delete(user_id, version, *given(also))
                )
            except (SourceError, SourceDeclined, SessionDamaged, CodecError) as error:
                if _changed_nothing(error):
                    await self._withdraw(user_id, intent)
                raise
            existed |= bool((await self._redis_state(user_id)).header)
            # Also when another process was first: Redis is as the source is after it.
            await self._resolve_intent(user_id, intent)
            if deleted:
                return existed
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def move(self, old: int, new: int) -> bool:
        """Give a record to another user; False when the old one has none.

        Raises:
            SessionConflict: The new one has one.
        """
        for _ in range(TRIES):
            record = await self.load(old)
            if record is None:
                return False
            other = await self.load(new)
            if other is not None and not is_empty(other):
                raise SessionConflict(f"user {new} has a session already")
            if other is not None:
                await self.ask(self.source.delete(new, other.version))
                continue
            # In one order: two moves that cross each other must not both wait.
            users = sorted((old, new))
            intents = [await self._take(user) for user in users]
            version = max(record.version + 1, *(each.version for each in intents))
            moved = msgspec.structs.replace(record, user_id=new, version=version)
            done = await self.ask(self.source.move(old, record.version, moved))
            for user_id, intent in zip(users, intents, strict=True):
                await self._resolve_intent(user_id, intent)
            if done:
                return True
        raise SessionConflict(f"the session was changed {TRIES} times meanwhile")

    async def end(self, user_id: int) -> bool:
        """Forget a user who asked for nothing and whose conversation has ended.

        Returns:
            False when the session came to life meanwhile, or another process does it.
        """
        intent = await self.intents.begin(user_id, None)
        if intent.kind == "taken":
            await self._resolve_intent(user_id, intent)
        if intent.kind != "begun":
            return False
        # The state is read before the record. A session that comes to life in between
        # has another header, and the restore refuses.
        state = await self._redis_state(user_id)
        done = False
        try:
            record = await self.load(user_id)
            if await self._store.get(user_id) is None:
                done = record is None or (
                    is_empty(record)
                    and await self.ask(self.source.delete(user_id, record.version))
                )
        finally:
            if not done:
                await self._withdraw(user_id, intent)
        if not done:
            return False
        return await self.intents.restore(user_id, intent, state) == "saved"


def _changed_nothing(error: OddswireError) -> bool:
    """Whether a failed call left the source as it was, for certain."""
    unreadable = isinstance(error, SessionDamaged | CodecError)
    return unreadable or error.outcome is not Outcome.UNKNOWN


def _failure(error: Exception) -> str:
    # Without its text, which may hold the values of a statement: it reaches logs.
    return f"the source failed: {type(error.__cause__ or error).__name__}"


def _parsed(state: RedisState) -> SessionHeader | None:
    try:
        return SessionHeader.parse(state.header)
    except SessionDamaged:
        return None
