"""Every Python block of every page runs as it is printed there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oddswire import EmbeddedServer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
DECISIONS = ROOT / "docs" / "decisions"

# What a block takes from the text around it, by page and number of the block.
GIVEN = {
    "operations.md": {
        1: """
import os, secrets
with open(os.open("status-token", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
    file.write(secrets.token_urlsafe(32))
""",
    },
    "standin.md": {
        0: """
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from telegram.ext import Application
api, token = "http://127.0.0.1:8081", "42:TEST"
""",
    },
}
# Calls of functions that a page defines and does not call, run behind its last block.
SERVED = """
import asyncio
from oddsbot.standin.polymarket import Recording, Replay, sample
recording = await asyncio.to_thread(Recording.load, sample())
condition, market = next(iter(recording.markets.items()))
said = asyncio.Queue()
def print(*what):
    said.put_nowait(what)
"""
CALLED = {
    "embedded.md": """
await kill_a_node()
await kill_the_primary()
""",
    "markets.md": SERVED
    + """
async with Replay(recording) as replay:
    await show(condition, replay.gamma_url, replay.clob_url)
assert said.qsize() == 2
""",
    "polymarket.md": SERVED
    + """
async with Replay(recording) as replay:
    task = asyncio.create_task(
        follow(replay.gamma_url, replay.clob_url, replay.ws_url, market.slug)
    )
    await replay.wait_subscribed(*market.tokens)
    replay.start()
    assert len(await said.get()) == 4
    task.cancel()
""",
    "replay.md": SERVED
    + """
import aiohttp
from oddsbot.polymarket import MarketStream, PriceChange
task = asyncio.create_task(main())
_, _, ws_url = await said.get()
everything = [token for each in recording.markets.values() for token in each.tokens]
async with (
    aiohttp.ClientSession() as session,
    MarketStream(session, ws_url, everything) as stream,
):
    async for event in stream:
        if isinstance(event, PriceChange):
            break
task.cancel()
""",
    "scaling.md": """
from oddswire.embedded import EmbeddedCluster
async with EmbeddedCluster(primaries=3, replicas=1) as cluster:
    await both(cluster.cluster_url)
    async with Client.from_url(cluster.cluster_url) as client:
        await client.set("views", 1)
        await count_views(client)
""",
}
# Blocks that need a signal, a database or another process: each has a test of its own.
ELSEWHERE = {
    "client.md": {3: "oddswire/tests/client/test_shutdown.py"},
    "source.md": {
        1: "oddsbot/tests/store/test_together.py",
        2: "oddsbot/tests/store/test_silent_user.py",
    },
    "tutorial.md": dict.fromkeys(range(3), "oddswire/tests/test_tutorial.py"),
}


def pages():
    """Return each page that has blocks."""
    return [
        page
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        if DECISIONS not in page.parents and BLOCK.search(page.read_text("utf-8"))
    ]


def never_called(text):
    """Return the functions that the blocks of a text define and nothing calls."""
    code = "\n".join(BLOCK.findall(text))
    return {
        name
        for name in re.findall(r"^(?:async )?def (\w+)", code, re.MULTILINE)
        if len(re.findall(rf"\b{name}\b", code)) == 1
    }


@pytest.mark.basic
@pytest.mark.requirement("O6")
def test_every_function_of_a_page_is_called():
    """A block that only defines a function shows nothing until somebody calls it."""
    for path in pages():
        calls = CALLED.get(path.name, "")
        if path.name not in ELSEWHERE:
            found = never_called(path.read_text("utf-8"))
            assert {name for name in found if f"{name}(" not in calls} == set(), path


@pytest.mark.integration
@pytest.mark.requirement("O6")
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in pages()])
async def test_every_block_of_a_page_runs(page, tmp_path):
    """The blocks of a page run in their order, as a reader would type them."""
    path = ROOT / page
    elsewhere = ELSEWHERE.get(path.name, {})
    given = GIVEN.get(path.name, {})
    assert all((ROOT / test).exists() for test in elsewhere.values())
    blocks = [
        given.get(number, "") + block
        for number, block in enumerate(BLOCK.findall(path.read_text("utf-8")))
        if number not in elsewhere
    ]
    blocks.append(CALLED.get(path.name, ""))
    async with EmbeddedServer() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("run_page.py"), server.url),
            cwd=tmp_path,
            env={**os.environ},  # noqa: TID251 - a program of its own
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _, said = await process.communicate(json.dumps(blocks).encode())
    assert process.returncode == 0, said.decode()
