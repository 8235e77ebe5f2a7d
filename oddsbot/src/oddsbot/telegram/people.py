"""`People`: what a person asked of the bot, changed once for each update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddsbot.store import UserSession, once
from oddswire.errors import SourceDeclined

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddsbot.store.handled import Also
    from oddswire.clock import Clock
    from oddswire.sessions import Sessions

_SESSION, _ACTIVE = "session", "active"


class People:
    """People's sessions. An update that is handled again changes nothing again.

    The change and the note of its update are one transaction. Therefore an update
    that comes again after a later one, or is handled by two processes at once, does not
    undo what the person asked for since.

    Args:
        sessions: Where people are.
        clock: Tells when an update was handled.
    """

    def __init__(self, sessions: Sessions[UserSession], clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def get(self, person: int) -> UserSession:
        """Return a person's session; a blank one, which is not kept, where none is."""
        return await self._sessions.get(person) or UserSession()

    async def knows(self, person: int) -> bool:
        """Return whether there is a session of a person."""
        return await self._sessions.get(person) is not None

    async def change(
        self,
        person: int,
        change: Callable[[UserSession], object],
        update_id: int,
        *,
        also: Also | None = None,
    ) -> UserSession:
        """Change a person's session, and return it; a new person gets one.

        Args:
            person: Whose.
            change: As for `Sessions.update`.
            update_id: Of the update that asks for it.
            also: What is stored in the same transaction.

        Raises:
            OddswireError: As from `Sessions.update`.
        """
        noted = once(_SESSION, update_id, self._clock, also)
        try:
            return await self._sessions.update(person, change, create=True, also=noted)
        except SourceDeclined:
            return await self.get(person)

    async def welcome(
        self, person: int, change: Callable[[UserSession], object], update_id: int
    ) -> None:
        """Change a person's session, and send her messages again if she stopped them.

        Whoever gets messages already costs one transaction. It notes both effects:
        /start that comes again after /stop sends nothing again.

        Raises:
            OddswireError: As from `change`.
        """
        stopped = not (await self.get(person)).is_active
        both = None if stopped else once(_ACTIVE, update_id, self._clock)
        await self.change(person, change, update_id, also=both)
        if stopped:
            await self.switch(person, update_id, on=True)

    async def switch(self, person: int, update_id: int, *, on: bool) -> None:
        """Send a person messages again, or no more; everything is kept.

        Raises:
            OddswireError: As from `Sessions.activate`.
        """
        noted = once(_ACTIVE, update_id, self._clock)
        sessions = self._sessions
        try:
            await (sessions.activate if on else sessions.deactivate)(person, also=noted)
        except SourceDeclined:
            return
