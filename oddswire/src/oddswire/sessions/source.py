"""The source of record beside Redis: a protocol, and what its records hold.

Redis answers; the source keeps. Only what a user asked for is in it: conversations and
authentication state end in Redis. A record's content is msgpack of plain values, or
sealed when the source is wrapped in `SealedSource`; the application chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from oddswire.codec import AesGcm
from oddswire.codec.sealing import place
from oddswire.errors import CodecError, SessionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from oddswire.codec import Keyring


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the source keeps of one user.

    Attributes:
        user_id: Whose; may be negative, as the ids of Telegram groups are.
        version: Grows with each write, also with those that only keep others out.
        schema: Of the content, as of `Record.schema`.
        created: Microseconds since 1970.
        active: Last activity before this was written, in milliseconds since 1970.
        on: Whether she is active.
        data: The content.
    """

    user_id: int
    version: int
    schema: int
    created: int
    active: int
    on: bool
    data: bytes


@runtime_checkable
class Source(Protocol):
    """Where sessions are kept for good, such as a table of a database.

    Each call is one transaction, durable when it returns. It raises
    `SourceUnavailable` when nothing was changed for certain, and `SourceError` when it
    may have been; any other exception is taken for the latter.

    `also` is what the caller of `Sessions.update` or `delete` wants stored with it,
    such as a function that the source calls with its connection. It is given only where
    there is one, so a source for which nobody has one need not take it. Both are
    stored, or neither. The source raises `SourceDeclined` to have nothing stored.
    """

    async def load(self, user_ids: Sequence[int]) -> list[SourceRecord]:
        """Return the records of those users that have one, newest committed state."""

    async def save(self, record: SourceRecord, expected: int, also: Any = None) -> bool:
        """Write a record over the version `expected`; 0: only where there is none.

        Returns:
            False, and nothing is changed, when the version is another one.
        """

    async def delete(self, user_id: int, expected: int, also: Any = None) -> bool:
        """Delete a record of that version; False when it is another one or gone.

        With `also`, version 0 says that there is none: True if that is so.
        """

    async def move(self, user_id: int, expected: int, record: SourceRecord) -> bool:
        """Delete a record of that version, and write `record`, whose user has none.

        Returns:
            False, and nothing is changed, when either does not hold.
        """

    async def scan(self, after: int | None, limit: int) -> list[SourceRecord]:
        """Return at most so many records above a user id, in order; None: the first."""


class SealedSource:
    """Seals the content of another source's records with AES-256-GCM.

    A record opens only as it was sealed: under its name, user, version and schema, with
    its times and whether the user is active. Those stay readable, and a changed one is
    damage. A writer to that table can still delete a record, or put back an older one,
    whole.

    Args:
        source: Where.
        keyring: Its primary key seals; any of its keys opens.
        name: Of the table, or what else tells its records from those of another source
            under the same keys: what is sealed under one name opens under no other.
    """

    def __init__(
        self, source: Source, keyring: Keyring, *, name: str = "sessions"
    ) -> None:
        self._source = source
        self._sealer = AesGcm(keyring)
        self._name = name

    def _where(self, record: SourceRecord) -> bytes:
        numbers = (
            record.version,
            record.schema,
            record.created,
            record.active,
            int(record.on),
        )
        return place("source", self._name, *map(str, numbers))

    def _sealed(self, record: SourceRecord) -> SourceRecord:
        data = self._sealer.seal(record.data, str(record.user_id), self._where(record))
        return msgspec.structs.replace(record, data=data)

    def _opened(self, record: SourceRecord) -> SourceRecord:
        data = self._sealer.open(record.data, str(record.user_id), self._where(record))
        return msgspec.structs.replace(record, data=data)

    async def load(self, user_ids: Sequence[int]) -> list[SourceRecord]:
        """Return records, opened.

        Raises:
            CodecError: One does not open.
        """
        return [self._opened(record) for record in await self._source.load(user_ids)]

    async def save(self, record: SourceRecord, expected: int, also: Any = None) -> bool:
        """Write a record, sealed."""
        return await self._source.save(self._sealed(record), expected, *given(also))

    async def delete(self, user_id: int, expected: int, also: Any = None) -> bool:
        """Delete a record of that version."""
        return await self._source.delete(user_id, expected, *given(also))

    async def move(self, user_id: int, expected: int, record: SourceRecord) -> bool:
        """Give a record another user, sealed for that one."""
        return await self._source.move(user_id, expected, self._sealed(record))

    async def scan(self, after: int | None, limit: int) -> list[SourceRecord]:
        """Return records in order, opened; one that does not open, as it is."""
        records = []
        for record in await self._source.scan(after, limit):
            try:
                records.append(self._opened(record))
            except CodecError:
                records.append(record)
        return records

    async def reseal(self, *, page: int = 200) -> int:
        """Seal under the primary key what is sealed under another; return how many.

        A change by another process meanwhile seals under the primary key too.
        Interrupted, it can be run again. A record that does not open is left as it is:
        `retire` finds it.
        """
        resealed = 0
        async for record in self._every(page):
            if self._number(record) == self._sealer.primary:
                continue
            try:
                again = self._sealed(self._opened(record))
            except CodecError:
                continue
            # The version is the same: what it means has not changed.
            resealed += await self._source.save(again, record.version)
        return resealed

    async def retire(self, number: int, *, page: int = 200) -> None:
        """Drop a key from the keyring, once no record is sealed under it.

        Raises:
            SessionError: Records are still sealed under it; run `reseal`.
            SettingsError: It is the primary key, or names come from it.
        """
        keyring = self._sealer.keyring.without(number)
        used = 0
        async for record in self._every(page):
            used += self._number(record) == number
        if used:
            raise SessionError(
                f"{used} records of the source are sealed under key {number}: run "
                "SealedSource.reseal first; those that it leaves do not open"
            )
        self._sealer.use(keyring)

    async def _every(self, page: int) -> AsyncIterator[SourceRecord]:
        after = None
        while records := await self._source.scan(after, page):
            for record in records:
                after = record.user_id
                yield record

    def _number(self, record: SourceRecord) -> int | None:
        try:
            return self._sealer.key_number(record.data)
        except CodecError:
            return None


def given(also: Any) -> tuple[Any, ...]:
    """Return the further argument of a source; none where there is nothing."""
    return () if also is None else (also,)


class RebuildProgress(msgspec.Struct, frozen=True):
    """How far the indexes were built from the source.

    Attributes:
        seen: Records that were looked at, by this call.
        restored: Those of them that Redis had not, or had otherwise.
        removed: Sessions that Redis had and the source has not.
        damaged: Records that could not be read; they are in no index.
        after: The last user id that was looked at; None before the first.
        done: Whether that was all.
    """

    seen: int = 0
    restored: int = 0
    removed: int = 0
    damaged: int = 0
    after: int | None = None
    done: bool = False
