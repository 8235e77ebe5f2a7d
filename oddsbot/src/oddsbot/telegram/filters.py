"""Which updates a handler takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiogram.filters import Command, Filter

from oddsbot.telegram import links

if TYPE_CHECKING:
    from aiogram.types import CallbackQuery, Message, TelegramObject
    from aiogram.utils.magic_filter import MagicFilter

    from oddsbot.delivery import Action, Press


def slash(*names: str) -> Command:
    """Return the filter of commands, in small letters or capitals."""
    return Command(*names, ignore_case=True)


class Reply(Filter):
    """Texts that may answer a question: no command, link or address."""

    async def __call__(self, message: Message) -> bool:
        """Return whether a message is one."""
        text = message.text or ""
        return not text.startswith("/") and isinstance(links.parse(text), links.Words)


class On(Filter):
    """Presses of these actions."""

    def __init__(self, *actions: Action) -> None:
        self._actions = frozenset(actions)

    async def __call__(self, _: CallbackQuery, press: Press) -> bool:
        """Return whether a press is one of them."""
        return press.action in self._actions


class Where(Filter):
    """Updates of which a condition is true.

    aiogram looks at a bare condition in a thread: each message would wait for the
    thread to get the interpreter's lock, up to 5 ms.
    """

    def __init__(self, condition: MagicFilter) -> None:
        self._condition = condition

    async def __call__(self, event: TelegramObject) -> bool:
        """Return whether it is true of an update."""
        return bool(self._condition.resolve(event))
