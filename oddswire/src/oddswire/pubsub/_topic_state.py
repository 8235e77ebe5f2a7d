"""`TopicState`: a topic's keys in the server, its codec, and what a process counted."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any

from oddswire.codec import Codec
from oddswire.keys import (
    TOPIC,
    TOPIC_DEDUP,
    TOPIC_HEAD,
    TOPIC_LATEST,
    TOPIC_LOG,
    TOPIC_POSITION,
    KeySpace,
)
from oddswire.pubsub.messages import Gap, GapReason, Message
from oddswire.pubsub.statistics import TopicCounts

if TYPE_CHECKING:
    from oddswire.clock import Clock
    from oddswire.pubsub.topic import Topic

# The head outlives the log, so that a reader finds out that the log expired.
_HEAD_LIVES = 10

# Lags are counted so many at once: one by one it took a tenth of a message's time.
_SETTLE_AT = 256


class TopicState:
    """One topic.

    Attributes:
        topic: The topic.
        codec: Of its values.
        counts: What happened to its messages here.
        channel: Where its messages are published.
        head: Key of the end of the chain.
        log: Key of the stream of a LOG topic.
        newest: Key of the values of a LATEST topic.
        life: Milliseconds that the log or the values live.
        head_life: Milliseconds that the head lives.
    """

    def __init__(self, topic: Topic[Any], space: KeySpace, clock: Clock) -> None:
        self.topic = topic
        self.codec: Codec[Any] = Codec(topic.type, max_size=topic.max_size)
        self.counts = TopicCounts()
        # Messages of one millisecond begin alike: it is read once.
        self._instant, self._at = b" ", 0.0
        self._lags = self.counts.lags
        self._name = topic.name
        self._decode = self.codec.decode
        self.channel = space.key(TOPIC, topic.name, "").encode()
        self.head = space.key(TOPIC_HEAD, topic.name, "")
        self.log = space.key(TOPIC_LOG, topic.name, "")
        self.newest = space.key(TOPIC_LATEST, topic.name, "")
        self.life = round(topic.retention * 1000)
        self.head_life = self.life * _HEAD_LIVES
        self._space = space
        self._now = clock.now

    def dedup(self, dedup_id: str) -> str:
        """Return the key that remembers an id.

        Raises:
            InvalidKey: It is no text, or too long.
        """
        return self._space.key(TOPIC_DEDUP, self.topic.name, "", dedup_id)

    def position(self, name: str) -> str:
        """Return the key of a reader's position.

        Raises:
            InvalidKey: The name is no text, or too long.
        """
        return self._space.key(TOPIC_POSITION, self.topic.name, "", name)

    def event(
        self, link: bytes, prev: bytes, key: bytes, payload: bytes
    ) -> Message[Any] | Gap:
        """Return a message to deliver, or a gap where its value cannot be read."""
        try:
            if not link.startswith(self._instant):
                self._at = int(link[: link.index(b"-")]) / 1000
                self._instant = link[: link.index(b"-") + 1]
            message = Message(
                self._name,
                key.decode() if key else "",
                self._decode(payload),
                link.decode(),
                self._at,
            )
        # CodecError is a ValueError; the others come of data of other programs.
        except (ValueError, OverflowError):
            self.counts.unreadable += 1
            return self.gap(prev, None, 1, GapReason.UNREADABLE)
        lags = self._lags
        lags.append(self._now() - self._at)
        if len(lags) >= _SETTLE_AT:
            self.counts.flush_lags()
        return message

    def message(self, link: bytes, key: bytes, payload: bytes) -> Message[Any] | None:
        """Return a message; None, counted, where its value cannot be read."""
        try:
            return Message(
                self._name,
                key.decode() if key else "",
                self._decode(payload),
                link.decode(),
                int(link.partition(b"-")[0]) / 1000,
            )
        # CodecError is a ValueError; the others come of data of other programs.
        except (ValueError, OverflowError):
            self.counts.unreadable += 1
            return None

    def gap(
        self, after: bytes, following: bytes | None, lost: int | None, reason: GapReason
    ) -> Gap:
        """Return a gap to deliver."""
        gaps = self.counts.gaps
        gaps[reason] = gaps.get(reason, 0) + 1
        # In a frame of another program the links may be any bytes.
        next_id = None if following is None else following.decode(errors="replace")
        before = after.decode(errors="replace")
        return Gap(self.topic.name, before, next_id, lost, reason)


def random_hex() -> str:
    """Return 64 random bits, as 16 hex digits."""
    return token_hex(8)
