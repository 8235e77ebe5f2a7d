"""Settings, mute, status, erase: what is about a person, and not about a market."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from aiogram import F, Router
from aiogram.filters import StateFilter
from aiogram.fsm.state import State, StatesGroup

from oddsbot.delivery import Action
from oddsbot.store import MAX_MARKETS, QuietHours
from oddsbot.telegram import zones
from oddsbot.telegram.asked import AskedError
from oddsbot.telegram.chat import topic_of
from oddsbot.telegram.filters import On, Reply, Where, slash
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.screens.errors import sentence_card
from oddsbot.telegram.screens.person import (
    KINDS,
    LEAST_MOVE,
    ODDS,
    PER_HOUR,
    PER_MINUTE,
    Share,
    erase_card,
    erased_card,
    export_card,
    limits_card,
    muted_card,
    quiet_card,
    quiet_of,
    settings_card,
    status_card,
    unmuted_card,
    zone_card,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiogram.filters import CommandObject
    from aiogram.fsm.context import FSMContext
    from aiogram.types import CallbackQuery, Message, Update

    from oddsbot.delivery import Card, Press
    from oddsbot.store import UserSession
    from oddsbot.telegram.services import Services

_CHOICES = {
    Action.PER_MINUTE: PER_MINUTE,
    Action.PER_HOUR: PER_HOUR,
    Action.LEAST_MOVE: LEAST_MOVE,
}
_DURATION = re.compile(
    r"(?P<count>[0-9]{1,5})\s*"
    r"(?P<unit>m|min|minutes?|h|hours?|d|days?)?\Z",
    re.IGNORECASE,
)
_UNITS = {"m": 1, "h": 60, "d": 1_440, "": 1}
_LONGEST = 30 * 1_440
_HOURS = re.compile(
    r"([0-9]{1,2})(?:[:.]([0-9]{2}))?\s*(?:-|–|—|to)\s*([0-9]{1,2})(?:[:.]([0-9]{2}))?\Z"
)


class Zone(StatesGroup):
    """The conversation about a time zone."""

    asked = State()


class Quiet(StatesGroup):
    """The conversation about quiet hours."""

    asked = State()


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="person")
    routes.message.register(_settings, slash("settings"))
    routes.message.register(_mute, slash("mute"))
    routes.message.register(_unmute, slash("unmute"))
    routes.message.register(_status, slash("status"))
    routes.message.register(_export, slash("export"))
    routes.message.register(_erase, slash("erase"))
    routes.message.register(_zone_said, StateFilter(Zone.asked), Reply())
    routes.message.register(_zone_located, StateFilter(Zone.asked), Where(F.location))
    routes.message.register(_quiet_said, StateFilter(Quiet.asked), Reply())
    routes.callback_query.register(_settings_pressed, On(Action.SETTINGS))
    routes.callback_query.register(_quiet_other, On(Action.QUIET_OTHER))
    routes.callback_query.register(_odds, On(Action.ODDS))
    routes.callback_query.register(_limits, On(Action.LIMITS))
    routes.callback_query.register(_limit, On(*_CHOICES))
    routes.callback_query.register(_kind, On(Action.KIND_ON, Action.KIND_OFF))
    routes.callback_query.register(_quiet, On(Action.QUIET))
    routes.callback_query.register(_zone, On(Action.ZONE))
    routes.callback_query.register(_mute_pressed, On(Action.MUTE))
    routes.callback_query.register(_status_pressed, On(Action.STATUS))
    routes.callback_query.register(_export_pressed, On(Action.EXPORT))
    routes.callback_query.register(_erase_asked, On(Action.ERASE_ASK))
    routes.callback_query.register(_erase_pressed, On(Action.ERASE))
    return routes


# --- settings


async def _settings(message: Message, services: Services) -> Card:
    return await _shown(message.chat.id, services)


async def _settings_pressed(query: CallbackQuery, services: Services) -> Pressed:
    return Pressed(new=await _shown(query.from_user.id, services))


async def _shown(person: int, services: Services) -> Card:
    return settings_card(await services.people.get(person), services.clock.now())


async def _changed(
    person: int,
    change: Callable[[UserSession], None],
    update: Update,
    services: Services,
) -> Card:
    """Change a person's settings, and return them as they are then."""
    session = await services.people.change(person, change, update.update_id)
    return settings_card(session, services.clock.now())


async def _kind(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    if press.argument >= len(KINDS):
        raise AskedError(errors.OTHER_VERSION)
    kind, name = KINDS[press.argument]
    on = press.action is Action.KIND_ON

    def change(session: UserSession) -> None:
        setattr(session.notifications, kind.value, on)

    card = await _changed(query.from_user.id, change, event_update, services)
    return Pressed(said=f"I send {name}." if on else f"No {name}.", card=card)


async def _odds(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    if press.argument >= len(ODDS):
        raise AskedError(errors.OTHER_VERSION)
    odds, _ = ODDS[press.argument]

    def change(session: UserSession) -> None:
        session.display.odds = odds

    card = await _changed(query.from_user.id, change, event_update, services)
    return Pressed(said="Noted.", card=card)


async def _limits(query: CallbackQuery, services: Services) -> Pressed:
    return Pressed(new=limits_card(await services.people.get(query.from_user.id)))


async def _limit(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    """Change how much is sent; the number is one of those that buttons have."""
    chosen = press.argument
    if chosen not in _CHOICES[press.action]:
        raise AskedError(errors.OTHER_VERSION)

    def change(session: UserSession) -> None:
        match press.action:
            case Action.PER_MINUTE:
                session.per_minute = chosen
            case Action.PER_HOUR:
                session.per_hour = chosen
            case _:
                session.thresholds.price_change = chosen / 100

    person, update_id = query.from_user.id, event_update.update_id
    session = await services.people.change(person, change, update_id)
    return Pressed(said="Noted.", card=limits_card(session))


async def _quiet(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    hours = quiet_of(press.argument)
    if hours is None:
        raise AskedError(errors.OTHER_VERSION)
    change = _to_quiet(*hours)
    card = await _changed(query.from_user.id, change, event_update, services)
    return Pressed(said="Noted.", card=card)


async def _quiet_other(_: CallbackQuery, state: FSMContext) -> Pressed:
    await state.set_state(Quiet.asked)
    return Pressed(new=quiet_card())


async def _quiet_said(
    message: Message, services: Services, event_update: Update
) -> Card:
    change = _to_quiet(*hours_of(message.text or ""))
    return await _changed(message.chat.id, change, event_update, services)


def _to_quiet(start: int, end: int) -> Callable[[UserSession], None]:
    def change(session: UserSession) -> None:
        session.quiet = QuietHours(start, end)

    return change


def hours_of(text: str) -> tuple[int, int]:
    """Return the minutes of the day of ``22:30-7``: from and to.

    Raises:
        AskedError: It is no such time.
    """
    found = _HOURS.match(text.strip())
    minutes = [] if found is None else [int(each or 0) for each in found.groups()]
    if not minutes or max(minutes[0::2]) > 23 or max(minutes[1::2]) > 59:
        raise AskedError("From when to when? Write it like 22:30-7 or 23-8.")
    return minutes[0] * 60 + minutes[1], minutes[2] * 60 + minutes[3]


async def _zone(_: CallbackQuery, state: FSMContext) -> Pressed:
    await state.set_state(Zone.asked)
    return Pressed(new=zone_card())


async def _zone_said(
    message: Message, services: Services, event_update: Update
) -> Card:
    # The list of zones is read from files, once.
    zone = await asyncio.to_thread(zones.named, message.text or "")
    return await _set_zone(zone, message, services, event_update)


async def _zone_located(
    message: Message, services: Services, event_update: Update
) -> Card:
    place = message.location
    if place is None:
        raise AskedError(zones.UNKNOWN)
    zone = await asyncio.to_thread(zones.nearest, place.latitude, place.longitude)
    return await _set_zone(zone, message, services, event_update)


async def _set_zone(
    zone: str, message: Message, services: Services, update: Update
) -> Card:
    def change(session: UserSession) -> None:
        session.timezone = zone

    return await _changed(message.chat.id, change, update, services)


# --- mute


async def _mute(
    message: Message, command: CommandObject, services: Services, event_update: Update
) -> Card:
    minutes = minutes_of(command.args or "1h")
    return await _set_muted(message.chat.id, minutes, event_update, services)


async def _unmute(message: Message, services: Services, event_update: Update) -> Card:
    return await _set_muted(message.chat.id, 0, event_update, services)


async def _mute_pressed(
    query: CallbackQuery, press: Press, services: Services, event_update: Update
) -> Pressed:
    minutes = min(press.argument, _LONGEST)
    card = await _set_muted(query.from_user.id, minutes, event_update, services)
    return Pressed(said="Muted." if minutes else "Not muted.", new=card)


def minutes_of(text: str) -> int:
    """Return the minutes of ``30``, ``2h`` or ``1d``.

    Raises:
        AskedError: It is no such time, or more than 30 days.
    """
    found = _DURATION.match(text.strip())
    minutes = 0
    if found:
        minutes = int(found["count"]) * _UNITS[(found["unit"] or "")[:1].lower()]
    if not 0 < minutes <= _LONGEST:
        raise AskedError(
            "For how long? Write it like /mute 30m, /mute 2h or /mute 1d; 30d at most."
        )
    return minutes


async def _set_muted(
    person: int, minutes: int, update: Update, services: Services
) -> Card:
    now = services.clock.now()
    until = int(now) + 60 * minutes if minutes else 0

    def change(session: UserSession) -> None:
        session.muted_until = until

    session = await services.people.change(person, change, update.update_id)
    return muted_card(minutes) if minutes else unmuted_card(session, now)


# --- status


async def _status(message: Message, services: Services) -> Card:
    return await _status_of(message.chat.id, services)


async def _status_pressed(query: CallbackQuery, services: Services) -> Pressed:
    card = await _status_of(query.from_user.id, services)
    return Pressed(said="As it is now.", card=card)


async def _status_of(person: int, services: Services) -> Card:
    session = await services.people.get(person)
    share = Share(
        rules=len(await services.rules.of(person)),
        most_rules=services.max_rules,
        markets=len(session.markets),
        most_markets=MAX_MARKETS,
        asked=services.asked,
    )
    return status_card(await services.status(), share)


# --- export and erase


async def _export(message: Message, services: Services) -> Card:
    return await _exported(message.chat.id, topic_of(message), services)


async def _export_pressed(query: CallbackQuery, services: Services) -> Pressed:
    person, topic = query.from_user.id, topic_of(query.message)
    return Pressed(new=await _exported(person, topic, services))


async def _exported(person: int, topic: int | None, services: Services) -> Card:
    """Send a person's files but the last, and return the card with that one."""
    card = None
    async for file in services.export.files(person):
        if card is not None:
            await services.chat.send(person, card, topic=topic)
        card = export_card(file)
    assert card is not None  # noqa: S101 - there is always one
    return card


async def _erase(message: Message, services: Services) -> Card:
    return await _question(message.chat.id, services)


async def _erase_asked(query: CallbackQuery, services: Services) -> Pressed:
    return Pressed(new=await _question(query.from_user.id, services))


async def _question(person: int, services: Services) -> Card:
    rules = await services.rules.of(person)
    watched = len((await services.people.get(person)).markets)
    handle = await services.handles.give(person)
    return erase_card(handle, len(rules), watched)


async def _erase_pressed(
    query: CallbackQuery,
    press: Press,
    services: Services,
    event_update: Update,
) -> Pressed:
    person, update_id = query.from_user.id, event_update.update_id
    if not await services.handles.take(press.subject, person, update_id):
        sentence = "That button is used or older than five minutes: /erase asks again."
        return Pressed(said=sentence, card=sentence_card(sentence))
    rules = await services.rules.of(person)
    receipt = await services.erase(person)
    return Pressed(said="Erased.", card=erased_card(receipt, len(rules)))
