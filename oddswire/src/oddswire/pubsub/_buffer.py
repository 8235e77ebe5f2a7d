"""`Buffer`: frames of one topic that one subscription has not read yet.

The parser of the subscriber connection pushes, and waits for nobody; the subscription
takes, in its own task. The topic's delivery decides what a full buffer leaves out: see
`_volatile`, `_latest`, `_log`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.errors import OddswireError
    from oddswire.pubsub._chain import Head
    from oddswire.pubsub._topic_state import TopicState
    from oddswire.pubsub.messages import Gap, Message
    from oddswire.pubsub.topic import Selection


class Buffer(ABC):
    """The reader calls `open`, `push`, `run`, `on_disconnect`; the rest is for taking.

    Args:
        state: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.

    Attributes:
        state: The topic.
        joined: Done when the buffer has its offset, or failed with the reason.
        behind: Whether `recover` must be called before there is anything to take.
    """

    def __init__(
        self, state: TopicState, selection: Selection, wake: Callable[[], None]
    ) -> None:
        self.state = state
        self.selection = selection
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.behind = False
        self._wake = wake

    def open(self, head: Head) -> None:
        """Begin at this end of the topic: called once, before anything is pushed."""
        self._begin(head)
        if not self.joined.done():
            self.joined.set_result(None)

    def fail(self, error: OddswireError) -> None:
        """The server does not let us subscribe."""
        if not self.joined.done():
            self.joined.set_exception(error)

    def resume(self, offset: Head) -> None:  # noqa: B027 - only a log can
        """Begin at an earlier offset instead; only a log can."""

    @property
    def offset(self) -> Head | None:
        """Where the messages taken so far end, of a topic that can be resumed."""
        return None

    @property
    @abstractmethod
    def depth(self) -> int:
        """Messages that wait."""

    @abstractmethod
    def _begin(self, head: Head) -> None:
        """Take this head as the offset, or remember another one to start from."""

    @abstractmethod
    def push(self, data: bytes) -> None:
        """A frame arrived."""

    @abstractmethod
    def on_head(self, head: Head) -> None:
        """The server said where the topic ends; frames before it were pushed."""

    @abstractmethod
    def on_disconnect(self) -> None:
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
