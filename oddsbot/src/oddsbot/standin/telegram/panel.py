"""`Panel`: what a demo adds to the page of the chats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Act:
    """A button that breaks something.

    Attributes:
        label: What it says.
        act: Called at each press; must not block.
    """

    label: str
    act: Callable[[], object]


class Panel:
    """A line above the chat that changes, and buttons beside those of the page.

    Args:
        says: What a person may say by pressing a button, by the button's label.
        acts: What else there is to press, by name.
    """

    def __init__(
        self, *, says: Mapping[str, str] | None = None, acts: Mapping[str, Act]
    ) -> None:
        self.says = dict(says or {})
        self.acts = dict(acts)
        self.line = ""
        self.watchers: list[Callable[[], object]] = []

    def show(self, line: str) -> None:
        """Replace the line, on every page that is open."""
        if line != self.line:
            self.line = line
            for watcher in list(self.watchers):
                watcher()
