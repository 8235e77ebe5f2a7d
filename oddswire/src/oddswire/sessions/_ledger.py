"""`Ledger`: what Redis knows of the source: marks of changes under way, and versions.

A mark says that a change of somebody's record is on its way to the source. While it is
young it keeps other processes out; who finds an old one makes its write impossible at
the source, by giving the record a newer version, before anything else is done.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire._text import text
from oddswire.sessions import _scripts as scripts
from oddswire.sessions._scripts import Tag, flat, link, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence

    from oddswire.sessions._seal import HeaderSeal
    from oddswire.sessions._store import Store
    from oddswire.sessions.source import Kept

_CLAIMED = 60
# Seconds by which the clock of a process may differ from the server's.
_SKEW = 5.0
LEASE = 2.0
"""Seconds that a mark keeps other processes out."""
_TAGS = msgspec.json.Decoder(list[tuple[str, str]])
_MARK = re.compile(r"[0-9]{1,19} ([0-9]{1,19}) .*")
_VERSION = re.compile(r"[0-9]{1,19}")
_USER = re.compile(r"-?[0-9]{1,19}")


class Mark(msgspec.Struct, frozen=True):
    """What became of the wish to change a record.

    Attributes:
        kind: ``marked``; ``taken`` from one who did not come back; ``busy``: another
            process has a young one; ``conflict``: the session is another one than was
            read; ``names``.
        value: What is stored.
        version: For the record.
        noted: The record's, as far as Redis knows; 0 for none.
    """

    kind: str
    value: str = ""
    version: int = 0
    noted: int = 0


class Place(msgspec.Struct, frozen=True):
    """What Redis has of a session that is to be made as the source has it.

    Attributes:
        header: As it is there; empty when it is not.
        tags: Index entries that it has.
        held: Collections that have members.
        short: Total of its conversation; None where what is there is not whole, or
            nothing is sealed.
    """

    header: bytes
    tags: list[Tag]
    held: list[str]
    short: bytes | None = None


class Ledger:
    """Marks and versions, in the slot of the sessions.

    Args:
        store: Of the sessions.
        cap: Most sessions in Redis.

    Attributes:
        marks: Changes that this process has announced.
    """

    def __init__(self, store: Store, cap: int) -> None:
        self.marks = 0
        self._store = store
        self._cap = cap

    async def mark(self, user_id: int, read: int | None) -> Mark:
        """Announce a change of the version that was read.

        Args:
            user_id: Whose.
            read: The session's version; 0: there was none; None: whatever it is.
        """
        self.marks += 1
        store = self._store
        keys = (store.pair(user_id)[0], store.marks, store.noted, store.stats)
        args = (
            store.shift, store.names.of_user(user_id), secrets.token_hex(8),
            "" if read is None else read, round(LEASE * 1e6), store.naming,
        )  # fmt: skip
        reply = await scripts.MARK(store.client, keys, args)
        kind, *rest = (each.decode() for each in reply)
        return Mark(kind, rest[0], int(rest[1]), int(rest[2])) if rest else Mark(kind)

    async def unmark(self, user_id: int, mark: Mark) -> None:
        """Take a mark back: nothing was changed at the source."""
        store = self._store
        args = (store.names.of_user(user_id), mark.value)
        await scripts.UNMARK(store.client, (store.marks,), args)

    async def marked(self, user_id: int) -> float | None:
        """Return when a session was marked, in seconds of the server's clock."""
        store = self._store
        found: Any = await store.client.hget(store.marks, store.names.of_user(user_id))
        return None if found is None else _marked_at(found) / 1e6

    async def abandoned(self) -> list[int]:
        """Return users whose mark is so old that its owner may not come back."""
        store = self._store
        found: Any = await store.client.hgetall(store.marks)
        if not found:
            return []
        seconds, micros = await store.client.time()
        now = seconds * 1_000_000 + micros + store.shift
        old = [
            name
            for name, value in found.items()
            if abs(now - _marked_at(value)) >= LEASE * 1e6
        ]
        return [user_id for _, user_id in store.users(old)]

    async def noted(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Return the versions that Redis knows of."""
        if not user_ids:
            return {}
        names = [self._store.names.of_user(each) for each in user_ids]
        found: Any = await self._store.client.hmget(self._store.noted, names)
        return {
            user_id: int(version[0])
            for user_id, value in zip(user_ids, found, strict=True)
            if value is not None and (version := _VERSION.match(text(value)))
        }

    async def everybody(self) -> AsyncIterator[list[tuple[str, int, list[Tag] | None]]]:
        """Yield names and users in pages, with the index entries of those away."""
        cursor = None
        while cursor != 0:
            page: Any
            cursor, page = await self._store.client.hscan(
                self._store.noted, cursor or 0, count=500
            )
            away = {text(name): _away(text(value)) for name, value in page.items()}
            yield [
                (name, user_id, away[name]) for name, user_id in self._store.users(away)
            ]

    async def away(self, user_id: int) -> list[Tag]:
        """Return the index entries of one whose session is not in Redis."""
        name = self._store.names.of_user(user_id)
        found: Any = await self._store.client.hget(self._store.noted, name)
        return (_away(text(found)) if found is not None else None) or []

    async def restore(
        self,
        user_id: int,
        mark: Mark,
        place: Place,
        *,
        mode: str,
        kept: Kept | None = None,
        schema: int = 0,
        generation: str = "",
        tags: Iterable[Tag] = (),
        held: Iterable[str] = (),
        fields: Mapping[str, bytes] | None = None,
        seal: HeaderSeal | None = None,
    ) -> str:
        """Have Redis be as the source is, under a mark; return what came of it."""
        store = self._store
        tags, fields, held = sorted(tags), fields or {}, list(held)
        leaves = [tag for tag in place.tags if tag not in tags]
        balance = {name: 1 for name in held if name not in place.held}
        balance |= {name: -1 for name in place.held if name not in held}
        keys = [
            *store.pair(user_id),
            *(store.activity, store.expiry, store.off, store.stats, store.log),
            *(store.marks, store.noted),
            *(store.index(tag) for tag in tags),
            *(store.index(tag) for tag in leaves),
        ]
        args: list[Any] = [
            store.shift, store.names.of_user(user_id), mark.value, place.header, mode,
            kept.version if kept else 0, schema, generation,
            kept.created if kept else 0, kept.active if kept else 0,
            int(kept.on if kept else True), self._cap, link(), told(tags), told(leaves),
            told(tags) or b"[]", store.naming,
            len(tags), len(leaves), len(fields), len(balance),
        ]  # fmt: skip
        rest = [*flat(fields), *flat(balance)]

        # The script compares the header read by itself, sealed or not.
        def call(at: Any, _: bytes, header: bytes) -> Awaitable[list[Any]]:
            return scripts.RESTORE(store.client, keys, [*args, at, header, *rest])

        return (await store.sealed(seal, call)).kind

    async def least_active(self, most: int) -> list[int]:
        """Return users in the order in which they are to leave."""
        names: Any = await self._store.client.zrange(self._store.activity, 0, most - 1)
        return [user_id for _, user_id in self._store.users(names)]

    async def evict(self, user_id: int, place: Place) -> bool:
        """Have a session leave Redis; False when it is not to."""
        store = self._store
        keys = (
            *store.pair(user_id),
            *(store.activity, store.expiry, store.off, store.stats),
            *(store.marks, store.noted),
        )
        name = store.names.of_user(user_id)
        args = (name, place.header, told(place.tags) or b"[]", *place.held)
        return bool(await scripts.EVICT(store.client, keys, args))

    # --- how far the indexes were built

    async def built(self) -> tuple[str | None, float]:
        """Return the server process for which everything was built.

        And when it is to be compared again, in seconds of the server's clock.
        """
        source, due = await self._store.client.hmget(
            self._store.stats, ["source", "due"]
        )
        when = _VERSION.fullmatch(text(due)) if due is not None else None
        return None if source is None else text(source), float(when[0]) if when else 0.0

    async def begin(self, process: str) -> tuple[str, int | None]:
        """Begin a run, or join the one under way; return it, and the last user done."""
        client, stats = self._store.client, self._store.stats
        found: Any = await client.hget(stats, "rebuild")
        if found is not None and not text(found).startswith(f"{process}:"):
            await client.hdel(stats, "rebuild")
            found = None
        if found is None:
            await client.hsetnx(stats, "rebuild", f"{process}:{link()} ")
            found = await client.hget(stats, "rebuild")
        run, _, after = text(found or f"{process}: ").partition(" ")
        return run, int(after) if _USER.fullmatch(after) else None

    async def progress(
        self, run: str, after: int | None, process: str = "", pause: float = 0.0
    ) -> bool:
        """Note how far a run is; with a process: all is done. False: begin again.

        Args:
            run: Which.
            after: The last user done.
            process: The server process, when all are done.
            pause: Seconds until all is compared again, if it is another process now.
        """
        store = self._store
        args = (
            run, "" if after is None else after, process,
            store.shift, round(pause), _CLAIMED,
        )  # fmt: skip
        return bool(await scripts.REBUILT(store.client, (store.stats,), args))

    async def claim(self, due: float, now: float) -> bool:
        """Whether the comparison that is due is the caller's to make.

        Args:
            due: When it is, by the server's clock.
            now: By the clock of this process, which spares most questions.
        """
        store = self._store
        if now + store.shift / 1e6 < due - _SKEW:
            return False
        args = (store.shift, _CLAIMED)
        return bool(await scripts.DUE(store.client, (store.stats,), args))

    async def hasten(self) -> None:
        """Have everything compared at once, from the start."""
        await self._store.client.hset(self._store.stats, "due", "0")
        # After it: a run that goes on where another was begins from the start.
        await self._store.client.hdel(self._store.stats, "rebuild")


def _away(value: str) -> list[Tag] | None:
    _, _, tags = value.partition(" ")
    try:
        return _TAGS.decode(tags) if tags else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def _marked_at(value: str | bytes) -> int:
    """Return when, in microseconds; for what is no mark long ago: it is taken."""
    match = _MARK.fullmatch(text(value))
    return 0 if match is None else int(match[1])
