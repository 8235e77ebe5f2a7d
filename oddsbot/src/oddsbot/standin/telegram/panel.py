"""`Panel`: what a demo adds to the page of the chats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Act:
    """A button that breaks something.

    Attributes:
        label: What it says.
        act: Called at each press; must not block.
    """

    label: str
    act: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a guided tour.

    Attributes:
        title: What it is about.
        text: One or two sentences.
        button: What its button says; empty: it has none, and one waits.
        does: The value of that button, as of any button of the page.
    """

    title: str
    text: str
    button: str = ""
    does: str = ""


class Panel:
    """What stands beside the chat, and changes.

    Args:
        says: What a person may say by pressing a button, by the button's label.
        acts: What else there is to press, by name.
        figures: The label of each number that is shown, by name.

    Attributes:
        line: How it stands, in one line.
        values: The text of each figure, by name.
        events: What happened last, the newest first.
        tour: The steps of the tour; none: there is no tour.
        step: Which of them is shown; after the last one the tour is over.
    """

    def __init__(
        self,
        *,
        says: Mapping[str, str] | None = None,
        acts: Mapping[str, Act],
        figures: Mapping[str, str] | None = None,
    ) -> None:
        self.says = dict(says or {})
        self.acts = dict(acts)
        self.figures = dict(figures or {})
        self.line = ""
        self.values: dict[str, str] = {}
        self.events: tuple[str, ...] = ()
        self.tour: Sequence[Step] = ()
        self.step = 0
        self.watchers: list[Callable[[], object]] = []

    def show(
        self,
        line: str,
        *,
        values: Mapping[str, str] | None = None,
        events: Sequence[str] = (),
    ) -> None:
        """Replace what is shown, on every page that is open."""
        new = (line, dict(values or {}), tuple(events))
        if new != (self.line, self.values, self.events):
            self.line, self.values, self.events = new
            self._changed()

    def guide(self, tour: Sequence[Step], step: int) -> None:
        """Show a step of a tour; one after the last ends it."""
        if (tour, step) != (self.tour, self.step):
            self.tour, self.step = tour, step
            self._changed()

    def _changed(self) -> None:
        for watcher in list(self.watchers):
            watcher()
