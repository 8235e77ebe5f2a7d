"""`TelegramChat`: sends cards, and draws them again."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiogram.exceptions import TelegramBadRequest
from aiogram.types import (
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    LinkPreviewOptions,
    Message,
    MessageEntity,
)

from oddsbot.delivery import Press
from oddswire.errors import OddswireError

if TYPE_CHECKING:
    from aiogram import Bot

    from oddsbot.delivery import Button, Card
    from oddsbot.telegram.buttons import Buttons
    from oddswire.cache import Cache

_NAMESPACE = "photo"
_NO_PREVIEW = LinkPreviewOptions(is_disabled=True)


class TelegramChat:
    """Cards as messages; `delivery.Chat` over aiogram.

    Args:
        bot: Sends; its session keeps within Telegram's limits.
        buttons: Seals what the buttons of a card say.
        cache: Remembers under which id Telegram has a picture; with the namespace
            ``photo``.
    """

    def __init__(self, bot: Bot, buttons: Buttons, cache: Cache) -> None:
        self._bot = bot
        self._buttons = buttons
        self._cache = cache

    async def send(self, chat: int, card: Card, *, topic: int | None = None) -> int:
        """Send a card to a chat; return the message's id.

        Args:
            chat: A person's private chat, or a group.
            card: What is sent.
            topic: Of the chat, as `topic_of` says; None: none, or General.

        Raises:
            TelegramAPIError: Telegram refused it, or could not be asked.
        """
        keyboard = await self._keyboard(card, chat)
        entities = _entities(card)
        if card.file is not None:
            message = await self._bot.send_document(
                chat,
                BufferedInputFile(card.file.data, card.file.name),
                message_thread_id=topic,
                caption=card.text,
                caption_entities=entities,
                reply_markup=keyboard,
                disable_notification=card.silent,
            )
        elif card.photo is None:
            message = await self._bot.send_message(
                chat,
                card.text,
                message_thread_id=topic,
                entities=entities,
                reply_markup=keyboard,
                disable_notification=card.silent,
                link_preview_options=_NO_PREVIEW,
            )
        else:
            message = await self._bot.send_photo(
                chat,
                await self._photo(card.photo),
                message_thread_id=topic,
                caption=card.text,
                caption_entities=entities,
                reply_markup=keyboard,
                disable_notification=card.silent,
            )
            await self._remember(card.photo, message)
        return message.message_id

    async def redraw(self, message: Message, card: Card) -> None:
        """Show a card in the place of a message; a card of another form is sent.

        Raises:
            TelegramAPIError: As `send`.
        """
        chat, number = message.chat.id, message.message_id
        keyboard, entities = await self._keyboard(card, chat), _entities(card)
        try:
            if card.photo is None and message.photo is None:
                await self._bot.edit_message_text(
                    card.text,
                    chat_id=chat,
                    message_id=number,
                    entities=entities,
                    reply_markup=keyboard,
                    link_preview_options=_NO_PREVIEW,
                )
            elif card.photo is not None and message.photo is not None:
                media = InputMediaPhoto(
                    media=await self._photo(card.photo),
                    caption=card.text,
                    caption_entities=entities,
                )
                edited = await self._bot.edit_message_media(
                    media, chat_id=chat, message_id=number, reply_markup=keyboard
                )
                await self._remember(card.photo, edited)
            else:
                # Telegram turns no text into a photo, and none back.
                await self.send(chat, card, topic=topic_of(message))
        except TelegramBadRequest as error:
            # She deleted it, or Telegram does not let it be edited: a new one then.
            if "message is not modified" not in error.message:
                await self.send(chat, card, topic=topic_of(message))

    async def _photo(self, photo: bytes) -> str | BufferedInputFile:
        """Return the id under which Telegram has a picture, or the picture itself."""
        known = None
        # Without Redis it is sent once more, which costs bytes alone.
        with suppress(OddswireError):
            known = await self._cache.get(_key(photo))
        return known or BufferedInputFile(photo, "chart.png")

    async def _remember(self, photo: bytes, message: Message | bool) -> None:  # noqa: FBT001
        if isinstance(message, Message) and message.photo:
            with suppress(OddswireError):
                await self._cache.set(_key(photo), message.photo[-1].file_id)

    async def _keyboard(self, card: Card, person: int) -> InlineKeyboardMarkup | None:
        if not card.buttons:
            return None
        name = ""
        if any(each.share is not None for row in card.buttons for each in row):
            name = (await self._bot.me()).username or ""  # asked for once
        rows = [
            [self._button(each, person, name) for each in row] for row in card.buttons
        ]
        return InlineKeyboardMarkup(inline_keyboard=rows)

    def _button(
        self, button: Button, person: int, username: str
    ) -> InlineKeyboardButton:
        sealed, url = None, button.url
        if button.share is not None:
            link = f"https://t.me/{username}?start={button.share.start}"
            query = urlencode({"url": link, "text": button.share.text})
            url = f"https://t.me/share/url?{query}"
        if button.data is not None:
            press = Press.of(button.data)
            sealed = self._buttons.seal(press, chat=person, person=person)
        return InlineKeyboardButton(
            text=button.text,
            callback_data=sealed,
            url=url,
            style=button.style,
        )


def topic_of(message: object) -> int | None:
    """Return the topic of a message, where its answer belongs; None: it has none.

    Outside of topics a ``message_thread_id`` names a thread of replies: Telegram sends
    nothing there.
    """
    if isinstance(message, Message) and message.is_topic_message:
        return message.message_thread_id
    return None


def _key(photo: bytes) -> str:
    return f"{_NAMESPACE}:{hashlib.sha256(photo).hexdigest()}"


def _entities(card: Card) -> list[MessageEntity]:
    return [
        MessageEntity(
            type=each.type,
            offset=each.offset,
            length=each.length,
            url=each.url,
            unix_time=each.unix_time,
            date_time_format=each.date_time_format,
        )
        for each in card.entities
    ]
