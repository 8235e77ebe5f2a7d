"""`VolatileBuffer`: the newest messages; a gap stands for each that is missing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from oddswire.pubsub._buffer import Buffer
from oddswire.pubsub._chain import Head, link_of, starts_chain
from oddswire.pubsub.messages import GapReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.pubsub._topic_state import TopicState
    from oddswire.pubsub.messages import Gap, Message
    from oddswire.pubsub.topic import Selection


# Stands in the queue where an interruption came between two frames.
_INTERRUPTED = b"interrupted"


class VolatileBuffer(Buffer):
    """Drops the oldest when it is full.

    A loss, here or on the way, shows when the next message is taken: it names another
    predecessor.

    Args:
        state: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.
        queue: Messages that may wait.
    """

    def __init__(
        self,
        state: TopicState,
        selection: Selection,
        wake: Callable[[], None],
        *,
        queue: int,
    ) -> None:
        super().__init__(state, selection, wake)
        self._queue: deque[bytes | Head] = deque(maxlen=queue)
        # Where we are: number and link of the message taken last, epoch of its chain.
        self._n = -1
        self._link = self._epoch = b""
        self._everything = selection.everything
        self._event = state.event
        self._why = GapReason.LOST

    @property
    def depth(self) -> int:
        return len(self._queue)

    def _begin(self, head: Head) -> None:
        self._n, self._link, self._epoch = head

    def push(self, data: bytes) -> None:
        queue = self._queue
        if not queue:
            self._wake()
        elif len(queue) == queue.maxlen:
            self._drop(queue[0])
        queue.append(data)

    def _drop(self, oldest: bytes | Head) -> None:
        self.state.counts.dropped += (
            type(oldest) is bytes and oldest is not _INTERRUPTED
        )
        self._why = GapReason.OVERFLOW

    def on_head(self, head: Head) -> None:
        queue = self._queue
        if queue:
            if head.link == link_of(queue[-1]):
                return
            if len(queue) == queue.maxlen:
                self._drop(queue[0])
        elif head.link == self._link:
            # Nothing was missed by an interruption of before.
            self._why = GapReason.LOST
            return
        queue.append(head)
        self._wake()

    def on_disconnect(self) -> None:
        queue = self._queue
        if not queue:
            self._why = GapReason.DISCONNECTED
        elif queue[-1] is not _INTERRUPTED:
            if len(queue) == queue.maxlen:
                self._drop(queue[0])
            queue.append(_INTERRUPTED)

    async def recover(self) -> None:
        """Nothing: it is never `behind`, what a live topic lost is gone."""

    def take(self) -> Message[Any] | Gap | None:
        queue = self._queue
        while queue:
            item = queue.popleft()
            if type(item) is Head:
                gap = self._take_head(item)
                if gap is not None:
                    return gap
                continue
            try:
                number, link, prev, key, payload = item.split(b" ", 4)  # type: ignore[union-attr]
                if prev != self._link:
                    return self._gap_before(int(number), link, prev, item)
            except ValueError:
                if item is _INTERRUPTED:
                    self._why = GapReason.DISCONNECTED
                else:
                    self.state.counts.foreign += 1
                continue
            # It follows, so its number does too.
            self._n += 1
            self._link = link
            if self._everything or self.selection.takes(key):
                return self._event(link, prev, key, payload)
        return None

    def _gap_before(self, n: int, link: bytes, prev: bytes, item: bytes | Head) -> Gap:
        self._queue.appendleft(item)
        lost = n - self._n - 1
        why = self._why
        if lost < 1:
            why = GapReason.RESET if starts_chain(prev) else GapReason.ROLLBACK
        return self._jump(Head(n - 1, prev, self._epoch), link, lost, why)

    def _take_head(self, head: Head) -> Gap | None:
        if head.link == self._link:
            self._why = GapReason.LOST
            return None
        if self._epoch != head.epoch:
            # What the new one has had so far came after us, or is missing.
            return self._jump(head, None, head.n, GapReason.RESET)
        lost = head.n - self._n
        why = self._why if lost > 0 else GapReason.ROLLBACK
        return self._jump(head, None, lost, why)

    def _jump(
        self, to: Head, following: bytes | None, lost: int, why: GapReason
    ) -> Gap:
        after = self._link
        self._n, self._link, self._epoch = to
        self._why = GapReason.LOST
        known = lost > 0 and why is not GapReason.RESET
        return self.state.gap(after, following, lost if known else None, why)
