"""``/start`` with its deep links, ``/help``, ``/stop``, and Cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogram import Router
from aiogram.filters import CommandStart

from oddsbot.delivery import Action
from oddsbot.store import Profile
from oddsbot.telegram import links
from oddsbot.telegram.commands import alerts, markets
from oddsbot.telegram.filters import On, slash
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.screens.start import (
    find_card,
    help_card,
    start_card,
    stopped_card,
)

if TYPE_CHECKING:
    from aiogram.filters import CommandObject
    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message, Update

    from oddsbot.delivery import Card
    from oddsbot.store import UserSession
    from oddsbot.telegram.services import Services


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="start")
    routes.message.register(_start, CommandStart(ignore_case=True))
    routes.message.register(_help, slash("help"))
    routes.message.register(_stop, slash("stop"))
    routes.message.register(_cancel_said, slash("cancel"))
    routes.callback_query.register(_help_pressed, On(Action.HELP))
    routes.callback_query.register(_find, On(Action.FIND))
    routes.callback_query.register(_cancel, On(Action.CANCEL))
    return routes


async def _start(
    message: Message,
    command: CommandObject,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Card:
    await _welcome(message, event_update.update_id, services)
    if not command.args:
        return start_card()
    person = message.chat.id
    match links.parse_deep_link(command.args):
        case links.MarketId(number):
            market = await services.markets.by_id(str(number))
            return await markets.show(market, person, services, state)
        case links.EventId(number):
            event = await services.markets.event_by_id(str(number))
            return await markets.show_event(event, person, services, state)
        case links.RuleId(rule_id):
            return await alerts.rule_of(person, rule_id, services)
        case links.Wallet(address):
            return await markets.wallet_of(address, person, services)
    # Also what was pasted behind it; words are no link.
    if not isinstance(links.parse(command.args), links.Words):
        return await markets.card_of(command.args, person, services, state)
    return start_card(errors.UNKNOWN_LINK)


async def _welcome(message: Message, update_id: int, services: Services) -> None:
    """Know a person, and send her messages again if she had stopped them."""
    user = message.from_user
    if user is None:
        return

    def note(session: UserSession) -> None:
        session.profile = Profile(
            username=user.username or "",
            first_name=user.first_name[:64],
            chat_id=message.chat.id,
        )

    await services.people.welcome(user.id, note, update_id)


async def _help(_: Message) -> Card:
    return help_card()


async def _help_pressed(_: CallbackQuery) -> Pressed:
    return Pressed(new=help_card())


async def _find(_: CallbackQuery) -> Pressed:
    return Pressed(new=find_card())


async def _cancel(_: CallbackQuery, state: FSMContext) -> Pressed:
    await state.set_state(None)
    return Pressed(said="Cancelled.", card=errors.sentence_card("Cancelled."))


async def _cancel_said(_: Message, raw_state: str | None = None) -> Card:
    # Any command ends a question that waits for its answer.
    return errors.sentence_card(
        "There is nothing to cancel." if raw_state is None else "Cancelled."
    )


async def _stop(message: Message, services: Services, event_update: Update) -> Card:
    person = message.chat.id
    kept = len(await services.rules.of(person))
    await services.people.switch(person, event_update.update_id, on=False)
    return stopped_card(kept)
