"""`SqlFollowers`: who is told how which market ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, exists, select
from sqlalchemy.exc import SQLAlchemyError

from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import insert_into
from oddsbot.store.tables import alerts, followers
from oddswire.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from oddsbot.store.handled import Also

RESOLUTION = "resolution"
"""The kind of the alerts that say how a market ended."""


class SqlFollowers:
    """The people who wait for the result of a market.

    A row is written and removed in the transaction that changes the person's session,
    so that both always say the same.

    Args:
        engine: The application's own; it is not disposed of here.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._insert = insert_into(engine.dialect.name, followers)

    def follow(self, user_id: int, *markets: str) -> Also:
        """Return what `Sessions.update` takes as `also` where a person begins."""
        rows = [{"user_id": user_id, "market": market} for market in markets]

        async def also(connection: AsyncConnection) -> None:
            await connection.execute(self._insert.on_conflict_do_nothing(), rows)

        return also

    def unfollow(self, user_id: int, *markets: str) -> Also:
        """Return the same where a person ends."""
        mine = followers.c.user_id == user_id, followers.c.market.in_(markets)

        async def also(connection: AsyncConnection) -> None:
            await connection.execute(delete(followers).where(*mine))

        return also

    async def markets(self) -> list[str]:
        """Return the markets that have followers who were not told their result.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(followers.c.market).where(~_TOLD).distinct()
        rows = await self._read(query.order_by(followers.c.market))
        return [row.market for row in rows]

    async def of(self, market: str) -> list[int]:
        """Return the followers of a market who were not told its result, in order.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(followers.c.user_id).where(followers.c.market == market, ~_TOLD)
        rows = await self._read(query.order_by(followers.c.user_id))
        return [row.user_id for row in rows]

    @to_its_end
    async def _read(self, query: Select[Any]) -> Sequence[Any]:
        try:
            async with self._engine.connect() as connection:
                return list(await connection.execute(query))
        except (SQLAlchemyError, OSError) as error:
            # A read changes nothing, whatever became of it.
            raise SourceUnavailable(*failure(error).args) from None


_TOLD = exists().where(
    alerts.c.user_id == followers.c.user_id,
    alerts.c.market == followers.c.market,
    alerts.c.kind == RESOLUTION,
)
