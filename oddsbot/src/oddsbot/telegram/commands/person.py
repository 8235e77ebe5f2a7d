"""Settings, mute, status, erase: what is about a person, and not about a market."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

from aiogram import F, Router
from aiogram.filters import Command, StateFilter
from aiogram.fsm.state import State, StatesGroup

from oddsbot.delivery import Action
from oddsbot.store import QuietHours
from oddsbot.telegram.asked import AskedError
from oddsbot.telegram.pressed import On, Pressed
from oddsbot.telegram.screens.errors import sentence_card
from oddsbot.telegram.screens.person import (
    KINDS,
    erase_card,
    erased_card,
    muted_card,
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
    from aiogram.types import CallbackQuery, Message

    from oddsbot.delivery import Card, Press
    from oddsbot.store import UserSession
    from oddsbot.telegram.services import Services

_DURATION = re.compile(r"(?P<count>[0-9]{1,4})\s*(?P<unit>m|min|h|d)?\Z", re.IGNORECASE)
_UNITS = {"m": 1, "min": 1, "h": 60, "d": 1_440, "": 1}
_LONGEST = 30 * 1_440
_OFFSET = re.compile(
    r"(?:UTC|GMT)?\s*(?P<sign>[+−-])\s*(?P<hours>[0-9]{1,2})\Z", re.IGNORECASE
)


class Zone(StatesGroup):
    """The conversation about a time zone."""

    asked = State()


def router() -> Router:
    """Return the commands' router."""
    routes = Router(name="person")
    routes.message.register(_settings, Command("settings"))
    routes.message.register(_mute, Command("mute"))
    routes.message.register(_unmute, Command("unmute"))
    routes.message.register(_status, Command("status"))
    routes.message.register(_erase, Command("erase"))
    routes.message.register(
        _zone_said, StateFilter(Zone.asked), F.text & ~F.text.startswith("/")
    )
    routes.callback_query.register(_settings_pressed, On(Action.SETTINGS))
    routes.callback_query.register(_kind, On(Action.KIND_ON, Action.KIND_OFF))
    routes.callback_query.register(_quiet, On(Action.QUIET))
    routes.callback_query.register(_zone, On(Action.ZONE))
    routes.callback_query.register(_mute_pressed, On(Action.MUTE))
    routes.callback_query.register(_status_pressed, On(Action.STATUS))
    routes.callback_query.register(_erase_asked, On(Action.ERASE_ASK))
    routes.callback_query.register(_erase_pressed, On(Action.ERASE))
    return routes


# --- settings


async def _settings(message: Message, services: Services) -> Card:
    return await _changed(message.chat.id, lambda _: None, services)


async def _settings_pressed(query: CallbackQuery, services: Services) -> Pressed:
    return Pressed(new=await _changed(query.from_user.id, lambda _: None, services))


async def _changed(
    person: int, change: Callable[[UserSession], None], services: Services
) -> Card:
    """Change a person's settings, and return them as they are then."""
    session = await services.sessions.update(person, change, create=True)
    return settings_card(session, services.clock.now())


async def _kind(query: CallbackQuery, press: Press, services: Services) -> Pressed:
    if press.argument >= len(KINDS):
        raise AskedError("That kind is of another version of me: /settings has all.")
    kind, name = KINDS[press.argument]
    on = press.action is Action.KIND_ON

    def change(session: UserSession) -> None:
        setattr(session.notifications, kind.value, on)

    card = await _changed(query.from_user.id, change, services)
    return Pressed(said=f"I send {name}." if on else f"No {name}.", card=card)


async def _quiet(query: CallbackQuery, press: Press, services: Services) -> Pressed:
    hours = quiet_of(press.argument)
    if hours is None:
        raise AskedError("Those hours are of another version of me: /settings again.")

    def change(session: UserSession) -> None:
        session.quiet = QuietHours(*hours)

    card = await _changed(query.from_user.id, change, services)
    return Pressed(said="Noted.", card=card)


async def _zone(_: CallbackQuery, state: FSMContext) -> Pressed:
    await state.set_state(Zone.asked)
    return Pressed(new=zone_card())


async def _zone_said(message: Message, services: Services, state: FSMContext) -> Card:
    # The list of zones is read from files, once.
    zone = await asyncio.to_thread(zone_of, message.text or "")

    def change(session: UserSession) -> None:
        session.timezone = zone

    card = await _changed(message.chat.id, change, services)
    await state.set_state(None)
    return card


def zone_of(text: str) -> str:
    """Return the name of the time zone that a person means.

    Args:
        text: A zone's name, a city of one, or a distance from UTC in hours.

    Raises:
        AskedError: There is none, or there are several.
    """
    text = " ".join(text[:100].split())
    offset = _OFFSET.match(text)
    if offset or text.casefold() in {"utc", "gmt"}:
        hours = int(offset["hours"]) if offset else 0
        east = offset is None or offset["sign"] == "+"
        if hours > (14 if east else 12):
            raise AskedError(
                "That is farther from UTC than any place: UTC-12 to UTC+14."
            )
        # The names of this list count to the west.
        return f"Etc/GMT{'-' if east else '+'}{hours}" if hours else "UTC"
    found = _zones().get(text.casefold().replace(" ", "_"), ())
    if len(found) == 1:
        return found[0]
    if found:
        raise AskedError(f"Which one? There are {', '.join(found[:5])}.")
    raise AskedError("I do not know that place. Send a city like Berlin, or UTC+2.")


@cache
def _zones() -> dict[str, tuple[str, ...]]:
    """Return the zones by their names and by their cities."""
    zones: dict[str, set[str]] = {}
    for name in available_timezones():
        if name.startswith(("Etc/", "posix", "right", "SystemV")) or "/" not in name:
            continue
        for key in (name, name.rpartition("/")[2]):
            zones.setdefault(key.casefold(), set()).add(name)
    return {key: tuple(sorted(names)) for key, names in zones.items()}


# --- mute


async def _mute(message: Message, command: CommandObject, services: Services) -> Card:
    return await _set_muted(message.chat.id, minutes_of(command.args or "1h"), services)


async def _unmute(message: Message, services: Services) -> Card:
    return await _set_muted(message.chat.id, 0, services)


async def _mute_pressed(
    query: CallbackQuery, press: Press, services: Services
) -> Pressed:
    minutes = min(press.argument, _LONGEST)
    card = await _set_muted(query.from_user.id, minutes, services)
    return Pressed(said="Muted." if minutes else "Not muted.", new=card)


def minutes_of(text: str) -> int:
    """Return the minutes of ``30``, ``2h`` or ``1d``.

    Raises:
        AskedError: It is no such time, or more than 30 days.
    """
    found = _DURATION.match(text.strip())
    minutes = 0
    if found:
        minutes = int(found["count"]) * _UNITS[(found["unit"] or "").lower()]
    if not 0 < minutes <= _LONGEST:
        raise AskedError("For how long? Write it like /mute 30m, /mute 2h or /mute 1d.")
    return minutes


async def _set_muted(person: int, minutes: int, services: Services) -> Card:
    until = int(services.clock.now()) + 60 * minutes if minutes else 0

    def change(session: UserSession) -> None:
        session.muted_until = until

    await services.sessions.update(person, change, create=True)
    return muted_card(60.0 * minutes) if minutes else unmuted_card()


# --- status


async def _status(_: Message, services: Services) -> Card:
    return status_card(await services.status())


async def _status_pressed(_: CallbackQuery, services: Services) -> Pressed:
    return Pressed(said="As it is now.", card=status_card(await services.status()))


# --- erase


async def _erase(message: Message, services: Services) -> Card:
    return await _question(message.chat.id, services)


async def _erase_asked(query: CallbackQuery, services: Services) -> Pressed:
    return Pressed(new=await _question(query.from_user.id, services))


async def _question(person: int, services: Services) -> Card:
    rules = await services.rules.of(person)
    session = await services.sessions.get(person)
    watched = 0 if session is None else len(session.markets)
    handle = await services.handles.give(person)
    return erase_card(handle, len(rules), watched)


async def _erase_pressed(
    query: CallbackQuery, press: Press, services: Services, state: FSMContext
) -> Pressed:
    person = query.from_user.id
    if not await services.handles.take(press.subject, person):
        sentence = "That button is used or older than five minutes: /erase asks again."
        return Pressed(said=sentence, card=sentence_card(sentence))
    rules = await services.rules.of(person)
    for rule in rules:
        await services.rules.remove(person, rule.id)
    receipt = await services.erase(person)
    await state.clear()
    return Pressed(said="Erased.", card=erased_card(receipt, len(rules)))
