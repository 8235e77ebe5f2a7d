"""`remembered`: everything that users asked for, there before anything is watched.

A rule or an index that is not there yet when the first price comes is an alert that
nobody gets. So there is no `Alerts` before all of it is there, and no `Watcher` without
an `Alerts`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from oddsbot.alerts import Alerts
from oddsbot.store import SqlRules, SqlSource, UserSession, upgrade
from oddswire import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from oddswire import Settings
    from oddswire.wire import Wire


@asynccontextmanager
async def remembered(
    settings: Settings, engine: AsyncEngine, **options: Any
) -> AsyncIterator[tuple[Wire[UserSession], Alerts]]:
    """Hold a wire whose sessions are as the database says, and the alerts to watch.

    First the tables, then the users and their indexes in Redis, whatever it had, then
    the rules. While it is held, a Redis that loses its data is filled again.

    Args:
        settings: Of the Redis layer.
        engine: The application's own; it is not disposed of here.
        **options: More for `oddswire.connect`, such as ``keyring`` or ``queue``.

    Raises:
        SourceError: The database is away; nothing is held, since "nobody" would be a
            lie.
        CodecError: A rule is of another program, or damaged.
        OddswireError: Redis is away, or refuses.
    """
    await upgrade(engine)
    source = SqlSource(engine)
    async with connect(settings, session=UserSession, source=source, **options) as wire:
        alerts = Alerts()
        async for stored in SqlRules(engine).all():
            alerts.add(stored.rule, stored.state if stored.round else None)
        yield wire, alerts
