"""Text as Telegram counts it: UTF-16 units, and entities over them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from .errors import Json, bad

SIMPLE = frozenset(
    [
        "bold",
        "italic",
        "underline",
        "strikethrough",
        "spoiler",
        "code",
        "blockquote",
        "expandable_blockquote",
        "mention",
        "hashtag",
        "cashtag",
        "bot_command",
        "url",
        "email",
        "phone_number",
    ]
)
# Each with the field that it cannot be without.
WITH_FIELD = {
    "text_link": "url",
    "text_mention": "user",
    "custom_emoji": "custom_emoji_id",
    "date_time": "unix_time",
}
_TAGS = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "tg-spoiler": "spoiler",
    "span": "spoiler",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "a": "text_link",
}
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z-]*)([^<>]*)>")
_HREF = re.compile(r"""\s+href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_BREAK = re.compile(r"<[^>]*>?")
# What Telegram finds by itself in what people write.
_FOUND = re.compile(
    r"(?P<url>https?://[^\s<>\"]+)"
    r"|(?<![\w/<])(?P<bot_command>/[A-Za-z0-9_]{1,64}(?:@\w{3,32})?)(?!\w)"
    r"|(?<!\w)(?P<mention>@[A-Za-z]\w{3,31})"
)


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
        parse_mode: ``HTML`` or empty; it takes the place of the entities.
        limit: Most UTF-16 units, after entities were read.
        too_long: What a longer one is refused with.

    Raises:
        ApiError: It cannot be read, or is too long.
    """
    if not whole(text):
        raise bad("strings must be encoded in UTF-8")
    if parse_mode:
        if parse_mode.lower() != "html":
            raise bad(
                "unsupported parse_mode: this stand-in reads HTML, and entities"
                if parse_mode.lower() in {"markdown", "markdownv2"}
                else "unsupported parse_mode"
            )
        text, kept = _from_html(text)
    else:
        kept = _checked(text, entities)
    start = len(text) - len(text.lstrip())
    shift, text = units(text[:start]), text.strip()
    if units(text) > limit:
        raise bad(too_long)
    return text, _shifted(kept, shift, units(text))


def _checked(text: str, entities: Any) -> list[Json]:
    if entities is None:
        return []
    if not isinstance(entities, list):
        raise bad("can't parse entities: expected an Array")
    size = units(text)
    # A border in the middle of a pair would cut a character.
    inside, at = set(), 0
    for character in text:
        at += units(character)
        if character > "\uffff":
            inside.add(at - 1)
    kept = []
    for entity in entities:
        if not isinstance(entity, dict):
            raise bad("can't parse MessageEntity: expected an Object")
        kind, offset, length = (
            entity.get(name) for name in ("type", "offset", "length")
        )
        if not (isinstance(offset, int) and isinstance(length, int)):
            raise bad('can\'t parse MessageEntity: Field "offset" must be a Number')
        if not isinstance(kind, str) or (
            kind not in SIMPLE and kind != "pre" and kind not in WITH_FIELD
        ):
            raise bad("can't parse MessageEntity: Unsupported type specified")
        if kind in WITH_FIELD and not entity.get(WITH_FIELD[kind]):
            raise bad(f"can't parse MessageEntity: Can't find {WITH_FIELD[kind]!r}")
        if not 0 <= offset <= 1_000_000:
            raise bad(f"receive an entity with incorrect offset {offset}")
        if not 0 <= length <= 1_000_000:
            raise bad(f"receive an entity with incorrect length {length}")
        if offset > size:
            raise bad("entity begins after the end of the text")
        if offset + length > size:
            raise bad(
                f"entity beginning at UTF-16 offset {offset} ends after the end of "
                f"the text at UTF-16 offset {size}"
            )
        if offset in inside or offset + length in inside:
            raise bad("entity begins or ends in a middle of a UTF-16 symbol")
        # Telegram drops a link that is none, and keeps the text.
        if length and (kind != "text_link" or usable(entity["url"])):
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


def _from_html(text: str) -> tuple[str, list[Json]]:
    out: list[str] = []
    size = at = 0
    entities: list[Json] = []
    opened: list[tuple[str, Json]] = []

    def take(piece: str) -> None:
        nonlocal size
        out.append(unescape(piece))
        size += units(out[-1])

    for broken in _BREAK.finditer(text):
        tag = _TAG.fullmatch(broken[0])
        take(text[at : broken.start()])
        at = broken.end()
        where = f"at byte offset {len(text[: broken.start()].encode())}"
        name = tag[2].lower() if tag else ""
        if tag is None or name not in _TAGS:
            raise bad(f'can\'t parse entities: Unsupported start tag "{name}" {where}')
        if not tag[1]:
            entity: Json = {"type": _TAGS[name], "offset": size}
            if name == "a" and (href := _HREF.search(tag[3])):
                entity["url"] = unescape(href[1] or href[2] or href[3] or "")
            if name == "blockquote" and "expandable" in tag[3]:
                entity["type"] = "expandable_blockquote"
            if name == "span" and "tg-spoiler" not in tag[3]:
                raise bad(
                    f'can\'t parse entities: Tag "span" must have class '
                    f'"tg-spoiler" {where}'
                )
            opened.append((name, entity))
            continue
        if not opened:
            raise bad(f"can't parse entities: Unexpected end tag {where}")
        expected, entity = opened.pop()
        if expected != name:
            raise bad(
                f"can't parse entities: Unmatched end tag {where}, expected "
                f'"</{expected}>", found "</{name}>"'
            )
        entity["length"] = size - entity["offset"]
        if entity["length"] and (name != "a" or usable(entity.get("url"))):
            entities.append(entity)
    take(text[at:])
    if opened:
        raise bad(
            "can't parse entities: Can't find end tag corresponding to start tag "
            f'"{opened[-1][0]}"'
        )
    return "".join(out), entities
