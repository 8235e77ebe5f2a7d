"""`Header`: what is known of a session without opening it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import msgspec

from oddswire.errors import SessionDamaged

if TYPE_CHECKING:
    from oddswire.sessions._scripts import Terms

HEADER = "h"
# As many digits as a double holds exactly, and as the scripts accept.
_NUMBER = rb"(\d{1,16}) "
_FORM = re.compile(_NUMBER * 6 + rb"([01]) (\w+)(?: (.+))?", re.DOTALL)


class Header(msgspec.Struct, frozen=True):
    """The text ``v c a e x s o g`` in the field ``h``, which only scripts write.

    With sealing a space and a seal follow; see `HeaderSeal`.

    Attributes:
        raw: As it is stored.
        version: Grows with each change; microseconds of the server's clock at least.
        created: Microseconds since 1970.
        active: Last activity, milliseconds.
        expiry: When the conversation ends, milliseconds.
        deadline: When it ends whatever happens, milliseconds; 0 for never.
        schema: Of what is stored.
        on: Whether it is active.
        generation: Random, one for each creation: what was sealed for a deleted
            session does not open in the next one.
        seal: What is behind the text; empty without sealing.
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
    seal: bytes = b""

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
        on, generation, seal = match[7] == b"1", match[8].decode(), match[9] or b""
        header = cls(raw, v, c, a, e, x, s, on, generation, seal)
        # The seal is over the text as it is written here: 0, and not 00.
        if seal and not raw.startswith(header.text.encode() + b" "):
            raise SessionDamaged("the header is no header", reason="damaged")
        return header

    @property
    def text(self) -> str:
        """The text without the seal."""
        return (
            f"{self.version} {self.created} {self.active} {self.expiry} "
            f"{self.deadline} {self.schema} {int(self.on)} {self.generation}"
        )


# What the scripts make of a header, for those that seal it: the same in both places, or
# the script refuses.


def begun(now: int, last: int, schema: int, generation: str) -> Header:
    """Return the header of a session that begins, before its first activity."""
    return Header(
        raw=b"", version=max(last + 1, now), created=now, active=0, expiry=0,
        deadline=0, schema=schema, on=True, generation=generation,
    )  # fmt: skip


def next_version(header: Header, now: int, last: int = 0) -> Header:
    """Return a header after a change: never less than any version before it."""
    version = max(max(header.version, last) + 1, now)
    return msgspec.structs.replace(header, version=version)


def renewed(header: Header, now: int, terms: Terms) -> Header:
    """Return a header after activity; one that has ended begins a conversation."""
    ms = now // 1000
    deadline = header.deadline
    if header.expiry <= ms:
        deadline = ms + terms.absolute if terms.absolute > 0 else 0
    expiry = ms + terms.ttl
    if 0 < deadline < expiry:
        expiry = deadline
    return msgspec.structs.replace(header, active=ms, expiry=expiry, deadline=deadline)
