"""``/history`` and ``/why``: what became of a person's alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogram import Router

from oddsbot.delivery import Action
from oddsbot.store import LOOK_BACK_SECONDS
from oddsbot.telegram.commands import markets
from oddsbot.telegram.filters import On, slash
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens.alerts import Group, in_order
from oddsbot.telegram.screens.history import (
    HISTORY_PAGE,
    history_card,
    why_nothing_card,
)

if TYPE_CHECKING:
    from aiogram.filters import CommandObject
    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message

    from oddsbot.delivery import Card, Press
    from oddsbot.telegram.services import Services


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="history")
    routes.message.register(_history, slash("history"))
    routes.message.register(_why, slash("why"))
    routes.callback_query.register(_history_pressed, On(Action.HISTORY))
    return routes


async def _history(message: Message, services: Services) -> Card:
    return await _page(message.chat.id, 0, services)


async def _history_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    return Pressed(new=await _page(query.from_user.id, press.argument, services))


async def _page(person: int, page: int, services: Services) -> Card:
    since = services.clock.now() - LOOK_BACK_SECONDS
    fates = await services.log.fates(person, since=since)
    # A page that is not there any more is the last one.
    page = min(page, max(0, sum(fates.values()) - 1) // HISTORY_PAGE)
    rows = await services.log.history(
        person, since=since, skip=page * HISTORY_PAGE, limit=HISTORY_PAGE
    )
    known = {}
    for condition_id in {row.market for row in rows}:
        market = await markets.known(condition_id, services)
        if market is not None:
            known[condition_id] = market
    odds = (await services.people.get(person)).display.odds
    return history_card(rows, known, fates, page, odds)


async def _why(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    person = message.chat.id
    market = await markets.current(command, services, state)
    standing = sorted(await services.rules.standing(person), key=in_order)
    rules = [each for each in standing if each.rule.market == market.condition_id]
    prices = await services.markets.prices(token.token_id for token in market.tokens)
    now = services.clock.now()
    fates = await services.log.fates(
        person, since=now - LOOK_BACK_SECONDS, market=market.condition_id
    )
    session = await services.people.get(person)
    return why_nothing_card(Group(market, rules, prices), fates, session, now)
