"""``/alert``, ``/alerts``, and the buttons that set and stop alerts."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from aiogram import Router
from aiogram.filters import CommandObject, StateFilter
from aiogram.fsm.state import State, StatesGroup

from oddsbot.alerts import (
    Base,
    Direction,
    MoveRule,
    PriceRule,
    RuleError,
    Unit,
    VolumeRule,
    assets_of,
)
from oddsbot.delivery import Action
from oddsbot.store import LOOK_BACK_SECONDS, AlreadyHandled, Kind, SameRule
from oddsbot.telegram import figures, links
from oddsbot.telegram.asked import AskedError, Level, Move, Traded, parse_asked
from oddsbot.telegram.commands import markets
from oddsbot.telegram.filters import On, Reply, slash
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.screens.alerts import (
    IN_A_PAGE,
    Group,
    alerts_card,
    change_card,
    in_order,
    level_card,
    meaning,
    removed_card,
    rule_card,
    set_card,
    set_many_card,
    why_card,
)
from oddsbot.telegram.screens.market import direction_of, level_of
from oddsbot.telegram.screens.person import held_up
from oddsbot.telegram.text import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message, Update

    from oddsbot.alerts import Rule
    from oddsbot.delivery import Card, Press
    from oddsbot.markets import Price
    from oddsbot.polymarket import GammaMarket, Token
    from oddsbot.store import StoredRule, UserSession
    from oddsbot.telegram.services import Services

_ON_ANY = 5
_TOO_MANY = "You have {}, and may have no more: stop one first, /alerts."
_KINDS = {PriceRule: Kind.PRICE, MoveRule: Kind.PRICE, VolumeRule: Kind.VOLUME}


class Asking(StatesGroup):
    """Conversations about an alert."""

    level = State()


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="alerts")
    routes.message.register(_alert, slash("alert"))
    routes.message.register(_alerts, slash("alerts"))
    routes.message.register(_level, StateFilter(Asking.level), Reply())
    routes.callback_query.register(_preset, On(Action.SET_ABOVE, Action.SET_BELOW))
    routes.callback_query.register(_other, On(Action.SET_OTHER))
    routes.callback_query.register(_rule_pressed, On(Action.RULE))
    routes.callback_query.register(_alert_all, On(Action.ALERT_ALL))
    routes.callback_query.register(_change, On(Action.CHANGE_RULE))
    routes.callback_query.register(_change_to, On(Action.CHANGE_TO))
    routes.callback_query.register(_change_other, On(Action.CHANGE_OTHER))
    routes.callback_query.register(_why, On(Action.WHY))
    routes.callback_query.register(_stop, On(Action.STOP_RULE))
    routes.callback_query.register(_pause, On(Action.PAUSE_RULE, Action.RESUME_RULE))
    routes.callback_query.register(_pause_all, On(Action.PAUSE_ALL, Action.RESUME_ALL))
    routes.callback_query.register(_alerts_pressed, On(Action.ALERTS))
    return routes


async def _alert(
    message: Message,
    command: CommandObject,
    services: Services,
    state: FSMContext,
    event_update: Update,
) -> Card:
    link, rest = links.split(command.args or "")
    market = None
    if link:
        market = await markets.current(
            CommandObject(command="market", args=link), services, state
        )
    asked = parse_asked(rest)
    market = market or await markets.last(services, state)
    person = message.chat.id
    return await add(person, market, asked, event_update.update_id, services)


async def _level(
    message: Message, services: Services, state: FSMContext, event_update: Update
) -> Card:
    """Answer the question for a price: a new alert, or another price of one."""
    asked = parse_asked(message.text or "")
    # Not the market seen last: she may have looked at another one meanwhile.
    market = await markets.last(services, state, "asked")
    changed = (await state.get_data()).get("rule")
    return await add(
        message.chat.id,
        market,
        asked,
        event_update.update_id,
        services,
        instead_of=changed if isinstance(changed, str) else "",
    )


async def add(
    person: int,
    market: GammaMarket,
    asked: Level | Move | Traded,
    update_id: int,
    services: Services,
    *,
    instead_of: str = "",
) -> Card:
    """Keep an alert that was asked for, and say what it means.

    The same update asks for the same rule: it is there already, or was removed since.

    Args:
        person: Who asks.
        market: Of which market.
        asked: For what.
        update_id: Of the update.
        services: Keep it.
        instead_of: The id of the alert that goes in the same transaction.

    Raises:
        AskedError: She has it already, or too many, or the market is over.
    """
    rule_id = services.effects.rule_id(update_id)
    if market.resolved or market.closed:
        raise AskedError("This market is over: its prices do not move any more.")
    prices: dict[str, Price] = {}
    rule: Rule
    try:
        if isinstance(asked, Traded):
            rule = await _volume_rule(person, market, asked, rule_id, services)
        else:
            token = _token(market, asked.outcome)
            prices = await services.markets.prices([token.token_id])
            price = prices.get(token.token_id)
            rule = _rule(person, market, token, asked, rule_id, price)
            if isinstance(asked, Move):
                _check_reachable(asked, price)
    except RuleError:
        raise AskedError(errors.NOT_WATCHABLE) from None
    there = await services.rules.of(person)
    session = await services.people.get(person)
    odds = session.display.odds
    now = services.clock.now()
    kept_quiet = held_up(session, now, _KINDS[type(rule)])
    changed = bool(instead_of)
    card = set_card(rule, market, prices, odds, kept_quiet, changed=changed)
    if any(each.id == rule_id for each in there):
        return card
    least = _least_move(session)
    if isinstance(asked, Move) and asked.unit is Unit.CENTS and asked.by < least:
        raise AskedError(
            f"Your settings leave out moves below {least}¢: /settings, Limits."
        )
    others = [each for each in there if each.id != instead_of]
    for other in others:
        if _same(other, rule):
            said = meaning(other, market, odds)
            raise AskedError(f"{errors.SAME_ALERT[:-1]}: {said}.")
    if len(others) >= services.max_rules:
        raise AskedError(_TOO_MANY.format(figures.count(len(others), "alert")))
    await _known(person, update_id, services)
    remove = [instead_of] if instead_of else []
    try:
        await services.rules.change(person, [rule], remove, update_id=update_id)
    except AlreadyHandled:
        raise AskedError(errors.DONE_BEFORE) from None
    except SameRule:
        # Another process was faster with another update of hers.
        raise AskedError(errors.SAME_ALERT) from None
    return card


async def _volume_rule(
    person: int, market: GammaMarket, asked: Traded, rule_id: str, services: Services
) -> VolumeRule:
    """Return the rule of a volume that is still to be reached.

    Raises:
        AskedError: It is there already.
    """
    volume = await services.markets.volume(market.condition_id)
    now = None if volume is None else volume.day if asked.daily else volume.total
    if now is not None and now >= asked.dollars:
        when = " in 24 h" if asked.daily else ""
        wanted = figures.money(Decimal(asked.dollars))
        raise AskedError(
            f"{wanted} are traded already{when}: it is {figures.money(now)} now. Give "
            "more, or a price like /alert 65."
        )
    return VolumeRule(
        id=rule_id,
        user_id=person,
        market=market.condition_id,
        level=asked.dollars,
        daily=asked.daily,
        base=now,
    )


def _least_move(session: UserSession) -> int:
    """Return the cents of the smallest move that a person is told of."""
    return round(session.thresholds.price_change * 100)


async def _known(person: int, update_id: int, services: Services) -> None:
    """Know a person, who may never have said /start: a rule belongs to somebody.

    Raises:
        AskedError: The update had its effect before: she erased herself since.
    """
    if not await services.people.knows(person):
        if await services.rules.handled(update_id):
            raise AskedError(errors.DONE_BEFORE)
        await services.people.change(person, lambda _: None, update_id)


def _rule(
    person: int,
    market: GammaMarket,
    token: Token,
    asked: Level | Move,
    rule_id: str,
    price: Price | None,
) -> Rule:
    base = None if price is None else Base(price.bid, price.ask)
    if isinstance(asked, Level) and not 0 < asked.price < 1:
        raise AskedError(errors.OTHER_VERSION)  # no text says that, an old button may
    if isinstance(asked, Move):
        return MoveRule(
            id=rule_id,
            user_id=person,
            market=market.condition_id,
            asset_id=token.token_id,
            by=asked.by,
            unit=asked.unit,
            within=asked.within,
            base=base,
        )
    return PriceRule(
        id=rule_id,
        user_id=person,
        market=market.condition_id,
        asset_id=token.token_id,
        direction=asked.direction or _way(asked.price, price),
        level=asked.price,
        base=base,
    )


def _way(level: Decimal, price: Price | None) -> Direction:
    """Return the way from where the price is to a level."""
    if price is None or (price.bid is None and price.ask is None):
        raise AskedError(
            "Nobody quotes a price there now, so I cannot tell which way you mean: "
            "write /alert > 65 or /alert < 65."
        )
    middle = price.middle or price.bid or price.ask
    return Direction.ABOVE if middle is None or level > middle else Direction.BELOW


def _check_reachable(asked: Move, price: Price | None) -> None:
    """Refuse a move that leads to no price, neither up nor down.

    A move within a time counts from prices that are still to come.

    Raises:
        AskedError: It does.
    """
    if price is None or price.bid is None or price.ask is None or asked.within:
        return
    percent = asked.unit is Unit.PERCENT
    rise, fall = (
        asked.by / 100 * (side if percent else 1) for side in (price.bid, price.ask)
    )
    if price.bid + rise < 1 or price.ask > fall:
        return
    size = f"{figures.short(asked.by)}{'%' if percent else '¢'}"
    said = f"From {figures.cents(price.bid)} it cannot go {size}, neither up nor down."
    if not percent:
        level = " ".join([*quiet(asked.outcome, 40).split(), figures.short(asked.by)])
        said += f" For a price of {size} write /alert {level}."
    raise AskedError(said)


def _same(one: Rule, other: Rule) -> bool:
    return _what(one) == _what(other)


def _what(rule: Rule) -> tuple[object, ...]:
    match rule:
        case MoveRule():
            return rule.asset_id, rule.by, rule.unit, rule.within
        case PriceRule():
            return rule.asset_id, rule.direction, rule.level
        case VolumeRule():
            return rule.market, rule.level, rule.daily


def _token(market: GammaMarket, outcome: str) -> Token:
    tokens = market.tokens
    if not tokens:
        raise AskedError("This market has no prices to watch.")
    if not outcome:
        return tokens[0]
    wanted = outcome.casefold()
    exact = [token for token in tokens if token.outcome.casefold() == wanted]
    begun = [token for token in tokens if token.outcome.casefold().startswith(wanted)]
    found = exact or begun
    if len(found) != 1:
        names = ", ".join(quiet(token.outcome, 40) for token in tokens[:10])
        asked = quiet(outcome, 40)
        raise AskedError(f"Which outcome is “{asked}”? This market has: {names}.")
    return found[0]


async def _preset(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    market = await markets.by_number(press, services)
    outcome, level = level_of(press.argument)
    if outcome >= len(market.tokens):
        raise AskedError(errors.NO_MARKET)
    name = market.tokens[outcome].outcome
    asked = Level(level, direction_of(press.action), name)
    person = query.from_user.id
    card = await add(person, market, asked, event_update.update_id, services)
    return Pressed(said="Set.", new=card)


async def _other(
    _: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    market = await markets.by_number(press, services)
    asked = market.condition_id
    await state.update_data(market=asked, asked=asked, rule=None)
    await state.set_state(Asking.level)
    return Pressed(new=level_card())


async def _alert_all(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    """Watch a move of the first outcome of each open market of an event.

    Of 5¢, or of what the person is told of at all.
    """
    event = await services.markets.event_by_id(str(press.subject))
    person, update_id = query.from_user.id, event_update.update_id
    open_ones = [
        market
        for market in ([] if event is None else event.markets)
        if market.tokens and not (market.closed or market.resolved)
    ]
    if event is None or not open_ones:
        raise AskedError(errors.NO_ALERT_THERE)
    prices = await services.markets.prices(
        market.tokens[0].token_id for market in open_ones
    )
    there = await services.rules.of(person)
    session = await services.people.get(person)
    by = max(_ON_ANY, _least_move(session))
    asked = Move(Decimal(by), Unit.CENTS)
    wanted = []
    for place, market in enumerate(open_ones):
        token = market.tokens[0]
        rule_id = services.effects.rule_id(update_id, place)
        # One that cannot be watched costs no other.
        with suppress(RuleError):
            price = prices.get(token.token_id)
            wanted.append(_rule(person, market, token, asked, rule_id, price))
    new = [rule for rule in wanted if not any(_same(rule, each) for each in there)]
    # She may have more than are allowed by now.
    room = max(0, services.max_rules - len(there))
    left_out = max(0, len(new) - room)
    new = new[: len(new) - left_out]
    count = len(wanted) - left_out
    if not count:
        raise AskedError(_TOO_MANY.format(figures.count(len(there), "alert")))
    await _known(person, update_id, services)
    if new:
        try:
            await services.rules.change(person, new, update_id=update_id)
        except AlreadyHandled:
            raise AskedError(errors.DONE_BEFORE) from None
    kept_quiet = held_up(session, services.clock.now(), Kind.PRICE)
    card = set_many_card(event.title, count, left_out, by, kept_quiet)
    return Pressed(said="Set.", new=card)


async def _change(query: CallbackQuery, press: Press, services: Services) -> Pressed:
    person = query.from_user.id
    rule = (await _mine(person, f"{press.subject:016x}", services)).rule
    market = await markets.known(rule.market, services)
    odds = (await services.people.get(person)).display.odds
    return Pressed(new=change_card(rule, market, odds))


async def _change_to(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    person, update_id = query.from_user.id, event_update.update_id
    new_id = services.effects.rule_id(update_id)
    there = {each.id for each in await services.rules.of(person)}
    # The same update again: the old rule is gone and the new one is there.
    old_id = new_id if new_id in there else f"{press.subject:016x}"
    rule = (await _mine(person, old_id, services)).rule
    market = await services.markets.market(rule.market)
    if market is None or not isinstance(rule, PriceRule):
        raise AskedError(errors.NO_MARKET)
    names = {token.token_id: token.outcome for token in market.tokens}
    _, level = level_of(press.argument)
    asked = Level(level, outcome=names.get(rule.asset_id, ""))
    card = await add(person, market, asked, update_id, services, instead_of=rule.id)
    return Pressed(said="Changed.", card=card)


async def _change_other(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    rule = (await _mine(query.from_user.id, f"{press.subject:016x}", services)).rule
    await state.update_data(market=rule.market, asked=rule.market, rule=rule.id)
    await state.set_state(Asking.level)
    return Pressed(new=level_card(volume=isinstance(rule, VolumeRule)))


async def _why(query: CallbackQuery, press: Press, services: Services) -> Pressed:
    person, rule_id = query.from_user.id, f"{press.subject:016x}"
    stored = await _mine(person, rule_id, services)
    since = services.clock.now() - LOOK_BACK_SECONDS
    fates = await services.log.fates(person, since=since, rule_id=rule_id)
    market = await markets.known(stored.rule.market, services)
    prices = await markets.prices_of(assets_of([stored.rule]), services)
    odds = (await services.people.get(person)).display.odds
    return Pressed(new=why_card(stored, market, prices, fates, odds))


async def _rule_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    rule_id = f"{press.subject:016x}"
    return Pressed(new=await rule_of(query.from_user.id, rule_id, services))


async def rule_of(person: int, rule_id: str, services: Services) -> Card:
    """Return the card of one of a person's alerts.

    Raises:
        AskedError: She has none with this id.
    """
    stored = await _mine(person, rule_id, services)
    market = await markets.known(stored.rule.market, services)
    prices = await markets.prices_of(assets_of([stored.rule]), services)
    odds = (await services.people.get(person)).display.odds
    return rule_card(stored, market, prices, odds)


async def _mine(person: int, rule_id: str, services: Services) -> StoredRule:
    for stored in await services.rules.standing(person):
        if stored.rule.id == rule_id:
            return stored
    raise AskedError(errors.NOT_YOURS)


async def _stop(query: CallbackQuery, press: Press, services: Services) -> Pressed:
    # Handled again it changes nothing: no rule gets the id of one that is gone.
    rule_id = f"{press.subject:016x}"
    there = await services.rules.remove(query.from_user.id, rule_id)
    return Pressed(
        said="Stopped." if there else "It was gone already.",
        new=removed_card(was_there=there),
    )


async def _pause(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    person = query.from_user.id
    rule = (await _mine(person, f"{press.subject:016x}", services)).rule
    paused = press.action is Action.PAUSE_RULE
    update_id = event_update.update_id
    await _set_paused(person, [rule], update_id, services, paused=paused)
    card = await rule_of(person, rule.id, services)
    return Pressed(said="Paused." if paused else "Goes on.", card=card)


async def _pause_all(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    person = query.from_user.id
    paused = press.action is Action.PAUSE_ALL
    rules, update_id = await services.rules.of(person), event_update.update_id
    await _set_paused(person, rules, update_id, services, paused=paused)
    card = await _all_of(person, 0, services)
    return Pressed(said="Paused." if paused else "Go on.", card=card)


async def _set_paused(
    person: int,
    rules: Sequence[Rule],
    update_id: int,
    services: Services,
    *,
    paused: bool,
) -> None:
    """Pause rules or let them go on; one that goes on begins with the price of now."""
    changed = [rule for rule in rules if rule.paused is not paused]
    # To pause takes no price, and so no Polymarket.
    wanted = [] if paused else assets_of(changed)
    prices = await services.markets.prices(wanted) if wanted else {}
    new: list[Rule] = []
    for rule in changed:
        if isinstance(rule, VolumeRule):
            # When it goes on, the next volume decides, and fires nothing.
            new.append(msgspec.structs.replace(rule, paused=paused, base=None))
            continue
        price = None if paused else prices.get(rule.asset_id)
        base = rule.base if price is None else Base(price.bid, price.ask)
        new.append(msgspec.structs.replace(rule, paused=paused, base=base))
    if new:
        # Handled before: she may have let them go on since.
        with suppress(AlreadyHandled):
            await services.rules.change(person, new, update_id=update_id)


async def _alerts(message: Message, services: Services) -> Card:
    return await _all_of(message.chat.id, 0, services)


async def _alerts_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    return Pressed(new=await _all_of(query.from_user.id, press.argument, services))


async def _all_of(person: int, page: int, services: Services) -> Card:
    by_market: dict[str, list[StoredRule]] = {}
    for stored in sorted(await services.rules.standing(person), key=in_order):
        by_market.setdefault(stored.rule.market, []).append(stored)
    count = sum(map(len, by_market.values()))
    page = min(page, max(0, count - 1) // IN_A_PAGE)  # one that is gone is the last

    async def group(condition_id: str, before: int) -> Group:
        """Ask for what the page shows, and not for what is on the others."""
        rules, first = by_market[condition_id], page * IN_A_PAGE
        if not first - len(rules) < before < first + IN_A_PAGE:
            return Group(None, rules, {})
        assets = assets_of(each.rule for each in rules)
        return Group(
            await markets.known(condition_id, services),
            rules,
            await markets.prices_of(assets, services),
        )

    starts = itertools.accumulate(map(len, by_market.values()), initial=0)
    groups = await asyncio.gather(*map(group, by_market, starts))
    odds = (await services.people.get(person)).display.odds
    return alerts_card(groups, page, odds)
