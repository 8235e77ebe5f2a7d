"""`Throttle`: a middleware that limits what a user or a chat may ask for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware
from aiogram.types import Update

from oddswire._lines import Lines
from oddswire.adapters.aiogram.isolation import EventIsolation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram.types import TelegramObject

    from oddswire.ratelimit import Decision, RateLimiter, Rule

_log = logging.getLogger("oddswire.adapters")

# The user of every message that is sent as its group, as a channel, or forwarded from
# the linked channel (https://core.telegram.org/bots/api#message, `from` of which).
_ANONYMOUS = frozenset((1087968824, 136817688, 777000))


class Throttle(BaseMiddleware):
    """Drops updates above the limits, before any handler.

    ``before_turns(dispatcher, Throttle(...))`` limits everything, before an update
    waits for the turn of its conversation; ``router.message.middleware(Throttle(...))``
    what a handler of messages was found for. Rules with the key ``"user"``, ``"chat"``
    or ``"bot"`` count by those; a rule whose subject an update has not (a channel post
    has no user) is left out. Who writes anonymously, as a group or as a channel, is
    counted as that chat: all of them have the same few users.

    The updates of one user are decided one after the other, so that a flood that comes
    at once is denied from memory too.

    Args:
        limiter: Keeps the rules, which are added to it.
        *rules: All of them have to admit it.
        on_limited: Called with the event, the decision and the middleware's data
            instead of the handler, such as to answer. It is called for each dropped
            event: answer a flood only when ``decision.source == "redis"``.

    Raises:
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *rules: Rule,
        on_limited: Callable[[TelegramObject, Decision, dict[str, Any]], Awaitable[Any]]
        | None = None,
    ) -> None:
        limiter.add(*rules)
        self._lines: Lines[str] = Lines()
        self._late = False
        self._limiter = limiter
        self._rules = rules
        self._on_limited = on_limited

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Handle the event, or not.

        Raises:
            OddswireError: As `RateLimiter.hit`.
        """
        self._warn_if_late(event, data)
        bot: int = data["bot"].id
        subjects: dict[str, int | str] = {"bot": bot}
        # The same person may talk to two bots.
        if (user := _sender(event, data)) is not None:
            subjects["user"] = f"{bot}:{user}"
        if (chat := data.get("event_chat")) is not None:
            subjects["chat"] = f"{bot}:{chat.id}"
        rules = [
            rule.name
            for rule in self._rules
            if rule.key is None or rule.key in subjects
        ]
        if not rules:
            return await handler(event, data)
        asking = str(subjects.get("user") or subjects.get("chat") or bot)
        # Else every update of a flood asks Redis before the first denial is known.
        async with self._lines.of(asking):
            decision = await self._limiter.hit(*rules, cost=1, **subjects)
        if decision.allowed:
            return await handler(event, data)
        if self._on_limited is not None:
            return await self._on_limited(event, decision, data)
        return None

    def _warn_if_late(self, event: TelegramObject, data: dict[str, Any]) -> None:
        """Say once that a flood takes turns before it is limited."""
        if self._late or "fsm_storage" not in data or not isinstance(event, Update):
            return
        fsm = getattr(data.get("dispatcher"), "fsm", None)
        if isinstance(getattr(fsm, "events_isolation", None), EventIsolation):
            self._late = True
            _log.warning(
                "Throttle runs after an update has waited for its turn: register it "
                "with before_turns(dispatcher, throttle)"
            )


def _sender(event: TelegramObject, data: dict[str, Any]) -> int | None:
    """Return the id of who an update is counted for."""
    user = data.get("event_from_user")
    if user is None:
        return None
    if user.id not in _ANONYMOUS:
        return int(user.id)
    if isinstance(event, Update):
        event = event.event
    chat = getattr(event, "sender_chat", None) or data.get("event_chat")
    return int(user.id if chat is None else chat.id)
