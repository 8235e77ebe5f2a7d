"""`Throttle`: a middleware that limits what a user or a chat may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiogram import BaseMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiogram.types import TelegramObject

    from oddswire.ratelimit import Decision, RateLimiter, Rule


class Throttle(BaseMiddleware):
    """Drops updates above the limits, before any handler.

    ``dispatcher.update.outer_middleware(Throttle(...))`` limits everything,
    ``router.message.middleware(Throttle(...))`` what a handler of messages was found
    for. Rules with the key ``"user"``, ``"chat"`` or ``"bot"`` count by those; a rule
    whose subject an update has not (a channel post has no user) is left out.

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
        bot: int = data["bot"].id
        subjects: dict[str, int | str] = {"bot": bot}
        # The same person may talk to two bots.
        if (user := data.get("event_from_user")) is not None:
            subjects["user"] = f"{bot}:{user.id}"
        if (chat := data.get("event_chat")) is not None:
            subjects["chat"] = f"{bot}:{chat.id}"
        rules = [
            rule.name
            for rule in self._rules
            if rule.key is None or rule.key in subjects
        ]
        if not rules:
            return await handler(event, data)
        decision = await self._limiter.hit(*rules, cost=1, **subjects)
        if decision.allowed:
            return await handler(event, data)
        if self._on_limited is not None:
            return await self._on_limited(event, decision, data)
        return None
