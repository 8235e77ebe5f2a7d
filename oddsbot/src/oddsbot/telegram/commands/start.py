"""``/start``, ``/help``, ``/stop``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogram import Router
from aiogram.filters import Command, CommandStart

from oddsbot.delivery import Action
from oddsbot.store import Profile
from oddsbot.telegram.pressed import On, Pressed
from oddsbot.telegram.screens.start import help_card, start_card, stopped_card

if TYPE_CHECKING:
    from aiogram.types import CallbackQuery, Message

    from oddsbot.delivery import Card
    from oddsbot.store import UserSession
    from oddsbot.telegram.services import Services


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="start")
    routes.message.register(_start, CommandStart())
    routes.message.register(_help, Command("help"))
    routes.message.register(_stop, Command("stop"))
    routes.callback_query.register(_help_pressed, On(Action.HELP))
    return routes


async def _start(message: Message, services: Services) -> Card:
    await welcome(message, services)
    return start_card()


async def welcome(message: Message, services: Services) -> None:
    """Know a person, and send her messages again if she had stopped them."""
    user = message.from_user
    assert user is not None  # noqa: S101 - it is a private chat

    def note(session: UserSession) -> None:
        session.profile = Profile(
            username=user.username or "",
            first_name=user.first_name[:64],
            chat_id=message.chat.id,
        )

    await services.sessions.update(user.id, note, create=True)
    await services.sessions.activate(user.id)


async def _help(_: Message) -> Card:
    return help_card()


async def _help_pressed(_: CallbackQuery) -> Pressed:
    return Pressed(new=help_card())


async def _stop(message: Message, services: Services) -> Card:
    person = message.chat.id
    kept = len(await services.rules.of(person))
    await services.sessions.deactivate(person)
    return stopped_card(kept)
