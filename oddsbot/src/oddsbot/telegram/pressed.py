"""`Pressed`: what handlers of presses return."""

from __future__ import annotations

import msgspec

from oddsbot.delivery import Card


class Pressed(msgspec.Struct, frozen=True):
    """The answer to a press.

    Attributes:
        said: A sentence that is shown for a moment; at most 200 UTF-16 units.
        card: Takes the place of the message; None: it stays.
        new: Sent as a message of its own.
    """

    said: str = ""
    card: Card | None = None
    new: Card | None = None
