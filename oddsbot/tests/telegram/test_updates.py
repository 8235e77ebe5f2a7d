from __future__ import annotations

import asyncio
import io
import json
import math
import os
import random
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from oddsbot.alerts import MoveRule, PriceRule
from oddsbot.delivery import Action, Press
from oddsbot.limits import COMMANDS
from oddsbot.settings import Settings
from oddsbot.standin.polymarket import Replay
from oddsbot.standin.telegram.updates import Webhook
from oddsbot.store import QuietHours
from oddsbot.telegram.buttons import Buttons
from oddsbot.telegram.screens.market import level_argument
from oddsbot.telegram.screens.person import quiet_argument
from oddsbot.telegram.updates import UPDATES
from oddsbot.telegram.webhook import SECRET_HEADER, path_of
from oddswire import Client, EmbeddedServer
from oddswire.ratelimit import Rule, SlidingWindow
from support import eventually

from .conftest import ADA, BEN, Talk, running

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
WORKER = Path(__file__).with_name("worker.py")
SECRET = "a-secret-of-the-webhook"


@pytest.fixture
async def durable():
    """A server that keeps every acknowledged write."""
    async with EmbeddedServer(aof=True, args=("--appendfsync", "always")) as server:
        yield server


@pytest.fixture
def environ(replay, tmp_path):
    """The environment of a bot; the server's URL is to be added."""
    return {
        "ODDSWIRE_PROFILE": "test",
        "POLYMARKET_GAMMA_URL": replay.gamma_url,
        "POLYMARKET_CLOB_URL": replay.clob_url,
        "POLYMARKET_DATA_URL": replay.data_url,
        "POLYMARKET_WS_URL": replay.ws_url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
    }


class Processes:
    """Processes of the bot, forked from one that has imported everything."""

    def __init__(self, parent) -> None:
        self._parent = parent
        self._said: dict[str, asyncio.Future[str]] = {}
        self._forked: asyncio.Queue[int] = asyncio.Queue()
        self._reading = asyncio.Task(self._read())
        self.alive: list[int] = []

    async def _read(self) -> None:
        async for line in self._parent.stdout:
            what, pid, *rest = line.decode().split()
            if what == "forked":
                self._forked.put_nowait(int(pid))
            else:
                self._future(what, int(pid)).set_result("".join(rest))
                if what == "ended" and int(pid) in self.alive:
                    self.alive.remove(int(pid))  # by itself: stderr says why

    def _future(self, what, pid):
        name = f"{what} {pid}"
        return self._said.setdefault(name, asyncio.get_running_loop().create_future())

    async def start(self) -> int:
        """Start one and wait until it works; return its id."""
        self._parent.stdin.write(b"\n")
        pid = await self._forked.get()
        self.alive.append(pid)
        await self._future("ready", pid)
        return pid

    async def end(self, pid, number=signal.SIGKILL) -> int:
        """Send one a signal and wait for its end; return its exit code."""
        self.alive.remove(pid)
        os.kill(pid, number)
        return int(await self._future("ended", pid))

    async def close(self) -> None:
        """End all of them."""
        for pid in list(self.alive):
            await self.end(pid)
        self._parent.kill()
        await self._parent.wait()
        await self._reading


@asynccontextmanager
async def processes(count, asked):
    """Hold so many processes of the bot."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        json.dumps(asked),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    held = Processes(parent)
    try:
        for _ in range(count):
            await held.start()
        yield held
    finally:
        await held.close()


def script_of(number):
    """Return what a person writes and presses, in order.

    Args:
        number: Gamma's, of the market.
    """
    up = [f"/alert up > {level}" for level in range(61, 97, 4)]
    down = [f"/alert down > {level}" for level in range(61, 97, 4)]
    presets = [
        Press(Action.SET_ABOVE, number, level_argument(0, Decimal(level) / 100))
        for level in (98, 99)
    ]
    return [
        "/start",
        LINK,
        *up,
        Press(Action.WATCH, number),
        Press(Action.KIND_OFF, 0, 1),
        *down,
        *presets,
        Press(Action.PAUSE_ALL),
        "/alert 7c",
        Press(Action.QUIET, 0, quiet_argument(22 * 60, 7 * 60)),
        Press(Action.ODDS, 0, 1),
        Press(Action.ZONE),
        "utc+2",
        "/mute 9h",
        Press(Action.RESUME_ALL),
        "/alert 9c",
        Press(Action.UNWATCH, number),
        Press(Action.MUTE, 0, 60),
        "/unmute",
        Press(Action.SET_OTHER, number),
        "up > 97",
        Press(Action.KIND_ON, 0, 1),
        Press(Action.KIND_OFF, 0, 0),
        "/stop",
        Press(Action.WATCH, number),
        "/start",
        *("/price", "/alerts", "/settings", "/status", "/book", "/watchlist") * 2,
        Press(Action.ODDS, 0, 2),
        Press(Action.QUIET, 0, quiet_argument(60, 120)),
        "/search bitcoin",
        "/top",
        "/help",
    ]


@pytest.mark.integration
@pytest.mark.requirement("B2", "B6", "R4")
@pytest.mark.timeout(580)
async def test_a_script_of_a_person_survives_kills(durable, environ, replay, api):
    """60 messages and presses, each twice, 20 kills: what was asked is what is kept.

    Three processes poll and handle; after every third message or press one of them is
    killed, wherever it is, and another one is started.
    """
    api.faults.repeat = True
    dice = random.Random(7)
    asked = {
        "environ": environ | {"REDIS_URL": durable.url},
        "token": api.token,
        "api": api.url,
        "roles": ["updates"],
        "quick": True,
    }
    market = next(iter(replay.recording.markets.values()))
    script = script_of(int(market.gamma_id))
    assert len(script) == 60
    buttons = Buttons(api.token)
    room = api.world.rooms[ADA]
    kills = 0
    async with processes(3, asked) as held:
        for number, each in enumerate(script):
            if isinstance(each, str):
                api.world.say(ADA, each)
            else:
                data = buttons.seal(each, chat=ADA, person=ADA)
                api.world.push_press(ADA, data, room, None)
            if number % 3 == 2:
                # Killed while some of it is in hand, and not before anything is.
                handled = api.world.calls.total()
                await eventually(lambda n=handled: api.world.calls.total() > n, 60)
                await held.end(dice.choice(held.alive))
                kills += 1
                await held.start()
        await eventually(lambda: api.updates.pending == 0, 60)
        # The last answer is of the last message: all before it were handled.
        ada = Talk(api.world)
        await eventually(lambda: "Find" in ada.last, 60)
    assert kills == 20
    settings = Settings.from_env(asked["environ"], dotenv=None)
    async with running(settings, api) as bot:
        rules = await bot.rules.of(ADA)
        session = await bot.sessions.get(ADA)
    outcomes = dict(zip(market.tokens, ("up", "down"), strict=True))
    levels = sorted(
        (outcomes[rule.asset_id], int(rule.level * 100))
        for rule in rules
        if isinstance(rule, PriceRule)
    )
    every = range(61, 97, 4)
    assert levels == [
        *(("down", level) for level in every),
        *(("up", level) for level in (*every, 97, 98, 99)),
    ]
    assert sorted(rule.by for rule in rules if isinstance(rule, MoveRule)) == [7, 9]
    assert not any(rule.paused for rule in rules)
    assert (session.is_active, session.muted_until, len(session.markets)) == (
        True,
        0,
        1,
    )
    assert (session.quiet, session.display.odds) == (QuietHours(60, 120), "decimal")
    assert session.timezone == "Etc/GMT-2"
    kinds = session.notifications
    assert (kinds.price, kinds.resolution) == (False, True)


@pytest.mark.integration
@pytest.mark.requirement("C13", "R5")
@pytest.mark.timeout(360)
async def test_sigterm_with_updates_in_flight_loses_none(durable, environ, api):
    """Each of 30 messages is answered, although the process is told to end midway."""
    asked = {
        "environ": environ | {"REDIS_URL": durable.url},
        "token": api.token,
        "api": api.url,
    }
    people = [Talk(api.world, person) for person in (ADA, BEN)]
    async with processes(1, asked) as held:
        for number in range(15):
            for each in people:
                each.world.say(each.person, f"/alert up > {number + 60}")
        await eventually(lambda: len(api.world.sent) > 5, 120)
        assert await held.end(held.alive[0], signal.SIGTERM) == 0
        await held.start()
        for each in people:
            await eventually(lambda each=each: len(each.messages) >= 15, 60)


@pytest.mark.integration
@pytest.mark.requirement("C13", "B4")
@pytest.mark.timeout(400)
async def test_sigterm_with_alerts_in_flight_loses_and_repeats_none(
    durable, environ, api, sampled
):
    """A result goes to 20 people, the process is told to end midway: one alert each."""
    people = range(5_000, 5_020)
    async with Replay(sampled, speed=math.inf) as moving:
        urls = {
            "POLYMARKET_GAMMA_URL": moving.gamma_url,
            "POLYMARKET_CLOB_URL": moving.clob_url,
            "POLYMARKET_WS_URL": moving.ws_url,
        }
        asked = {
            "environ": environ | urls | {"REDIS_URL": durable.url},
            "token": api.token,
            "api": api.url,
        }

        def told():
            return Counter(
                each.chat for each in api.world.sent if "Resolved" in each.text
            )

        async with processes(1, asked) as held:
            for each in people:
                api.world.join(each, f"P{each}")
                api.world.say(each, f"/watch {LINK}")
            # An alert has the websocket followed.
            api.world.say(ADA, f"/alert {LINK} up > 1")
            await eventually(lambda: len(api.world.sent) > len(people), 90)
            market = next(iter(sampled.markets.values()))
            await moving.wait_subscribed(market.tokens[0])
            moving.start()
            await eventually(lambda: len(told()) > 2, 60)
            assert await held.end(held.alive[0], signal.SIGTERM) == 0
            await held.start()
            await eventually(lambda: len(told()) == len(people), 90)
    assert set(told().values()) == {1}


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_a_flood_of_one_person_costs_a_line_and_harms_nobody(settings, api):
    """60 messages at once: twenty are handled, one says why, another is answered."""
    ada, ben = Talk(api.world), Talk(api.world, BEN)
    async with running(settings, api, commands=COMMANDS):
        for _ in range(60):
            api.world.say(ADA, "/help")
        await ben.say("/start", "No wallet")
        await ada.wait("too much at once")
        await eventually(lambda: api.updates.pending == 0)
    told = [each for each in ada.messages if "too much" in each.get("text", "")]
    assert len(told) == 1
    assert len(ada.messages) <= 21


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_what_a_person_says_in_a_group_costs_her_nothing_here(settings, api):
    """30 commands to other bots of a group: she is answered here, and not scolded."""
    ada = Talk(api.world)
    async with running(settings, api, commands=COMMANDS):
        for _ in range(30):
            api.world.say(ADA, "/roll", chat=api.world.group)
        await ada.say("/start", "No wallet")
    assert len(ada.messages) == 1


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_talk_of_a_group_costs_no_place_in_the_queue(settings, api):
    """A bot that hears all of a group answers a command there after 100 sentences."""
    group = api.world.rooms[api.world.group]
    async with running(settings, api, commands=COMMANDS):
        for number in range(100):
            said = api.world.post(group, BEN, {"text": f"Sentence {number}"})
            api.updates.add("message", said)
        api.world.say(ADA, "/start@stand_in_bot", chat=group.id)
        await eventually(lambda: "private chat" in str(group.messages[group.last]))


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_an_update_that_comes_again_is_counted_once(settings, api):
    """Of three that are admitted one comes ten times; the fourth is one too many."""
    ada = Talk(api.world)
    three = Rule("commands", SlidingWindow(3, 60.0), key="user")

    def help_of(number):
        said = {"message_id": number, "date": 1, "text": "/help"}
        said |= {"chat": {"id": ADA, "type": "private"}}
        said |= {"from": {"id": ADA, "is_bot": False, "first_name": "Ada"}}
        return json.dumps({"update_id": 900 + number, "message": said})

    api.world.rooms[ADA].began = True
    async with running(settings, api, commands=[three]) as app:
        for number in (1, *[1] * 10, 2, 3, 4, 1):
            await app.updates.put(help_of(number))
        await ada.wait("too much at once")
    assert len(ada.messages) == 4


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_another_poller_is_announced_and_waited_for(settings, api, caplog):
    """A second program polls with the token: one line says so, and nothing is lost."""
    ada = Talk(api.world)
    async with running(settings, api), aiohttp.ClientSession() as http:
        url = f"{api.url}/bot{api.token}/getUpdates"

        async def poll():
            while "another program polls" not in caplog.text:
                async with http.post(url, json={"timeout": 1}) as response:
                    await response.read()

        async with asyncio.timeout(30):
            await poll()
        await ada.say("/start", "No wallet")
    assert api.token not in caplog.text


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_a_webhook_of_somebody_is_announced_and_waited_for(settings, api, caplog):
    """It cannot be polled beside one: a line says what to do, and it goes on then."""
    ada = Talk(api.world)
    api.updates.hook(Webhook(url="http://127.0.0.1:1/x"))
    async with running(settings, api):
        await eventually(lambda: "a webhook is set for this bot" in caplog.text)
        assert "remove it, or run with TELEGRAM_MODE=webhook" in caplog.text
        api.updates.hook(None)
        await ada.say("/start", "No wallet")
    assert api.token not in caplog.text


@pytest.fixture
def webhook(environ, own, api, unused_tcp_port):
    """Settings of a bot that Telegram posts to."""
    return Settings.from_env(
        environ
        | {
            "REDIS_URL": own.url,
            "TELEGRAM_MODE": "webhook",
            "WEBHOOK_URL": f"http://127.0.0.1:{unused_tcp_port}",
            "WEBHOOK_SECRET": SECRET,
            "WEBHOOK_BIND": f"127.0.0.1:{unused_tcp_port}",
        },
        dotenv=None,
    )


@pytest.mark.integration
@pytest.mark.requirement("B6", "X6")
async def test_telegram_posts_to_a_webhook(webhook, api):
    """An update that is posted is answered; Telegram gets its 200 after it is kept."""
    ada = Talk(api.world)
    async with running(webhook, api):
        await eventually(lambda: api.updates.webhook is not None)
        assert api.token not in api.updates.webhook.url
        await ada.say("/start", "No wallet")
        await eventually(lambda: api.updates.pending == 0)


@pytest.mark.errors
@pytest.mark.requirement("X6")
async def test_a_webhook_answers_its_secret_alone(webhook, api, own):
    """Missing, wrong, doubled, long: the same 401; another host 421; away: 503."""
    async with running(webhook, api) as bot, aiohttp.ClientSession() as http:
        await eventually(lambda: api.updates.webhook is not None)
        url = f"http://127.0.0.1:{webhook.telegram.webhook.bind_port}{path_of(SECRET)}"
        body = b'{"update_id": 900, "message": {}}'
        json_type = ("Content-Type", "application/json")

        async def post(*headers, data=body, to=url):
            async with http.post(to, data=data, headers=[json_type, *headers]) as got:
                return got.status

        right = (SECRET_HEADER, SECRET)
        for wrong in (
            (),
            ((SECRET_HEADER, SECRET[:-1]),),
            (right, right),
            ((SECRET_HEADER, SECRET * 100),),
        ):
            assert await post(*wrong) == 401
        assert await post(right, ("Host", "evil.example")) == 421
        assert await post(right, ("Origin", "https://evil.example")) == 403
        assert await post(right, to=url[:-1]) == 404
        assert await post(right) == 200
        # What cannot be read would come for ever: it is dropped, and logged.
        for junk in (b"[" * 100_000, b"{}", b"\xff", b'{"update_id": -1}'):
            assert await post(right, data=junk) == 200
        assert await post(right, data=io.BytesIO(bytes(2_000_000))) == 413
        own.kill()
        await own.wait_exit()
        assert await post(right, data=b'{"update_id": 901}') == 503
        await own.restart()
        await eventually(lambda: _alive(bot))


async def _alive(bot):
    async with asyncio.timeout(5):
        return (await bot.status()).waiting is not None


@pytest.mark.basic
@pytest.mark.requirement("R4")
async def test_an_update_is_in_the_queue_before_it_is_confirmed(settings, api, own):
    """While Redis is away nothing is confirmed; back, everything is answered."""
    ada = Talk(api.world)
    async with running(settings, api):
        await ada.say("/start", "No wallet")
        own.kill(signal.SIGSTOP)
        try:
            api.world.say(ADA, "/help")
            await asyncio.sleep(0.5)
            assert api.updates.pending >= 1
        finally:
            own.kill(signal.SIGCONT)
        await ada.wait("/alert no < 40")
    async with Client.from_url(own.url) as client:
        keys = [key.decode() async for key in client.scan_iter(match="*", count=1_000)]
    # The queue's own keys name no person.
    assert not [key for key in keys if UPDATES.name in key and str(ADA) in key]
