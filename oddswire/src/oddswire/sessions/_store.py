"""`Store`: calls the scripts of sessions, with their keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oddswire import keys as families
from oddswire._text import text
from oddswire.errors import NoPermission, SessionError, WrongType
from oddswire.sessions import _scripts as scripts
from oddswire.sessions._scripts import (
    Answer,
    answer,
    fields,
    flat,
    link,
    stored,
    told,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )

    from oddswire.client import Client
    from oddswire.clock import Clock
    from oddswire.codec import Names
    from oddswire.keys import KeySpace
    from oddswire.sessions._form import Change
    from oddswire.sessions._scripts import Fields, Stored, Tag, Terms
    from oddswire.sessions._seal import HeaderSeal

TRIES = 16
"""Attempts at what other processes get ahead of."""
_LOOKED_AT = 2_000  # keys of a page of the search for a user in all indexes
_SHARD = 0  # one slot, in which every guarantee is exact


class Store:
    """Calls the scripts.

    Args:
        client: Where.
        space: The prefix of the keys.
        names: Of users and values.
        clock: Of this process.
        check: Raises `SessionDamaged` for what is not whole.

    Attributes:
        shift: Microseconds added to the server's clock; only tests change it.
        foreign: Names, entries and numbers that no session wrote, and that were
            skipped.
    """

    def __init__(
        self,
        client: Client,
        space: KeySpace,
        names: Names,
        clock: Clock,
        check: Callable[[int, Stored], object],
    ) -> None:
        self.client = client
        self._check = check
        self._clock = clock
        # Until the server says otherwise, its clock shows what this machine's shows.
        self._ahead = round((clock.now() - clock.boottime()) * 1e6)
        self._last = 0
        self.names = names
        self.shift = 0
        self.foreign = 0
        self._space = space
        self._pair = lru_cache(16_384)(self._make_pair)
        shard = _SHARD
        self.activity = space.key(families.SESSION_ACTIVITY, shard)
        self.expiry = space.key(families.SESSION_EXPIRY, shard)
        self.off = space.key(families.SESSION_OFF, shard)
        self.stats = space.key(families.SESSION_STATS, shard)
        self.log = space.key(families.SESSION_LOG, shard)
        self.marks = space.key(families.SESSION_MARKS, shard)
        self.noted = space.key(families.SESSION_NOTED, shard)
        self.beat = space.key(families.SESSION_BEAT, shard)
        # What names came from, so that a process with another key is told.
        self.naming = names.of_user(0)

    def _make_pair(self, name: str) -> tuple[str, str]:
        return (
            self._space.key(families.SESSION, _SHARD, name),
            self._space.key(families.SESSION_SHORT, _SHARD, name),
        )

    def pair(self, user_id: int) -> tuple[str, str]:
        """Return the keys of a user's two hashes.

        Every operation on a user comes by here first.

        Raises:
            SessionError: `user_id` is no int: "77" would be somebody else than 77. Or
                it has more than 64 bits.
        """
        if isinstance(user_id, bool) or not isinstance(user_id, int):
            raise SessionError(
                f"user_id must be an int, not {type(user_id).__name__}: "
                "sessions.get(int(user_id))"
            )
        if not -(2**63) <= user_id < 2**63:
            raise SessionError("user_id must have at most 64 bits, as Telegram's have")
        return self._pair(self.names.of_user(user_id))

    def index(self, tag: Tag) -> str:
        """Return the key of an index's value."""
        return self._space.key(families.SESSION_INDEX, _SHARD, *tag)

    def index_pattern(self) -> str:
        """Return the pattern of every key of every index."""
        return self._space.pattern(families.SESSION_INDEX, _SHARD)

    # --- what somebody else wrote

    def users(self, names: Iterable[str | bytes]) -> list[tuple[str, int]]:
        """Return names with their users; what is no name is left out and counted."""
        found = []
        for each in names:
            try:
                name = text(each, errors="strict")
                found.append((name, self.names.user(name)))
            except ValueError:
                self.foreign += 1
        return found

    # --- sealed headers

    async def sealed(
        self,
        seal: HeaderSeal | None,
        call: Callable[[int | str, bytes, bytes], Awaitable[list[Any]]],
    ) -> Answer:
        """Call a script with a sealed header; ``again`` when another one is stored.

        Args:
            seal: Makes the header; None without sealing.
            call: Of the script, with a time, the header read and the one to write.
        """
        if seal is None:
            return answer(await call("", b"", b""))
        for _ in range(TRIES):
            sent = round(self._clock.boottime() * 1e6)
            now = sent + self._ahead
            header = seal.header(now, self._last)
            reply = answer(await call(now, seal.before, header))
            if reply.kind != "header":
                return reply
            server, last, stored = reply.detail
            # From the sending on: the way there is in it, as it will be again.
            self._ahead = int(server) - sent
            self._last = int(last)
            if not seal.adopt(stored):
                break
        return Answer("again")

    # --- one session

    async def get(self, user_id: int) -> Stored | None:
        """Read it; None for none.

        Raises:
            SessionDamaged: Sealed, it looks as if it had ended, and has not.
        """
        reply = await scripts.GET(self.client, self.pair(user_id), (self.shift,))
        if not reply:
            return None
        found = stored(reply[:3])
        if len(reply) == 3:
            return found
        self._check(user_id, found)
        return None

    async def save(
        self,
        user_id: int,
        change: Change,
        *,
        read: int,
        live: bool,
        terms: Terms,
        cap: int,
        schema: int,
        generation: str,
        active: bool,
        mark: str = "",
        sourced: str = "",
        seal: HeaderSeal | None = None,
    ) -> Answer:
        """Write a change of the version that was read; 0 to create.

        With a source of record, under a mark: the caller's, or "-" for nobody's.
        """
        keys = [
            *self.pair(user_id),
            *(self.activity, self.expiry, self.off, self.stats, self.log),
            *(self.index(tag) for tag in change.joins),
            *(self.index(tag) for tag in change.leaves),
            *((self.marks, self.noted) if mark else ()),
        ]
        args: list[Any] = [
            self.shift, self.names.of_user(user_id), read, int(live), terms.ttl,
            terms.absolute, cap, schema, generation, int(active), link(),
            told(change.joins), told(change.leaves), self.naming,
            len(change.joins), len(change.leaves),
            len(change.main), len(change.main_gone),
            len(change.short), len(change.short_gone), len(change.held),
            mark, sourced,
        ]  # fmt: skip
        rest = [
            *flat(change.main),
            *change.main_gone,
            *flat(change.short),
            *change.short_gone,
            *flat(change.held),
        ]
        return await self.sealed(
            seal,
            lambda *header: scripts.SAVE(self.client, keys, [*args, *header, *rest]),
        )

    async def member(
        self,
        user_id: int,
        *,
        collection: str,
        field: str,
        tag: Tag | None,
        limit: int,
        terms: Terms,
        schema: int,
        generation: str,
        active: bool,
        sealed: bytes | None,
    ) -> Answer:
        """Add a member, or remove it when there is nothing `sealed`."""
        keys = [
            *self.pair(user_id),
            *(self.activity, self.expiry, self.stats, self.log),
            *(() if tag is None else (self.index(tag),)),
        ]
        args: list[Any] = [
            self.shift, self.names.of_user(user_id), terms.ttl, terms.absolute,
            int(active), link(), schema, generation, collection, field, limit,
            told(() if tag is None else (tag,)),
        ]  # fmt: skip
        args += () if sealed is None else (sealed,)
        return answer(await scripts.MEMBER(self.client, keys, args))

    async def touch(
        self, user_id: int, terms: Terms, seal: HeaderSeal | None = None
    ) -> Answer:
        """Note activity."""
        keys = (*self.pair(user_id), self.activity, self.expiry, self.stats)
        name = self.names.of_user(user_id)
        args = (self.shift, name, terms.ttl, terms.absolute)
        return await self.sealed(
            seal, lambda *header: scripts.TOUCH(self.client, keys, (*args, *header))
        )

    async def switch(
        self, user_id: int, *, on: bool, seal: HeaderSeal | None = None
    ) -> Answer:
        """Switch it on or off."""
        keys = (self.pair(user_id)[0], self.expiry, self.off, self.stats, self.log)
        args = (self.shift, self.names.of_user(user_id), int(on), link())
        return await self.sealed(
            seal, lambda *header: scripts.SWITCH(self.client, keys, (*args, *header))
        )

    async def fields(self, user_id: int) -> Fields:
        """Return the main fields, whether it lives, has ended or is damaged."""
        return fields(await scripts.FIELDS(self.client, (self.pair(user_id)[0],)))

    async def delete(
        self, user_id: int, header: bytes, tags: Sequence[Tag], held: Sequence[str]
    ) -> bool:
        """Delete it if its header is still that one."""
        keys = [
            *self.pair(user_id),
            *(self.activity, self.expiry, self.off, self.stats, self.log),
            *(self.index(tag) for tag in tags),
        ]
        name = self.names.of_user(user_id)
        args = [name, header, link(), told(tags), *held]
        return bool(await scripts.DELETE(self.client, keys, args))

    async def move(
        self,
        old: int,
        new: int,
        *,
        read: int,
        schema: int,
        generation: str,
        tags: Sequence[Tag],
        main: Mapping[str, bytes],
        short: Mapping[str, bytes],
        seal: HeaderSeal | None = None,
    ) -> Answer:
        """Give a session another user."""
        keys = [
            *self.pair(old), *self.pair(new), self.activity, self.expiry, self.off,
            self.stats, self.log, *(self.index(tag) for tag in tags),
        ]  # fmt: skip
        args = [
            self.shift, self.names.of_user(old), self.names.of_user(new), read,
            generation, link(), link(), told(tags), len(main), len(short), schema,
        ]  # fmt: skip
        rest = [*flat(main), *flat(short)]
        return await self.sealed(
            seal,
            lambda *header: scripts.MOVE(self.client, keys, [*args, *header, *rest]),
        )

    async def purge(self, user_id: int) -> int:
        """Empty the log if it speaks of a user; return how often it did.

        All of it: a stream keeps the bytes of entries that were deleted one by one.
        """
        return await self._in_log(user_id, link())

    async def _in_log(self, user_id: int, new: str = "") -> int:
        args = (self.names.of_user(user_id), new)
        found = await scripts.PURGE.run(self.client, (self.log, self.stats), args)
        return int(found)

    async def registered(self, user_id: int) -> bool:
        """Return whether sessions know of a user apart from her own fields."""
        score = await self.client.zscore(self.activity, self.names.of_user(user_id))
        return score is not None

    async def unlisted(self) -> bool:
        """Return whether a session's fields were ever taken away by somebody else."""
        return await self.client.hget(self.stats, "unlisted") is not None

    async def traces(self, user_id: int, tags: Iterable[Tag]) -> list[str]:
        """Return the keys that speak of a user, in all places that are hers.

        Args:
            user_id: Whose.
            tags: The index entries that she had.
        """
        name = self.names.of_user(user_id)
        main, short = self.pair(user_id)
        indexes = [self.index(tag) for tag in tags]
        pipe = self.client.pipeline(transaction=False)
        for key in (main, short):
            pipe.exists(key)
        for key in (self.activity, self.expiry):
            pipe.zscore(key, name)
        for key in (self.off, *indexes):
            pipe.sismember(key, name)
        for key in (self.marks, self.noted):
            pipe.hexists(key, name)
        keys = [
            *(main, short, self.activity, self.expiry, self.off),
            *(*indexes, self.marks, self.noted),
        ]
        found: list[Any] = await pipe.execute()
        left = [
            key
            for key, there in zip(keys, found, strict=True)
            if there is not None and there is not False and there != 0
        ]
        if await self._in_log(user_id):
            left.append(self.log)
        return left

    async def search(self, user_id: int) -> list[str]:
        """Return every index set that has a user; looks at every key of the server."""
        name = self.names.of_user(user_id)
        left: list[str] = []
        cursor: Any = "0"
        try:
            while True:
                cursor, found = await scripts.TRACES.run(
                    self.client,
                    [self.expiry],
                    [cursor, self.index_pattern(), name, _LOOKED_AT],
                )
                left += [text(key) for key in found]
                if text(cursor) == "0":
                    return left
        except NoPermission:
            return [*left, "the indexes were not searched: SCAN is not allowed"]

    # --- all of them

    async def lookup(
        self, tag: Tag, most: int, *, sourced: bool = False
    ) -> list[str] | int:
        """Return the names of an index's value, or their number when above `most`.

        With a source of record, -1 when the indexes were not built from it yet.
        """
        keys = (self.index(tag), self.off, *((self.stats,) if sourced else ()))
        reply = await scripts.LOOKUP(self.client, keys, (most,))
        return reply if isinstance(reply, int) else [text(name) for name in reply]

    async def pages(self, tag: Tag) -> list[str]:
        """Return the names of an index's value, read in pages."""
        found: list[str] = []
        cursor = None
        while cursor != 0:
            cursor, names = await self.client.sscan(
                self.index(tag), cursor or 0, count=1000
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

        Whoever is there all the while is in some page, and may be in two.
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

        What is no name is taken out of the set: or the first page would hold the same
        for ever.
        """
        reply = await scripts.ENDED(self.client, (self.expiry,), (self.shift, most))
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
        return int(await scripts.REAP(self.client, keys, [self.shift, *names]))

    async def count(self, ttl: int, windows: Sequence[int]) -> list[Any]:
        """Return what the statistics script says."""
        keys = (self.activity, self.expiry, self.off, self.stats)
        reply: list[Any] = await scripts.STATS(
            self.client, keys, (self.shift, ttl, *windows)
        )
        return reply


def named_otherwise() -> SessionError:
    return SessionError(
        "the sessions here are named under another key (or none): give the keyring "
        "that they were made with"
    )
