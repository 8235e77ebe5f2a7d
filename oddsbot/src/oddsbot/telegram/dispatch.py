"""`dispatcher_for`: an aiogram dispatcher with our commands, state and answers."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any

import msgspec
from aiogram import BaseMiddleware, Dispatcher, F
from aiogram.enums import ChatType
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramMigrateToChat,
)
from aiogram.types import CallbackQuery, Message, Update

from oddsbot.delivery import Action, Card, Press
from oddsbot.polymarket import PolymarketError
from oddsbot.telegram.asked import AskedError
from oddsbot.telegram.buttons import NotOurs
from oddsbot.telegram.chat import topic_of
from oddsbot.telegram.filters import Where
from oddsbot.telegram.pressed import Pressed
from oddsbot.telegram.screens import errors
from oddsbot.telegram.text import cut, earlier
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
    from oddswire.clock import Clock

_log = logging.getLogger("oddsbot.telegram")
_SAID = 200
_EARLIER = 600.0
_MISREAD = "misread"
_CONVERSATION = frozenset(
    {
        Action.FIND,
        Action.FOUND,
        Action.TOP,
        Action.NEW,
        Action.SET_OTHER,
        Action.CHANGE_OTHER,
        Action.QUIET_OTHER,
        Action.ZONE,
        Action.CANCEL,
    }
)
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
    answering = _Answering(services.chat, services.clock)
    dispatcher.message.middleware(answering)
    dispatcher.callback_query.middleware(answering)
    dispatcher.edited_message.middleware(answering)
    private_texts = (F.chat.type == ChatType.PRIVATE) & (F.text | F.caption)
    dispatcher.edited_message.register(_edited, Where(private_texts))
    dispatcher.update.outer_middleware(_Rereading())
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


class _Rereading(BaseMiddleware):
    """Reads an edited message that was refused, as if it had been sent like that."""

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        assert isinstance(event, Update)  # noqa: S101 - it is registered there
        message = event.edited_message
        if message is not None and "state" in data:
            misread = (await data["state"].get_data()).get(_MISREAD)
            if misread == message.message_id:
                new = {"message": message, "edited_message": None}
                event = event.model_copy(update=new)
        return await handler(event, data)


async def _edited(_: Message) -> None:
    # It was answered, and may have had its effect, which is not repeated.
    raise AskedError(errors.EDITED)


class _Answering(BaseMiddleware):
    """Sends what a handler returns, and says in words what went wrong.

    A question of the bot ends after its answer was sent, or what else the person asked
    for: a process that is killed before that leaves the question to the next one.

    What waiting mends (Redis or the database is away) is raised: the queue hands the
    update out again.

    What was asked ten minutes ago or more, before an outage, is answered as it is now,
    and the answer says so. A press that continues a conversation is asked for again:
    the person has long gone on. Telegram does not say when a button was pressed, so the
    time that a press waited in our queue counts.
    """

    def __init__(self, chat: TelegramChat, clock: Clock) -> None:
        self._chat = chat
        self._clock = clock

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        asked = _asked_at(event, data)
        late = asked is not None and self._clock.now() - asked > _EARLIER
        # Not an edited one, unless it is read as a new one.
        message = event if data["event_update"].message is event else None
        question = message is not None and data.get("raw_state") is not None
        command = message is not None and _is_command(message)
        refused = failed = False
        try:
            if late and _goes_on(data):
                raise AskedError(errors.EARLIER_PRESS)  # noqa: TRY301 - as any other
            answer = await handler(event, data)
        except AskedError as error:
            refused = True
            out = " /cancel ends this question." if question and not command else ""
            answer = _sentence(event, f"{error}{out}")
        except (PolymarketError, RateLimited):
            refused = True
            answer = _sentence(event, errors.UPSTREAM)
        except _MENDED_BY_WAITING:
            raise
        except Exception:  # noqa: BLE001 - said to the person, and logged with its number
            failed = True
            answer = _sentence(event, "", errors.bug_card(_number()))
        if late and asked is not None:
            answer = _late(answer, int(asked))
        try:
            if isinstance(event, Message) and isinstance(answer, Card):
                topic = topic_of(event)
                await self._chat.send(event.chat.id, answer, topic=topic)
            elif isinstance(event, CallbackQuery) and isinstance(answer, Pressed):
                await self._answer(event, answer)
        except (TelegramForbiddenError, TelegramMigrateToChat):
            # She blocked the bot after she wrote, or the group has another id since:
            # nobody is there to be answered.
            pass
        except TelegramBadRequest:
            # It would be refused again, and hold up all that she sends after it.
            _number()
        if question and (command or not (refused or failed)):
            # She has gone on: what she writes next answers nothing of before.
            await data["state"].set_state(None)
        if message is not None and (refused or message.edit_date):
            misread = message.message_id if refused else None
            await data["state"].update_data({_MISREAD: misread})

    async def _answer(self, query: CallbackQuery, pressed: Pressed) -> None:
        person, topic = query.from_user.id, topic_of(query.message)
        if pressed.card is not None:
            if isinstance(query.message, Message):
                await self._chat.redraw(query.message, pressed.card)
            else:
                await self._chat.send(person, pressed.card)
        if pressed.new is not None:
            await self._chat.send(person, pressed.new, topic=topic)
        await _say(query, pressed.said)


def _is_command(message: Message) -> bool:
    return (message.text or message.caption or "").startswith("/")


def _asked_at(event: TelegramObject, data: dict[str, Any]) -> float | None:
    """Return when a person asked, Unix seconds; None where nothing says it."""
    if isinstance(event, Message):
        return event.edit_date or event.date.timestamp()
    put_at = data.get("put_at")
    return put_at if isinstance(put_at, float) else None


def _goes_on(data: dict[str, Any]) -> bool:
    """Return whether a press is a step of a conversation."""
    press = data.get("press")
    return isinstance(press, Press) and press.action in _CONVERSATION


def _late(answer: Any, asked: int) -> Any:
    """Return an answer that says when it was asked for."""
    if isinstance(answer, Card):
        return earlier(answer, asked)
    if isinstance(answer, Pressed):
        # Telegram shows no sentence for a press of so long ago.
        new = answer.new or (errors.sentence_card(answer.said) if answer.said else None)
        new = None if new is None else earlier(new, asked)
        return msgspec.structs.replace(answer, new=new)
    return answer


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
