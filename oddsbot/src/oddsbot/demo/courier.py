"""`CourierProcess`: alerts are delivered by a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from pathlib import Path

    from oddsbot.settings import Settings

# Seconds after SIGTERM; what is in hand is finished within ten.
_PATIENCE = 12.0


class CourierProcess:
    """``oddsbot run --role deliver`` as a child; `async with`, then `keep_running`.

    Entered, it delivers.

    Args:
        settings: Of the bot: where Redis, the database and the services are.
        folder: Where it runs; no ``.env`` is there.

    Attributes:
        kills: How often it was killed by `kill`.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.kills = 0
        self._settings = settings
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let it finish what it has in hand; after 12 s it is killed."""
        self._closing = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def kill(self) -> None:
        """End it as ``kill -9`` does: what it has in hand has no fate yet."""
        if self._process is not None and self._process.returncode is None:
            self.kills += 1
            self._process.kill()

    async def keep_running(self) -> NoReturn:
        """Start it again each time it ended."""
        while True:
            if self._process is not None:
                await self._process.wait()
            if self._closing:
                await asyncio.Event().wait()
            await self._start()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "oddsbot", "run", "--role", "deliver"),
            cwd=self._folder,
            env=_environment(self._settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        # It says in one line that it runs; nothing else comes before its end.
        await self._process.stdout.readline()


def _environment(settings: Settings) -> dict[str, str]:
    """Return the variables that say the same as `settings`."""
    redis = settings.redis
    ours = ("REDIS_", "ODDSWIRE_", "ODDSBOT_", "TELEGRAM_", "STATUS_", "WEBHOOK_")
    found = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - a child inherits it
        if not name.startswith(ours)
    }
    found |= {
        "ODDSWIRE_PROFILE": redis.profile,
        "REDIS_URL": redis.url or "",
        "TELEGRAM_BOT_TOKEN": settings.telegram.token,
        "TELEGRAM_API_URL": settings.telegram.api_url,
        "DATABASE_URL": settings.database_url,
        "POLYMARKET_GAMMA_URL": settings.gamma_url,
        "POLYMARKET_CLOB_URL": settings.clob_url,
        "POLYMARKET_WS_URL": settings.ws_url,
        "POLYMARKET_DATA_URL": settings.data_url,
        "POLYMARKET_RTDS_URL": settings.rtds_url,
    }
    if redis.server_bin is not None:
        found["ODDSWIRE_SERVER_BIN"] = redis.server_bin
    return found
