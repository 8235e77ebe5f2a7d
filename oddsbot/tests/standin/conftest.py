"""A stand-in of the test's own, a picture, and calls as any client makes them."""

from __future__ import annotations

import struct
import zlib

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from oddsbot.standin.telegram import BotApi

ADA, BEN = 1001, 1002


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        """Return it."""
        return self.time


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def api(clock):
    """Return a stand-in to which Ada wrote already, without limits."""
    async with BotApi(clock, limits=None, retry=0.01) as api:
        api.world.rooms[ADA].began = True
        yield api


@pytest.fixture
async def bot(api):
    """Return aiogram's client of it, as it is installed."""
    server = TelegramAPIServer.from_base(api.url)
    async with Bot(api.token, session=AiohttpSession(api=server)) as bot:
        yield bot


@pytest.fixture
async def http():
    """A client of HTTP without cookies of others."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield session


@pytest.fixture
def call(api, http):
    """Call a method with JSON; return the whole answer."""

    async def call(method, token=None, **parameters):
        url = f"{api.url}/bot{token or api.token}/{method}"
        async with http.post(url, json=parameters) as response:
            answer = await response.json()
            if not answer["ok"]:
                assert answer["error_code"] == response.status
            return answer

    return call


@pytest.fixture
def png():
    """A picture of 320 x 200: a line that falls and rises."""
    rows = []
    for y in range(200):
        row = bytearray(b"\xf4\xf7\xfa" * 320)
        for x in range(320):
            level = 100 + (x % 80 if x % 160 < 80 else 80 - x % 80) - 40
            if abs(y - level) < 3:
                row[x * 3 : x * 3 + 3] = b"\x0b\x5c\xad"
        rows.append(b"\0" + bytes(row))

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 320, 200, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")
