"""`TelegramChat`: sends cards, and draws them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogram.exceptions import TelegramBadRequest
from aiogram.types import (
    BufferedInputFile,
    CopyTextButton,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    LinkPreviewOptions,
    MessageEntity,
)

from oddsbot.delivery import Press

if TYPE_CHECKING:
    from aiogram import Bot
    from aiogram.types import Message

    from oddsbot.delivery import Button, Card
    from oddsbot.telegram.buttons import Buttons

_NO_PREVIEW = LinkPreviewOptions(is_disabled=True)


class TelegramChat:
    """Cards as messages; `delivery.Chat` over aiogram.

    Args:
        bot: Sends; its session keeps within Telegram's limits.
        buttons: Seals what the buttons of a card say.
    """

    def __init__(self, bot: Bot, buttons: Buttons) -> None:
        self._bot = bot
        self._buttons = buttons

    async def send(self, user_id: int, card: Card) -> int:
        """Send a card to a person's private chat; return the message's id.

        Raises:
            TelegramAPIError: Telegram refused it, or could not be asked.
        """
        keyboard = self._keyboard(card, user_id)
        entities = _entities(card)
        if card.photo is None:
            message = await self._bot.send_message(
                user_id,
                card.text,
                entities=entities,
                reply_markup=keyboard,
                disable_notification=card.silent,
                link_preview_options=_NO_PREVIEW,
            )
        else:
            message = await self._bot.send_photo(
                user_id,
                BufferedInputFile(card.photo, "chart.png"),
                caption=card.text,
                caption_entities=entities,
                reply_markup=keyboard,
                disable_notification=card.silent,
            )
        return message.message_id

    async def redraw(self, message: Message, card: Card) -> None:
        """Show a card in the place of a message; a card of another form is sent.

        Raises:
            TelegramAPIError: As `send`.
        """
        chat, number = message.chat.id, message.message_id
        keyboard, entities = self._keyboard(card, chat), _entities(card)
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
                    media=BufferedInputFile(card.photo, "chart.png"),
                    caption=card.text,
                    caption_entities=entities,
                )
                await self._bot.edit_message_media(
                    media, chat_id=chat, message_id=number, reply_markup=keyboard
                )
            else:
                # Telegram turns no text into a photo, and none back.
                await self.send(chat, card)
        except TelegramBadRequest as error:
            if "message is not modified" in error.message:
                return
            if "message to edit not found" not in error.message:
                raise
            await self.send(chat, card)

    def _keyboard(self, card: Card, person: int) -> InlineKeyboardMarkup | None:
        if not card.buttons:
            return None
        rows = [[self._button(each, person) for each in row] for row in card.buttons]
        return InlineKeyboardMarkup(inline_keyboard=rows)

    def _button(self, button: Button, person: int) -> InlineKeyboardButton:
        sealed = None
        if button.data is not None:
            press = Press.of(button.data)
            sealed = self._buttons.seal(press, chat=person, person=person)
        return InlineKeyboardButton(
            text=button.text,
            callback_data=sealed,
            url=button.url,
            copy_text=None if button.copy is None else CopyTextButton(text=button.copy),
            style=button.style,
        )


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
