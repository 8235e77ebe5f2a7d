"""`SqlTags`: the followers of each tag, and the events that were listed under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, exists, select
from sqlalchemy.exc import SQLAlchemyError

from oddsbot.store.database import failure, to_its_end
from oddsbot.store.recordset import insert_into
from oddsbot.store.tables import tag_followers, tags
from oddswire.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from oddsbot.store.handled import Also


class Listing(msgspec.Struct, frozen=True):
    """What was listed when somebody looked last, the newest first.

    Attributes:
        floor: What began by then, Unix ms, is not new: it may have been behind the last
            page that was looked at.
        known: When what began later did, Unix ms, by its id.
        choices: The open markets that events were seen with, by Gamma's ids.
    """

    floor: int
    known: dict[str, int]
    choices: dict[str, list[str]] = {}


class SqlTags:
    """The people who are told of new events under a tag.

    As in `SqlFollowers`, a row is written in the transaction that changes the session.

    Args:
        engine: The application's own; it is not disposed of here.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        dialect = engine.dialect.name
        self._follow = insert_into(dialect, tag_followers).on_conflict_do_nothing()
        write = insert_into(dialect, tags)
        self._write = write.on_conflict_do_update(
            index_elements=["tag"], set_={"listing": write.excluded.listing}
        )

    def follow(self, user_id: int, tag: str) -> Also:
        """Return what `Sessions.update` takes as `also` where a person begins."""

        async def also(connection: AsyncConnection) -> None:
            # What opened while nobody followed a tag is no news to her.
            await connection.execute(delete(tags).where(~_FOLLOWED))
            await connection.execute(self._follow, {"user_id": user_id, "tag": tag})

        return also

    def unfollow(self, user_id: int, tag: str) -> Also:
        """Return the same where a person ends."""
        mine = tag_followers.c.user_id == user_id, tag_followers.c.tag == tag

        async def also(connection: AsyncConnection) -> None:
            await connection.execute(delete(tag_followers).where(*mine))

        return also

    async def listings(self) -> dict[str, Listing | None]:
        """Return the followed tags with what was listed; None: nobody looked yet.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = (
            select(tag_followers.c.tag, tags.c.listing)
            .distinct()
            .outerjoin(tags, tags.c.tag == tag_followers.c.tag)
            .order_by(tag_followers.c.tag)
        )
        return {row.tag: _listing(row.listing) for row in await self._read(query)}

    async def listing(self, tag: str) -> Listing | None:
        """Return what was listed under a tag; None: nobody looked yet.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        rows = await self._read(select(tags.c.listing).where(tags.c.tag == tag))
        return _listing(rows[0].listing) if rows else None

    async def followers(self, tag: str) -> list[int]:
        """Return who is told of new events under a tag, in order.

        Raises:
            SourceUnavailable: The database cannot be read.
        """
        query = select(tag_followers.c.user_id).where(tag_followers.c.tag == tag)
        rows = await self._read(query.order_by(tag_followers.c.user_id))
        return [row.user_id for row in rows]

    def note(self, tag: str, listing: Listing) -> Also:
        """Return what a round takes as `also` to note what is listed."""
        row = {"tag": tag, "listing": msgspec.json.encode(listing).decode()}

        async def also(connection: AsyncConnection) -> None:
            await connection.execute(self._write, row)

        return also

    @to_its_end
    async def _read(self, query: Select[Any]) -> Sequence[Any]:
        try:
            async with self._engine.connect() as connection:
                return list(await connection.execute(query))
        except (SQLAlchemyError, OSError) as error:
            # A read changes nothing, whatever became of it.
            raise SourceUnavailable(*failure(error).args) from None


_FOLLOWED = exists().where(tag_followers.c.tag == tags.c.tag)


def _listing(text: str | None) -> Listing | None:
    return None if text is None else msgspec.json.decode(text, type=Listing)
