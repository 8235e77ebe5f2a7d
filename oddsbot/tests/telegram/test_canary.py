"""The bot's token is in no output, log, error, page or store."""

from __future__ import annotations

import logging
import signal

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramNetworkError

from oddsbot.standin.telegram import BotApi, Fault
from oddsbot.telegram.session import BoundedSession
from oddswire import Client
from oddswire.clock import SystemClock
from support import eventually

from .conftest import ADA, Talk, running

SECRET = "canary-SECRET-of-this-test"
TOKEN = f"4242:{SECRET}"
STATUS = "a-token-of-the-status-page"
LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
SCRIPT = ("/start", LINK, "/alert down > 99", "/alerts", "/settings", "/watch")
FAULTS = ("error", "lost", "refused", "flood", "slow")


@pytest.fixture
async def canary_api():
    """A Bot API whose bot has the canary as its token."""
    async with BotApi(SystemClock().now, token=TOKEN, limits=None, retry=0.05) as api:
        yield api


async def talk(api) -> None:
    """Say and press things while calls of the bot fail in each way."""
    ada = Talk(api.world)
    for text in SCRIPT:
        before = len(ada.messages)
        api.world.say(ADA, text)
        # The first one waits for the process to start, beside whatever else runs.
        await eventually(lambda before=before: len(ada.messages) > before, 180)
    for kind in FAULTS:
        api.faults.planned.append(Fault(kind=kind, method="sendMessage", seconds=0.1))
        api.world.say(ADA, "/help")
        await eventually(lambda: not api.faults.planned, 60)
    await eventually(lambda: api.updates.pending == 0, 60)


async def stored(url, folder) -> bytes:
    """Return every byte of Redis and of the database."""
    found = []
    async with Client.from_url(url) as client:
        await client.config_set("rdbcompression", "no")
        async for key in client.scan_iter(match="*", count=1_000):
            found += [key, await client.dump(key) or b""]
    found += [path.read_bytes() for path in folder.glob("bot.db*")]
    return b"\n".join(found)


async def pages(http, port, api) -> str:
    """Return every page of the status, with and without its token, and of the chat."""
    texts = []
    bearer = {"Authorization": f"Bearer {STATUS}"}
    for path in (
        *("livez", "readyz", "startupz", "metrics", "status", "status.json", "none"),
    ):
        for headers in ({}, bearer, {"Host": "evil.example"}):
            url = f"http://127.0.0.1:{port}/{path}"
            async with http.get(url, headers=headers) as answer:
                texts += [await answer.text(), str(answer.headers)]
    async with http.get(api.page_url()) as answer:
        texts.append(await answer.text())
    control = {"Authorization": f"Bearer {api.control_token}"}
    async with http.get(f"{api.url}/control/sent", headers=control) as answer:
        texts.append(await answer.text())
    for path in ("getMe", "none", "sendMessage"):
        async with http.get(f"{api.url}/bot1:wrong/{path}") as answer:
            texts.append(await answer.text())
    return "\n".join(texts)


@pytest.mark.integration
@pytest.mark.requirement("X3", "B2")
@pytest.mark.timeout(480)
async def test_the_token_is_in_nothing_that_a_bot_says_or_stores(
    canary_api, own, replay, tmp_path, unused_tcp_port, oddsbot
):
    """A bot that is talked to, broken and checked: its output, pages and stores."""
    environ = {
        "ODDSWIRE_PROFILE": "test",
        "REDIS_URL": own.url,
        "POLYMARKET_GAMMA_URL": replay.gamma_url,
        "POLYMARKET_CLOB_URL": replay.clob_url,
        "POLYMARKET_DATA_URL": replay.data_url,
        "POLYMARKET_WS_URL": replay.ws_url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
        "TELEGRAM_BOT_TOKEN": TOKEN,
        "TELEGRAM_API_URL": canary_api.url,
        "STATUS_BIND": f"127.0.0.1:{unused_tcp_port}",
        "STATUS_TOKEN": STATUS,
    }
    running = await oddsbot.start("run", **environ)

    async def command(*args):
        _, out, err = await oddsbot(*args, **environ)
        return out + err

    said = []
    async with aiohttp.ClientSession() as http:
        await talk(canary_api)
        said.append(await pages(http, unused_tcp_port, canary_api))
        said += [
            await command("check", "--json"),
            await command("check", "--live"),
        ]
        kept = await stored(own.url, tmp_path)
        own.kill()
        await own.wait_exit()
        canary_api.world.say(ADA, "/status")
        said.append(await pages(http, unused_tcp_port, canary_api))
        await own.restart()
        await canary_api.__aexit__(None, None, None)
        said.append(await command("check"))
        said.append(await command("run", "--role", "none"))
    running.send(signal.SIGTERM)
    _, out, err = await running.end()
    said.append(out + err)
    assert "runs: deliver, updates, watch" in said[-1]
    assert SECRET not in "\n".join(said)
    assert b"down" in kept  # it is read as it is
    assert SECRET.encode() not in kept


@pytest.mark.integration
@pytest.mark.requirement("X3", "G4")
@pytest.mark.timeout(180)
async def test_the_token_is_in_no_log_of_any_level(
    settings, replay, canary_api, caplog
):
    """Everything that any library logs, down to DEBUG, while calls fail in each way."""
    caplog.set_level(logging.DEBUG)
    async with running(settings, canary_api):
        await talk(canary_api)
        await replay.__aexit__(None, None, None)
        canary_api.world.say(ADA, "/top")
        await eventually(lambda: canary_api.updates.pending == 0)
    formatter = logging.Formatter("%(name)s %(message)s")
    lines = [formatter.format(each) + str(vars(each)) for each in caplog.records]
    assert len(lines) > 10
    assert not [line for line in lines if SECRET in line]


@pytest.mark.errors
@pytest.mark.requirement("X3")
async def test_an_error_of_a_call_has_no_address(canary_api):
    """Nobody listens, no answer in time, no address: the token is in no error."""
    texts = []
    canary_api.faults.planned.append(Fault(kind="slow", method="getMe", seconds=1))
    for url, timeout in (
        ("http://127.0.0.1:1", 5),
        (canary_api.url, 0.01),
        ("http://a b", 5),
        ("http://127.0.0.1:99999", 5),
    ):
        session = BoundedSession(api=TelegramAPIServer.from_base(url))
        async with Bot(TOKEN, session=session) as bot:
            with pytest.raises(TelegramNetworkError) as raised:
                await bot.get_me(request_timeout=timeout)
        error = raised.value
        while error is not None:
            texts.append(f"{error!r} {error}")
            error = error.__context__ or error.__cause__
    assert len(texts) == 4
    assert SECRET not in "".join(texts)
