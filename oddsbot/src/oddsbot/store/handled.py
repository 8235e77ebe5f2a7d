"""Updates that had an effect: the effect and the note of it are one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from oddsbot.store.recordset import insert_into
from oddsbot.store.tables import handled
from oddswire.errors import SourceDeclined

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from oddswire.clock import Clock

    Also = Callable[[AsyncConnection], Awaitable[object]]

_KEPT = 2 * 86_400_000
_EACH = 256


async def note_handled(
    connection: AsyncConnection, line: str, update_id: int, now: float
) -> bool:
    """Note an update in the caller's transaction; False when it is noted already.

    Notes are kept for two days.

    Args:
        connection: In a transaction.
        line: Which kind of effect it is; an update has at most one of each.
        update_id: Telegram's.
        now: Seconds since 1970.
    """
    at = int(now * 1000)
    if update_id % _EACH == 0:
        # Now and then: there is no index for it, and nothing waits for it.
        await connection.execute(
            delete(handled).where(handled.c.handled_at < at - _KEPT)
        )
    row = {"line": line, "update_id": update_id, "handled_at": at}
    note = insert_into(connection.dialect.name, handled).values(**row)
    noted = await connection.execute(note.on_conflict_do_nothing())
    return bool(noted.rowcount)


async def was_handled(connection: AsyncConnection, line: str, update_id: int) -> bool:
    """Return whether an update is noted."""
    query = select(handled.c.update_id).where(
        handled.c.line == line, handled.c.update_id == update_id
    )
    return (await connection.execute(query)).first() is not None


def once(line: str, update_id: int, clock: Clock, also: Also | None = None) -> Also:
    """Return what `Sessions.update` takes as `also`: it declines a second time.

    Args:
        line: Which kind of effect it is.
        update_id: Of the update that has the effect.
        clock: Tells when.
        also: What else is stored with it.
    """

    async def noted(connection: AsyncConnection) -> None:
        if not await note_handled(connection, line, update_id, clock.now()):
            raise SourceDeclined(f"update {update_id} was handled before")
        if also is not None:
            await also(connection)

    return noted
