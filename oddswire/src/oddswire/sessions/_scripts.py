"""The scripts of sessions, what they are given and what their replies mean."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

import msgspec

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
MARK = _script("session_mark")
UNMARK = load("session_unmark")
RESTORE = _script("session_restore")
EVICT = _script("session_evict")
REBUILT = _script("session_rebuilt")
DUE = _script("session_due")
PURGE = _script("session_purge")
TRACES = load("session_traces")

Fields = dict[bytes, bytes]
Tag = tuple[str, str]
"""An index and the name of a value."""


class Stored(msgspec.Struct, frozen=True):
    """Fields of a session.

    Attributes:
        now: When they were read, milliseconds of the server's clock.
        main: Of the durable hash.
        short: Of the expiring one; None when the conversation has ended.
    """

    now: int
    main: Fields
    short: Fields | None


class Terms(msgspec.Struct, frozen=True):
    """How long things last, in milliseconds.

    Attributes:
        ttl: Of a conversation without activity.
        absolute: Of a conversation whatever happens; 0 for no such limit.
    """

    ttl: int
    absolute: int


class Answer(msgspec.Struct, frozen=True):
    """What a script made of a change.

    Attributes:
        kind: ``"saved"``, or why it was not.
        header: After a save.
        stored: What is there instead, after a conflict.
        detail: Whatever else it said.
    """

    kind: Literal[
        "saved", "conflict", "gone", "full", "names", "damaged", "schema",
        "generation", "taken", "busy", "lost", "again",
        "kept", "header",
    ]  # fmt: skip
    header: bytes = b""
    stored: Stored | None = None
    detail: Any = None


def link() -> str:
    return secrets.token_hex(8)


def told(tags: Iterable[Tag]) -> bytes:
    """Return index entries as one argument; empty for none."""
    listed = list(tags)
    return msgspec.json.encode(listed) if listed else b""


def flat(pairs: Mapping[str, Any]) -> list[Any]:
    return [each for pair in pairs.items() for each in pair]


def fields(flat: list[bytes]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def stored(reply: list[Any]) -> Stored:
    now, main, short = reply
    return Stored(int(now), fields(main), None if short is None else fields(short))


def answer(reply: list[Any]) -> Answer:
    kind = reply[0].decode()
    match kind:
        case "saved":
            header = reply[1] if len(reply) > 1 else b""
            return Answer(kind, header=header, detail=reply[2:])
        case "conflict" if len(reply) > 1:
            return Answer(kind, stored=stored(reply[1:]))
        case _:
            return Answer(kind, detail=reply[1:])
