"""`Panel`: what a demo adds to the page of the chats."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(eq=False, kw_only=True)
class Panel:
    """What stands beside the chat, and changes; without acts nothing does.

    Attributes:
        acts: What there is to press, by name.
        says: What a person may say by pressing a button, by the button's label.
        figures: The label of each number that is shown, by name.
        line: How it stands, in one line.
        values: The text of each figure, by name.
        events: What happened last, the newest first.
        tour: The steps of the tour; none: there is no tour.
        step: Which of them is shown; after the last one the tour is over.
        watchers: Called when something changes.
    """

    acts: Mapping[str, Act] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    line: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[str] = ()
    tour: Sequence[Step] = ()
    step: int = 0
    watchers: list[Callable[[], object]] = field(default_factory=list)

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
