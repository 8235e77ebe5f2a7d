"""`SqlSource`: users in a table; the source of record of `oddswire.sessions`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from oddsbot.store.database import failure
from oddsbot.store.tables import users
from oddswire.errors import SourceUnavailable
from oddswire.sessions import SourceRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_MOST = 500
"""Parameters that one statement takes; SQLite has a limit."""


class SqlSource:
    """Keeps users in the bot's own table of any database that SQLAlchemy speaks to.

    Each write is one statement that names the version it replaces, so the database
    decides who was first. Run `upgrade` before.

    Args:
        engine: The application's own; it is not disposed of here.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

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

    async def save(self, kept: SourceRecord, expected: int) -> bool:
        """Write a record over a version; False when it is another one."""
        async with _writing(self._engine) as connection:
            if expected:
                return await _changed(
                    connection,
                    update(users)
                    .where(users.c.user_id == kept.user_id)
                    .where(users.c.version == expected)
                    .values(_row(kept)),
                )
            return await _inserted(connection, kept)
        return False

    async def delete(self, user_id: int, expected: int) -> bool:
        """Delete a record of that version."""
        async with _writing(self._engine) as connection:
            return await _changed(connection, _deletion(user_id, expected))
        return False

    async def move(self, user_id: int, expected: int, kept: SourceRecord) -> bool:
        """Give a record to a user that has none, in one transaction."""
        async with _writing(self._engine) as connection:
            moved = await _inserted(connection, kept) and await _changed(
                connection, _deletion(user_id, expected)
            )
            if not moved:
                await connection.rollback()
            return moved
        return False

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


async def _changed(connection: AsyncConnection, statement: Executable) -> bool:
    result: Any = await connection.execute(statement)
    return bool(result.rowcount == 1)


async def _inserted(connection: AsyncConnection, kept: SourceRecord) -> bool:
    await connection.execute(insert(users).values(_row(kept)))
    return True


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
