"""`Chain`: the offset of a reader among messages that name their predecessor. No I/O.

A link is ``<ms>-<number>-<random>``: the id of a message and 16 digits. Ids alone can
repeat: a server that was rolled back within a millisecond gives them out again.

An epoch is the random name of the whole chain, drawn when it begins. A topic that began
again has another epoch. A topic that was rolled back or trimmed has the same one.

A run is the part of a LOG's link that names the server process that wrote it:
`topic_publish.lua` says how. Messages of one run are one history, ordered by their
ids. So a reader keeps the newest id of each run. By it the reader knows which messages
it has delivered, also after a server came back with older data.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from oddswire.pubsub.messages import GapReason


class Head(NamedTuple):
    """The end of a chain, or the offset of a reader.

    Attributes:
        n: Messages so far; -1 when not known.
        link: Of the last one.
        epoch: Of the chain; empty when not known.
    """

    n: int
    link: bytes
    epoch: bytes

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Read ``number link epoch``, and skip what follows.

        Raises:
            ValueError: It is not that.
        """
        n, link, epoch, *_ = data.split(b" ", 3)
        if is_link(link):
            return cls(int(n), link, epoch)
        raise ValueError("no link of a message")

    def to_bytes(self) -> bytes:
        """Return what `parse` reads."""
        return b"%d %b %b" % self


_LINK = re.compile(rb"\d{1,20}-\d{1,20}-\S*")


def is_link(link: bytes) -> bool:
    """Whether a log can be asked for what follows this link."""
    return _LINK.fullmatch(link) is not None


def link_of(frame: bytes | Head) -> bytes:
    """Return the link of a frame or of a head; empty for what is no frame."""
    if isinstance(frame, Head):
        return frame.link
    parts = frame.split(b" ", 2)
    return parts[1] if len(parts) == 3 else b""


def starts_chain(prev: bytes) -> bool:
    """Whether the message that follows this link is the first of a chain."""
    return prev.startswith(b"0-0-")


def new_epoch(prev: bytes) -> bytes | None:
    """Return the epoch that the message after this link is the first of, if it is."""
    return prev[4:] if starts_chain(prev) else None


def empty_head(random_hex: str) -> bytes:
    """Return the head of a chain that has had no message, from 16 random hex digits."""
    return f"0 0-0-{random_hex} {random_hex}".encode()


_NO_RUN = b"0000000000"


def run_of(link: bytes) -> bytes:
    """Return the run of a link; zeros where it has none, as the root of a chain."""
    return _NO_RUN if starts_chain(link) else link[-16:-6]


def _id_of(link: bytes) -> tuple[int, int]:
    ms, number, _ = link.split(b"-", 2)
    return int(ms), int(number)


class Chain:
    """An offset in a chain, and which messages led there.

    What was passed is known by link for the last `remembers` messages. Older ones are
    known by their run and id. Between the two, a link that is not remembered belongs
    to another history of the same process: a dump that somebody restored into it.

    Args:
        at: The offset.
        remembers: How many links of the past are kept.

    Attributes:
        n: Number of the message here; -1 when not known.
        link: Its link.
        epoch: Of the chain; empty when not known.
    """

    __slots__ = (
        "_began",
        "_known",
        "_passed",
        "_past",
        "_remembers",
        "epoch",
        "link",
        "n",
    )

    def __init__(self, at: Head, remembers: int) -> None:
        self.n, self.link, self.epoch = at
        self._remembers = remembers
        self._past: deque[bytes] = deque([at.link])
        self._known = {at.link}
        # The newest link that was passed of each run, in the order of the runs.
        self._passed = {run_of(at.link): at.link}
        self._began = at.link

    @property
    def at(self) -> Head:
        """The offset."""
        return Head(self.n, self.link, self.epoch)

    def knows(self, link: bytes) -> bool:
        """Whether this message was passed before, or came before the beginning."""
        if link in self._known:
            return True
        run, oldest = run_of(link), self._past[0]
        if run == _NO_RUN:
            return False
        newest = self._passed.get(run)
        try:
            if newest is None:
                # Never seen here: was that process over before this reader began? On
                # one server the ids of a later process are higher, whatever its clock.
                began = self._began
                earlier = run[:4] < run_of(began)[:4]
                return earlier and _id_of(link) < _id_of(began)
            if run == run_of(oldest):
                return _id_of(link) < _id_of(oldest)
            runs = list(self._passed)
            remembered = runs.index(run) > runs.index(run_of(oldest))
            return not remembered and _id_of(link) <= _id_of(newest)
        except ValueError:
            return False  # somebody else's

    def is_behind(self, run: bytes) -> bool:
        """Whether this run ended before the offset."""
        return run in self._passed and run != run_of(self.link)

    def advance(self, n: int, link: bytes) -> None:
        """Go to the next message."""
        self.n, self.link = n, link
        self._passed[link[-16:-6]] = link  # a message is no root
        self._past.append(link)
        self._known.add(link)
        if len(self._past) > self._remembers:
            self._known.discard(self._past.popleft())

    def jump(self, to: Head) -> None:
        """Go on from somewhere else: there was a gap."""
        known = self.knows(to.link)
        self.n, self.link, self.epoch = to
        if not known:
            self._passed[run_of(to.link)] = to.link
            self._past.append(to.link)
            self._known.add(to.link)

    def loss(
        self, head: Head, unseen: Head | None, *, rejoins: bool
    ) -> tuple[int | None, GapReason]:
        """Return (how many are missing, why), when the log does not go on from here.

        Args:
            head: The end of the log.
            unseen: The oldest message of it that was not passed; None: there is none.
            rejoins: Whether the message before that was passed.
        """
        if self.epoch and head.epoch != self.epoch:
            return None, GapReason.RESET
        behind = -1 if self.n < 0 else (head.n if unseen is None else unseen.n - 1)
        lost = behind - self.n if behind > self.n >= 0 else None
        if rejoins or (lost is None and self.n >= 0):
            return None, GapReason.ROLLBACK
        return lost, GapReason.EXPIRED if unseen is None else GapReason.TRIMMED
