"""`Turns`: one task at a time for each user, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Turn = asyncio.Future[None]


class Turns:
    """A line for each user that is in use, and none for the others."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Turn]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def free(self, user_id: int) -> bool:
        """Return whether one's turn would come at once."""
        return user_id not in self._lines

    def line_up(self, user_id: int) -> Turn:
        """Take a place in the line; `leave` gives it up."""
        turn: Turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(user_id, deque())
        if not line:
            turn.set_result(None)
        line.append(turn)
        return turn

    def leave(self, user_id: int, turn: Turn) -> None:
        """Have the next one's turn come; the second time it does nothing."""
        line = self._lines.get(user_id)
        if line is None or turn not in line:
            return
        line.remove(turn)
        if not line:
            del self._lines[user_id]
        elif not line[0].done():
            line[0].set_result(None)

    @asynccontextmanager
    async def of(self, user_id: int) -> AsyncIterator[None]:
        """Wait for one's turn, and keep it for the block.

        Cancelled while waiting, the others' order stays.
        """
        turn = self.line_up(user_id)
        try:
            await turn
            yield
        finally:
            self.leave(user_id, turn)
