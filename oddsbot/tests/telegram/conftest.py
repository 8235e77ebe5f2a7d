from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager

import pytest

from oddsbot.app import App
from oddsbot.limits import SendRules
from oddsbot.settings import Settings
from oddsbot.standin.polymarket import Replay
from oddsbot.standin.telegram import BotApi
from oddswire.clock import SystemClock
from oddswire.ratelimit import Rule, SlidingWindow
from support import eventually

ADA, BEN = 1001, 1002
# Telegram's own would have each answer wait for a second.
QUICK = SendRules(
    overall=Rule("telegram", SlidingWindow(10_000, 1.0), key="bot"),
    chat=Rule("telegram.chat", SlidingWindow(10_000, 1.0), key="chat"),
    group=Rule("telegram.group", SlidingWindow(10_000, 1.0), key="chat"),
)
# A script asks faster than a person, and where Redis answers late a limit is stricter.
MANY = (Rule("commands", SlidingWindow(10_000, 60.0), key="user"),)


class Talk:
    """A person who talks to the bot; `last` is the message of the bot she saw last."""

    def __init__(self, world, person=ADA) -> None:
        self.world = world
        self.person = person
        self.said: list[str] = []
        world.watchers.append(self._watch)

    def _watch(self, _, kind, content) -> None:
        if kind == "answer" and content["to"] == self.person:
            self.said.append(content["text"])

    @property
    def messages(self) -> list[dict]:
        """What the bot wrote to her, in order."""
        return [
            message
            for message in self.world.rooms[self.person].messages.values()
            if message["from"]["is_bot"]
        ]

    @property
    def last(self) -> str:
        """The text of the bot's last message to her."""
        messages = self.messages
        return text_of(messages[-1]) if messages else ""

    async def say(self, text, answer) -> str:
        """Write, and wait for a new message that has a text in it; return it."""
        before = len(self.messages)
        self.world.say(self.person, text)
        return await self.wait(answer, before)

    async def wait(self, answer, before=0) -> str:
        """Wait for a message after so many that has a text in it; return it."""

        def look():
            new = [text_of(each) for each in self.messages[before:]]
            return next((text for text in new if answer in text), None)

        return await eventually(look)

    def button(self, label, message=None):
        """Return the place of a button by what it says: row and column."""
        message = message or self.messages[-1]
        for row, buttons in enumerate(message["reply_markup"]["inline_keyboard"]):
            for column, each in enumerate(buttons):
                if label in each["text"]:
                    return message["message_id"], row, column
        raise AssertionError(f"no button {label!r} under {text_of(message)!r}")

    async def press(self, label, said="", message=None) -> str:
        """Press a button; wait until the press is answered, and return the answer."""
        before = len(self.said)
        self.world.press(self.person, *self.button(label, message))
        await eventually(lambda: len(self.said) > before)
        assert said in self.said[-1]
        return self.said[-1]


def text_of(message) -> str:
    """Return a message's text or caption."""
    return message.get("text") or message.get("caption") or ""


@pytest.fixture
async def replay(sampled):
    """A Polymarket that stands still, five minutes after its recording began."""
    until = sampled.start + 300_000
    options = {"speed": math.inf, "until": until, "seed": 7}
    async with Replay(sampled, **options) as replay:
        replay.start()
        await replay.finished()
        yield replay


@pytest.fixture
async def api():
    """A Bot API without limits."""
    async with BotApi(SystemClock().now, limits=None, retry=0.05) as api:
        yield api


@pytest.fixture
def settings(own, replay, api, tmp_path):
    """Those of a bot between the two."""
    return Settings.from_env(
        {
            "ODDSWIRE_PROFILE": "test",
            # After 50 ms without Redis each process limits what it sends by itself.
            "ODDSWIRE_SIDE_TIMEOUT": "5",
            "REDIS_URL": own.url,
            "POLYMARKET_GAMMA_URL": replay.gamma_url,
            "POLYMARKET_CLOB_URL": replay.clob_url,
            "POLYMARKET_DATA_URL": replay.data_url,
            "POLYMARKET_WS_URL": replay.ws_url,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'bot.db'}",
        },
        dotenv=None,
    )


@asynccontextmanager
async def running(
    settings, api, *, clock=None, sending=QUICK, commands=MANY, **options
):
    """Run a bot until the block ends."""
    stop = asyncio.Event()
    options |= {"sending": sending, "commands": commands}
    options["clock"] = clock or SystemClock()
    async with (
        App(settings, api.token, api_url=api.url, **options) as app,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(app.run(stop))
        try:
            yield app
        finally:
            stop.set()


@pytest.fixture
async def bot(settings, api):
    """A bot that runs."""
    async with running(settings, api) as app:
        yield app


@pytest.fixture
def ada(api, bot):
    """Ada, who talks to it."""
    return Talk(api.world)
