"""`with_standins`: the services of a bot, on this machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from oddsbot.settings import Telegram
from oddsbot.standin.polymarket import Recording, Replay
from oddsbot.standin.telegram import BotApi
from oddswire.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from oddsbot.settings import Settings


@asynccontextmanager
async def with_standins(
    settings: Settings, recording: Path
) -> AsyncIterator[tuple[Settings, BotApi]]:
    """Hold settings whose services are the stand-ins of this machine, and the Bot API.

    Where Redis and the database are stays as it was set.
    """
    played = await asyncio.to_thread(Recording.load, recording)
    async with Replay(played, speed=1.0) as replay, BotApi(SystemClock().now) as api:
        replay.start()
        account = Telegram(token=api.token, api_url=api.url)
        yield (
            msgspec.structs.replace(
                settings,
                gamma_url=replay.gamma_url,
                clob_url=replay.clob_url,
                data_url=replay.data_url,
                ws_url=replay.ws_url,
                telegram=account,
            ),
            api,
        )
