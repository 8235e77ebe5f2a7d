"""An update that is handled again, after a later one: what was asked last stays."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from aiogram.exceptions import AiogramError, TelegramMigrateToChat
from aiogram.types import Update

from oddsbot.app import App
from oddsbot.delivery import Action, Press
from oddsbot.standin.telegram import Fault
from oddsbot.telegram.buttons import Buttons
from oddswire.clock import SystemClock
from oddswire.errors import SourceUnavailable

from .conftest import ADA, QUICK

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
RULE = 0


def sender(number):
    """Return a person as updates have her."""
    return {"id": number, "is_bot": False, "first_name": "Ada"}


class Feeder:
    """Hands updates to the bot's dispatcher, as its queue does."""

    def __init__(self, app, api) -> None:
        self.app = app
        self._buttons = Buttons(api.token)
        self._id = 1_000

    def update(self, asked) -> Update:
        """Return an update: a text, or a press."""
        self._id += 1
        person = sender(ADA)
        if isinstance(asked, str):
            message = {
                "message_id": self._id,
                "date": 1,
                "chat": {"id": ADA, "type": "private"},
                "from": person,
                "text": asked,
            }
            return Update.model_validate({"update_id": self._id, "message": message})
        query = {
            "id": str(self._id),
            "from": person,
            "chat_instance": "1",
            "data": self._buttons.seal(asked, chat=ADA, person=ADA),
            "inline_message_id": "1",
        }
        return Update.model_validate({"update_id": self._id, "callback_query": query})

    async def feed(self, update) -> None:
        """Have one handled."""
        # What it answers is not looked at; a press of nobody's query is too old.
        await self.app.dispatcher.feed_update(self.app.bot, update)


@pytest.fixture
async def feeder(settings, api):
    """A bot that is open and polls nothing, and knows Ada, a market and a rule."""
    api.world.say(ADA, "/start")
    options = {"clock": SystemClock(), "api_url": api.url, "sending": QUICK}
    app = App(settings, api.token, **options)
    async with app:
        feeder = Feeder(app, api)
        for text in ("/start", LINK, "/alert down > 99"):
            await feeder.feed(feeder.update(text))
        yield feeder


async def state_of(app):
    """Return all that Ada asked for."""
    session = await app.sessions.get(ADA)
    rules = await app.rules.of(ADA)
    market = (await app.followers.markets(),)
    return (
        session.is_active,
        session.muted_until,
        session.quiet,
        session.display.odds,
        session.notifications,
        session.timezone,
        session.per_minute,
        session.per_hour,
        session.thresholds,
        sorted(session.markets),
        market,
        [(rule.paused, getattr(rule, "level", None)) for rule in rules],
    )


@pytest.mark.integration
@pytest.mark.requirement("B2", "B6")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("/mute 2h", "/unmute"),
        ("/unmute", "/mute 1d"),
        ("/stop", "/start"),
        ("/start", "/stop"),
        ("/watch", "/unwatch"),
        (Press(Action.KIND_OFF, 0, 0), Press(Action.KIND_ON, 0, 0)),
        (Press(Action.QUIET, 0, 60), Press(Action.QUIET, 0, 0)),
        (Press(Action.ODDS, 0, 1), Press(Action.ODDS, 0, 0)),
        (Press(Action.MUTE, 0, 60), Press(Action.MUTE)),
        (Press(Action.PER_MINUTE, 0, 3), Press(Action.PER_MINUTE, 0, 1)),
        (Press(Action.PER_HOUR, 0, 1), Press(Action.PER_HOUR, 0, 10)),
        (Press(Action.LEAST_MOVE, 0, 5), Press(Action.LEAST_MOVE)),
        (Press(Action.PAUSE_ALL), Press(Action.RESUME_ALL)),
    ],
    ids=str,
)
async def test_what_was_asked_last_stays(feeder, first, then):
    """The first one comes again, twice and at once, after the second: no effect."""
    update = feeder.update(first)
    await feeder.feed(update)
    await feeder.feed(feeder.update(then))
    before = await state_of(feeder.app)
    await asyncio.gather(feeder.feed(update), feeder.feed(update))
    assert await state_of(feeder.app) == before


@pytest.mark.integration
@pytest.mark.requirement("B2", "B6")
async def test_an_alert_that_was_set_changed_and_stopped_stays_gone(feeder):
    """Set, changed to another price, stopped; each comes again: there is none."""
    app = feeder.app
    set_ = feeder.update("/alert down > 97")
    await feeder.feed(set_)
    (rule,) = [r for r in await app.rules.of(ADA) if str(r.level) == "0.97"]
    change = feeder.update(Press(Action.CHANGE_TO, int(rule.id, 16), 980))
    await feeder.feed(change)
    levels = sorted(str(r.level) for r in await app.rules.of(ADA))
    assert levels == ["0.98", "0.99"]
    await feeder.feed(change)
    assert sorted(str(r.level) for r in await app.rules.of(ADA)) == levels
    (new,) = [r for r in await app.rules.of(ADA) if str(r.level) == "0.98"]
    stop = feeder.update(Press(Action.STOP_RULE, int(new.id, 16)))
    await feeder.feed(stop)
    for update in (set_, change, stop):
        await feeder.feed(update)
    assert [str(r.level) for r in await app.rules.of(ADA)] == ["0.99"]


@pytest.mark.integration
@pytest.mark.requirement("B6", "X5")
async def test_updates_from_before_an_erasure_bring_nobody_back(feeder):
    """Erased, everything that she had sent comes again: nobody is known."""
    before = [
        feeder.update(each)
        for each in ("/start", "/mute 1h", "/watch", "/alert down > 96", "/stop")
    ]
    for update in before:
        await feeder.feed(update)
    await feeder.app.erase(ADA)
    for update in before:
        # Without her conversation there is no market to speak of.
        await feeder.feed(update)
    assert await feeder.app.sessions.get(ADA) is None
    assert await feeder.app.rules.of(ADA) == []


@pytest.mark.errors
@pytest.mark.requirement("B6")
async def test_the_update_that_erases_comes_again_and_erases(feeder, monkeypatch):
    """Killed between the button that is good once and the deletion: it is done then."""
    handle = await feeder.app.handles.give(ADA)
    update = feeder.update(Press(Action.ERASE, handle))
    other = feeder.update(Press(Action.ERASE, handle))

    async def fails(*_, **__):
        raise SourceUnavailable("as if it were killed here")

    with monkeypatch.context() as patched:
        patched.setattr(feeder.app.rules, "remove", fails)
        with pytest.raises(SourceUnavailable):
            await feeder.feed(update)
    await feeder.feed(other)
    assert await feeder.app.sessions.get(ADA) is not None
    await feeder.feed(update)
    assert await feeder.app.sessions.get(ADA) is None
    assert await feeder.app.rules.of(ADA) == []


ODD = [0, 1, 2**23, 2**24 - 1]


@pytest.mark.errors
@pytest.mark.requirement("X1", "X2")
@pytest.mark.timeout(300)
async def test_a_button_of_another_version_breaks_nothing(feeder, caplog):
    """Each action with odd numbers, as an old or a later version may have sealed it."""
    dice = Random(5)
    rule = int((await feeder.app.rules.of(ADA))[0].id, 16)
    subjects = [0, 7, rule, 2**63, 2**64 - 1]
    for action in Action:
        for argument in ODD:
            press = Press(action, dice.choice(subjects), argument)
            await feeder.feed(feeder.update(press))
    assert not [each for each in caplog.records if "update_failed" in each.message]


HOSTILE = [
    "<b>x</b> [y](z) {0} %s",
    "\U0001f7e5" * 1_900,
    "\u202e/start @channel #tag",
    "\x1b[31m\x00\x85",
    "9" * 4_000,
    "0xzz",
    "-1e999 nan > inf ¢ %",
    "\u0662\u0663 \u00b2 \u2460",
    "https://polymarket.com@evil.example/event/../../x",
    "../../etc/passwd",
    "'; DROP TABLE oddsbot_users; --",
]
COMMANDS = (
    *("/start", "/search", "/top", "/new", "/market", "/price", "/book", "/chart"),
    *("/watch", "/unwatch", "/alert", "/mute", "/settings", "/erase", "/export"),
    *("/nothing", ""),
)
# Questions of the bot: what is written next is their answer.
QUESTIONS = (Action.ZONE, Action.QUIET_OTHER)


@pytest.mark.errors
@pytest.mark.requirement("X1")
@pytest.mark.timeout(300)
async def test_hostile_texts_are_answered(feeder, api, caplog):
    """Behind each command, by themselves, as answers to questions, as names.

    Each is answered, none with an error of the bot, and the rule of before is there.
    """
    app, world = feeder.app, api.world
    rules = await app.rules.of(ADA)
    for text in HOSTILE:
        for command in COMMANDS:
            said = len(world.sent)
            await feeder.feed(feeder.update(f"{command} {text}".strip()))
            assert len(world.sent) > said, (command, text)
        for question in QUESTIONS:
            await feeder.feed(feeder.update(Press(question)))
            await feeder.feed(feeder.update(text))
        update = feeder.update("/start")
        named = {"first_name": text or "-", "username": text, "last_name": text}
        user = update.message.from_user.model_copy(update=named)
        message = update.message.model_copy(update={"from_user": user})
        await feeder.feed(update.model_copy(update={"message": message}))
    assert not [each for each in caplog.records if "update_failed" in each.message]
    kept = {rule.id for rule in await app.rules.of(ADA)}
    assert {rule.id for rule in rules} <= kept


@pytest.mark.errors
@pytest.mark.requirement("B2", "B6")
async def test_an_answer_that_was_not_sent_is_read_as_one_again(feeder, api):
    """Killed after the alert is set and before it is said: the same, and no search."""
    market = (await feeder.app.markets.by_slug(LINK.rpartition("/")[2])).id
    await feeder.feed(feeder.update(Press(Action.SET_OTHER, int(market))))
    update = feeder.update("down > 97")
    api.faults.planned += [Fault(kind="error", method="sendMessage")]
    with pytest.raises(AiogramError):
        await feeder.feed(update)
    assert len(await feeder.app.rules.of(ADA)) == 2
    await feeder.feed(update)
    assert "Down reaches 97¢" in api.world.sent[-1].text
    await feeder.feed(feeder.update("/cancel"))
    assert "nothing to cancel" in api.world.sent[-1].text
    assert len(await feeder.app.rules.of(ADA)) == 2


@pytest.mark.errors
@pytest.mark.requirement("B2", "B6")
async def test_an_edit_whose_answer_was_not_sent_is_read_again(feeder, api):
    """The same update comes again: one alert, and its answer."""
    first = feeder.update("/alret down > 97").message
    update = Update(update_id=900, message=first)
    await feeder.feed(update)
    right = {"text": "/alert down > 97", "edit_date": 2}
    edited = first.model_copy(update=right)
    update = Update(update_id=901, edited_message=edited)
    api.faults.planned += [Fault(kind="error", method="sendMessage")]
    with pytest.raises(AiogramError):
        await feeder.feed(update)
    await feeder.feed(update)
    assert "Down reaches 97¢" in api.world.sent[-1].text
    assert len(await feeder.app.rules.of(ADA)) == 2
    await feeder.feed(Update(update_id=902, edited_message=edited))
    assert "an edit of it changes nothing" in api.world.sent[-1].text


@pytest.mark.errors
@pytest.mark.requirement("B2")
async def test_a_group_that_became_a_supergroup_holds_up_nothing(feeder, api):
    """The answer to its old id is dropped: tried again it would be refused again."""
    group = {"id": -7_007, "type": "group", "title": "Old"}

    async def refuse(send, bot, method):
        if getattr(method, "chat_id", None) == group["id"]:
            raise TelegramMigrateToChat(method, "upgraded", -1_007)
        return await send(bot, method)

    feeder.app.bot.session.middleware(refuse)
    message = {"message_id": 1, "date": 1, "chat": group, "from": sender(ADA)}
    message["text"] = "/start@stand_in_bot\nplease"
    await feeder.feed(Update.model_validate({"update_id": 1, "message": message}))
    member = {"status": "member", "user": sender(42)}
    added = {
        "chat": group, "from": sender(ADA), "date": 1,
        "old_chat_member": member | {"status": "left"}, "new_chat_member": member,
    }  # fmt: skip
    await feeder.feed(Update.model_validate({"update_id": 2, "my_chat_member": added}))


@pytest.mark.errors
@pytest.mark.requirement("B2")
async def test_who_blocks_the_bot_and_who_adds_it_hold_up_nothing(feeder, api):
    """Blocked: her answer is dropped, nothing more is sent. A group: one line."""
    app, world = feeder.app, api.world
    world.block(ADA)
    await feeder.feed(feeder.update("/help"))
    await feeder.feed(feeder.update("/alerts"))
    changed = {
        "chat": {"id": ADA, "type": "private"},
        "from": sender(ADA),
        "date": 1,
        "old_chat_member": {"status": "member", "user": sender(42)},
        "new_chat_member": {"status": "kicked", "user": sender(42), "until_date": 0},
    }
    await feeder.feed(
        Update.model_validate({"update_id": 1, "my_chat_member": changed})
    )
    assert (await app.sessions.get(ADA)).is_active is False
    said = len(world.sent)
    group = {"id": world.group, "type": "group", "title": "Market talk"}
    added = changed | {
        "chat": group,
        "old_chat_member": {"status": "left", "user": sender(42)},
        "new_chat_member": {"status": "member", "user": sender(42)},
    }
    await feeder.feed(Update.model_validate({"update_id": 2, "my_chat_member": added}))
    for number, text in enumerate(("/start", "hello", "/start@stand_in_bot"), 3):
        message = {"message_id": 1, "date": 1, "chat": group, "text": text}
        message["from"] = sender(ADA)
        await feeder.feed(
            Update.model_validate({"update_id": number, "message": message})
        )
    assert [each.chat for each in list(world.sent)[said:]] == [world.group] * 2
    assert (await app.sessions.get(ADA)).is_active is False
    assert await app.sessions.get(world.group) is None
