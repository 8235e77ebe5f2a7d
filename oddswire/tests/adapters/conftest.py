"""What the tests of the adapters share: clients, updates and processes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Update

from oddswire.ratelimit import RateLimiter


@pytest.fixture
async def bot_of(telegram):
    """`bot_of(42)`: aiogram's bot of that id, at the local Bot API."""
    bots = []

    def make(number):
        server = TelegramAPIServer.from_base(telegram.url, is_local=True)
        bot = Bot(f"{number}:TEST", session=AiohttpSession(api=server))
        bots.append(bot)
        return bot

    yield make
    for bot in bots:
        await bot.session.close()


@pytest.fixture
def update_of(message_of):
    """Make an update of aiogram: its number, user, chat, text."""
    return lambda *args, **kwargs: Update.model_validate(message_of(*args, **kwargs))


@pytest.fixture
async def limiter(client, prefix):
    """A limiter on the shared server."""
    async with RateLimiter(client, prefix=prefix, deadline=2.0) as limiter:
        yield limiter


@pytest.fixture
async def worker():
    """Start processes of worker.py, which are killed at the end."""
    processes = []

    async def start(*arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("worker.py")),
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
