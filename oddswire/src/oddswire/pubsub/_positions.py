"""`Positions`: how far a named reader has come, kept in the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddswire.errors import OddswireError
from oddswire.pubsub._chain import Head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.client import Client
    from oddswire.pubsub._inbox import Inbox
    from oddswire.pubsub._line import Line

_EVERY = 1.0


class Positions:
    """Written some time after a message was handled, not with it.

    So a crash repeats the messages of the last second; it never leaves one out.

    Args:
        client: Where.
        lines: The topics, all of them logs.
        name: Of the reader.

    Attributes:
        errors: Times that they could not be written; it is tried again.
    """

    def __init__(self, client: Client, lines: Iterable[Line], name: str) -> None:
        self.errors = 0
        self._client = client
        self._keys = {line.topic.name: line.position(name) for line in lines}
        self._lives = {line.topic.name: line.head_life for line in lines}
        self._noted: dict[str, Head] = {}
        self._saved: dict[str, Head] = {}
        self.save_at: float | None = None

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        if self.save_at is None:
            return False
        return asyncio.get_running_loop().time() >= self.save_at

    async def load(self) -> dict[str, Head]:
        """Return the positions that were kept, by topic.

        Raises:
            OddswireError: They could not be read; that is not the same as none.
        """
        for name, key in self._keys.items():
            data = await self._client.execute_command("GET", key, NEVER_DECODE=True)
            try:
                if data is not None:
                    self._saved[name] = Head.parse(data)
            except ValueError:
                # Somebody else's data: as if there were none.
                continue
        return dict(self._saved)

    def note(self, inboxes: Iterable[Inbox]) -> None:
        """What was taken from these so far is done with."""
        for inbox in inboxes:
            place = inbox.place
            if place is None:
                continue
            name = inbox.line.topic.name
            if place != self._saved.get(name):
                self._noted[name] = place
                if self.save_at is None:
                    self.save_at = asyncio.get_running_loop().time() + _EVERY

    async def save(self) -> None:
        """Write what was noted; a failure is counted, and made up for the next time."""
        noted, self._noted, self.save_at = self._noted, {}, None
        for name, place in noted.items():
            try:
                await self._client.set(
                    self._keys[name], place.to_bytes(), px=self._lives[name]
                )
                self._saved[name] = place
            except OddswireError:
                self.errors += 1
                self._noted.setdefault(name, place)
                self.save_at = asyncio.get_running_loop().time() + _EVERY
