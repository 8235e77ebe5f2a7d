"""`Peers`: the processes that follow a shard, and whose ring reaches back furthest.

When an owner dies, each process that follows may lack some of its ticks. The one that
has followed for longest lacks the fewest, so the others give way to it.

1. Every process notes in the database, each `BEAT_SECONDS`, that it lives, and from
   when on its ring is whole. That moment is one of the market's time, which all of them
   share.
2. A process lives as long as its note changes, by the clock of the reader.
3. A reader that was without the database believes a silent process for longer: it may
   still wait to reach the database again.

The notes are in the database because the shard is taken over there. Whatever Redis
loses, and whenever a process reaches it again, costs no tick.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError

from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import insert_into
from oddsbot.store.tables import watchers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddswire.clock import Clock

BEAT_SECONDS = 0.5
SILENT_SECONDS = 3.0
"""Seconds without a new beat after which a process that was heard counts as dead."""
RETURN_SECONDS = 6.0
"""The same for one that was not heard since this process reaches the database: longer
than an attempt to connect, or to write to a SQLite that is held, takes."""
_HELLO_SECONDS = 2.0
_STALLED_SECONDS = 2.0
_FORGET_SECONDS = 60.0


class _Peer(NamedTuple):
    beat: int
    whole_from: float
    changed_at: float
    heard: bool


class Peers:
    """The processes that follow a shard, as this one knows them.

    Args:
        engine: The application's own; it is not disposed of here.
        shard: The name of the shard.
        clock: Of this process; no clocks of two processes are compared.
    """

    def __init__(self, engine: AsyncEngine, shard: str, clock: Clock) -> None:
        self._engine = engine
        self._shard = shard
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._beats = 0
        self._others: dict[str, _Peer] = {}
        # Since when this process has read the notes again and again.
        self._reading_since = math.inf
        self._read_at = -math.inf
        write = insert_into(engine.dialect.name, watchers)
        self._write = write.on_conflict_do_update(
            index_elements=["shard", "id"],
            set_={each: write.excluded[each] for each in ("beat", "whole_from")},
        )

    @property
    def others(self) -> int:
        """How many other processes have a note; some of them may be dead."""
        return len(self._others)

    @to_its_end
    async def beat(self, whole_from: float, *, owning: bool = False) -> None:
        """Note that this process lives, and read which others do.

        Args:
            whole_from: The market's time, ms, from which on this process has each tick;
                infinite: it has not.
            owning: Whether it is the owner. An owner that is alone only reads.

        Raises:
            SourceError: The database cannot be asked.
        """
        try:
            async with self._engine.connect() as connection:
                query = select(watchers).where(watchers.c.shard == self._shard)
                rows = (await connection.execute(query)).all()
            found = {row.id: (row.beat, row.whole_from) for row in rows}
            found.pop(self._id, None)
            self._hear(found)
            if found or not owning:
                await self._note(whole_from)
        except (SQLAlchemyError, OSError) as error:
            self._read_at = -math.inf
            raise failure(error) from None

    async def _note(self, whole_from: float) -> None:
        self._beats += 1
        values = {
            "shard": self._shard, "id": self._id, "beat": self._beats,
            "whole_from": int(whole_from) if math.isfinite(whole_from) else None,
        }  # fmt: skip
        now = self._clock.monotonic()
        silent = [
            name
            for name, each in self._others.items()
            if now - each.changed_at > _FORGET_SECONDS
        ]
        async with self._engine.begin() as connection:
            await connection.execute(self._write, values)
            if silent:
                gone = watchers.c.id.in_(silent)
                await connection.execute(
                    delete(watchers).where(watchers.c.shard == self._shard, gone)
                )

    def _hear(self, found: dict[str, tuple[int, int | None]]) -> None:
        now = self._clock.monotonic()
        first = now - self._read_at > _STALLED_SECONDS
        if first:
            # What was silent meanwhile may have been as cut off as this process.
            self._reading_since = now
            self._others = {
                name: each._replace(changed_at=now, heard=False)
                for name, each in self._others.items()
            }
        self._read_at = now
        for name in self._others.keys() - found.keys():
            del self._others[name]
        for name, (beat, whole_from) in found.items():
            known = self._others.get(name)
            if known is None or known.beat != beat:
                self._others[name] = _Peer(
                    beat,
                    math.inf if whole_from is None else whole_from,
                    now,
                    not first,
                )

    @to_its_end
    async def leave(self) -> None:
        """Take the note of this process away.

        Raises:
            SourceError: The database cannot be asked.
        """
        mine = watchers.c.shard == self._shard, watchers.c.id == self._id
        try:
            async with self._engine.begin() as connection:
                await connection.execute(delete(watchers).where(*mine))
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None

    def has_elder(self, whole_from: float) -> bool:
        """Whether a process that lives may have ticks that this one lacks.

        Args:
            whole_from: Of this process, as in `beat`.
        """
        now = self._clock.monotonic()
        if now - self._read_at > _STALLED_SECONDS:
            return True
        # An owner that was alone has no note before it finds the one of this process.
        if now - self._reading_since <= _HELLO_SECONDS:
            return True
        own = whole_from, self._id
        return any((each.whole_from, name) < own for name, each in self._alive())

    def has_whole(self) -> bool:
        """Whether a process that lives has each tick of its feed."""
        return any(each.whole_from < math.inf for _, each in self._alive())

    def _alive(self) -> Iterator[tuple[str, _Peer]]:
        now = self._clock.monotonic()
        for name, each in self._others.items():
            most = SILENT_SECONDS if each.heard else RETURN_SECONDS
            if now - each.changed_at <= most:
                yield name, each
