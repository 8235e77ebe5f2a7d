"""`Offsets`: the last handled messages of a named reader, kept in the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oddswire.errors import OddswireError
from oddswire.pubsub._chain import Head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.client import Client
    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub._topic_state import TopicState

_EVERY = 1.0


class Offsets:
    """Written some time after a message was handled, not with it.

    So a crash repeats the messages of the last second; it never leaves one out.

    Args:
        client: Where.
        lines: The topics, all of them logs.
        name: Of the reader.

    Attributes:
        errors: Times that they could not be written; it is tried again.
    """

    def __init__(self, client: Client, states: Iterable[TopicState], name: str) -> None:
        self.errors = 0
        self._client = client.reading_from("primary")
        self._keys = {state.topic.name: state.position(name) for state in states}
        self._lives = {state.topic.name: state.head_life for state in states}
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

    def note(self, buffers: Iterable[Buffer]) -> None:
        """What was taken from these so far is done with."""
        for buffer in buffers:
            offset = buffer.offset
            if offset is None:
                continue
            name = buffer.state.topic.name
            if offset != self._saved.get(name):
                self._noted[name] = offset
                if self.save_at is None:
                    self.save_at = asyncio.get_running_loop().time() + _EVERY

    async def save(self) -> None:
        """Write what was noted; a failure is counted, and made up for the next time."""
        noted, self._noted, self.save_at = self._noted, {}, None
        for name, offset in noted.items():
            try:
                await self._client.set(
                    self._keys[name], offset.to_bytes(), px=self._lives[name]
                )
                self._saved[name] = offset
            except OddswireError:
                self.errors += 1
                self._noted.setdefault(name, offset)
                self.save_at = asyncio.get_running_loop().time() + _EVERY
