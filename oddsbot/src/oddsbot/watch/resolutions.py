"""Each market that was decided, on a topic that keeps it for who was away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from oddsbot.polymarket import MarketResolved
from oddswire.errors import CodecError, OddswireError, TopicError
from oddswire.pubsub import Delivery, Topic

if TYPE_CHECKING:
    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

RESOLUTIONS = Topic(
    "resolutions",
    MarketResolved,
    delivery=Delivery.LOG,
    history=1_000,
    retention=7 * 86_400.0,
)
"""By condition id; each resolution once, however often the feed tells of it."""

_RETRY_EVERY = 0.5

_log = logging.getLogger("oddsbot.watch")


class Resolutions:
    """Publishes what was resolved; `run` it in a task.

    In order; while Redis is away they wait.

    Args:
        pubsub: Where to publish.
        clock: Sleeps.

    Attributes:
        published: Those that Redis had not had before.
        refused: Those that cannot be published, such as for the text of their market.
    """

    def __init__(self, pubsub: PubSub, clock: Clock) -> None:
        self.published = 0
        self.refused = 0
        self._pubsub = pubsub
        self._clock = clock
        self._waiting: deque[MarketResolved] = deque()
        self._work = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()

    def put(self, event: MarketResolved) -> None:
        """Have a resolution published soon; never waits."""
        self._waiting.append(event)
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
                try:
                    await self._publish(self._waiting[0])
                except OddswireError as error:
                    _log.warning("resolutions: cannot publish, trying on: %s", error)
                    await self._clock.sleep(_RETRY_EVERY)
                else:
                    self._waiting.popleft()
            self._done.set()

    async def _publish(self, event: MarketResolved) -> None:
        try:
            done = await self._pubsub.publish(
                RESOLUTIONS[event.market],
                event,
                dedup_id=f"{event.market}:{event.winning_asset_id}",
            )
        except (TopicError, CodecError) as error:
            self.refused += 1
            _log.warning("resolutions: %s", error)
        else:
            self.published += not done.duplicate
