"""What handlers of presses are found by, and what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiogram.filters import Filter

from oddsbot.delivery import Card

if TYPE_CHECKING:
    from aiogram.types import CallbackQuery

    from oddsbot.delivery import Action, Press


class Pressed(msgspec.Struct, frozen=True):
    """The answer to a press.

    Attributes:
        said: A sentence that is shown for a moment; at most 200 UTF-16 units.
        card: Takes the place of the message; None: it stays.
        new: Sent as a message of its own.
    """

    said: str = ""
    card: Card | None = None
    new: Card | None = None


class On(Filter):
    """Presses of these actions."""

    def __init__(self, *actions: Action) -> None:
        self._actions = frozenset(actions)

    async def __call__(self, _: CallbackQuery, press: Press) -> bool:
        """Return whether a press is one of them."""
        return press.action in self._actions
