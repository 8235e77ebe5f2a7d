"""`SqlSource`: users in a table; the source of record of `oddswire.sessions`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oddsbot.store.database import failure, to_its_end
from oddsbot.store.rules import next_revision, remove_rules
from oddsbot.store.tables import alerts, followers, rules, tag_followers, users
from oddswire.clock import SystemClock
from oddswire.errors import SourceDeclined, SourceUnavailable
from oddswire.sessions import SourceRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from oddsbot.store.handled import Also
    from oddswire.clock import Clock

_MOST = 500
"""Parameters that one statement takes; SQLite has a limit."""


class SqlSource:
    """Keeps users in the bot's own table of any database that SQLAlchemy speaks to.

    Each write is one statement that names the version it replaces, so the database
    decides who was first. Run `upgrade` before.

    Rules and alerts belong to a record: they go with it, and move with it.

    Args:
        engine: The application's own; it is not disposed of here.
        clock: Tells seconds since 1970; None: the system's.

    What `Sessions.update` and `delete` take as `also` is a coroutine function. It gets
    the connection, within the transaction that stores the user, and may raise
    `SourceDeclined`; a row of it that is there already declines too.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Clock | None = None) -> None:
        self._engine = engine
        self._clock: Clock = SystemClock() if clock is None else clock

    async def load(self, user_ids: Sequence[int]) -> list[SourceRecord]:
        """Return the records of those users that have one."""
        found: list[SourceRecord] = []
        for at in range(0, len(user_ids), _MOST):
            some = list(user_ids[at : at + _MOST])
            found += await self._select(select(users).where(users.c.user_id.in_(some)))
        return found

    async def scan(self, after: int | None, limit: int) -> list[SourceRecord]:
        """Return at most so many records above a user id, in order."""
        query = select(users).order_by(users.c.user_id).limit(limit)
        if after is not None:
            query = query.where(users.c.user_id > after)
        return await self._select(query)

    @to_its_end
    async def save(
        self, kept: SourceRecord, expected: int, also: Also | None = None
    ) -> bool:
        """Write a record over a version; False when it is another one."""
        async with _writing(self._engine) as connection:
            if expected:
                saved = await _changed(
                    connection,
                    update(users)
                    .where(users.c.user_id == kept.user_id)
                    .where(users.c.version == expected)
                    .values(_row(kept)),
                )
            else:
                saved = await _inserted(connection, kept)
            return saved and await _done_too(connection, also)
        return False

    @to_its_end
    async def delete(
        self, user_id: int, expected: int, also: Also | None = None
    ) -> bool:
        """Delete a record of that version; 0: there is none.

        Its rules and alerts go with it.
        """
        async with _writing(self._engine) as connection:
            if expected:
                # Rules first, and not by the foreign key: their watchers hear of it.
                mine = rules.c.user_id == user_id
                await remove_rules(connection, self._clock.now(), mine)
                gone = await _changed(connection, _deletion(user_id, expected))
                if not gone:
                    await connection.rollback()
            else:
                found = select(users.c.version).where(users.c.user_id == user_id)
                gone = await connection.scalar(found) is None
            return gone and await _done_too(connection, also)
        return False

    @to_its_end
    async def move(self, user_id: int, expected: int, kept: SourceRecord) -> bool:
        """Give a record to a user that has none, in one transaction.

        Its rules, its alerts and what it follows are the new user's.
        """
        async with _writing(self._engine) as connection:
            revision = await next_revision(connection)
            await _inserted(connection, kept)
            # Before the deletion, which would take them.
            await _move_rules(connection, user_id, kept.user_id, revision)
            for table in (alerts, followers, tag_followers):
                await connection.execute(
                    update(table)
                    .where(table.c.user_id == user_id)
                    .values(user_id=kept.user_id)
                )
            moved = await _changed(connection, _deletion(user_id, expected))
            if not moved:
                await connection.rollback()
            return moved
        return False

    @to_its_end
    async def _select(self, query: Executable) -> list[SourceRecord]:
        try:
            async with self._engine.connect() as connection:
                rows = await connection.execute(query)
                return [_kept(row) for row in rows]
        except (SQLAlchemyError, OSError) as error:
            # A read changes nothing, whatever became of it.
            raise SourceUnavailable(*failure(error).args) from None


@asynccontextmanager
async def _writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction; another process that was first is no error."""
    try:
        async with engine.begin() as connection:
            yield connection
    except IntegrityError:
        # Two wrote the first record of a user: the caller's block returns nothing.
        return
    except (SQLAlchemyError, OSError) as error:
        raise failure(error) from None


async def _done_too(connection: AsyncConnection, also: Also | None) -> bool:
    """Do what the caller wants in the same transaction.

    Raises:
        SourceDeclined: It raised that, or a row of it is there already.
    """
    try:
        if also is not None:
            await also(connection)
    except IntegrityError:
        raise SourceDeclined("what was to be stored with it is there already") from None
    return True


async def _changed(connection: AsyncConnection, statement: Executable) -> bool:
    result: Any = await connection.execute(statement)
    return bool(result.rowcount == 1)


async def _inserted(connection: AsyncConnection, kept: SourceRecord) -> bool:
    await connection.execute(insert(users).values(_row(kept)))
    return True


async def _move_rules(
    connection: AsyncConnection, old: int, new: int, revision: int
) -> None:
    query = select(rules.c.id, rules.c.data).where(rules.c.user_id == old)
    for row in (await connection.execute(query)).all():
        try:
            fields = {**msgspec.json.decode(row.data), "user_id": new}
        except (msgspec.DecodeError, TypeError):
            # A damaged rule stays one; whoever reads it says so.
            data = row.data
        else:
            data = msgspec.json.encode(fields)
        await connection.execute(
            update(rules)
            .where(rules.c.id == row.id)
            .values(user_id=new, data=data, revision=revision)
        )


def _deletion(user_id: int, expected: int) -> Executable:
    return (
        delete(users)
        .where(users.c.user_id == user_id)
        .where(users.c.version == expected)
    )


def _row(kept: SourceRecord) -> dict[str, Any]:
    return {
        "user_id": kept.user_id,
        "version": kept.version,
        "schema": kept.schema,
        "created": kept.created,
        "active": kept.active,
        "enabled": kept.on,
        "data": kept.data,
    }


def _kept(row: Any) -> SourceRecord:
    return SourceRecord(
        user_id=row.user_id,
        version=row.version,
        schema=row.schema,
        created=row.created,
        active=row.active,
        on=row.enabled,
        data=row.data,
    )
