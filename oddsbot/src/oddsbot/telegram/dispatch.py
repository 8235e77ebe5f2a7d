"""`dispatcher_for`: an aiogram dispatcher with our commands, state and answers."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware, Dispatcher
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError
from aiogram.types import CallbackQuery, Message

from oddsbot.delivery import Card
from oddsbot.polymarket import PolymarketError
from oddsbot.telegram.asked import AskedError
from oddsbot.telegram.buttons import NotOurs
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.text import cut
from oddswire.connection.errors import TRANSIENT_ERRORS
from oddswire.errors import (
    InvalidationNotConfirmed,
    RateLimited,
    SessionConflict,
    SourceError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram import Router
    from aiogram.fsm.storage.base import BaseStorage
    from aiogram.types import TelegramObject

    from oddsbot.telegram.buttons import Buttons
    from oddsbot.telegram.chat import TelegramChat
    from oddsbot.telegram.services import Services

_log = logging.getLogger("oddsbot.telegram")
_SAID = 200
# The queue hands these out again. Anything else would fail again, and hold up the
# person.
_MENDED_BY_WAITING = (
    *TRANSIENT_ERRORS,
    InvalidationNotConfirmed,
    SessionConflict,
    SourceError,
)


def dispatcher_for(
    services: Services, buttons: Buttons, storage: BaseStorage, *routers: Router
) -> Dispatcher:
    """Return a dispatcher; it isolates nothing, since its queue keeps the order.

    Args:
        services: What the commands work with.
        buttons: Opens what was pressed.
        storage: Of conversations.
        *routers: The commands; the first that takes an update has it.
    """
    dispatcher = Dispatcher(storage=storage, services=services)
    dispatcher.callback_query.outer_middleware(_Opening(buttons))
    dispatcher.message.middleware(_Answering(services.chat))
    dispatcher.callback_query.middleware(_Answering(services.chat))
    dispatcher.include_routers(*routers)
    return dispatcher


class _Opening(BaseMiddleware):
    """Opens what a button says; a press of what is not the person's ends here."""

    def __init__(self, buttons: Buttons) -> None:
        self._buttons = buttons

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        assert isinstance(event, CallbackQuery)  # noqa: S101 - it is registered there
        # A press may come without its message; its chat is the person's then.
        chat = event.from_user.id if event.message is None else event.message.chat.id
        try:
            data["press"] = self._buttons.open(
                event.data or "", chat=chat, person=event.from_user.id
            )
        except NotOurs:
            await _say(event, errors.FOREIGN_PRESS, alert=True)
            return None
        return await handler(event, data)


class _Answering(BaseMiddleware):
    """Sends what a handler returns, and says in words what went wrong.

    What waiting mends (Redis or the database is away) is raised: the queue hands the
    update out again.
    """

    def __init__(self, chat: TelegramChat) -> None:
        self._chat = chat

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        try:
            answer = await handler(event, data)
        except AskedError as error:
            answer = _sentence(event, str(error))
        except (PolymarketError, RateLimited):
            answer = _sentence(event, errors.UPSTREAM)
        except _MENDED_BY_WAITING:
            raise
        except Exception:  # noqa: BLE001 - said to the person, and logged with its number
            answer = _sentence(event, "", errors.bug_card(_number()))
        try:
            if isinstance(event, Message) and isinstance(answer, Card):
                await self._chat.send(event.chat.id, answer)
            elif isinstance(event, CallbackQuery) and isinstance(answer, Pressed):
                await self._answer(event, answer)
        except TelegramForbiddenError:
            # She blocked the bot after she wrote: nobody is there to be answered.
            return None
        except TelegramBadRequest:
            # It would be refused again, and hold up all that she sends after it.
            _number()
        return None

    async def _answer(self, query: CallbackQuery, pressed: Pressed) -> None:
        if pressed.card is not None:
            if isinstance(query.message, Message):
                await self._chat.redraw(query.message, pressed.card)
            else:
                await self._chat.send(query.from_user.id, pressed.card)
        if pressed.new is not None:
            await self._chat.send(query.from_user.id, pressed.new)
        await _say(query, pressed.said)


def _number() -> str:
    """Log the error that is being handled; return its number."""
    number = secrets.token_hex(4)
    _log.exception(
        "update_failed number=%s",
        number,
        extra={"event": "update_failed", "number": number},
    )
    return number


def _sentence(
    event: TelegramObject, sentence: str, card: Card | None = None
) -> Card | Pressed:
    if isinstance(event, CallbackQuery):
        return Pressed(said=sentence, new=card)
    return card or errors.sentence_card(sentence)


async def _say(query: CallbackQuery, text: str, *, alert: bool = False) -> None:
    try:
        await query.answer(cut(text, _SAID) or None, show_alert=alert)
    except TelegramBadRequest as error:
        # Telegram waits for an answer for about a minute; the rest was done.
        if "query is too old" not in error.message:
            raise
