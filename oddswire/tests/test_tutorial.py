"""docs/tutorial.md, step by step, in an empty environment with the wheel."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from oddswire import EmbeddedServer
from support import eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
FILES = dict(re.findall(r"Write `(\w+\.py)`.*?```python\n(.*?)```", PAGE, re.DOTALL))
# Python runs this before each program of the environment: Telegram is on this machine.
STAND_IN = """
import os
if "BOT_API" in os.environ:
    from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
    there = TelegramAPIServer.from_base(os.environ["BOT_API"])
    object.__setattr__(PRODUCTION, "base", there.base)
"""


class Shell:
    """A directory of its own, in which the lines of the page are run."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        kept = {
            name: value
            for name, value in os.environ.items()  # noqa: TID251 - for child programs
            if name in ("PATH", "HOME", "LANG") or name.startswith(("PIP_", "SSL_"))
        }
        self.environment = kept | environment

    def start(self, script: str) -> Coroutine[None, None, Process]:
        """Start a script; its group is its own, so that a signal reaches all of it."""
        return asyncio.create_subprocess_exec(
            *("bash", "-euc", script),
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    async def run(self, script: str) -> str:
        """Return what a script printed."""
        process = await self.start(script)
        out, err = await process.communicate()
        assert process.returncode == 0, (script, out, err)
        return out.decode()


def installed() -> str:
    """Return the versions of this environment: pip then takes them from its cache."""
    lines = (
        f"{found.metadata['Name']}=={found.version}\n"
        for found in distributions()
        if found.metadata["Name"] not in ("oddswire", "oddsbot")
    )
    return "".join(sorted(lines))


def command(message_of, number, text):
    """Return a message that is a command."""
    update = message_of(number, text=text)
    length = len(text.partition(" ")[0])
    entity = {"type": "bot_command", "offset": 0, "length": length}
    update["message"]["entities"] = [entity]
    return update


async def talk(shell, telegram, line, *exchanges, end):
    """Run the bot while it is written to; `end` is the signal that ends it."""
    process = await shell.start(f"exec {line}")
    try:
        for update, answer in exchanges:
            await telegram.deliver(update)
            await telegram.says(answer)
    finally:
        os.killpg(process.pid, end)
        _, said = await process.communicate()
    assert process.returncode in (0, -end), said.decode()
    telegram.forget()


@pytest.mark.integration
@pytest.mark.requirement("O6")
@pytest.mark.timeout(400)
async def test_the_tutorial_does_what_it_says(tmp_path, telegram, message_of):
    """Each block of the tutorial runs, from an empty environment to the doctor."""
    install, hello, prices, bot, doctor = SHELL
    pins = tmp_path / "pins.txt"
    pins.write_text(installed())
    home = tmp_path / "home"
    home.mkdir()
    for name, text in FILES.items():
        (home / name).write_text(text)
    (home / "stand_in").mkdir()
    (home / "stand_in" / "sitecustomize.py").write_text(STAND_IN)
    async with EmbeddedServer() as server:
        # Python compiles what the page imports; pip would compile all of the packages.
        shell = Shell(home, PIP_CONSTRAINT=str(pins), PIP_NO_COMPILE="1")
        build = (
            f"{sys.executable} -m pip wheel -q --no-deps --no-build-isolation"
            f" -w {home} {ROOT / 'oddswire'}"
        )
        await shell.run(build)
        # The page's address of a server is the reader's; here it is the test's.
        await shell.run(install)
        shell.environment["REDIS_URL"] = server.url
        # A slow machine takes longer than 50 ms for a thousand reads, and each process
        # loads by itself without an answer of Redis.
        shell.environment["ODDSWIRE_SIDE_TIMEOUT"] = "5"
        assert await shell.run(hello) == "b'Redis answers'\n"
        assert await shell.run(prices) == "1000 callers, 1 load at most\n"

        shell.environment |= {
            "TOKEN": "42:TEST",
            "BOT_API": telegram.url,
            "PYTHONPATH": str(home / "stand_in"),
        }
        line = bot.strip()
        first = command(message_of, 1, "/watch fed 0.6")
        await talk(*(shell, telegram, line, (first, "I watch fed")), end=signal.SIGKILL)
        exchanges = [
            (command(message_of, 2, "/watch rates 0.3"), "I watch fed, rates"),
            (command(message_of, 3, "/watch rates"), "Like this: /watch fed 0.6"),
            (command(message_of, 4, "/price"), "0.61"),
            (command(message_of, 5, "/forget"), "Forgotten"),
        ]
        await talk(*(shell, telegram, line, *exchanges), end=signal.SIGINT)

        (example,) = re.findall(r"`(warn: 2 warnings, \d+ passed)`", PAGE)

        async def doctor_says():
            return (await shell.run(doctor)).splitlines()[-1]

        # It measures latencies too: beside other work one of them may be a warning.
        await eventually(doctor_says, 60, holds=lambda said: said == example)
