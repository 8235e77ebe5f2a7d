"""`Chain`: where a reader is among messages that each name their predecessor. No I/O.

A link is ``<ms>-<number>-<random>``: the id of a message and 64 random bits. Ids alone
can repeat: a server that was rolled back within a millisecond gives them out again.

An epoch is the random name of the whole chain, drawn when it begins. It does not tell
a rollback, which keeps it; it tells a topic that began anew from one that was trimmed.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from oddswire.pubsub.messages import GapReason


class Head(NamedTuple):
    """The end of a chain, or a reader's place in it.

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
        """Read ``number link epoch``.

        Raises:
            ValueError: It is not that.
        """
        n, link, epoch = data.split(b" ")
        return cls(int(n), link, epoch)

    def to_bytes(self) -> bytes:
        """Return what `parse` reads."""
        return b"%d %b %b" % self


def link_of(frame: bytes | Head) -> bytes:
    """Return the link of a frame, or of a place; empty for what is no frame."""
    if isinstance(frame, Head):
        return frame.link
    parts = frame.split(b" ", 2)
    return parts[1] if len(parts) == 3 else b""


def began_anew(prev: bytes) -> bool:
    """Whether the message that follows this link is the first of a chain."""
    return prev.startswith(b"0-0-")


def epoch_begun(prev: bytes) -> bytes | None:
    """Return the epoch that the message after this link is the first of, if it is."""
    return prev[4:] if began_anew(prev) else None


def started(dice: str) -> bytes:
    """Return the head of a chain that has had no message, from 16 random hex digits."""
    return f"0 0-0-{dice} {dice}".encode()


class Chain:
    """A place in a chain, and which messages led there lately.

    Args:
        at: The place.
        remembers: How many links of the past are kept.

    Attributes:
        n: Number of the message here; -1 when not known.
        link: Its link.
        epoch: Of the chain; empty when not known.
    """

    __slots__ = ("_known", "_past", "_remembers", "epoch", "link", "n")

    def __init__(self, at: Head, remembers: int) -> None:
        self.n, self.link, self.epoch = at
        self._remembers = remembers
        self._past: deque[bytes] = deque([at.link])
        self._known = {at.link}

    @property
    def at(self) -> Head:
        """The place."""
        return Head(self.n, self.link, self.epoch)

    def knows(self, link: bytes) -> bool:
        """Whether this message was passed before."""
        return link in self._known

    def advance(self, n: int, link: bytes) -> None:
        """Go to the next message."""
        self.n, self.link = n, link
        self._past.append(link)
        self._known.add(link)
        if len(self._past) > self._remembers:
            self._known.discard(self._past.popleft())

    def jump(self, to: Head) -> None:
        """Go on from somewhere else: there was a gap."""
        self.epoch = to.epoch
        self.advance(to.n, to.link)

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
