"""A process of the bot, for a test that kills it; its settings come as JSON."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import msgspec

from oddsbot.app import App
from oddsbot.settings import Settings
from oddswire.clock import SystemClock
from oddswire.ratelimit import Rule, SlidingWindow


async def main(asked) -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.from_env(asked["environ"], dotenv=None)
    if "roles" in asked:
        roles = frozenset(asked["roles"])
        settings = msgspec.structs.replace(settings, roles=roles)
    app = App(
        settings,
        asked["token"],
        clock=SystemClock(),
        api_url=asked["api"],
        # A script of a person is faster than a person.
        commands=(Rule("commands", SlidingWindow(10_000, 60.0), key="user"),),
    )
    async with app:
        print("ready", flush=True)
        await app.run(stop)


asyncio.run(main(json.loads(sys.argv[1])))
