"""How the processes of the bot are: health, numbers and errors, on topics."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, NoReturn

import msgspec

from oddswire.errors import OddswireError
from oddswire.events import Degradation
from oddswire.health import Report
from oddswire.pubsub import Delivery, Topic

from ._publishers import LatestPublisher, LogPublisher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from oddswire.clock import Clock
    from oddswire.pubsub import PubSub

_MOST_WAITING = 1_000
_MOST_TEXT = 300


class Metrics(msgspec.Struct, frozen=True):
    """The numbers of one process.

    Attributes:
        at: When, Unix seconds, by the process's clock.
        values: By name.
    """

    at: float
    values: dict[str, float]


class ErrorNotice(msgspec.Struct, frozen=True):
    """An error that a process logged.

    Attributes:
        process: Which.
        at: When, Unix seconds.
        logger: The name of the logger.
        text: One line, at most 300 characters.
        error: The type of the exception, empty without one.
    """

    process: str
    at: float
    logger: str
    text: str
    error: str = ""


HEALTH = Topic("system.health", Report, delivery=Delivery.LATEST, retention=300.0)
"""By process."""

METRICS = Topic("system.metrics", Metrics, delivery=Delivery.LATEST, retention=300.0)
"""By process."""

ERRORS = Topic(
    "system.errors",
    ErrorNotice,
    delivery=Delivery.LOG,
    history=1_000,
    retention=86_400.0,
)
"""By process."""


class SystemReports:
    """Publishes how this process is; `run` it in a task.

    Args:
        pubsub: Where to publish.
        clock: Sleeps, and tells the time.
        process: The name of this process, a key of the topics.
        check: Looks at the health, such as ``wire.health.check``.
        numbers: Returns the numbers of this process by name.
        every: Seconds between two reports.

    Attributes:
        errors: Publishes `ERRORS`; filled by a `ErrorHandler`.
    """

    def __init__(
        self,
        pubsub: PubSub,
        clock: Clock,
        process: str,
        *,
        check: Callable[[], Awaitable[Report]],
        numbers: Callable[[], Mapping[str, float]],
        every: float = 10.0,
    ) -> None:
        self.errors = LogPublisher(pubsub, clock, ERRORS, most=_MOST_WAITING)
        self._health = LatestPublisher(pubsub, clock, HEALTH)
        self._metrics = LatestPublisher(pubsub, clock, METRICS)
        self._degraded = Degradation(pubsub.events, "health", "stale", clock.monotonic)
        self._clock = clock
        self._process = process
        self._check = check
        self._numbers = numbers
        self._every = every

    async def run(self) -> None:
        """Report for ever. Cancelled, the last report may not be published."""
        async with asyncio.TaskGroup() as tasks:
            for publisher in (self.errors, self._health, self._metrics):
                tasks.create_task(publisher.run())
            tasks.create_task(self._report())

    async def _report(self) -> NoReturn:
        while True:
            values = {name: float(value) for name, value in self._numbers().items()}
            self._metrics.add(self._process, Metrics(self._clock.now(), values))
            try:
                self._health.add(self._process, await self._check())
            except OddswireError as error:
                self._degraded.begin(error)
            else:
                self._degraded.end()
            await self._clock.sleep(self._every)


class ErrorHandler(logging.Handler):
    """Publishes what is logged as an error; add it to a logger.

    Works from any thread. When 1,000 wait for Redis, the oldest are dropped.

    Args:
        reports: Whose ``errors`` publish it.
        process: The name of this process.
        loop: The loop in which `reports` runs.
    """

    def __init__(
        self, reports: SystemReports, process: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(logging.ERROR)
        self._reports = reports
        self._process = process
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record published soon; never waits and never raises."""
        try:
            kind = record.exc_info[0] if record.exc_info else None
            notice = ErrorNotice(
                process=self._process,
                at=record.created,
                logger=record.name,
                text=" ".join(record.getMessage().split())[:_MOST_TEXT],
                error="" if kind is None else kind.__name__,
            )
            # A retry of the same publish is one message; the same error again is two.
            self._loop.call_soon_threadsafe(
                self._reports.errors.add, self._process, secrets.token_hex(8), notice
            )
        except Exception:  # noqa: BLE001 - as every handler of logging
            self.handleError(record)
