"""`LogBuffer`: every message in order, read again from the log where one is missing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from oddswire.pubsub._buffer import Buffer
from oddswire.pubsub._chain import (
    Chain,
    Head,
    is_link,
    link_of,
    run_of,
    starts_chain,
)
from oddswire.pubsub._topic_state import random_hex
from oddswire.pubsub.messages import GapReason
from oddswire.scripts import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.client import Client
    from oddswire.pubsub._topic_state import TopicState
    from oddswire.pubsub.messages import Gap, Message
    from oddswire.pubsub.topic import Selection

PAGE = 500
"""Entries that are read at once."""

# (number, link, link of the one before, key, payload)
Entry = tuple[int, bytes, bytes, bytes, bytes]


class LogBuffer(Buffer):
    """When its queue is full it forgets the queue and reads the log instead.

    A frame that does not follow the last message taken is never delivered: it was
    published before the buffer asks the log, so the answer of the log includes it.

    Args:
        state: The topic.
        selection: Which of its keys.
        wake: Called when there is something to take.
        client: Reads the log.
        queue: Frames that may wait.
        start: Where to begin: an offset; a stream id, with an empty link for all from
            there on; None: with what is published from now on.
    """

    def __init__(
        self,
        state: TopicState,
        selection: Selection,
        wake: Callable[[], None],
        *,
        client: Client,
        queue: int,
        start: Head | bytes | None = None,
    ) -> None:
        super().__init__(state, selection, wake)
        self._client = client
        self._most = queue
        self._queue: deque[bytes | Head] = deque()
        self._replay: deque[Entry] = deque()
        self._gap: Gap | None = None
        self._start = start
        # Set while there is no offset yet, and the log is read from this id on.
        self._from: bytes | None = None
        self._chain: Chain
        self._newest: bytes | Head = Head(-1, b"", b"")
        # The number of the last message that is known of each run.
        self._known_ends: dict[bytes, int] = {}

    @property
    def depth(self) -> int:
        return len(self._queue) + len(self._replay)

    def resume(self, offset: Head) -> None:
        self._start = offset

    @property
    def offset(self) -> Head | None:
        # With a gap that was not delivered yet, the reader would resume behind it.
        on_head = self._from is None and self._gap is None
        return self._chain.at if on_head else None

    def _begin(self, head: Head) -> None:
        self._newest = head
        start = self._start
        if isinstance(start, bytes):
            # A time that the server has not reached, as by a clock that is ahead of
            # its, means from now on.
            if start == b"-" or _milliseconds(start) <= _milliseconds(head.link):
                self._from = start
            start = head
        # Every frame that is in the queue when we read the log is behind us after that,
        # and is known by its link.
        self._remembers = max(self.state.topic.history, self._most) + 128
        self._chain = Chain(start or head, self._remembers)
        self.behind = self._from is not None or self._chain.link != head.link
        if self.behind:
            self._wake()

    def push(self, data: bytes) -> None:
        self._newest = data
        if self.behind:
            return
        queue = self._queue
        if not queue:
            self._wake()
        elif len(queue) >= self._most:
            self.state.counts.dropped += len(queue) + 1
            queue.clear()
            self.behind = True
            return
        queue.append(data)

    def on_head(self, head: Head) -> None:
        if head.link == link_of(self._newest):
            return
        self._note(self._newest)
        self._newest = head
        if not self.behind:
            self._queue.append(head)
            self._wake()

    def on_disconnect(self) -> None:
        """The head says whether anything was missed, if the server still has it all."""
        self._note(self._newest)

    def _note(self, newest: bytes | Head) -> None:
        """Remember how far the history of a server process was known to go."""
        try:
            if isinstance(newest, Head):
                number, link = newest.n, newest.link
            else:
                word, link, _ = newest.split(b" ", 2)
                number = int(word)
        except ValueError:
            return  # a frame of another program
        run = run_of(link)
        if not self._chain.is_behind(run):
            self._known_ends[run] = max(number, self._known_ends.get(run, 0))

    def take(self) -> Message[Any] | Gap | None:
        gap, self._gap = self._gap, None
        if gap is not None:
            return gap
        chain, replay, queue = self._chain, self._replay, self._queue
        while True:
            replayed = bool(replay)
            if replayed:
                entry = replay.popleft()
            elif self.behind or not queue:
                return None
            else:
                item = queue.popleft()
                if type(item) is Head:
                    if not self._confirms(item):
                        return None
                    continue
                try:
                    number, *rest = item.split(b" ", 4)  # type: ignore[union-attr]
                    link, prev, key, payload = rest
                    entry = (int(number), link, prev, key, payload)
                except ValueError:
                    self.state.counts.foreign += 1
                    continue
            n, link, prev, key, payload = entry
            if prev == chain.link:
                if link[-16:-6] != prev[-16:-6] and (gap := self._lost_tail(link)):
                    replay.appendleft(entry)
                    return gap
                chain.advance(n, link)
                if self.selection.everything or self.selection.takes(key):
                    return self.state.event(link, prev, key, payload)
            elif chain.knows(link):
                self.state.counts.duplicates += 1
            elif replayed:
                # Reading it once more would show the same.
                replay.appendleft(entry)
                return self._gap_in_log(n, link, prev)
            else:
                self._fall_behind()
                return None

    def _lost_tail(self, following: bytes) -> Gap | None:
        """Another server process goes on here: return a gap for what the last one had.

        Without this a reader that was behind would go on without a `Gap`, although it
        knew of more messages.
        """
        chain = self._chain
        number = self._known_ends.pop(run_of(chain.link), 0)
        if number <= chain.n or chain.n < 0:
            return None
        return self.state.gap(
            chain.link, following, number - chain.n, GapReason.ROLLBACK
        )

    def _confirms(self, head: Head) -> bool:
        if head.link == self._chain.link:
            self._chain.n, self._chain.epoch = head.n, head.epoch
            return True
        # An old one, or the server went back to it: only the log knows.
        self._fall_behind()
        return False

    def _gap_in_log(self, n: int, link: bytes, prev: bytes) -> Gap:
        """The log itself has a gap: it was trimmed as we read, or its head was lost.

        A head that was evicted or damaged begins a new chain in the old log.
        """
        chain = self._chain
        after, lost = chain.link, n - chain.n - 1 if chain.n >= 0 else 0
        reason = GapReason.TRIMMED
        if starts_chain(prev):
            lost, reason = 0, GapReason.RESET
        elif lost < 1:
            reason = GapReason.ROLLBACK
        chain.jump(Head(n - 1, prev, chain.epoch))
        return self.state.gap(after, link, lost if lost > 0 else None, reason)

    def _fall_behind(self) -> None:
        self._queue.clear()
        self.behind = True

    async def recover(self) -> None:
        if self._replay or self._gap is not None:
            return
        state, chain = self.state, self._chain
        # The server that answers may lack messages that this buffer has heard of: the
        # command connection can be back before the subscriber notices its loss.
        self._note(self._newest)
        # From here on frames are queued again; what came before is in the answer.
        self._queue.clear()
        self.behind = False
        try:
            after, link = self._from, b""
            if after is None:
                link = chain.link
                after = link.rpartition(b"-")[0]
            if self._from is None and not is_link(link):
                # A frame of another program followed ours: its id is not in the log.
                after, link = b"-", b"-"
            packed, follows, page = await _RECOVER.run(
                self._client,
                [state.head, state.log],
                [after, link, PAGE, random_hex(), state.head_life],
            )
            head = Head.parse(packed)
            if follows:
                entries = _entries(state, page)
                while not entries and len(page) >= PAGE:
                    # All are of other programs; asking again from this offset would
                    # bring the same page for ever.
                    behind = b"(" + page[-1][0]
                    page = await _ENTRIES.run(
                        self._client, [state.log], ["forward", behind, "+", PAGE]
                    )
                    entries = _entries(state, page)
                self._follow(head, entries, more=len(page) >= PAGE)
            else:
                await self._find_unseen(head)
        except BaseException:
            self.behind = True
            raise
        state.counts.recoveries += 1
        state.counts.recovered += len(self._replay)

    def _follow(self, head: Head, entries: list[Entry], *, more: bool) -> None:
        chain = self._chain
        if self._from is not None:
            self._from = None
            if entries:
                n, _, prev, *_ = entries[0]
                at = Head(n - 1, prev, head.epoch)
                chain = self._chain = Chain(at, self._remembers)
            elif chain.link != head.link:
                self.behind = True
        elif chain.link == head.link:
            chain.n = head.n
        chain.epoch = head.epoch
        self._replay.extend(entries)
        if more:
            self.behind = True

    async def _find_unseen(self, head: Head) -> None:
        """The log does not go on from our offset: find what was not seen of it.

        It reads back from the end of the log to a message that we know. A failover may
        have lost messages that this buffer has delivered already.
        """
        chain, state = self._chain, self.state
        unseen: list[Entry] = []
        end, known = b"+", False
        while not known:
            page = await _ENTRIES.run(
                self._client, [state.log], ["back", end, "-", PAGE]
            )
            for entry in _entries(state, page):
                if chain.knows(entry[1]):
                    known = True
                    break
                unseen.append(entry)
            if len(page) < PAGE:
                break
            end = b"(" + page[-1][0]
        unseen.reverse()
        # No await from here on: a cancellation leaves all or nothing.
        first = None
        if unseen:
            n, link, _prev, *_ = unseen[0]
            first = Head(n, link, head.epoch)
        lost, reason = chain.loss(head, first, rejoins=known)
        self._gap = state.gap(
            chain.link, None if first is None else first.link, lost, reason
        )
        self._known_ends.clear()  # what was known to come is part of this gap
        if unseen:
            chain.jump(Head(unseen[0][0] - 1, unseen[0][2], head.epoch))
        else:
            chain.jump(head)
        self._replay.extend(unseen)


def _milliseconds(link: bytes) -> int:
    return int(link.partition(b"-")[0])


def _entries(state: TopicState, raw: Sequence[Any]) -> list[Entry]:
    """Read entries of the stream; those of other programs are counted, left out."""
    entries = []
    for stream_id, fields in raw:
        named = dict(zip(fields[::2], fields[1::2], strict=False))
        try:
            link = stream_id + b"-" + named[b"x"]
            prev, key, payload = named[b"p"], named[b"k"], named[b"d"]
            entries.append((int(named[b"n"]), link, prev, key, payload))
        except (KeyError, ValueError):
            state.counts.foreign += 1
    return entries


async def read_log(
    client: Client, state: TopicState, start: str, limit: int
) -> list[Entry]:
    """Return the oldest entries from this stream id on, as XRANGE takes it.

    Raises:
        OddswireError: As from any command.
    """
    page = await _ENTRIES.run(client, [state.log], ["forward", start, "+", limit])
    return _entries(state, page)


_RECOVER = load("topic_recover")
_ENTRIES = load("topic_entries")
