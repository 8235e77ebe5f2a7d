"""`Inbox`: what arrived for one subscription of one topic and was not read yet.

The parser of the subscriber wire puts in, without waiting for anybody; the subscription
takes out, in its own task. What may be left out when it is full is decided by the class
of the topic: see `_volatile`, `_latest`, `_log`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.errors import OddswireError
    from oddswire.pubsub._chain import Head
    from oddswire.pubsub._line import Line
    from oddswire.pubsub.messages import Gap, Message
    from oddswire.pubsub.topic import Selection


class Inbox(ABC):
    """The reader calls `open`, `push`, `mark`, `interrupted`; the rest is for taking.

    Args:
        line: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.

    Attributes:
        line: The topic.
        joined: Done when the place in the topic is fixed, or with why it cannot be.
        behind: Whether `recover` must be called before there is anything to take.
    """

    def __init__(
        self, line: Line, selection: Selection, wake: Callable[[], None]
    ) -> None:
        self.line = line
        self.selection = selection
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.behind = False
        self._wake = wake

    def open(self, head: Head) -> None:
        """Begin at this end of the topic: called once, before anything is pushed."""
        self._begin(head)
        if not self.joined.done():
            self.joined.set_result(None)

    def refuse(self, error: OddswireError) -> None:
        """The server does not let us subscribe."""
        if not self.joined.done():
            self.joined.set_exception(error)

    def resume(self, place: Head) -> None:  # noqa: B027 - only a log can
        """Begin at a place of earlier instead, of a topic that can be resumed."""

    @property
    def place(self) -> Head | None:
        """Where the messages taken so far end, of a topic that can be resumed."""
        return None

    @property
    @abstractmethod
    def depth(self) -> int:
        """Messages that wait."""

    @abstractmethod
    def _begin(self, head: Head) -> None:
        """Take this as the place, or remember where else to start."""

    @abstractmethod
    def push(self, data: bytes) -> None:
        """A frame arrived."""

    @abstractmethod
    def mark(self, head: Head) -> None:
        """The server said where the topic ends; frames before it were pushed."""

    @abstractmethod
    def interrupted(self) -> None:
        """The connection was lost."""

    @abstractmethod
    def take(self) -> Message[Any] | Gap | None:
        """Return the next event; None: there is none, or see `behind`."""

    @abstractmethod
    async def recover(self) -> None:
        """Read from the server what was missed; clears `behind` if that is all.

        Cancelled or failed, nothing is lost and `behind` stays.

        Raises:
            OddswireError: As from any command.
        """
