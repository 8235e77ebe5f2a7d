"""`Text`: a message put together from parts, with its entities.

Entities, and no markup: a name that somebody chose stays the characters that it has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import msgspec

from oddsbot.delivery import MAX_CAPTION, MAX_TEXT, Card, Entity
from oddsbot.telegram import figures
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddsbot.delivery import Button

# What Telegram makes a mention, a tag or a command of.
_CALLING = re.compile(r"(?<!\w)[@#/](?=\w)")
TITLE = 200
"""Characters of a question or a name that somebody else wrote."""


def units(text: str) -> int:
    """Return the length that Telegram counts: UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Text:
    """Parts of a text, in order; each method returns the text itself.

    What is given to `add` and `line` is ours; what somebody else wrote goes through
    `foreign`.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._entities: list[Entity] = []
        self._units = 0

    def add(self, text: str, kind: str = "", *, url: str | None = None) -> Self:
        """Add a text of ours, shown as an entity of a kind."""
        length = units(text)
        if kind and length:
            self._entities.append(
                Entity(type=kind, offset=self._units, length=length, url=url)
            )
        self._parts.append(text)
        self._units += length
        return self

    def line(self, text: str = "", kind: str = "") -> Self:
        """Add a text of ours and begin the next line."""
        return self.add(text, kind).add("\n")

    def foreign(self, text: object, kind: str = "", *, limit: int = TITLE) -> Self:
        """Add a text of somebody else: one harmless line, cut where it is too long."""
        return self.add(quiet(text, limit), kind)

    def moment(self, seconds: int, shown: str, form: str = "wDT") -> Self:
        """Add a time; a client shows it in its own zone, an old one as `shown`."""
        length = units(shown)
        self._entities.append(
            Entity(
                type="date_time",
                offset=self._units,
                length=length,
                unix_time=seconds,
                date_time_format=form,
            )
        )
        self._parts.append(shown)
        self._units += length
        return self

    def card(
        self,
        buttons: Iterable[Iterable[Button]] = (),
        *,
        photo: bytes | None = None,
        silent: bool = False,
    ) -> Card:
        """Return the message; a text that is too long for Telegram is cut."""
        text = "".join(self._parts).rstrip("\n")
        most = MAX_TEXT if photo is None else MAX_CAPTION
        text = cut(text, most)
        whole = units(text)
        entities = tuple(
            entity
            for entity in self._entities
            if entity.offset + entity.length <= whole
        )
        rows = tuple(tuple(row) for row in buttons)
        return Card(
            text=text,
            entities=entities,
            buttons=tuple(row for row in rows if row),
            photo=photo,
            silent=silent,
        )


def earlier(card: Card, at: int) -> Card:
    """Return a card whose first line says when it was asked for.

    Args:
        card: The answer.
        at: Unix seconds.
    """
    shown = figures.clock(at * 1000) or "some time"
    head = Text().add("This is from earlier: you asked at ").moment(at, shown, "wDT")
    first = head.add(".").card()
    shift = units(first.text) + 1
    plain_one = card.photo is None and card.file is None
    text = cut(f"{first.text}\n{card.text}", MAX_TEXT if plain_one else MAX_CAPTION)
    moved = [
        msgspec.structs.replace(entity, offset=entity.offset + shift)
        for entity in card.entities
        if shift + entity.offset + entity.length <= units(text)
    ]
    entities = (*first.entities, *moved)
    return msgspec.structs.replace(card, text=text, entities=entities)


def quiet(text: object, limit: int = TITLE) -> str:
    """Return a text of somebody else as one line that mentions nobody.

    Telegram makes a mention, a tag or a command of what looks like one; a word joiner,
    which nobody sees, behind the sign keeps it a text.
    """
    return _CALLING.sub("\\g<0>\u2060", plain(text, limit))


def cut(text: str, most: int) -> str:
    """Return at most so many UTF-16 units of a text; a cut one ends with `…`."""
    if units(text) <= most:
        return text
    kept: list[str] = []
    left = most - 1
    for character in text:
        left -= 2 if character > "\uffff" else 1
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…"
