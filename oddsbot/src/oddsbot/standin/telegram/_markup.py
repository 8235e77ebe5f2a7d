"""Keyboards: what Telegram takes, and what it makes of them."""

from __future__ import annotations

from itertools import chain
from typing import Any, Literal

import msgspec

from ._text import usable, whole
from .errors import Json, bad

CALLBACK_BYTES = 64
MOST_BUTTONS = 100


class _Button(msgspec.Struct, omit_defaults=True):
    text: str
    url: str | None = None
    callback_data: str | None = None
    style: Literal["danger", "success", "primary"] | None = None


class _Keyboard(msgspec.Struct):
    inline_keyboard: list[list[_Button]]


def keyboard(markup: Any) -> Json | None:
    """Return an inline keyboard as it is kept; None where there is none.

    Raises:
        ApiError: It is a wrong one, or another kind of markup.
    """
    if markup is None or markup == {}:
        return None
    try:
        sent = msgspec.convert(markup, _Keyboard)
    except msgspec.ValidationError as error:
        raise bad(f"can't parse reply markup: {error}") from None
    rows = [row for row in sent.inline_keyboard if row]
    if sum(map(len, rows)) > MOST_BUTTONS:
        raise bad("reply markup is too long")
    for button in chain(*rows):
        _check(button)
    return {"inline_keyboard": msgspec.to_builtins(rows)} if rows else None


def _check(button: _Button) -> None:
    button.text = button.text.strip()
    if not button.text or not whole(button.text):
        raise bad("can't parse inline keyboard button: Text must be non-empty")
    if button.url is None and button.callback_data is None:
        raise bad("Text buttons are unallowed in the inline keyboard")
    if button.url is not None and button.callback_data is not None:
        raise bad("can't parse inline keyboard button: one action only")
    if button.url is not None and not usable(button.url):
        raise bad(f"inline keyboard button URL {button.url!r} is invalid")
    # Bytes of UTF-8, not characters.
    data = button.callback_data
    if data is not None and not (
        whole(data) and 0 < len(data.encode()) <= CALLBACK_BYTES
    ):
        raise bad("BUTTON_DATA_INVALID")
