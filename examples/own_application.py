"""An application with settings, logging and error handling of its own.

The library takes what it is given: it reads no environment, configures no logging,
keeps nothing global. Run it: ``python examples/own_application.py``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass, field

import oddswire
from oddswire.errors import Unavailable
from oddswire.events import Disconnected, Event, Ready

log = logging.getLogger("shop")


@dataclass(frozen=True)
class AppSettings:
    """The application's own settings; the library's are one field of them."""

    greeting: str = "hello"
    redis: oddswire.Settings = field(
        default_factory=lambda: oddswire.Settings(prefix="shop:", command_timeout=2.0)
    )


def note(event: Event) -> None:
    """Turn what happens to the connection into the application's own log lines."""
    match event:
        case Ready(connection=name, took=took):
            log.info("redis (%s) ready in %.1f ms", name, took * 1000)
        case Disconnected(connection=name, reason=reason):
            log.warning("redis (%s) left: %s", name, reason)


async def serve(settings: AppSettings) -> str:
    """Count a visit; a Redis that is away costs the count, not the answer."""
    redis = oddswire.connect(settings.redis)
    redis.events.subscribe(note, Ready, Disconnected)
    async with redis as wire:
        try:
            visits = await wire.client.incr("visits")
        except Unavailable:
            log.exception("not counted")
            return settings.greeting
        return f"{settings.greeting}, visitor {visits}"


def main() -> None:
    """Configure logging the application's way, and run."""
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO)
    sys.stdout.write(asyncio.run(serve(AppSettings())) + "\n")


if __name__ == "__main__":
    main()
