"""`Buttons`: what a press asks for, sealed into the 64 bytes that Telegram gives back.

Nothing of a button is stored: it works under an alert of last month, in any process,
and after Redis was emptied. It cannot be forged, and it works for one person in one
chat. The same button is the same text each time, so Telegram notices that a card that
is drawn again has not changed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

from oddsbot.delivery import Action, Press

_FORM = struct.Struct(">BQ3s")
_SEAL = 16
_LONGEST = 64


class NotOurs(ValueError):
    """The data of a press was not sealed for this person in this chat."""


class Buttons:
    """Seals and opens.

    Args:
        token: Of the bot; the key is derived from it, so every process has the same.
    """

    def __init__(self, token: str) -> None:
        self._key = hashlib.sha256(b"oddsbot buttons 1:" + token.encode()).digest()

    def seal(self, press: Press, *, chat: int, person: int) -> str:
        """Return the callback data of a button, 38 characters."""
        body = _FORM.pack(
            press.action, press.subject, press.argument.to_bytes(3, "big")
        )
        sealed = body + self._seal(body, chat, person)
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, data: str, *, chat: int, person: int) -> Press:
        """Return what a press asks for.

        Raises:
            NotOurs: It was sealed for another person or chat, by another bot, or by
                nobody.
        """
        if not data.isascii() or len(data) > _LONGEST:
            raise NotOurs("no button of this bot")
        try:
            padded = data + "=" * (-len(data) % 4)
            sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
        except binascii.Error:
            raise NotOurs("no button of this bot") from None
        body, seal = sealed[:-_SEAL], sealed[-_SEAL:]
        if not hmac.compare_digest(seal, self._seal(body, chat, person)):
            raise NotOurs("no button of this bot for this person and chat")
        try:
            action, subject, argument = _FORM.unpack(body)
            return Press(Action(action), subject, int.from_bytes(argument, "big"))
        except (struct.error, ValueError):
            raise NotOurs("a button of another version of this bot") from None

    def _seal(self, body: bytes, chat: int, person: int) -> bytes:
        place = f"{chat}:{person}:".encode()
        return hmac.digest(self._key, place + body, "sha256")[:_SEAL]
