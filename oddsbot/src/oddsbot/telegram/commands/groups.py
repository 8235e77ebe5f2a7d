"""Chats of several people: the bot says where it works, and nothing else.

A message of a group never reaches another command: its rules and settings would be
those of nobody.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aiogram import F, Router
from aiogram.enums import ChatMemberStatus, ChatType
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramMigrateToChat,
)

from oddsbot.telegram.filters import Where
from oddsbot.telegram.screens.start import in_private_card

if TYPE_CHECKING:
    from aiogram import Bot
    from aiogram.types import ChatMemberUpdated, Message, Update

    from oddsbot.delivery import Card
    from oddsbot.telegram.services import Services

_IN = (ChatMemberStatus.MEMBER, ChatMemberStatus.ADMINISTRATOR)
_OUT = (ChatMemberStatus.LEFT, ChatMemberStatus.KICKED)


def router() -> Router:
    """Return the router of groups; it comes first."""
    routes = Router(name="groups")
    routes.message.register(_said, Where(F.chat.type != ChatType.PRIVATE))
    private = F.chat.type == ChatType.PRIVATE
    kicked = F.new_chat_member.status == ChatMemberStatus.KICKED
    was_out = F.old_chat_member.status.in_(_OUT)
    is_in = F.new_chat_member.status.in_(_IN)
    routes.my_chat_member.register(_blocked, Where(private & kicked))
    routes.my_chat_member.register(_added, Where(~private & was_out & is_in))
    return routes


async def _said(message: Message, bot: Bot) -> Card | None:
    """Answer a command that names the bot; the rest is not for it."""
    me = await bot.me()
    command = next(iter((message.text or "").split(maxsplit=1)), "").lower()
    if not command.startswith("/") or not command.endswith(f"@{me.username}".lower()):
        return None
    return in_private_card(me.username or "")


async def _added(change: ChatMemberUpdated, bot: Bot, services: Services) -> None:
    """Say one line to a group that the bot was added to; a channel has no commands."""
    if change.chat.type != ChatType.CHANNEL:
        me = await bot.me()
        # It may not be allowed to write there, and that is all right.
        with suppress(
            TelegramBadRequest, TelegramForbiddenError, TelegramMigrateToChat
        ):
            await services.chat.send(change.chat.id, in_private_card(me.username or ""))


async def _blocked(
    change: ChatMemberUpdated, services: Services, event_update: Update
) -> None:
    """Send nothing more to whoever blocked the bot; /start brings everything back."""
    await services.people.switch(change.from_user.id, event_update.update_id, on=False)
