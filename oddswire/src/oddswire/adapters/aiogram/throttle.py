"""`Throttle`: a middleware that limits what a user or a chat may ask for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware
from aiogram.types import Update

from oddswire._fifo_locks import FifoLocks
from oddswire.adapters._arguments import check_callable, check_limiter
from oddswire.adapters.aiogram.deduplicate import Deduplicate
from oddswire.adapters.aiogram.order import before_isolation
from oddswire.errors import SettingsError
from oddswire.logs import log_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram import Dispatcher
    from aiogram.types import TelegramObject

    from oddswire.ratelimit import Decision, RateLimiter, Rule

_log = logging.getLogger("oddswire.adapters")

# The user of every message that is sent as its group, as a channel, or forwarded from
# the linked channel (https://core.telegram.org/bots/api#message, `from` of which).
_ANONYMOUS = frozenset((1087968824, 136817688, 777000))


class Throttle(BaseMiddleware):
    """Drops updates above the limits, before any handler.

    ``before_isolation(dispatcher, Throttle(...))`` limits everything, before an update
    waits for the lock of its conversation. ``dispatcher.update.outer_middleware`` does
    the same while nothing but `Deduplicate` and other throttles is registered there
    before it: at the first update it is moved to the front. Else it stays and says so
    in one warning. ``router.message.middleware(Throttle(...))`` limits what a handler
    of messages was found for, after the lock. Rules with the key ``"user"``, ``"chat"``
    or ``"bot"`` count by those; a rule is left out where the update lacks its subject
    (a channel post has no user). A person who writes anonymously, as a group or as a
    channel, is counted as that chat: Telegram gives all of them the same few users.

    The updates of one user are decided one after the other, so that a flood that comes
    at once is denied from memory too.

    Args:
        limiter: Keeps the rules, which are added to it.
        *rules: All of them have to admit it.
        on_limited: Called with the event, the decision and the middleware's data
            instead of the handler, such as to answer; the conversation's state is not
            in the data. It is called for each dropped event: answer a flood only when
            ``decision.source == "redis"``.

    Raises:
        SettingsError: There is no rule, or an argument is of another type.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *rules: Rule,
        on_limited: Callable[[TelegramObject, Decision, dict[str, Any]], Awaitable[Any]]
        | None = None,
    ) -> None:
        check_limiter(limiter, *rules)
        if not rules:
            raise SettingsError("Throttle needs a rule")
        if on_limited is not None:
            check_callable("on_limited", on_limited)
        limiter.add(*rules)
        self._lines: FifoLocks[str] = FifoLocks()
        self._warned = False
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
        if "fsm_storage" in data and isinstance(event, Update):
            self._note_late(data.get("dispatcher"))
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
        async with self._lines.hold(asking):
            decision = await self._limiter.hit(*rules, cost=1, **subjects)
        if decision.allowed:
            return await handler(event, data)
        if self._on_limited is not None:
            return await self._on_limited(event, decision, data)
        return None

    def _note_late(self, dispatcher: Dispatcher | None) -> None:
        """Move in front of the isolation; say once why that is not possible."""
        if dispatcher is None:
            return
        throttles_first(dispatcher)
        if self not in _behind(dispatcher) or self._warned:
            return
        self._warned = True
        log_line(
            _log,
            logging.WARNING,
            "throttle_late",
            reason="Throttle runs after an update has waited for its lock, because "
            "other middlewares are registered before it: register it with "
            "before_isolation(dispatcher, throttle)",
        )


def throttles_first(dispatcher: Dispatcher) -> None:
    """Move the throttles behind the dispatcher's state and isolation in front of them.

    A throttle behind a middleware of the program stays: `on_limited` may need its data.
    """
    throttles = []
    for each in _behind(dispatcher):
        if isinstance(each, Throttle):
            throttles.append(each)
        elif not isinstance(each, Deduplicate):
            break
    for each in throttles:
        dispatcher.update.outer_middleware.unregister(each)
    before_isolation(dispatcher, *throttles)


def _behind(dispatcher: Dispatcher) -> list[Any]:
    """Return the middlewares that run after an update has its lock and its state."""
    registered = list(dispatcher.update.outer_middleware)
    if dispatcher.fsm not in registered:
        return []
    return registered[registered.index(dispatcher.fsm) + 1 :]


def _sender(event: TelegramObject, data: dict[str, Any]) -> int | None:
    """Return the id of the user, or of the chat, that an update is counted for."""
    user = data.get("event_from_user")
    if user is None:
        return None
    if user.id not in _ANONYMOUS:
        return int(user.id)
    if isinstance(event, Update):
        event = event.event
    chat = getattr(event, "sender_chat", None) or data.get("event_chat")
    return int(user.id if chat is None else chat.id)
