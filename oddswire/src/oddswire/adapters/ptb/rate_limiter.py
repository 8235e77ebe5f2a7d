"""`RateLimiter`: Telegram's limits, kept by every process of a bot."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack

from telegram.error import RetryAfter, TelegramError
from telegram.ext import BaseRateLimiter

from oddswire.adapters._send_limiter import SendLimiter, messages
from oddswire.ratelimit import Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from oddswire.adapters._send_limiter import SendOptions
    from oddswire.ratelimit import RateLimiter as Limiter


class RateLimiter(BaseRateLimiter[Priority]):
    """Waits before each message to a chat; a 429 stops every process.

    ``ApplicationBuilder().rate_limiter(RateLimiter(limiter, bot_id=42, ...))``.
    An album and copies count each of their messages, an edit counts as one. What sends
    nothing, such as getChatMember or sendChatAction, costs nothing and does not wait;
    a 429 that it gets is obeyed all the same. ``rate_limit_args`` of a call is its
    `Priority`.

    Args:
        limiter: Keeps the rules, which are added to it.
        bot_id: The bot's id: the number before the colon of its token.
        **options: `overall`, `chat`, `group`, `timeout`, `retries`: see `SendOptions`
            of `oddswire.adapters.aiogram`.

    Raises:
        SettingsError: A rule counts by something else.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self, limiter: Limiter, *, bot_id: int, **options: Unpack[SendOptions]
    ) -> None:
        self._bot = bot_id
        self._send_limiter = SendLimiter(limiter, _asked, **options)

    async def initialize(self) -> None:
        """Do nothing: the limiter is opened by its owner."""

    async def shutdown(self) -> None:
        """Do nothing: the limiter is closed by its owner."""

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: Priority | None,
    ) -> Any:
        """Send a request when the rules admit it.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            RetryAfter: The last of its tries got a 429 too.
        """
        return await self._send_limiter.send(
            lambda: callback(*args, **kwargs),
            bot=self._bot,
            chat=data.get("chat_id"),
            messages=messages(endpoint, data.get),
            paid=data.get("allow_paid_broadcast") is True,
            priority=Priority.NORMAL if rate_limit_args is None else rate_limit_args,
        )


def _asked(error: BaseException) -> float | str | None:
    if isinstance(error, RetryAfter):
        with warnings.catch_warnings():
            # That it is a number, unless an environment variable makes it a timedelta.
            warnings.simplefilter("ignore")
            after = error.retry_after
        return after.total_seconds() if isinstance(after, timedelta) else float(after)
    return error.message if isinstance(error, TelegramError) else None
