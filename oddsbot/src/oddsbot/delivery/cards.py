"""`Card`: one message to a person, whichever messenger shows it."""

from __future__ import annotations

import msgspec

MAX_TEXT = 4_096
"""UTF-16 units of a text; with a photo it is a caption of at most `MAX_CAPTION`."""

MAX_CAPTION = 1_024


class Entity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a text that is shown in its own way, as the Bot API names it.

    Attributes:
        type: Such as ``bold``, ``code``, ``text_link``, ``date_time``.
        offset: Where it begins, in UTF-16 units.
        length: How long it is, in UTF-16 units.
        url: Where a ``text_link`` leads.
        unix_time: What a ``date_time`` shows, in seconds; clients use their own zone.
        date_time_format: How a ``date_time`` is shown.
    """

    type: str
    offset: int
    length: int
    url: str | None = None
    unix_time: int | None = None
    date_time_format: str | None = None


class Shared(msgspec.Struct, frozen=True):
    """A link to the bot, for somebody else.

    Attributes:
        start: The payload of the link, such as ``m_7``.
        text: What is said beside it.
    """

    start: str
    text: str


class Button(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A button under a message; it does exactly one thing.

    Attributes:
        text: What it says.
        data: What the bot gets when it is pressed, at most 64 bytes.
        url: What it opens.
        share: What it offers to send to somebody else.
        style: ``success`` or ``danger``; None: as any other.

    Raises:
        ValueError: It does nothing, or several things.
    """

    text: str
    data: str | None = None
    url: str | None = None
    share: Shared | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        does = self.data, self.url, self.share
        if sum(each is not None for each in does) != 1:
            raise ValueError(
                f"button {self.text!r} has to do one thing: give data, url or share"
            )


class File(msgspec.Struct, frozen=True):
    """A file that is sent with a message."""

    name: str
    data: bytes


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message: its text and what is shown with it.

    Attributes:
        text: Plain text; a messenger reads no markup in it.
        entities: Which parts of the text are shown in their own way.
        buttons: Rows of buttons under it.
        photo: A PNG above it; the text is its caption then.
        file: A file instead; the text is its caption then.
        silent: It makes no sound.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    buttons: tuple[tuple[Button, ...], ...] = ()
    photo: bytes | None = None
    file: File | None = None
    silent: bool = False


_REPEATED = "\nMay be a repeat: the bot was restarted."


def repeated(card: Card) -> Card:
    """Return a card that says that the person may have it already, and is silent."""
    return msgspec.structs.replace(card, text=card.text + _REPEATED, silent=True)
