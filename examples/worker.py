"""A worker of a queue, in an application with settings and logging of its own.

Run it: ``REDIS_URL=redis://localhost:6379 python examples/worker.py``, as often as you
like; the processes share the work. SIGTERM, and Ctrl-C, have it finish what it is doing
and end. Without REDIS_URL it starts a server of its own, and has two people to greet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

import oddswire
from oddswire.errors import Undeliverable

if TYPE_CHECKING:
    from oddswire.events import Event
    from oddswire.queue import Message

log = logging.getLogger("greeter")


class Greeting(msgspec.Struct, frozen=True):
    """What is to be said to somebody."""

    text: str


@dataclass(frozen=True)
class AppSettings:
    """The application's own settings; the library's are one field of them."""

    redis: oddswire.Settings
    blocked: frozenset[int] = frozenset()


class JsonLines(logging.Formatter):
    """One object a line: the library's lines look like the application's."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps({"from": record.name, "says": record.getMessage()})


def note(event: Event) -> None:
    """Turn what happens to the connection into the application's own log lines."""
    log.info("redis: %s", type(event).__name__.lower())


class Greeter:
    """Says greetings, on a screen that stands for a messenger."""

    def __init__(self, settings: AppSettings) -> None:
        self._blocked = settings.blocked

    async def greet(self, message: Message[Greeting]) -> None:
        """Deliver one greeting; an error has it tried again."""
        if message.user_id in self._blocked:
            # Nothing to try again: it becomes a dead letter.
            raise Undeliverable("the user has blocked us")
        sys.stdout.write(f"{message.user_id}: {message.value.text}\n")
        sys.stdout.flush()


async def work(settings: AppSettings) -> None:
    """Consume until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    redis = oddswire.connect(settings.redis, queue=Greeting)
    redis.events.subscribe(note)
    async with redis as wire:
        if settings.redis.url is None:
            await wire.queue.enqueue_many(dict.fromkeys([1, 2], Greeting("hello")))
        await wire.queue.consume(Greeter(settings).greet, stop=stop)


def main() -> None:
    """Configure logging the application's way, read the environment, and run."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    settings = AppSettings(redis=oddswire.Settings.from_env(), blocked=frozenset({3}))
    asyncio.run(work(settings))


if __name__ == "__main__":
    main()
