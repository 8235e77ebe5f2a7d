from __future__ import annotations

from random import Random

import pytest
from aiogram import methods
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
)

from oddsbot.standin.telegram import METHODS

ADA, BEN = 1001, 1002
KEYS = InlineKeyboardMarkup(
    inline_keyboard=[
        [InlineKeyboardButton(text="Yes", callback_data="y", style="success")]
    ]
)


def every(api, png):
    """Return a call of each method, in an order in which all succeed."""
    world = api.world
    picture = BufferedInputFile(png, "a.png")
    here = {"chat_id": ADA}
    photo = lambda: world.rooms[ADA].messages[2]["photo"][0]["file_id"]  # noqa: E731
    query = lambda: world.press(ADA, 1, 0, 0)  # noqa: E731
    commands = [BotCommand(command="start", description="Begin")]
    return [
        methods.GetMe(),
        methods.SendMessage(**here, text="hello /help", reply_markup=KEYS),
        methods.SendPhoto(**here, photo=picture, caption="a chart"),
        methods.SendDocument(**here, document=picture, caption="a file"),
        methods.EditMessageText(**here, message_id=1, text="new", reply_markup=KEYS),
        lambda: methods.EditMessageMedia(
            **here, message_id=2, media=InputMediaPhoto(media=photo(), caption="again")
        ),
        lambda: methods.AnswerCallbackQuery(callback_query_id=query(), text="done"),
        methods.SetMyCommands(commands=commands),
        methods.GetMyCommands(),
        methods.GetUpdates(timeout=0, allowed_updates=["message"]),
        methods.SetWebhook(url="http://127.0.0.1:1/x", secret_token="s"),
        methods.GetWebhookInfo(),
        methods.DeleteWebhook(),
    ]


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_each_method_takes_what_aiogram_sends(api, bot, png):
    """Aiogram's client calls every method, and reads every answer; none is missing."""
    for each in every(api, png):
        await bot(
            each() if callable(each) and not hasattr(each, "__api_method__") else each
        )
    assert set(METHODS) == set(api.world.calls)


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_method_that_is_not_there_is_404_and_counted(api, call):
    """Neither a guess nor a method that is not served passes silently."""
    for name in ("sendDice", "deleteMessage", "nothing"):
        assert (await call(name))["error_code"] == 404
        assert api.world.calls[f"unknown {name}"] == 1


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_each_refusal_has_telegrams_words(api, bot, call, png):
    """Clients read the description: it is the real one's, with its code."""
    assert (await call("getMe", token="42:other"))["error_code"] == 401
    api.world.say(ADA, "hi")

    async def refusal(method, **parameters):
        answer = await call(method, **parameters)
        return answer["error_code"], answer["description"].partition(": ")[2]

    assert await refusal("sendMessage", chat_id=1, text="x") == (400, "chat not found")
    assert await refusal("sendMessage", text="x") == (400, "chat_id is empty")
    ada = {"chat_id": ADA}
    assert await refusal("sendMessage", **ada, text=" \n") == (
        400,
        "message text is empty",
    )
    assert await refusal("sendMessage", **ada, text="x", message_thread_id=9) == (
        400,
        "message thread not found",
    )
    assert await refusal("sendMessage", chat_id=BEN, text="x") == (
        403,
        "bot can't initiate conversation with a user",
    )
    with pytest.raises(TelegramBadRequest, match="message can't be edited"):
        await bot.edit_message_text("x", chat_id=ADA, message_id=1)
    with pytest.raises(TelegramBadRequest, match="message to edit not found"):
        await bot.edit_message_text("x", chat_id=ADA, message_id=9)
    sent = await bot.send_message(ADA, "same", reply_markup=KEYS)
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await sent.edit_text("same", reply_markup=KEYS)
    with pytest.raises(TelegramBadRequest, match="IMAGE_PROCESS_FAILED"):
        await bot.send_photo(ADA, BufferedInputFile(b"no picture", "a.png"))
    with pytest.raises(TelegramBadRequest, match="wrong file identifier"):
        await bot.send_photo(ADA, "photo-of-nobody")
    api.world.block(ADA)
    with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
        await bot.send_message(ADA, "x")
    api.world.say(ADA, "/start")
    await bot.send_message(ADA, "welcome back")
    api.world.set_status(api.world.group, ADA, "kicked")
    with pytest.raises(TelegramForbiddenError, match="bot was kicked"):
        await bot.send_message(api.world.group, "x")
    api.world.people[ADA].deactivated = True
    with pytest.raises(TelegramForbiddenError, match="user is deactivated"):
        await bot.send_message(ADA, "x")


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_press_is_answered_once_and_in_time(api, bot, clock):
    """An unknown query, an answered one and one of long ago are refused alike."""
    await bot.send_message(ADA, "x", reply_markup=KEYS)
    query = api.world.press(ADA, 1, 0, 0)
    assert await bot.answer_callback_query(query)
    late = api.world.press(ADA, 1, 0, 0)
    clock.time += 3600
    for each in (query, late, "77"):
        with pytest.raises(TelegramBadRequest, match="query is too old"):
            await bot.answer_callback_query(each)


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_photo_comes_back_as_it_was_sent(api, bot, png):
    """Its id sends it again; the page has the same bytes."""
    sent = await bot.send_photo(ADA, BufferedInputFile(png, "a.png"))
    assert (sent.photo[-1].width, sent.photo[-1].height) == (320, 200)
    again = await bot.send_photo(ADA, sent.photo[-1].file_id)
    assert again.photo == sent.photo
    assert api.world.photos[sent.photo[-1].file_id].data == png


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_no_parameters_break_a_method(api, call, caplog):
    """Whatever JSON stands where, a call is answered or refused, never a failure."""
    chance = Random(22)
    values = [None, True, -1, 1, 2**70, 1.5, "", "x", "\ud800", "1", [], [1], [[]], {}]
    values += [ADA, api.world.group, [{}], [[{}]], {"type": []}, {"type": "default"}]
    values += [
        {"message_id": []},
        {"message_id": 1},
        [{"type": [], "offset": 0, "length": 1}],
    ]
    values += [
        {"inline_keyboard": [[{"text": "x", "url": "https://e.x", "style": []}]]},
        "[[[",
        "{",
    ]
    values += [[{"type": "photo", "media": each} for each in ("attach://x", 7)]]
    names = [
        "chat_id",
        "text",
        "photo",
        "media",
        "caption",
        "entities",
        "parse_mode",
        "reply_markup",
        "message_id",
        "message_ids",
        "reply_parameters",
        "callback_query_id",
        "inline_query_id",
        "results",
        "scope",
        "commands",
        "name",
        "menu_button",
        "user_id",
        "file_id",
        "url",
        "secret_token",
        "offset",
        "limit",
        "allowed_updates",
        "max_connections",
        "action",
        "inline_message_id",
        "reaction",
        "language_code",
    ]
    base = {"chat_id": ADA, "text": "x"}
    calls = [
        ("sendMessage", base | {name: value}) for name in names for value in values
    ]
    for _ in range(30):
        for method in METHODS:
            chosen = {name: chance.choice(values) for name in chance.sample(names, 8)}
            calls.append((method, chosen | chance.choice([base, {}])))
    for method, parameters in calls:
        answer = await call(method, **parameters)
        assert answer["ok"] or 400 <= answer["error_code"] < 500
    assert not [each for each in caplog.records if each.name == "oddswire.web"]
