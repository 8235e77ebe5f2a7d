"""`Sending`: Telegram's limits on what a bot sends, kept by every process.

Telegram does not say its limits exactly; the one sure thing is a 429 with the seconds
to wait (https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this).
So the rules are the caller's, and each 429 stops the bot in all its processes.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from oddswire.errors import OddswireError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.ratelimit import Priority, RateLimiter, Rule

R = TypeVar("R")

_log = logging.getLogger("oddswire.adapters")

_LONGEST = 3600.0  # seconds: a pause longer than that is a mistake of somebody


class Sending:
    """Waits for its place under the rules, sends, and obeys a 429.

    Args:
        limiter: Keeps the rules; they are added to it.
        overall: For everything a bot sends to a chat; its key is ``"bot"``.
        chat: For each private chat; its key is ``"chat"``.
        group: For each group and channel; its key is ``"chat"``.
        timeout: Seconds that one request waits at most, all its tries together; None:
            for ever.
        retries: How often a request that got a 429 is sent again.

    Raises:
        SettingsError: A rule counts by something else.
        RuleError: The limiter has another rule of that name.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        overall: Rule,
        chat: Rule | None,
        group: Rule | None,
        timeout: float | None,
        retries: int,
    ) -> None:
        if overall.key != "bot":
            raise SettingsError(f"rule {overall.name!r}: its key has to be 'bot'")
        for rule in (chat, group):
            if rule is not None:
                if rule.key != "chat":
                    raise SettingsError(f"rule {rule.name!r}: its key has to be 'chat'")
                limiter.add(rule)
        limiter.add(overall)
        self._limiter = limiter
        self._overall = overall.name
        self._chat = () if chat is None else (chat.name,)
        self._group = () if group is None else (group.name,)
        self._timeout = timeout
        self._retries = retries

    async def send(
        self,
        call: Callable[[], Awaitable[R]],
        *,
        bot: int,
        chat: int | str,
        retry_after: Callable[[Exception], float | None],
        priority: Priority,
        retries: int | None = None,
    ) -> R:
        """Send it when the rules admit it; what the last try raises is raised.

        Args:
            call: Sends it.
            bot: The bot's id.
            chat: The chat's id, or its @name.
            retry_after: Seconds that a 429 asks for; None for any other error.
            priority: Who goes first of those who wait in this process.
            retries: Instead of the declared ones.

        Raises:
            RateLimited: It would have to wait for longer than the timeout.
            OddswireError: As `RateLimiter.acquire`.
        """
        left = self._retries if retries is None else retries
        until = None if self._timeout is None else monotonic() + self._timeout
        chat = _numbered(chat)
        private = isinstance(chat, int) and chat > 0
        rules = (*(self._chat if private else self._group), self._overall)
        # Limits are a bot's: the same person may talk to two of them.
        subjects: dict[str, int | str] = {"bot": bot, "chat": f"{bot}:{chat}"}
        while True:
            await self._limiter.acquire(
                *rules,
                cost=1,
                timeout=None if until is None else max(0.0, until - monotonic()),
                priority=priority,
                **subjects,
            )
            try:
                return await call()
            except Exception as error:
                seconds = retry_after(error)
                if seconds is None:
                    raise
                await self._pause(bot, seconds)
                if left == 0:
                    raise
                left -= 1

    async def _pause(self, bot: int, seconds: float) -> None:
        try:
            await self._limiter.penalize(
                self._overall, min(max(seconds, 0.1), _LONGEST), bot=bot
            )
        except OddswireError as error:
            # This process keeps to it all the same.
            _log.warning("other processes were not told of a 429: %r", error)


def _numbered(chat: int | str) -> int | str:
    try:
        return int(chat)
    except ValueError:
        return chat
