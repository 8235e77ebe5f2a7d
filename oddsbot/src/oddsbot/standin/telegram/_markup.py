"""Keyboards: what Telegram takes, and what it makes of them."""

from __future__ import annotations

from typing import Any

from ._text import usable, whole
from .errors import Json, bad

CALLBACK_BYTES = 64
MOST_BUTTONS = 100
_ACTIONS = ("url", "callback_data")
_STYLES = frozenset({"danger", "success", "primary"})


def keyboard(markup: Any) -> Json | None:
    """Return an inline keyboard as it is kept; None where there is none.

    Raises:
        ApiError: It is a wrong one, or another kind of markup.
    """
    if markup is None or markup == {}:
        return None
    if not isinstance(markup, dict):
        raise bad("object expected as reply markup")
    if "inline_keyboard" not in markup:
        raise bad("inline keyboard expected: this stand-in knows no other markup")
    rows = _rows(markup["inline_keyboard"])
    if sum(map(len, rows)) > MOST_BUTTONS:
        raise bad("reply markup is too long")
    kept = [[_inline(button) for button in row] for row in rows]
    return {"inline_keyboard": kept} if kept else None


def _rows(rows: Any) -> list[list[Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad("can't parse inline keyboard: Array of Arrays expected")
    return [row for row in rows if row]


def _label(button: Any) -> str:
    text = button.get("text") if isinstance(button, dict) else None
    if not isinstance(text, str) or not whole(text):
        raise bad('can\'t parse button: Field "text" must be of type String')
    if not text.strip():
        raise bad("can't parse inline keyboard button: Text must be non-empty")
    return text.strip()


def _inline(button: Any) -> Json:
    kept: Json = {"text": _label(button)}
    actions = [name for name in _ACTIONS if name in button]
    if len(actions) != 1:
        raise bad(
            "can't parse inline keyboard button: "
            + ("Text buttons are unallowed in the inline keyboard", "one action only")[
                bool(actions)
            ]
        )
    action, value = actions[0], button[actions[0]]
    match action:
        case "callback_data":
            # Bytes of UTF-8, not characters.
            fits = (
                isinstance(value, str)
                and whole(value)
                and 0 < len(value.encode()) <= CALLBACK_BYTES
            )
            if not fits:
                raise bad("BUTTON_DATA_INVALID")
        case "url":
            if not usable(value):
                raise bad(f"inline keyboard button URL {value!r} is invalid")
    style = button.get("style")
    if style is not None:
        if not isinstance(style, str) or style not in _STYLES:
            raise bad("can't parse inline keyboard button: Invalid button style")
        kept["style"] = style
    return kept | {action: value}
