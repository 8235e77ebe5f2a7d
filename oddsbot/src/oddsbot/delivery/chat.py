"""Where a text goes to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME, _TEXT = 64, 4096


class Chat(Protocol):
    """Anything that can send a text to a user."""

    async def send(self, user_id: int, text: str) -> None:
        """Send `text` to a user; when it returns, the user has it."""
        ...


class PrintedChat:
    """A stand-in for a messenger: one line for each text.

    Args:
        write: Takes each line, without its end: `print`, or a list's ``append``.
        names: What to call the users; others are called by their id.
    """

    def __init__(
        self, write: Callable[[str], object], names: dict[int, str] | None = None
    ) -> None:
        self._write = write
        self._names = names or {}

    async def send(self, user_id: int, text: str) -> None:
        """Write ``{user}: {text}``."""
        name = plain(self._names.get(user_id, user_id), _NAME)
        self._write(f"{name}: {plain(text, _TEXT)}")
