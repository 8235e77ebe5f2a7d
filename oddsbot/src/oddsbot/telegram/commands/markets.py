"""Links, words and lists; a market's card and its parts; what a person watches."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from aiogram import F, Router

from oddsbot.delivery import Action
from oddsbot.polymarket import PolymarketError
from oddsbot.store import MAX_MARKETS, MAX_TAGS, FollowedTag, Kind, WatchedMarket
from oddsbot.telegram import links
from oddsbot.telegram.addresses import AddressError, checked_address
from oddsbot.telegram.asked import AskedError
from oddsbot.telegram.filters import On, Where, slash
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.screens.alerts import in_order
from oddsbot.telegram.screens.buttons import text_number
from oddsbot.telegram.screens.found import (
    CLOSED,
    event_card,
    list_card,
    nearest_card,
    search_card,
)
from oddsbot.telegram.screens.market import (
    SPANS,
    MarketView,
    book_card,
    market_card,
    price_card,
)
from oddsbot.telegram.screens.person import held_up, watchlist_card
from oddsbot.telegram.screens.wallet import WalletView, wallet_card
from oddswire.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from aiogram.filters import CommandObject
    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message, Update

    from oddsbot.delivery import Card, Press
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaEvent, GammaMarket
    from oddsbot.store import UserSession
    from oddsbot.telegram.figures import Odds
    from oddsbot.telegram.services import Services

T = TypeVar("T")
_TAG = 64
# What a person sends. The rest is Telegram's own, such as that she pinned a message.
_SENT = frozenset(
    {
        "animation",
        "audio",
        "checklist",
        "contact",
        "dice",
        "document",
        "game",
        "live_photo",
        "location",
        "paid_media",
        "photo",
        "poll",
        "rich_message",
        "sticker",
        "story",
        "venue",
        "video",
        "video_note",
        "voice",
    }
)


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="markets")
    for name, handler in (
        ("search", _search),
        ("top", _top),
        ("new", _new),
        ("market", _market),
        ("price", _price),
        ("book", _book),
        ("chart", _chart),
        ("watch", _watch),
        ("unwatch", _unwatch),
        ("watchlist", _watchlist),
    ):
        routes.message.register(handler, slash(name))
    for handler_, actions in (
        (_market_pressed, [Action.MARKET]),
        (_event_pressed, [Action.EVENT]),
        (_book_pressed, [Action.BOOK]),
        (_watch_pressed, [Action.WATCH, Action.UNWATCH]),
        (_watch_all, [Action.WATCH_ALL]),
        (_list_pressed, [Action.TOP, Action.NEW]),
        (_tag_pressed, [Action.TAG_ON]),
        (_tag_off_pressed, [Action.TAG_OFF]),
        (_watchlist_pressed, [Action.WATCHLIST]),
        (_found_pressed, [Action.FOUND]),
    ):
        routes.callback_query.register(handler_, On(*actions))
    return routes


def text_router() -> Router:
    """Return the router of texts that are no command; it comes last."""
    routes = Router(name="texts")
    slashed = F.text.startswith("/") | F.caption.startswith("/")
    routes.message.register(_unknown, Where(slashed))
    routes.message.register(_text, Where(F.text | F.caption))
    routes.message.register(_no_text, Where(F.content_type.in_(_SENT)))
    return routes


# --- texts


async def _unknown(_: Message) -> Card:
    raise AskedError("I do not know that command. /help has all of them.")


async def _no_text(_: Message) -> Card:
    raise AskedError("I read texts: send a market's link, or a few words.")


async def _text(message: Message, services: Services, state: FSMContext) -> Card:
    return await card_of(_said(message), message.chat.id, services, state)


def _said(message: Message) -> str:
    """Return a message's text or caption, or else the link behind one of its words."""
    text = message.text or message.caption or ""
    hidden = [
        entity.url
        for entity in message.entities or message.caption_entities or ()
        if entity.url
    ]
    for said in (text, *hidden):
        if not isinstance(links.parse(said), links.Words | links.Refused):
            return said
    return text


async def card_of(
    text: str, person: int, services: Services, state: FSMContext
) -> Card:
    """Return the card of what a text names, or of what is found by it.

    Raises:
        AskedError: It names nothing.
    """
    markets = services.markets
    match links.parse(text):
        case links.Refused(why):
            raise AskedError(why)
        case links.MarketLink(slug) | links.EventLink(_, slug) if slug:
            market = await markets.by_slug(slug)
            if market is None:
                return await _nearest(slug, person, services)
            return await show(market, person, services, state)
        case links.EventLink(slug):
            event = await markets.event(slug)
            if event is not None:
                return await show_event(event, person, services, state)
            # An event of one market often goes by the market's name.
            market = await markets.by_slug(slug)
            if market is None:
                return await _nearest(slug, person, services)
            return await show(market, person, services, state)
        case links.Wallet(address):
            return await wallet_of(address, person, services)
        case links.ProfileLink(name):
            profile = await services.wallets.named(name)
            try:
                address = checked_address(
                    "" if profile is None else profile.proxy_wallet
                )
            except AddressError:
                raise AskedError(errors.NO_PROFILE) from None
            return await wallet_of(address, person, services)
        case links.Words(words):
            return await _found(words, 0, person, services, state, closed=False)
    raise AskedError(errors.NO_MARKET)


async def _nearest(slug: str, person: int, services: Services) -> Card:
    """Return the events whose names are nearest to a slug that nothing has.

    Raises:
        AskedError: There is none.
    """
    words = slug.split("-")
    # Numbers and what follows are what differs between markets of a series.
    letters = [word for word in words if word.isalpha()]
    for some in (words, letters, letters[:2]):
        found = await services.markets.search(" ".join(some)) if some else None
        if found is not None and found.events:
            return nearest_card(found.events, await odds_of(person, services))
    raise AskedError(errors.NO_MARKET)


async def odds_of(person: int, services: Services) -> Odds:
    """Return how a person sees prices."""
    return (await services.people.get(person)).display.odds


async def wallet_of(address: str, person: int, services: Services) -> Card:
    """Return a wallet's card.

    Args:
        address: In lower case.
        person: Who looks.
        services: Ask Polymarket.
    """
    wallets = services.wallets
    view = WalletView(
        address=address,
        profile=await wallets.profile(address),
        stats=await wallets.stats(address),
        value=await wallets.value(address),
        positions=await wallets.positions(address),
    )
    return wallet_card(view, await odds_of(person, services))


async def _found(
    words: str,
    page: int,
    person: int,
    services: Services,
    state: FSMContext,
    *,
    closed: bool,
) -> Card:
    found = await services.markets.search(words, page=page + 1, closed=closed)
    await state.update_data(search=words)
    odds = await odds_of(person, services)
    return search_card(words, found, page, odds, closed=closed)


async def _search(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    if not command.args:
        raise AskedError("What shall I look for? Write it like /search fed december.")
    return await card_of(command.args, message.chat.id, services, state)


async def _top(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    tag = _tag(command.args)
    return await _list(Action.TOP, tag, 0, message.chat.id, services, state)


async def _new(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    tag = _tag(command.args)
    return await _list(Action.NEW, tag, 0, message.chat.id, services, state)


async def _list(
    which: Action,
    tag: str,
    page: int,
    person: int,
    services: Services,
    state: FSMContext,
) -> Card:
    markets = services.markets
    top = which is Action.TOP
    events = await (markets.top_events if top else markets.new_events)(tag)
    # A button has no room for the tag.
    await state.update_data({which.name: tag})
    title = _title(which, tag)
    session = await services.people.get(person)
    return list_card(
        title,
        events,
        which,
        page,
        session.display.odds,
        tag="" if top else tag,
        followed=tag in session.tags,
    )


async def _list_pressed(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    tag = (await state.get_data()).get(press.action.name)
    title = _title(press.action, tag) if isinstance(tag, str) else ""
    if not isinstance(tag, str) or text_number(title) != press.subject:
        raise AskedError(errors.OLD_LIST)
    person, page = query.from_user.id, press.argument
    card = await _list(press.action, tag, page, person, services, state)
    return Pressed(card=card)


async def _tag_pressed(
    query: CallbackQuery,
    press: Press,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Pressed:
    """Tell a person of new events under a tag, from now on."""
    person, now = query.from_user.id, int(services.clock.now())
    tag = (await state.get_data()).get(Action.NEW.name)
    if not isinstance(tag, str) or text_number(tag) != press.subject:
        raise AskedError(errors.OLD_LIST)

    def change(session: UserSession) -> None:
        if tag not in session.tags and len(session.tags) >= MAX_TAGS:
            raise AskedError(
                f"You follow {MAX_TAGS} tags: end one first, /watchlist has them."
            )
        session.tags.setdefault(tag, FollowedTag(since=now))
        session.notifications.new_market = True

    also = services.tags.follow(person, tag)
    update_id = event_update.update_id
    session = await services.people.change(person, change, update_id, also=also)
    card = await if_answered(
        _list(Action.NEW, tag, press.argument, person, services, state)
    )
    why = held_up(session, now, Kind.NEW_MARKET)
    said = " ".join(["I tell you what is new. /watchlist ends it.", *why])
    return Pressed(said=said, card=card)


async def _tag_off_pressed(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    """Tell a person of a tag no more; the button is under a list or an alert."""
    person = query.from_user.id
    session = await services.people.get(person)
    tag = next(
        (each for each in session.tags if text_number(each) == press.subject), ""
    )
    if not tag:
        return Pressed(said="It was ended already.")

    def change(session: UserSession) -> None:
        session.tags.pop(tag, None)

    also = services.tags.unfollow(person, tag)
    await services.people.change(person, change, event_update.update_id, also=also)
    return Pressed(said=f"No more of {tag}.")


def _tag(args: str | None) -> str:
    """Return a tag's slug, as Polymarket makes it of a name."""
    words = (args or "").casefold().split()
    tag = "-".join(words)[:_TAG]
    if tag and not tag.replace("-", "").isalnum():
        raise AskedError("A tag is a word, like /top crypto.")
    return tag


def _title(which: Action, tag: str) -> str:
    title = "Traded most today" if which is Action.TOP else "New"
    return f"{title}: {tag}" if tag else title


# --- the market of the conversation


async def show(
    market: GammaMarket | None,
    person: int,
    services: Services,
    state: FSMContext,
    span: int = 0,
) -> Card:
    """Return a market's card; it is the market that commands mean from now on.

    Raises:
        AskedError: There is no such market.
    """
    if market is None:
        raise AskedError(errors.NO_MARKET)
    await state.update_data(market=market.condition_id)
    return market_card(await view_of(market, person, services, span, chart=True))


async def show_event(
    event: GammaEvent | None, person: int, services: Services, state: FSMContext
) -> Card:
    """Return an event's card; that of its market, if it has only one.

    Raises:
        AskedError: There is no such event.
    """
    if event is None:
        raise AskedError(errors.NO_MARKET)
    if len(event.markets) == 1 and not event.skipped:
        return await show(event.markets[0], person, services, state)
    return event_card(event, 0, _now(services), await odds_of(person, services))


def _now(services: Services) -> datetime:
    return datetime.fromtimestamp(services.clock.now(), UTC)


async def view_of(
    market: GammaMarket,
    person: int,
    services: Services,
    span: int = 0,
    *,
    chart: bool = False,
) -> MarketView:
    """Return what a person sees of a market now; without a chart, the prices alone."""
    tokens = [token.token_id for token in market.tokens]
    prices = await services.markets.prices(tokens)
    session = await services.people.get(person)
    rules = await services.rules.standing(person) if chart else ()
    picture = None
    if chart and services.pictures is not None:
        picture = await services.pictures.chart(market, SPANS[span])
    return MarketView(
        market=market,
        prices=prices,
        rules=sorted(
            (each for each in rules if each.rule.market == market.condition_id),
            key=in_order,
        ),
        watched=market.condition_id in session.markets,
        chart=picture,
        span=span,
        now=_now(services),
        age=await services.markets.age(tokens),
        odds=session.display.odds,
    )


async def current(
    command: CommandObject, services: Services, state: FSMContext
) -> GammaMarket:
    """Return the market that a command means: of its link, or the one sent last.

    Raises:
        AskedError: There is none.
    """
    if not command.args:
        return await last(services, state)
    match links.parse(command.args):
        case links.MarketLink(slug) | links.EventLink(_, slug) if slug:
            found = await services.markets.by_slug(slug)
        case links.EventLink(slug):
            found = await _only_one(slug, services)
        case _:
            raise AskedError(
                "Which market? Write the command with a market's link behind it, or "
                "alone for the market that was sent last."
            )
    if found is None:
        raise AskedError(errors.NO_MARKET)
    await state.update_data(market=found.condition_id)
    return found


async def _only_one(slug: str, services: Services) -> GammaMarket | None:
    """Return the market of an event's link: the one of its name, or its only one.

    Raises:
        AskedError: It has several.
    """
    found = await services.markets.by_slug(slug)
    event = None if found else await services.markets.event(slug)
    if event is None:
        return found
    count = len(event.markets) + event.skipped
    if count > 1:
        raise AskedError(
            f"That event has {count} markets. Send its link alone, and choose one."
        )
    return next(iter(event.markets), None)


async def last(
    services: Services, state: FSMContext, which: str = "market"
) -> GammaMarket:
    """Return the market whose card was sent last.

    Args:
        services: Ask Polymarket.
        state: Of the conversation.
        which: ``asked``: the market that the bot's question is about.

    Raises:
        AskedError: There is none, or Polymarket does not have it any more.
    """
    condition_id = (await state.get_data()).get(which)
    found = None
    if isinstance(condition_id, str):
        found = await services.markets.market(condition_id)
    if found is None:
        raise AskedError(errors.WHICH)
    return found


async def known(condition_id: str, services: Services) -> GammaMarket | None:
    """Return a market; None where Polymarket does not have it, or does not answer.

    For what a person has here: she sees and stops it also without Polymarket.
    """
    return await if_answered(services.markets.market(condition_id))


async def prices_of(tokens: Iterable[str], services: Services) -> dict[str, Price]:
    """Return prices by token; none where Polymarket does not answer."""
    return await if_answered(services.markets.prices(tokens)) or {}


async def if_answered(asked: Awaitable[T]) -> T | None:
    """Return what Polymarket is asked for; None where it does not answer.

    For what comes after a change: that it was made is said in any case.
    """
    with suppress(PolymarketError, RateLimited):
        return await asked
    return None


async def by_number(press: Press, services: Services) -> GammaMarket:
    """Return the market that a button names.

    Raises:
        AskedError: Polymarket does not have it any more.
    """
    market = await services.markets.by_id(str(press.subject))
    if market is None:
        raise AskedError(errors.NO_MARKET)
    return market


async def _market(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    market = await current(command, services, state)
    return await show(market, message.chat.id, services, state)


async def _price(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    market = await current(command, services, state)
    return price_card(await view_of(market, message.chat.id, services))


async def _book(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    market = await current(command, services, state)
    return await _book_of(market, 0, message.chat.id, services)


async def _book_of(
    market: GammaMarket, outcome: int, person: int, services: Services
) -> Card:
    if outcome >= len(market.tokens):
        raise AskedError("This market has no book.")
    token = market.tokens[outcome].token_id
    book = await services.markets.book(token)
    return book_card(market, outcome, book, await odds_of(person, services))


async def _chart(
    message: Message, command: CommandObject, services: Services, state: FSMContext
) -> Card:
    market = await current(command, services, state)
    card = await show(market, message.chat.id, services, state)
    if card.photo is None:
        raise AskedError("There is no history to draw yet. /price has the prices.")
    return card


async def _market_pressed(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    market = await by_number(press, services)
    span = min(press.argument, len(SPANS) - 1)
    card = await show(market, query.from_user.id, services, state, span)
    # A chart is drawn again; what has none, such as a list or an alert, stays.
    if not getattr(query.message, "photo", None):
        return Pressed(said="As it is now.", new=card)
    if card.photo is None:
        return Pressed(said="There is no history of that length yet.")
    return Pressed(said="As it is now.", card=card)


async def _event_pressed(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    event = await services.markets.event_by_id(str(press.subject))
    if event is None:
        raise AskedError(errors.NO_MARKET)
    person = query.from_user.id
    if len(event.markets) == 1 and not event.skipped:
        return Pressed(new=await show(event.markets[0], person, services, state))
    odds = await odds_of(person, services)
    card = event_card(event, press.argument, _now(services), odds)
    return Pressed(card=card)


async def _book_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    market = await by_number(press, services)
    person = query.from_user.id
    return Pressed(new=await _book_of(market, press.argument, person, services))


async def _found_pressed(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    words = (await state.get_data()).get("search")
    # The words of another search since would answer another question.
    if not isinstance(words, str) or text_number(words) != press.subject:
        raise AskedError("This search is from earlier: send the words again.")
    closed = bool(press.argument & CLOSED)
    page = press.argument & (CLOSED - 1)
    person = query.from_user.id
    card = await _found(words, page, person, services, state, closed=closed)
    return Pressed(card=card)


# --- what a person watches


async def _watch(
    message: Message,
    command: CommandObject,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Card:
    market = await current(command, services, state)
    person, update_id = message.chat.id, event_update.update_id
    said = await _set_watched(person, [market], update_id, services, on=True)
    return errors.sentence_card(said)


async def _unwatch(
    message: Message,
    command: CommandObject,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Card:
    market = await current(command, services, state)
    person, update_id = message.chat.id, event_update.update_id
    said = await _set_watched(person, [market], update_id, services, on=False)
    return errors.sentence_card(said)


async def _watch_pressed(
    query: CallbackQuery,
    press: Press,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Pressed:
    market = await by_number(press, services)
    on = press.action is Action.WATCH
    person, update_id = query.from_user.id, event_update.update_id
    said = await _set_watched(person, [market], update_id, services, on=on)
    card = await if_answered(show(market, person, services, state))
    return Pressed(said=said, card=card)


async def _watch_all(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    event = await services.markets.event_by_id(str(press.subject))
    markets = [] if event is None else event.markets
    open_ones = [market for market in markets if not market.resolved]
    if not open_ones:
        raise AskedError(errors.NO_MARKET)
    person, update_id = query.from_user.id, event_update.update_id
    said = await _set_watched(person, open_ones, update_id, services, on=True)
    return Pressed(said=said)


async def _set_watched(
    person: int,
    markets: Sequence[GammaMarket],
    update_id: int,
    services: Services,
    *,
    on: bool,
) -> str:
    """Watch markets or not; return what that means in a sentence."""
    ids = [market.condition_id for market in markets]
    if on and any(market.resolved for market in markets):
        raise AskedError("This market is over; its result is on its card.")
    now = int(services.clock.now())

    def change(session: UserSession) -> None:
        if not on:
            for each in ids:
                session.markets.pop(each, None)
            return
        new = [each for each in ids if each not in session.markets]
        if len(session.markets) + len(new) > MAX_MARKETS:
            raise AskedError(
                f"That would be more than the {MAX_MARKETS} markets that you may "
                "watch: /watchlist has them."
            )
        session.markets.update(dict.fromkeys(new, WatchedMarket(since=now)))

    followers = services.followers
    also = (followers.follow if on else followers.unfollow)(person, *ids)
    session = await services.people.change(person, change, update_id, also=also)
    if not on:
        return "Not watched any more."
    said = "Watching: I tell you its result."
    if len(ids) > 1:
        said = f"Watching all {len(ids)}: I tell you each result."
    return " ".join([said, *held_up(session, now, Kind.RESOLUTION)])


async def _watchlist(message: Message, services: Services) -> Card:
    return await _watched(message.chat.id, 0, services)


async def _watchlist_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    card = await _watched(query.from_user.id, press.argument, services)
    return Pressed(new=card)


async def _watched(person: int, page: int, services: Services) -> Card:
    session = await services.people.get(person)
    ids = list(session.markets)
    found = await asyncio.gather(*(known(each, services) for each in ids))
    named = [market for market in found if market is not None]
    odds = session.display.odds
    unknown, tags = len(ids) - len(named), list(session.tags)
    return watchlist_card(named, unknown, page, odds, tags=tags)
