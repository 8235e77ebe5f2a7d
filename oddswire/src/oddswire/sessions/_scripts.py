"""The scripts of sessions, the header that they write, and what their replies mean."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from oddswire.errors import SessionDamaged
from oddswire.scripts import Script, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RECORD = load("session_record").source


def _script(name: str) -> Script:
    return Script(name, f"{_RECORD}\n{load(name).source}")


GET = _script("session_get")
SAVE = _script("session_save")
MEMBER = _script("session_member")
TOUCH = _script("session_touch")
SWITCH = _script("session_switch")
FIELDS = _script("session_fields")
DELETE = _script("session_delete")
ENDED = _script("session_ended")
REAP = _script("session_reap")
STATS = _script("session_stats")
LOOKUP = _script("session_lookup")
MOVE = _script("session_move")
INTENT = _script("session_intent")
WITHDRAW = load("session_withdraw")
RESTORE = _script("session_restore")
EVICT = _script("session_evict")
REBUILT = _script("session_rebuilt")
DUE = _script("session_due")
PURGE = _script("session_purge")
TRACES = load("session_traces")

HEADER = "h"
# As many digits as a double holds exactly, and as the scripts accept.
_NUMBER = rb"(\d{1,16}) "
_HEADER_FORM = re.compile(_NUMBER * 6 + rb"([01]) (\w+)(?: (.+))?", re.DOTALL)

Fields = dict[bytes, bytes]
IndexEntry = tuple[str, str]
"""An index, and the name of a value in it."""


class Stored(msgspec.Struct, frozen=True):
    """Fields of a session.

    Attributes:
        now: When they were read, milliseconds of the server's clock.
        main: Of the durable hash.
        expiring: Of the expiring hash; None when the conversation has ended.
    """

    now: int
    main: Fields
    expiring: Fields | None


class Expiry(msgspec.Struct, frozen=True):
    """How long a conversation lasts, in milliseconds.

    Attributes:
        ttl: Without activity.
        absolute: From its beginning, with activity or without; 0 for no such limit.
    """

    ttl: int
    absolute: int


class SessionHeader(msgspec.Struct, frozen=True):
    """The text ``v c a e x s o g`` in the field ``h``, which only scripts write.

    With sealing a space and a seal follow; see `HeaderSeal`.

    Attributes:
        raw: As it is stored.
        version: Grows with each change; microseconds of the server's clock at least.
        created: Microseconds since 1970.
        active: Last activity, milliseconds.
        expiry: When the conversation ends, milliseconds.
        deadline: When it ends also with activity, milliseconds; 0 for never.
        schema: Of what is stored.
        on: Whether the session is active.
        generation: Random, one for each creation: bytes that were sealed for a deleted
            session do not open in the next one.
        seal: What is behind the text; empty without sealing.
    """

    raw: bytes = b""
    version: int = 0
    created: int = 0
    active: int = 0
    expiry: int = 0
    deadline: int = 0
    schema: int = 0
    on: bool = True
    generation: str = ""
    seal: bytes = b""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the text.

        Raises:
            SessionDamaged: It has another form.
        """
        match = _HEADER_FORM.fullmatch(raw)
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

    # What the scripts make of a header, for a caller that seals it: the same in both
    # places, or the script refuses.

    @classmethod
    def new(cls, now: int, last: int, schema: int, generation: str) -> Self:
        """Return the header of a session that begins, before its first activity."""
        version = max(last + 1, now)
        return cls(version=version, created=now, schema=schema, generation=generation)

    def changed(self, now: int, last: int = 0, **fields: Any) -> Self:
        """Return the header after a change: above any version before it."""
        version = max(max(self.version, last) + 1, now)
        return msgspec.structs.replace(self, version=version, **fields)

    def renewed(self, now: int, expiry: Expiry) -> Self:
        """Return the header after activity; after an end a conversation begins."""
        ms = now // 1000
        deadline = self.deadline
        if self.expiry <= ms:
            deadline = ms + expiry.absolute if expiry.absolute > 0 else 0
        ends = ms + expiry.ttl
        if 0 < deadline < ends:
            ends = deadline
        return msgspec.structs.replace(self, active=ms, expiry=ends, deadline=deadline)


class ScriptResult(msgspec.Struct, frozen=True):
    """What a script made of a change.

    Attributes:
        kind: ``"saved"``, or why it was not.
        header: After a save.
        stored: What is there instead, after a conflict.
        detail: The rest of the reply.
    """

    kind: Literal[
        "saved", "conflict", "gone", "full", "names", "damaged", "schema",
        "generation", "taken", "busy", "lost", "again", "restored", "header",
    ]  # fmt: skip
    header: bytes = b""
    stored: Stored | None = None
    detail: Any = None


def random_id() -> str:
    return secrets.token_hex(8)


ENTRIES = msgspec.json.Decoder(list[IndexEntry])
"""Reads what `encode_entries` wrote; nobody decodes the empty text."""


def encode_entries(entries: Iterable[IndexEntry]) -> bytes:
    """Return index entries as one argument; empty for none."""
    listed = list(entries)
    return msgspec.json.encode(listed) if listed else b""


def to_args(pairs: Mapping[str, Any]) -> list[Any]:
    return [each for pair in pairs.items() for each in pair]


def to_fields(reply: list[bytes]) -> Fields:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def to_stored(reply: list[Any]) -> Stored:
    now, main, expiring = reply
    return Stored(
        int(now), to_fields(main), None if expiring is None else to_fields(expiring)
    )


def to_result(reply: list[Any]) -> ScriptResult:
    kind = reply[0].decode()
    match kind:
        case "saved":
            header = reply[1] if len(reply) > 1 else b""
            return ScriptResult(kind, header=header, detail=reply[2:])
        case "conflict" if len(reply) > 1:
            return ScriptResult(kind, stored=to_stored(reply[1:]))
        case _:
            return ScriptResult(kind, detail=reply[1:])
