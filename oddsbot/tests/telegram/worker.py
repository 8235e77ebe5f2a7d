"""Processes of the bot, for tests that kill them; their settings come as JSON.

What takes long is imported once: each line on stdin has a process forked from this one.
On stdout: ``forked PID``, ``ready PID``, ``ended PID CODE``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress

import msgspec

import oddsbot.charts  # noqa: F401 - so that no process imports it again
from oddsbot.app import App
from oddsbot.limits import TELEGRAM, SendRules
from oddsbot.loop import run
from oddsbot.settings import Settings
from oddswire.clock import SystemClock
from oddswire.ratelimit import Rule, SlidingWindow


def say(*words) -> None:
    """Write a line whole, whoever else writes."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(asked) -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.from_env(asked["environ"], dotenv=None)
    if "roles" in asked:
        roles = frozenset(asked["roles"])
        settings = msgspec.structs.replace(settings, roles=roles)
    # Telegram's own limits would have each answer wait for a second.
    quick = Rule("telegram", SlidingWindow(10_000, 1.0), key="bot")
    chat = Rule("telegram.chat", SlidingWindow(10_000, 1.0), key="chat")
    group = Rule("telegram.group", SlidingWindow(10_000, 1.0), key="chat")
    app = App(
        settings,
        asked["token"],
        clock=SystemClock(),
        api_url=asked["api"],
        # A script of a person is faster than a person.
        commands=(Rule("commands", SlidingWindow(10_000, 60.0), key="user"),),
        sending=SendRules(quick, chat, group) if asked.get("quick") else TELEGRAM,
    )
    async with app:
        say("ready", os.getpid())
        await app.run(stop)


def reap(*_) -> None:
    """Say which processes ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            say("ended", ended[0], os.waitstatus_to_exitcode(ended[1]))


def main(asked) -> None:
    """Fork a process for each line."""
    signal.signal(signal.SIGCHLD, reap)
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run(work(asked))
            return
        say("forked", pid)


main(json.loads(sys.argv[1]))
