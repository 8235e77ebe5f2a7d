"""`BoundedSession`: aiogram's calls, of bounded size, and without addresses in errors.

The address of a call has the token in it, and aiohttp's errors have the address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.exceptions import TelegramNetworkError
from aiogram.methods.base import Response
from aiohttp import ClientError, ClientTimeout

if TYPE_CHECKING:
    from aiogram import Bot
    from aiogram.methods import TelegramMethod
    from aiogram.methods.base import TelegramType
    from aiogram.types import InputFile
    from aiohttp import FormData

_MOST = 4 * 1024 * 1024
_JSON = {"Content-Type": "application/json"}


class BoundedSession(AiohttpSession):
    """Makes calls of the Bot API; follows no redirect, and reads 4 MiB at most."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._answers: dict[Any, Any] = {}

    async def make_request(
        self,
        bot: Bot,
        method: TelegramMethod[TelegramType],
        timeout: int | None = None,
    ) -> TelegramType:
        """Make one call.

        Raises:
            TelegramNetworkError: Telegram could not be asked; the text has the kind of
                the failure alone.
            TelegramAPIError: Telegram refused it.
        """
        http = await self.create_session()
        url = self.api.api_url(token=bot.token, method=method.__api_method__)
        body, headers = self._body(bot, method)
        total = self.timeout if timeout is None else timeout
        try:
            async with http.post(
                url,
                data=body,
                headers=headers,
                timeout=ClientTimeout(total=total),
                allow_redirects=False,
            ) as response:
                status = response.status
                content = await response.content.read(_MOST)
                while not response.content.at_eof():
                    if len(content) >= _MOST:
                        raise ClientError("too large")  # noqa: TRY301 - as a failure of the link
                    content += await response.content.read(_MOST - len(content))
        except (TimeoutError, ClientError) as error:
            failure = type(error).__name__
        else:
            text = content.decode("utf-8", "replace")
            # Held: else pydantic makes the type anew after each collection of garbage,
            # which holds the loop for 3 ms.
            kind = method.__returning__
            self._answers.setdefault(kind, Response[kind])  # type: ignore[valid-type]
            answer = self.check_response(
                bot=bot, method=method, status_code=status, content=text
            )
            return cast("TelegramType", answer.result)
        # Not in the block above: the error there would hang on to this one.
        raise TelegramNetworkError(
            method=method, message=f"Telegram does not answer ({failure})"
        )

    def _body(
        self, bot: Bot, method: TelegramMethod[Any]
    ) -> tuple[bytes | FormData, dict[str, str] | None]:
        """Return a call's body and its headers.

        It is JSON, which costs a fraction of a form. A file needs a form.
        """
        files: dict[str, InputFile] = {}
        fields = {}
        for name, value in method.model_dump(warnings=False).items():
            field = self.prepare_value(value, bot, files, _dumps_json=False)
            if field is not None and field != "":
                fields[name] = field
        if files:
            return self.build_form_data(bot, method), None
        return msgspec.json.encode(fields), _JSON
