"""`SendLimits`: a session middleware that keeps to Telegram's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from aiogram.client.session.middlewares.base import BaseRequestMiddleware
from aiogram.exceptions import TelegramAPIError, TelegramRetryAfter

from oddswire.adapters._send_limiter import SendLimiter, messages
from oddswire.ratelimit import Priority

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiogram import Bot
    from aiogram.client.session.middlewares.base import NextRequestMiddlewareType
    from aiogram.methods import Response, TelegramMethod
    from aiogram.methods.base import TelegramType

    from oddswire.adapters._send_limiter import SendOptions
    from oddswire.ratelimit import RateLimiter


class SendLimits(BaseRequestMiddleware):
    """Waits before each message to a chat; a 429 stops every process.

    ``bot.session.middleware(SendLimits(limiter, overall=..., chat=..., group=...))``.
    An album and copies count each of their messages, an edit counts as one. What sends
    nothing, such as getChatMember or sendChatAction, costs nothing and does not wait;
    a 429 that it gets is obeyed all the same.

    Args:
        limiter: Keeps the rules, which are added to it.
        priority: Returns the priority of a request; the highest goes first.
        **options: See `SendOptions`.

    Raises:
        SettingsError: A rule counts by something else.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        priority: Callable[[TelegramMethod[TelegramType]], Priority] | None = None,
        **options: Unpack[SendOptions],
    ) -> None:
        self._send_limiter = SendLimiter(limiter, _asked, **options)
        self._priority = priority

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        """Send it when the rules admit it.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            TelegramRetryAfter: The last of its tries got a 429 too.
        """
        return await self._send_limiter.send(
            lambda: make_request(bot, method),
            bot=bot.id,
            chat=getattr(method, "chat_id", None),
            messages=messages(
                method.__api_method__, lambda name: getattr(method, name, None)
            ),
            paid=getattr(method, "allow_paid_broadcast", None) is True,
            priority=Priority.NORMAL
            if self._priority is None
            else self._priority(method),
        )


def _asked(error: BaseException) -> float | str | None:
    if isinstance(error, TelegramRetryAfter):
        return error.retry_after
    return error.message if isinstance(error, TelegramAPIError) else None
