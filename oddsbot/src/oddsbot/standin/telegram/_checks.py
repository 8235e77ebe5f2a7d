"""Texts, entities and keyboards: what Telegram takes, and what it makes of them."""

from __future__ import annotations

import re
from itertools import chain
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from .errors import Json, bad

CALLBACK_BYTES = 64
MOST_BUTTONS = 100
SIMPLE = frozenset(["bold", "italic", "code", "pre", "mention", "bot_command", "url"])
# Each with the field that it cannot be without.
WITH_FIELD = {"text_link": "url", "date_time": "unix_time"}
_Place = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
# What Telegram finds by itself in what people write.
_FOUND = re.compile(
    r"(?P<url>https?://[^\s<>\"]+)"
    r"|(?<![\w/<])(?P<bot_command>/[A-Za-z0-9_]{1,64}(?:@\w{3,32})?)(?!\w)"
    r"|(?<!\w)(?P<mention>@[A-Za-z]\w{3,31})"
)


class _Entity(msgspec.Struct):
    """What the checks look at; an entity keeps its other fields too."""

    type: str
    offset: _Place
    length: _Place


def units(text: str) -> int:
    """Return the length in UTF-16 units; a lone half of a pair counts as one."""
    return len(text) + sum(character > "\uffff" for character in text)


def whole(text: str) -> bool:
    """Whether it can be sent as UTF-8: no half of a surrogate pair stands alone."""
    return not re.search("[\ud800-\udfff]", text)


def found(text: str) -> list[Json]:
    """Return the links, commands and mentions of a text."""
    return [
        {
            "type": match.lastgroup,
            "offset": units(text[: match.start()]),
            "length": units(match[0]),
        }
        for match in _FOUND.finditer(text)
    ]


def formatted(
    text: str, entities: Any, parse_mode: str, limit: int, too_long: str
) -> tuple[str, list[Json]]:
    """Return a text as it is kept, and its entities in order.

    Spaces at both ends are taken away, as Telegram does.

    Args:
        text: As it was sent.
        entities: A list of entities, or None.
        parse_mode: Has to be empty.
        limit: Most UTF-16 units.
        too_long: What a longer one is refused with.

    Raises:
        ApiError: It cannot be read, or is too long.
    """
    if not whole(text):
        raise bad("strings must be encoded in UTF-8")
    if parse_mode:
        raise bad("unsupported parse_mode: this stand-in reads entities")
    kept = _checked_entities(text, entities)
    start = len(text) - len(text.lstrip())
    shift, text = units(text[:start]), text.strip()
    if units(text) > limit:
        raise bad(too_long)
    return text, _shifted(kept, shift, units(text))


def _checked_entities(text: str, entities: Any) -> list[Json]:
    sent = [] if entities is None else entities
    try:
        places = msgspec.convert(sent, list[_Entity])
    except msgspec.ValidationError as error:
        raise bad(f"can't parse entities: {error}") from None
    size = units(text)
    # A border in the middle of a pair would cut a character.
    inside, at = set(), 0
    for character in text:
        at += units(character)
        if character > "\uffff":
            inside.add(at - 1)
    kept = []
    for place, entity in zip(places, sent, strict=True):
        kind, begin, end = place.type, place.offset, place.offset + place.length
        if kind not in SIMPLE and kind not in WITH_FIELD:
            raise bad("can't parse MessageEntity: Unsupported type specified")
        if kind in WITH_FIELD and not entity.get(WITH_FIELD[kind]):
            raise bad(f"can't parse MessageEntity: Can't find {WITH_FIELD[kind]!r}")
        if begin > size:
            raise bad("entity begins after the end of the text")
        if end > size:
            raise bad(
                f"entity beginning at UTF-16 offset {begin} ends after the end of "
                f"the text at UTF-16 offset {size}"
            )
        if begin in inside or end in inside:
            raise bad("entity begins or ends in a middle of a UTF-16 symbol")
        # Telegram drops a link that is none, and keeps the text.
        if place.length and (kind != "text_link" or usable(entity["url"])):
            kept.append({**entity})
    return kept


def _shifted(entities: list[Json], shift: int, size: int) -> list[Json]:
    moved = []
    for entity in entities:
        begin = max(0, entity["offset"] - shift)
        end = min(size, entity["offset"] + entity["length"] - shift)
        if end > begin:
            moved.append({**entity, "offset": begin, "length": end - begin})
    return sorted(moved, key=lambda entity: (entity["offset"], -entity["length"]))


def usable(url: Any) -> bool:
    """Whether Telegram takes it for the link of a text or a button."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        parts.port if parts else None  # noqa: B018 - it raises on a wrong one
    except ValueError:
        return False
    if parts is None or not whole(url) or re.search(r"[\s\x00-\x1f]", url):
        return False
    return bool(
        (parts.scheme in {"http", "https"} and "." in (parts.hostname or ""))
        or (parts.scheme == "tg" and parts.netloc)
    )


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
        _check_button(button)
    return {"inline_keyboard": msgspec.to_builtins(rows)} if rows else None


def _check_button(button: _Button) -> None:
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
