from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiogram.types import (
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    MessageEntity,
)

from support.browser import CONTRAST, SMALL, UNNAMED, WIDE, Browser

ADA, BEN = 1001, 1002
pytestmark = pytest.mark.system("chromium", package="chromium")

LAST = "document.querySelector('#log > :last-child')"


@asynccontextmanager
async def talking(bot, png):
    """Have a bot that talks."""
    task = asyncio.Task(talk(bot, png), name="bot")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def talk(bot, png):
    """Answer /start with a card, and a press with its next form, until cancelled."""
    offset = 0
    text = (
        "Fed cuts rates in December?\nYes 64¢  63 bid · 65 ask\n<b>no tag</b> /alerts"
    )
    while True:
        for update in await bot.get_updates(offset=offset, timeout=5):
            offset = update.update_id + 1
            if update.message and update.message.text == "/start":
                await bot.send_photo(
                    update.message.chat.id,
                    BufferedInputFile(png, "a.png"),
                    caption=text,
                    caption_entities=[MessageEntity(type="bold", offset=0, length=27)],
                    reply_markup=keys("Yes ≥ 70¢"),
                )
            elif update.message:
                await bot.send_message(update.message.chat.id, "Send me /start.")
            elif update.callback_query:
                query = update.callback_query
                again = InputMediaPhoto(
                    media=BufferedInputFile(png, "a.png"), caption=text
                )
                await query.message.edit_media(again, reply_markup=keys("✓ Yes ≥ 70¢"))
                await query.answer("You get a message at 70¢.")


def keys(first):
    """Return a keyboard of three rows."""
    rows = [
        [
            InlineKeyboardButton(text=first, callback_data="a", style="success"),
            InlineKeyboardButton(text="Stop", callback_data="b", style="danger"),
        ],
        [
            InlineKeyboardButton(text=each, callback_data=each)
            for each in ("Watch", "Book", "1d", "1w", "All")
        ],
        [InlineKeyboardButton(text="Open", url="https://polymarket.com/event/x")],
    ]
    return InlineKeyboardMarkup(inline_keyboard=rows)


@pytest.mark.integration
@pytest.mark.requirement("B10")
@pytest.mark.parametrize(
    ("width", "height", "dark"), [(390, 844, False), (1280, 800, True)]
)
async def test_a_person_talks_to_a_bot_in_a_browser(
    api, bot, png, tmp_path, width, height, dark
):
    """She types, gets a photo with buttons, and presses one by keyboard."""
    async with talking(bot, png), Browser() as tab:
        await tab.size(width, height, dark=dark)
        await tab.open(api.page_url())
        await tab.until("document.documentElement.dataset.live === 'yes'")
        await tab.run("document.querySelector('#say').focus()")
        await tab.type("/start")
        await tab.key("Enter", 13)
        await tab.until("document.querySelector('#log img')?.naturalWidth === 320")
        assert await tab.run("document.querySelector('#say').value") == ""
        text = await tab.run(f"{LAST}.querySelector('.text').textContent")
        assert "<b>no tag</b>" in text
        await tab.run("document.querySelector('#log [value^=press]').focus()")
        await tab.key("Enter", 13)
        await tab.until("document.querySelector('#answer').textContent.includes('70¢')")
        await tab.until(f"{LAST}.querySelector('.keys').textContent.startsWith('✓')")
        assert (await tab.run("document.activeElement.textContent")).startswith("✓")
        for script in (CONTRAST, UNNAMED, SMALL):
            assert await tab.run(script) == []
        assert await tab.run(WIDE) <= 0
        await tab.screenshot(tmp_path / f"chat-{width}.png")
        # A command in a text is a button that says it; /alerts is unknown to this bot.
        await tab.run(
            "document.querySelector('.command[value=\"say:/alerts\"]').click()"
        )
        await tab.until(f"{LAST}.textContent.includes('Send me')")
        # The same chat from the other side, and the group.
        await tab.open(f"{api.url}/?as={BEN}&chat={api.world.group}")
        await tab.until("document.documentElement.dataset.live === 'yes'")
        assert (
            await tab.run("document.querySelector('h1').textContent") == "Market talk"
        )
        api.world.say(ADA, "hello all", chat=api.world.group)
        await tab.until(f"{LAST}?.textContent.includes('hello all')")
        await tab.size(width, height, dark=not dark)
        for script in (CONTRAST, UNNAMED, SMALL):
            assert await tab.run(script) == []
        assert await tab.run(WIDE) <= 0
        await tab.screenshot(tmp_path / f"group-{width}.png")
        assert tab.errors == []
