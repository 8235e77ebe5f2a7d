"""`UpdatesApi`: getUpdates as it comes, without a model in between.

An update is kept as Telegram sent it: a kind or a field that aiogram does not know yet
is not lost on the way. No error names the address, which has the token in it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from aiohttp import ClientError, ClientTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import ClientSession

_MOST = 100
_MAX_BODY = 4 * 1024 * 1024
_ON_THE_LOOP = 128 * 1024
_LONGEST_PAUSE = 3_600.0
_GRACE = 10.0
KINDS = ("message", "edited_message", "callback_query", "my_chat_member")
"""The kinds of updates that the bot handles; Telegram sends no others."""


class ApiError(Exception):
    """Telegram refuses, and waiting does not mend it."""


class Conflict(ApiError):
    """Another program asks for the same updates, or a webhook is set."""


class TelegramAway(Exception):
    """Telegram does not answer, or asks for a pause.

    Attributes:
        retry_after: Seconds that it asks for; None: it says nothing.
    """

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class _Parameters(msgspec.Struct):
    retry_after: float | None = None


class _Answer(msgspec.Struct):
    ok: bool
    result: tuple[msgspec.Raw, ...] = ()
    description: str = ""
    parameters: _Parameters | None = None


class UpdatesApi:
    """Asks one Bot API for one bot's updates.

    Args:
        session: Makes the calls; stays the caller's.
        base_url: Such as ``https://api.telegram.org``.
        token: Of the bot.
        wait: Seconds that Telegram may wait for the first update.
        kinds: Which kinds of updates are wanted.
    """

    def __init__(
        self,
        session: ClientSession,
        base_url: str,
        token: str,
        *,
        wait: int = 25,
        kinds: Iterable[str] = KINDS,
    ) -> None:
        self._session = session
        self._url = f"{base_url.rstrip('/')}/bot{token}/getUpdates"
        self._wait = wait
        self._kinds = tuple(kinds)

    async def get_updates(self, offset: int) -> list[str]:
        """Return the next updates as JSON, in their order; none after the wait.

        Args:
            offset: One more than the id of the last update that is safe with us.

        Raises:
            TelegramAway: It does not answer, or asks for a pause.
            Conflict: Somebody else gets this bot's updates.
            ApiError: The token is not valid, or the request is refused.
        """
        # An answer that is too large is asked for again in smaller parts.
        most = _MOST
        while most:
            status, body = await self._ask(offset, most)
            if len(body) <= _MAX_BODY:
                if len(body) <= _ON_THE_LOOP:
                    return _read(status, body)
                # Decoded here it would hold up everybody's answers.
                return await asyncio.to_thread(_read, status, body)
            most //= 10
        raise TelegramAway("Telegram's answer is too large, trying again")

    async def _ask(self, offset: int, most: int) -> tuple[int, bytes]:
        """Return the status and the first bytes of an answer, one more than fit."""
        asked = {
            "offset": offset,
            "limit": most,
            "timeout": self._wait,
            "allowed_updates": self._kinds,
        }
        try:
            async with self._session.post(
                self._url,
                json=asked,
                timeout=ClientTimeout(total=self._wait + _GRACE),
                allow_redirects=False,
            ) as response:
                status = response.status
                body = await response.content.read(_MAX_BODY + 1)
                while len(body) <= _MAX_BODY and not response.content.at_eof():
                    body += await response.content.read(_MAX_BODY + 1 - len(body))
        except (TimeoutError, ClientError, OSError) as error:
            raise TelegramAway(
                f"Telegram does not answer ({type(error).__name__}), trying again"
            ) from None
        return status, body


def _read(status: int, body: bytes) -> list[str]:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise TelegramAway(
            f"Telegram answers with {status} and no JSON, trying again"
        ) from None
    if answer.ok:
        return [bytes(each).decode() for each in answer.result]
    if status == 409:
        raise Conflict(_conflict(answer.description))
    if status == 429 or status >= 500:
        asked = answer.parameters.retry_after if answer.parameters else None
        pause = None if asked is None else min(max(asked, 0.1), _LONGEST_PAUSE)
        raise TelegramAway(f"Telegram answers with {status}, trying again", pause)
    if status in {401, 404}:
        raise ApiError(
            "Telegram does not know this token: copy it again from @BotFather into "
            "TELEGRAM_BOT_TOKEN"
        )
    raise ApiError(f"Telegram refuses to hand out updates ({status})")


def _conflict(description: str) -> str:
    if "webhook" in description:
        return (
            "a webhook is set for this bot, so it cannot be polled: "
            "remove it, or run with TELEGRAM_MODE=webhook"
        )
    return (
        "another program polls with this token: stop it, or give this bot a token of "
        "its own"
    )
