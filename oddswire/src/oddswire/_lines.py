"""`Lines`: one task at a time for each key, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Turn = asyncio.Future[None]

K = TypeVar("K", int, str)


class Lines(Generic[K]):
    """A line for each key that is in use, and none for the others."""

    def __init__(self) -> None:
        self._lines: dict[K, deque[Turn]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def free(self, key: K) -> bool:
        """Return whether one's turn would come at once."""
        return key not in self._lines

    def waiting(self, key: K) -> int:
        """Return how many wait for their turn."""
        return len(line) - 1 if (line := self._lines.get(key)) else 0

    def line_up(self, key: K) -> Turn:
        """Take a place in the line; `leave` gives it up."""
        turn: Turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(key, deque())
        if not line:
            turn.set_result(None)
        line.append(turn)
        return turn

    def leave(self, key: K, turn: Turn) -> None:
        """Have the next one's turn come; the second time it does nothing."""
        line = self._lines.get(key)
        if line is None or turn not in line:
            return
        line.remove(turn)
        if not line:
            del self._lines[key]
        elif not line[0].done():
            line[0].set_result(None)

    @asynccontextmanager
    async def of(self, key: K) -> AsyncIterator[None]:
        """Wait for one's turn, and keep it for the block.

        Cancelled while waiting, the others' order stays.
        """
        turn = self.line_up(key)
        try:
            await turn
            yield
        finally:
            self.leave(key, turn)
