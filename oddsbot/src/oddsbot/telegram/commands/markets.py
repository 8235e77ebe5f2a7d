"""What a person sends without a command: links, addresses, words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiogram import F, Router

from oddsbot.delivery import Action
from oddsbot.telegram import links
from oddsbot.telegram.pressed import On, Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.screens.market import MarketView, market_card

if TYPE_CHECKING:
    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message

    from oddsbot.delivery import Card, Press
    from oddsbot.polymarket import GammaMarket
    from oddsbot.telegram.services import Services


def router() -> Router:
    """Return the router; it comes last, since it takes every text."""
    routes = Router(name="markets")
    routes.message.register(_text, F.text)
    routes.callback_query.register(_market_pressed, On(Action.MARKET))
    return routes


async def _text(message: Message, services: Services, state: FSMContext) -> Card:
    found = await market_of(message.text or "", services)
    if isinstance(found, str):
        return errors.sentence_card(found)
    await state.update_data(market=found.condition_id)
    return market_card(await view_of(found, message.chat.id, services))


async def market_of(text: str, services: Services) -> GammaMarket | str:
    """Return the market that a text names, or a sentence that says why not."""
    match links.parse(text):
        case links.Refused(why):
            return why
        case links.MarketLink(slug):
            return await services.markets.by_slug(slug) or errors.NO_MARKET
        case links.EventLink(slug, market):
            # An event of one market often goes by the market's name.
            found = await services.markets.by_slug(market or slug)
            return found or errors.NO_MARKET
        case _:
            return errors.NO_MARKET


async def view_of(market: GammaMarket, person: int, services: Services) -> MarketView:
    """Return what a person sees of a market now."""
    tokens = [token.token_id for token in market.tokens]
    rules = await services.rules.of(person)
    return MarketView(
        market=market,
        prices=await services.markets.prices(tokens),
        rules=[rule for rule in rules if rule.market == market.condition_id],
        now=datetime.fromtimestamp(services.clock.now(), UTC),
    )


async def _market_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    market = await services.markets.by_id(str(press.subject))
    if market is None:
        return Pressed(said=errors.NO_MARKET)
    view = await view_of(market, query.from_user.id, services)
    return Pressed(said="As it is now.", card=market_card(view))
