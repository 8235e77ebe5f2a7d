"""What every publisher does: a log that loses nothing, and the latest of each key."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from oddswire.errors import CodecError, OddswireError, TopicError
from oddswire.events import Degradation
from oddswire.logs import LogLines

if TYPE_CHECKING:
    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub, Topic

T = TypeVar("T")

_WRITE_EVERY = 0.1
_RETRY_EVERY = 0.5

_log = logging.getLogger("oddsbot.watch")


def _degradation(pubsub: PubSub, clock: Clock, topic: Topic[T]) -> Degradation:
    # A name for each topic: one that is refused hides no other.
    part = f"topic:{topic.name}"
    return Degradation(pubsub.events, part, "waiting", clock.monotonic)


class LogPublisher(Generic[T]):
    """Publishes each message once, in order; `run` it in a task.

    While Redis is away they wait.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.
        topic: Of LOG.
        most: How many may wait; then the oldest is dropped. None: any number.

    Attributes:
        published: Those that Redis had not had before.
        refused: Those that cannot be published, such as for the text of their key.
        dropped: Those that left a full queue.
    """

    def __init__(
        self, pubsub: PubSub, clock: Clock, topic: Topic[T], *, most: int | None = None
    ) -> None:
        self.published = 0
        self.refused = 0
        self.dropped = 0
        self._pubsub = pubsub
        self._clock = clock
        self._topic = topic
        self._most = most
        self._waiting: deque[tuple[str, str, T]] = deque()
        self._work = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()
        self._degraded = _degradation(pubsub, clock, topic)
        self._lines = LogLines(_log)

    def add(self, key: str, dedup_id: str, value: T) -> None:
        """Have a message published soon; never waits.

        Args:
            key: Of the topic.
            dedup_id: The same for whoever tells of the same thing.
            value: The message.
        """
        if self._most is not None and len(self._waiting) >= self._most:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((key, dedup_id, value))
        self._done.clear()
        self._work.set()

    async def wait_published(self) -> None:
        """Wait until none of them waits."""
        await self._done.wait()

    async def run(self) -> NoReturn:
        """Publish for ever. Cancelled, those that wait are not published."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                message = self._waiting[0]
                try:
                    await self._publish(*message)
                except OddswireError as error:
                    self._degraded.begin(error)
                    await self._clock.sleep(_RETRY_EVERY)
                    continue
                self._degraded.end()
                # While it was published a full queue may have dropped it.
                if self._waiting and self._waiting[0] is message:
                    self._waiting.popleft()
            self._done.set()

    async def _publish(self, key: str, dedup_id: str, value: T) -> None:
        try:
            done = await self._pubsub.publish(
                self._topic[key], value, dedup_id=dedup_id
            )
        except (TopicError, CodecError) as error:
            # Trying again would hold up the others for ever.
            self.refused += 1
            self._lines.write(
                logging.WARNING, "value_refused", topic=self._topic.name, reason=error
            )
        else:
            self.published += not done.duplicate


class LatestPublisher(Generic[T]):
    """Publishes the newest value of each key; `run` it in a task.

    Conflated: at most ten rounds a second, each with what changed since the last one
    and only its newest state. While Redis is away the newest state waits, of bounded
    size, and is published when it is back.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.
        topic: Of LATEST.

    Attributes:
        writes: Rounds done.
        refused: Values that cannot be published, such as for the text of their key.
    """

    def __init__(self, pubsub: PubSub, clock: Clock, topic: Topic[T]) -> None:
        self.writes = 0
        self.refused = 0
        self._pubsub = pubsub
        self._clock = clock
        self._topic = topic
        self._changed: dict[str, T] = {}
        self._work = asyncio.Event()
        self._degraded = _degradation(pubsub, clock, topic)
        self._lines = LogLines(_log)

    def add(self, key: str, value: T) -> None:
        """Have a value published soon; never waits."""
        self._changed[key] = value
        self._work.set()

    async def run(self) -> NoReturn:
        """Publish for ever. Cancelled, what changed last may not be published."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._changed = self._changed, {}
            # No task group: before Python 3.13 one whose tasks fail may drop a
            # cancellation of its own, and this would go on for ever.
            results = await asyncio.gather(
                *(self._publish(key, value) for key, value in batch.items()),
                return_exceptions=True,
            )
            errors = [each for each in results if each is not None]
            for error in errors:
                if not isinstance(error, OddswireError):
                    raise error
            if errors:
                self._degraded.begin(errors[0])
                # A newer value takes the place of the one that failed.
                self._changed = batch | self._changed
                self._work.set()
            else:
                self.writes += 1
                self._degraded.end()
            away = self._degraded.active
            await self._clock.sleep(_RETRY_EVERY if away else _WRITE_EVERY)

    async def _publish(self, key: str, value: T) -> None:
        try:
            await self._pubsub.publish(self._topic[key], value)
        except (TopicError, CodecError) as error:
            # Trying again would hold up the others for ever.
            self.refused += 1
            self._lines.write(
                logging.WARNING, "value_refused", topic=self._topic.name, reason=error
            )
