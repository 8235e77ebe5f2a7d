"""`Header`: what is known of a session without opening it."""

from __future__ import annotations

import re
from typing import Self

import msgspec

from oddswire.errors import SessionDamaged

HEADER = "h"
_FORM = re.compile(rb"(\d+) (\d+) (\d+) (\d+) (\d+) (\d+) ([01]) (\w+)")


class Header(msgspec.Struct, frozen=True):
    """The text ``v c a e x s o g`` in the field ``h``, which only scripts write.

    Attributes:
        raw: The text.
        version: Grows with each change; microseconds of the server's clock at least.
        created: Microseconds since 1970.
        active: Last activity, milliseconds.
        expiry: When the conversation ends, milliseconds.
        deadline: When it ends whatever happens, milliseconds; 0 for never.
        schema: Of what is stored.
        on: Whether it is active.
        generation: Random, one for each creation: what was sealed for a deleted
            session does not open in the next one.
    """

    raw: bytes
    version: int
    created: int
    active: int
    expiry: int
    deadline: int
    schema: int
    on: bool
    generation: str

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the text.

        Raises:
            SessionDamaged: It has another form.
        """
        match = _FORM.fullmatch(raw)
        if match is None:
            raise SessionDamaged("the header is no header", reason="damaged")
        v, c, a, e, x, s = (int(number) for number in match.groups()[:6])
        return cls(raw, v, c, a, e, x, s, match[7] == b"1", match[8].decode())
