"""The scripts of sessions, and what their replies mean."""

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
INTENT = _script("session_intent")
WITHDRAW = load("session_withdraw")
RESTORE = _script("session_restore")
EVICT = _script("session_evict")
REBUILT = _script("session_rebuilt")
DUE = _script("session_due")
PURGE = _script("session_purge")
TRACES = load("session_traces")

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
        absolute: Whatever happens; 0 for no such limit.
    """

    ttl: int
    absolute: int


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
