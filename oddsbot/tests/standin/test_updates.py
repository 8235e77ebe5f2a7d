from __future__ import annotations

import asyncio

import pytest
from aiogram import Dispatcher
from aiogram.exceptions import TelegramBadRequest, TelegramConflictError
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup
from aiohttp import web
from telegram.ext import Application, CallbackQueryHandler, CommandHandler

from oddswire.web.listener import Listener
from support import eventually

ADA, BEN = 1001, 1002
KEYS = InlineKeyboardMarkup(
    inline_keyboard=[[InlineKeyboardButton(text="go", callback_data="go")]]
)


def texts(updates):
    """Return what people wrote."""
    return [update.message.text for update in updates]


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_aiogram_runs_on_it_unmodified(api, bot):
    """A dispatcher that polls answers a command, and a press of its button."""
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def on_message(message):
        await message.answer(f"you said {message.text}", reply_markup=KEYS)

    @dispatcher.callback_query()
    async def on_press(query):
        await query.message.edit_text("pressed")
        await query.answer("done")

    polling = asyncio.Task(dispatcher.start_polling(bot, handle_signals=False))
    chat = api.world.rooms[ADA].messages
    api.world.say(ADA, "/start m_1")
    await eventually(lambda: len(chat) == 2)
    assert chat[2]["text"] == "you said /start m_1"
    api.world.press(ADA, 2, 0, 0)
    await eventually(lambda: api.world.calls["answerCallbackQuery"] == 1)
    assert chat[2]["text"] == "pressed"
    assert "reply_markup" not in chat[2]
    await dispatcher.stop_polling()
    await polling


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_python_telegram_bot_runs_on_it_unmodified(api):
    """An application that polls answers a command, and a press of its button."""

    async def on_start(update, context):
        await update.message.reply_text(
            "hello", reply_markup=KEYS.model_dump(exclude_none=True)
        )

    async def on_press(update, context):
        await update.callback_query.answer()
        await update.callback_query.edit_message_text("pressed")

    application = (
        Application.builder()
        .token(api.token)
        .base_url(f"{api.url}/bot")
        .job_queue(None)
        .build()
    )
    application.add_handler(CommandHandler("start", on_start))
    application.add_handler(CallbackQueryHandler(on_press))
    chat = api.world.rooms[ADA].messages
    async with application:
        await application.start()
        await application.updater.start_polling(timeout=1)
        api.world.say(ADA, "/start")
        await eventually(lambda: len(chat) == 2)
        api.world.press(ADA, 2, 0, 0)
        await eventually(lambda: chat[2]["text"] == "pressed")
        await application.updater.stop()
        await application.stop()


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_an_offset_confirms_and_a_poll_waits(api, bot):
    """What was not confirmed comes again; an empty poll ends when something arrives."""
    for text in ("a", "b", "c"):
        api.world.say(ADA, text)
    assert texts(await bot.get_updates(limit=2)) == ["a", "b"]
    assert texts(await bot.get_updates()) == ["a", "b", "c"]
    assert texts(await bot.get_updates(offset=3)) == ["c"]
    assert texts(await bot.get_updates(offset=-1)) == ["c"]
    waiting = asyncio.Task(bot.get_updates(offset=4, timeout=30))
    await eventually(lambda: api.updates.pending == 0)
    api.world.say(ADA, "d")
    assert texts(await waiting) == ["d"]
    assert await bot.get_updates(offset=5, timeout=0) == []


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_two_pollers_or_a_webhook_beside_conflict(api, bot):
    """The poll that waits ends with 409 when another begins, or a webhook is set."""
    for disturb in (
        bot.get_updates,
        lambda: bot.set_webhook("http://localhost:1/x"),
    ):
        calls = api.world.calls["getUpdates"]
        waiting = asyncio.Task(bot.get_updates(timeout=30))
        await eventually(lambda calls=calls: api.world.calls["getUpdates"] > calls)
        await disturb()
        with pytest.raises(TelegramConflictError):
            await waiting
    with pytest.raises(TelegramConflictError, match="webhook is active"):
        await bot.get_updates()


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_each_kind_of_update_is_read_by_aiogram(api, bot):
    """Every kind that people cause arrives when it is asked for, and only then."""
    world = api.world
    kinds = ["message", "callback_query", "my_chat_member"]
    await bot.get_updates(allowed_updates=kinds)
    world.set_status(world.group, ADA, "left")
    world.say(ADA, "/start")
    world.locate(ADA, 52.5, 13.4)
    await bot.send_message(ADA, "x", reply_markup=KEYS)
    world.press(ADA, 3, 0, 0)
    world.push_press(ADA, "forged", world.rooms[ADA], None)
    world.block(ADA)
    api.updates.allow([*kinds, "of_another_year"])
    api.updates.add("of_another_year", {"a": 1})
    updates = await bot.get_updates()
    found = [update.event_type for update in updates[:-1]]
    assert set(found) == set(kinds)
    assert updates[-1].update_id == len(updates)
    assert updates[0].my_chat_member.new_chat_member.status == "left"
    presses = [u.callback_query for u in updates if u.callback_query]
    assert [press.inline_message_id for press in presses] == [None, "inline-2"]
    await bot.get_updates(offset=-1, allowed_updates=["callback_query"])
    world.say(BEN, "not asked for")
    assert api.updates.pending == 1


@pytest.mark.basic
@pytest.mark.requirement("B10")
async def test_a_group_keeps_from_the_bot_what_is_not_for_it(api, bot):
    """Commands and mentions of it arrive, and nothing after it was removed."""
    world, group = api.world, api.world.group
    world.say(ADA, "among us", chat=group)
    world.say(ADA, "/alerts", chat=group)
    world.say(BEN, "ask @stand_in_bot", chat=group)
    heard = ["/alerts", "ask @stand_in_bot"]
    assert texts(await bot.get_updates()) == heard
    world.set_status(group, ADA, "kicked")
    world.say(ADA, "/alerts", chat=group)
    assert texts(u for u in await bot.get_updates() if u.message) == heard


@pytest.mark.integration
@pytest.mark.requirement("B10")
async def test_a_webhook_is_posted_to_until_it_accepts(api, bot):
    """In order, with the secret, again after a failure."""
    heard, failing = [], [1]

    async def take(request):
        if failing:
            failing.pop()
            return web.Response(status=503)
        body = await request.json()
        heard.append(
            (
                request.headers["X-Telegram-Bot-Api-Secret-Token"],
                body["message"]["text"],
            )
        )
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    async with Listener(app) as listener:
        url = f"http://127.0.0.1:{listener.port}/hook"
        await bot.set_webhook(url, secret_token="S-1")
        api.world.say(ADA, "a")
        api.world.say(ADA, "b")
        await eventually(lambda: api.updates.pending == 0)
        info = await bot.get_webhook_info()
        await bot.delete_webhook()
    assert heard == [("S-1", "a"), ("S-1", "b")]
    assert info.url == url
    assert "503" in info.last_error_message


@pytest.mark.errors
@pytest.mark.requirement("B10", "X4")
async def test_a_webhook_elsewhere_is_refused(bot):
    """The stand-in sends to this machine only, and takes secrets of the real form."""
    for url in (
        *("https://bot.example/x", "http://10.0.0.1/x", "ftp://localhost/x", "x"),
        *("http://localhost:99999/x", "http://a@localhost/x", "http://[::1/x"),
    ):
        with pytest.raises(TelegramBadRequest, match="bad webhook"):
            await bot.set_webhook(url)
    with pytest.raises(TelegramBadRequest, match="unallowed characters"):
        await bot.set_webhook("http://localhost/x", secret_token="a b")
