"""`Route`: from a topic's channel to the buffers of its subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oddswire.errors import ClosedError, TopicError
from oddswire.pubsub._chain import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.errors import OddswireError
    from oddswire.pubsub._buffer import Buffer
    from oddswire.pubsub._topic_state import TopicState


class Route:
    """A channel that is subscribed, and its buffers.

    Attributes:
        state: The topic.
        buffers: Those that get its messages.
        pushes: The `push` of each buffer, in the same order.
        joining: Buffers without an offset; they get nothing: they could not see a gap.
        needs_head: Whether the head is to be read.
        asking: On a cluster: its slot is on the way to the node that it is at.
        hops: Redirections since the head was last read.
    """

    def __init__(self, state: TopicState) -> None:
        self.state = state
        self.buffers: list[Buffer] = []
        self.pushes: list[Callable[[bytes], None]] = []
        self.joining: list[Buffer] = []
        self.needs_head = True
        self.asking = False
        self.hops = 0
        self._extended = 0.0

    @property
    def is_wanted(self) -> bool:
        """Whether anybody listens, or is about to."""
        return bool(self.buffers or self.joining)

    def on_head(self, reply: Any) -> None:
        """A reply has the head; called by the parser."""
        if not isinstance(reply, bytes):
            return
        try:
            head = Head.parse(reply)
        except ValueError:
            # The next publish puts it right.
            self.fail(
                TopicError(
                    f"topic {self.state.topic.name}: {self.state.head} holds something "
                    "else; delete it"
                )
            )
            return
        self.hops = 0
        for buffer in self.buffers:
            buffer.on_head(head)
        joining, self.joining = self.joining, []
        for buffer in joining:
            # Replaced, not changed: the parser may be walking through it.
            self.buffers = [*self.buffers, buffer]
            self.pushes = [*self.pushes, buffer.push]
            buffer.open(head)

    def on_disconnect(self) -> None:
        """Its messages come on another connection from here on."""
        self.needs_head = True
        for buffer in self.buffers:
            buffer.on_disconnect()

    def leave(self, buffer: Buffer) -> None:
        """Push nothing more to this buffer; end the wait of a task that joins it."""
        if buffer in self.joining:
            self.joining.remove(buffer)
            buffer.fail(ClosedError("this subscription was closed"))
        if buffer in self.buffers:
            self.buffers = [each for each in self.buffers if each is not buffer]
            self.pushes = [each.push for each in self.buffers]

    def fail(self, error: OddswireError) -> None:
        """Fail the buffers that join; the others are subscribed again later."""
        joining, self.joining = self.joining, []
        for buffer in joining:
            buffer.fail(error)

    def extension_due(self, now: float) -> bool:
        """Whether it is time to extend the life of the head."""
        due = now - self._extended > self.state.head_life / 4000
        if due:
            self._extended = now
        return due
