"""`Tenant`: the one bot that a database and a Redis belong to.

Two bots that share one would handle each other's updates and tell each other's people:
the lines of the queue are named after people and not after bots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import insert_into
from oddsbot.store.tables import tenant
from oddswire.errors import SourceUnavailable
from oddswire.keys import Family, KeySpace

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddswire import Client

_KEY = Family("tenant")
_ROW = 1


class Tenant:
    """Says which bot has the data, and gives them to one.

    Args:
        engine: Of the database, with the bot's tables.
        client: Of the Redis.
        prefix: What the bot's keys begin with.
    """

    def __init__(self, engine: AsyncEngine, client: Client, prefix: str) -> None:
        self._engine = engine
        self._client = client
        self._key = KeySpace(prefix).key(_KEY)

    async def other_than(self, bot_id: int) -> str:
        """Return, as a sentence, that the data are another bot's; empty: they are not.

        Raises:
            SourceUnavailable: The database cannot be read.
            OddswireError: Redis cannot be asked.
        """
        for found, name, remedy in (
            (await self._in_sql(), "DATABASE_URL", "database"),
            (await self._in_redis(), "REDIS_URL", "Redis, or a REDIS_DATABASE,"),
        ):
            if found not in (None, bot_id):
                return (
                    f"{name} belongs to the bot {found}, and the token to the bot "
                    f"{bot_id}: give this bot a {remedy} of its own, or run oddsbot db "
                    "adopt if it takes the other one's place"
                )
        return ""

    async def claim(self, bot_id: int) -> str:
        """Give the data to a bot, where they are nobody's; return as `other_than`.

        Refused because of the database, the bot takes nothing of Redis.

        Raises:
            SourceError: The database failed.
            OddswireError: Redis cannot be asked.
        """
        # 1. The database decides between two bots that begin at once.
        await self._write(bot_id, replace=False)
        if not (refused := await self.other_than(bot_id)):
            # 2. Only the bot that has the database takes Redis. If both took what was
            #    free, one could have the database, the other Redis, and neither begins.
            await self._client.set(self._key, str(bot_id), nx=True)
            # 3. A bot with a database of its own may have been faster with this Redis.
            refused = await self.other_than(bot_id)
        return refused

    async def adopt(self, bot_id: int) -> None:
        """Give the data to a bot, whoever had them.

        Raises:
            SourceError: The database failed.
            OddswireError: Redis cannot be asked.
        """
        await self._write(bot_id, replace=True)
        await self._client.set(self._key, str(bot_id))

    @to_its_end
    async def _write(self, bot_id: int, *, replace: bool) -> None:
        row = insert_into(self._engine.dialect.name, tenant).values(
            id=_ROW, bot_id=bot_id
        )
        row = (
            row.on_conflict_do_update(
                index_elements=[tenant.c.id], set_={"bot_id": bot_id}
            )
            if replace
            else row.on_conflict_do_nothing()
        )
        try:
            async with self._engine.begin() as connection:
                await connection.execute(row)
        except (SQLAlchemyError, OSError) as error:
            raise failure(error) from None

    @to_its_end
    async def _in_sql(self) -> int | None:
        try:
            async with self._engine.connect() as connection:
                return await connection.scalar(select(tenant.c.bot_id))
        except (SQLAlchemyError, OSError) as error:
            raise SourceUnavailable(*failure(error).args) from None

    async def _in_redis(self) -> int | None:
        found = await self._client.get(self._key)
        # What is no number is nobody's that we know.
        text = found.decode(errors="replace") if isinstance(found, bytes) else found
        return int(text) if text and text.isascii() and text.isdigit() else None
