"""`SessionStore`: sessions in Redis, by the scripts and with their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oddswire import keys as families
from oddswire._numbers import check_user
from oddswire._text import text
from oddswire.errors import NoPermission, SessionError, WrongType
from oddswire.sessions import _scripts as scripts
from oddswire.sessions._scripts import (
    ScriptResult,
    encode_entries,
    random_id,
    to_args,
    to_fields,
    to_result,
    to_stored,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.keys import KeySpace
    from oddswire.scripts import Script
    from oddswire.sessions._codec import HeaderSeal, Save, SessionCodec
    from oddswire.sessions._scripts import Fields, IndexEntry, Stored

TRIES = 16
"""Attempts of a change that other processes are faster than."""
NO_INTENT = "-"
"""With a source of record: the script saves if nobody has an intent."""
_SHARD = 0  # one slot, in which every guarantee is exact
_KEYS_KEPT = 16_384
_KEYS_A_PAGE = 2_000  # of the search for a user in all indexes


class SessionStore:
    """Calls the scripts.

    Args:
        client: Where.
        space: The prefix of the keys.
        codec: Encodes, opens and seals sessions.
        clock: Of this process.
        cap: Most sessions.

    Attributes:
        client: On a cluster, of the node that has the sessions.
        codec: As given.
        clock: As given.
        names: Of users and values.
        cap: As given.
        clock_offset: Microseconds added to the server's clock; only tests change it.
        foreign: Names, entries and numbers that no session wrote, and that this process
            skipped.
        blinding_check: What names are made from, so that a process with another key
            fails.
    """

    def __init__(
        self,
        client: Client,
        space: KeySpace,
        codec: SessionCodec[Any],
        clock: Clock,
        cap: int,
    ) -> None:
        self.codec = codec
        self.clock = clock
        self.names = codec.names
        self.cap = cap
        self.clock_offset = 0
        self.foreign = 0
        self._schema = codec.schema.type.schema
        # Until the server says otherwise, its clock shows what this machine's shows.
        self._server_ahead = round((clock.now() - clock.boottime()) * 1e6)
        self._newest_deleted = 0
        self._space = space
        self._pairs: dict[str, tuple[str, str]] = {}
        self.activity = space.key(families.SESSION_ACTIVITY, _SHARD)
        self.expiry = space.key(families.SESSION_EXPIRY, _SHARD)
        self.off = space.key(families.SESSION_OFF, _SHARD)
        self.stats = space.key(families.SESSION_STATS, _SHARD)
        self.log = space.key(families.SESSION_LOG, _SHARD)
        self.intents = space.key(families.SESSION_MARKS, _SHARD)
        self.known_versions = space.key(families.SESSION_NOTED, _SHARD)
        self.beat = space.key(families.SESSION_BEAT, _SHARD)
        # On a cluster the node that has the slot is the server.
        self.client = client.at(self.beat).reading_from("primary")
        self.blinding_check = self.names.of_user(0)

    # --- keys and names

    def pair(self, user_id: int) -> tuple[str, str]:
        """Return the keys of a user's durable and expiring hash.

        Every operation on a user comes by here first.

        Raises:
            SessionError: `user_id` is no int, or has more than 64 bits.
        """
        if type(user_id) is not int or user_id.bit_length() > 63:
            check_user(user_id, SessionError)
        return self._pair(self.names.of_user(user_id))

    def _pair(self, name: str) -> tuple[str, str]:
        pair = self._pairs.get(name)
        if pair is None:
            if len(self._pairs) >= _KEYS_KEPT:
                self._pairs.clear()
            pair = self._pairs[name] = (
                self._space.key(families.SESSION, _SHARD, name),
                self._space.key(families.SESSION_SHORT, _SHARD, name),
            )
        return pair

    def index(self, entry: IndexEntry) -> str:
        """Return the key of an index's value."""
        return self._space.key(families.SESSION_INDEX, _SHARD, *entry)

    def users(self, names: Iterable[str | bytes]) -> list[tuple[str, int]]:
        """Return names with their users; skips and counts foreign names."""
        found = []
        for each in names:
            try:
                name = text(each, errors="strict")
                found.append((name, self.names.user(name)))
            except ValueError:
                self.foreign += 1
        return found

    # --- sealed headers

    async def call_sealed(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        rest: Sequence[Any] = (),
        *,
        seal: HeaderSeal | None,
        compares: bool = True,
    ) -> ScriptResult:
        """Call a script that writes a header; see the steps of `HeaderSeal`.

        Args:
            script: Which.
            keys: Of the script.
            args: Of the script, before those of the header.
            rest: Of the script, behind them.
            seal: Makes the header; None without sealing.
            compares: Whether the script takes the header that was read, to compare it.

        Returns:
            ``again`` when what is stored is not what was read.
        """

        async def call(now: int | str, before: bytes, header: bytes) -> ScriptResult:
            sealed = (now, before, header) if compares else (now, header)
            reply = await script.run(self.client, keys, [*args, *sealed, *rest])
            return to_result(reply)

        if seal is None:
            return await call("", b"", b"")
        for _ in range(TRIES):
            # 1. Seal the header that the script will write at the server's time.
            sent = round(self.clock.boottime() * 1e6)
            now = sent + self._server_ahead
            header = seal.header(now, self._newest_deleted)
            # 2. The script writes it, or returns its own time and header.
            result = await call(now, seal.before, header)
            if result.kind != "header":
                return result
            server, newest, stored = result.detail
            # From the sending on: the way to the server takes its time again.
            self._server_ahead = int(server) - sent
            self._newest_deleted = int(newest)
            # 3. Only a touch came between: go on from the header that it wrote.
            if not seal.adopt(stored):
                break
        return ScriptResult("again")

    # --- one session

    async def get(self, user_id: int) -> Stored | None:
        """Read it; None for none.

        Raises:
            SessionDamaged: Sealed, it looks as if it had ended, and has not.
        """
        reply = await scripts.GET.run(
            self.client, self.pair(user_id), (self.clock_offset,)
        )
        if not reply:
            return None
        found = to_stored(reply[:3])
        if len(reply) == 3:
            return found
        # Without its fields a session looks ended: the seal tells whether it is.
        self.codec.snapshot(user_id, found)
        return None

    async def save(
        self, save: Save, *, intent: str = "", version: str = ""
    ) -> ScriptResult:
        """Write a change of the version that was read.

        Args:
            save: The change.
            intent: With a source of record: the caller's write intent, or `NO_INTENT`.
            version: Under an intent: the version of the record at the source.
        """
        delta, before = save.delta, save.before
        keys = [
            *self.pair(save.user_id),
            *(self.activity, self.expiry, self.off, self.stats, self.log),
            *map(self.index, delta.index_adds),
            *map(self.index, delta.index_removes),
            *((self.intents, self.known_versions) if intent else ()),
        ]
        args: list[Any] = [
            self.clock_offset, self.names.of_user(save.user_id), save.read_version,
            int(before is not None and before.live),
            self.codec.expiry.ttl, self.codec.expiry.absolute, self.cap, self._schema,
            save.generation, int(save.active), random_id(),
            encode_entries(delta.index_adds), encode_entries(delta.index_removes),
            self.blinding_check, len(delta.index_adds), len(delta.index_removes),
            len(delta.main), len(delta.main_gone),
            len(delta.expiring), len(delta.expiring_gone), len(delta.held),
            intent, version,
        ]  # fmt: skip
        rest = [
            *to_args(delta.main),
            *delta.main_gone,
            *to_args(delta.expiring),
            *delta.expiring_gone,
            *to_args(delta.held),
        ]
        return await self.call_sealed(scripts.SAVE, keys, args, rest, seal=save.seal)

    async def member(
        self,
        user_id: int,
        collection: str,
        key: str,
        *,
        generation: str,
        active: bool,
        body: bytes | None,
    ) -> ScriptResult:
        """Add a member, or remove it when there is no `body`; not with sealing."""
        codec = self.codec
        field, entry = (
            codec.member_field(collection, key),
            codec.member_entry(collection, key),
        )
        keys = [
            *self.pair(user_id),
            *(self.activity, self.expiry, self.stats, self.log),
            *(() if entry is None else (self.index(entry),)),
        ]
        args: list[Any] = [
            self.clock_offset, self.names.of_user(user_id),
            self.codec.expiry.ttl, self.codec.expiry.absolute,
            int(active), random_id(), self._schema, generation, collection, field,
            codec.schema.collections[collection].limit,
            encode_entries(() if entry is None else (entry,)),
        ]  # fmt: skip
        if body is not None:
            args.append(codec.pack(user_id, generation, field, body))
        return to_result(await scripts.MEMBER.run(self.client, keys, args))

    async def touch(self, user_id: int, seal: HeaderSeal | None = None) -> ScriptResult:
        """Note activity."""
        keys = (*self.pair(user_id), self.activity, self.expiry, self.stats)
        args = (
            *(self.clock_offset, self.names.of_user(user_id)),
            *(self.codec.expiry.ttl, self.codec.expiry.absolute),
        )
        return await self.call_sealed(scripts.TOUCH, keys, args, seal=seal)

    async def switch(
        self, user_id: int, *, on: bool, seal: HeaderSeal | None = None
    ) -> ScriptResult:
        """Switch it on or off."""
        keys = (self.pair(user_id)[0], self.expiry, self.off, self.stats, self.log)
        args = (self.clock_offset, self.names.of_user(user_id), int(on), random_id())
        return await self.call_sealed(scripts.SWITCH, keys, args, seal=seal)

    async def fields(self, user_id: int) -> Fields:
        """Return the durable fields, whether it lives, has ended or is damaged."""
        return to_fields(
            await scripts.FIELDS.run(self.client, (self.pair(user_id)[0],))
        )

    async def delete(
        self,
        user_id: int,
        header: bytes,
        entries: Sequence[IndexEntry],
        held: Sequence[str],
    ) -> bool:
        """Delete it if its header is still that one."""
        keys = [
            *self.pair(user_id),
            *(self.activity, self.expiry, self.off, self.stats, self.log),
            *map(self.index, entries),
        ]
        name = self.names.of_user(user_id)
        args = [name, header, random_id(), encode_entries(entries), *held]
        return bool(await scripts.DELETE.run(self.client, keys, args))

    async def move(self, old: int, save: Save) -> ScriptResult:
        """Give a session to the user of `save`, whose `before` is what was read."""
        delta, before = save.delta, save.before
        assert before is not None  # noqa: S101 - nobody moves what is not there
        entries = sorted(before.entries | save.content.entries)
        keys = [
            *self.pair(old), *self.pair(save.user_id),
            *(self.activity, self.expiry, self.off, self.stats, self.log),
            *map(self.index, entries),
        ]  # fmt: skip
        args = [
            self.clock_offset, self.names.of_user(old),
            self.names.of_user(save.user_id), save.read_version, save.generation,
            random_id(), random_id(), encode_entries(entries),
            len(delta.main), len(delta.expiring), self._schema,
        ]  # fmt: skip
        rest = [*to_args(delta.main), *to_args(delta.expiring)]
        return await self.call_sealed(scripts.MOVE, keys, args, rest, seal=save.seal)

    # --- what speaks of an erased user

    async def purge(self, user_id: int) -> int:
        """Empty the log if it speaks of a user; return how often it did.

        All of it: a stream keeps the bytes of entries that were deleted one by one.
        """
        return await self._in_log(user_id, random_id())

    async def _in_log(self, user_id: int, new: str = "") -> int:
        args = (self.names.of_user(user_id), new)
        found = await scripts.PURGE.run(self.client, (self.log, self.stats), args)
        return int(found)

    async def registered(self, user_id: int) -> bool:
        """Return whether sessions know of a user apart from her own fields."""
        score = await self.client.zscore(self.activity, self.names.of_user(user_id))
        return score is not None

    async def unlisted(self) -> bool:
        """Return whether another program ever removed a session's fields."""
        return await self.client.hget(self.stats, "unlisted") is not None

    async def traces(self, user_id: int, entries: Iterable[IndexEntry]) -> list[str]:
        """Return the keys that speak of a user, in all places that are hers.

        Args:
            user_id: Whose.
            entries: The index entries that she had.
        """
        name = self.names.of_user(user_id)
        indexes = [self.index(entry) for entry in entries]
        keys = [*self.pair(user_id), self.activity, self.expiry, self.off, *indexes]
        keys += [self.intents, self.known_versions]
        pipe = self.client.pipeline(transaction=False)
        for key in self.pair(user_id):
            pipe.exists(key)
        for key in (self.activity, self.expiry):
            pipe.zscore(key, name)
        for key in (self.off, *indexes):
            pipe.sismember(key, name)
        for key in (self.intents, self.known_versions):
            pipe.hexists(key, name)
        found: list[Any] = await pipe.execute()
        # A score of 0 is there, too.
        left = [
            key
            for key, there in zip(keys, found, strict=True)
            if (there is not None if key in (self.activity, self.expiry) else there)
        ]
        return [*left, self.log] if await self._in_log(user_id) else left

    async def search(self, user_id: int) -> list[str]:
        """Return every index set that has a user; looks at every key of the server."""
        name = self.names.of_user(user_id)
        pattern = self._space.pattern(families.SESSION_INDEX, _SHARD)
        left: list[str] = []
        cursor: Any = "0"
        try:
            while True:
                args = (cursor, pattern, name, _KEYS_A_PAGE)
                cursor, found = await scripts.TRACES.run(
                    self.client, (self.expiry,), args
                )
                left += [text(key) for key in found]
                if text(cursor) == "0":
                    return left
        except NoPermission:
            return [*left, "the indexes were not searched: SCAN is not allowed"]

    # --- all of them

    async def naming(self) -> str | None:
        """Return the `blinding_check` of the process that began the first session."""
        found: Any = await self.client.hget(self.stats, "names")
        return None if found is None else text(found)

    async def lookup(
        self, entry: IndexEntry, most: int, *, sourced: bool = False
    ) -> list[str] | int:
        """Return the names of an index's value, or their number when above `most`.

        With a source of record, -1 when the indexes were not built from it yet.
        """
        keys = (self.index(entry), self.off, *((self.stats,) if sourced else ()))
        reply = await scripts.LOOKUP.run(self.client, keys, (most,))
        return reply if isinstance(reply, int) else [text(name) for name in reply]

    async def pages(self, entry: IndexEntry) -> list[str]:
        """Return the names of an index's value, read in pages."""
        found: list[str] = []
        cursor = None
        while cursor != 0:
            cursor, names = await self.client.sscan(
                self.index(entry), cursor or 0, count=1000
            )
            if names:
                off = await self.client.smismember(self.off, names)
                found += [
                    text(name)
                    for name, gone in zip(names, off, strict=True)
                    if not int(gone)
                ]
        return list(dict.fromkeys(found))

    async def everybody(self) -> AsyncIterator[list[tuple[str, int]]]:
        """Yield the names and users of all sessions, a page at a time.

        A session that is there all the while is in some page, and may be in two.
        """
        cursor = None
        while cursor != 0:
            page: Any
            cursor, page = await self.client.zscan(
                self.activity, cursor or 0, count=500
            )
            yield self.users(name for name, _ in page)

    async def switched_off(self) -> set[str]:
        """Return the names of users that are not active."""
        return {text(name) for name in await self.client.smembers(self.off)}

    async def entries(self, names: Sequence[str]) -> list[tuple[str, Fields]]:
        """Return names with their sessions' field names and index entries, unopened."""
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            main = self._pair(name)[0]
            pipe.hkeys(main)
            pipe.hget(main, "i")
        replies = await pipe.execute(raise_on_error=False)
        found = []
        for name, listed, entries in zip(
            names, replies[::2], replies[1::2], strict=True
        ):
            if isinstance(listed, WrongType):
                self.foreign += 1
                continue
            for reply in (listed, entries):
                if isinstance(reply, BaseException):
                    raise reply
            known = {text(field).encode(): b"" for field in listed}
            known.pop(b"i", None)
            if entries is not None:
                known[b"i"] = text(entries).encode()
            found.append((name, known))
        return found

    async def ended(self, most: int) -> tuple[list[tuple[str, int]], bool]:
        """Return sessions that have ended and are still stored, and if there are more.

        What is no name leaves the set: or the first page would hold the same for ever.
        """
        reply = await scripts.ENDED.run(
            self.client, (self.expiry,), (self.clock_offset, most)
        )
        found = self.users(reply)
        known = {name.encode() for name, _ in found}
        foreign = [name for name in reply if name not in known]
        if foreign:
            await self.client.zrem(self.expiry, *foreign)
        return found, len(reply) == most

    async def reap(self, names: Iterable[str]) -> int:
        """Remove those of them that have ended; return how many."""
        names = list(names)
        keys = [self.activity, self.expiry, self.off, self.stats]
        keys += [key for name in names for key in self._pair(name)]
        args = (self.clock_offset, *names)
        return int(await scripts.REAP.run(self.client, keys, args))

    async def count(self, windows: Sequence[int]) -> list[Any]:
        """Return what the script of statistics says."""
        keys = (self.activity, self.expiry, self.off, self.stats)
        args = (self.clock_offset, self.codec.expiry.ttl, *windows)
        reply: list[Any] = await scripts.STATS.run(self.client, keys, args)
        return reply


def wrong_blinding_key_error() -> SessionError:
    return SessionError(
        "the sessions here are named under another key (or none): give the keyring "
        "that they were made with"
    )
