"""Keyboards: what Telegram takes, and what it makes of them."""

from __future__ import annotations

from typing import Any

from ._text import units, usable, whole
from .errors import Json, bad

CALLBACK_BYTES = 64
MOST_BUTTONS = 100
_ACTIONS = (
    "url",
    "callback_data",
    "switch_inline_query",
    "switch_inline_query_current_chat",
    "switch_inline_query_chosen_chat",
    "copy_text",
    "web_app",
    "login_url",
)
_STYLES = frozenset({"danger", "success", "primary"})


def inline_only(markup: Any) -> Json | None:
    """Return the inline keyboard of an edited message; None takes it away.

    Raises:
        ApiError: It is no inline keyboard, or a wrong one.
    """
    checked = any_markup(markup)
    if checked is not None and "inline_keyboard" not in checked:
        raise bad("inline keyboard expected")
    return checked


def any_markup(markup: Any) -> Json | None:
    """Return a markup that can be shown; None where there is none.

    Raises:
        ApiError: It is a wrong one.
    """
    if markup is None or markup == {}:
        return None
    if not isinstance(markup, dict):
        raise bad("object expected as reply markup")
    if "inline_keyboard" in markup:
        rows = _rows(markup["inline_keyboard"], "inline keyboard")
        kept = [[_inline(button) for button in row] for row in rows]
        _few(kept)
        return {"inline_keyboard": kept} if kept else None
    if "keyboard" in markup:
        rows = _rows(markup["keyboard"], "keyboard")
        _few(rows)
        for row in rows:
            for button in row:
                _label(button if isinstance(button, dict) else {"text": button})
        return markup
    if markup.get("remove_keyboard") or markup.get("force_reply"):
        return markup
    raise bad("can't parse reply keyboard markup JSON object")


def _rows(rows: Any, name: str) -> list[list[Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad(f"can't parse {name}: Array of Arrays expected")
    return [row for row in rows if row]


def _few(rows: list[list[Any]]) -> None:
    if sum(map(len, rows)) > MOST_BUTTONS:
        raise bad("reply markup is too long")


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
        case "copy_text":
            text = value.get("text") if isinstance(value, dict) else None
            if not isinstance(text, str) or not 0 < units(text) <= 256:
                raise bad("BUTTON_COPY_TEXT_INVALID")
    style = button.get("style")
    if style is not None:
        if not isinstance(style, str) or style not in _STYLES:
            raise bad("can't parse inline keyboard button: Invalid button style")
        kept["style"] = style
    return kept | {action: value}
