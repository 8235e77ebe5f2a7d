"""Arguments of a queue; each refusal is a `QueueError` that names one."""

from __future__ import annotations

import msgspec

from oddswire._numbers import is_number, shown
from oddswire.errors import QueueError

LATEST = 4e9
"""Seconds since 1970; more is a mistake, most likely milliseconds."""

_LONGEST_LABEL = 200


def pause_label(kind: str | None, key: str | None) -> str:
    """Return the label that is paused for a kind, a key, or neither."""
    if kind is not None and key is not None:
        raise QueueError("give a kind or a key, not both; call it twice")
    if kind is not None:
        return f"kind:{check_label('kind', kind)}"
    if key is not None:
        return f"key:{check_label('key', key)}"
    return "*"


def check_label(name: str, text: str) -> str:
    """Return `text`, which is not empty, not long, and Unicode."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_LABEL:
        raise QueueError(f"{name} is a text of 1 to {_LONGEST_LABEL} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueueError(f"{name} is not valid Unicode") from None
    return text


def check_seconds(name: str, seconds: float) -> float:
    """Return `seconds`, which are above 0 and finite."""
    if not is_number(seconds, 0.0, LATEST) or seconds == 0.0:
        raise QueueError(f"{name} is seconds above 0, not {shown(seconds)}")
    return seconds


class EnqueueOptions(msgspec.Struct, frozen=True):
    """The options of `Queue.enqueue`; see there.

    Raises:
        QueueError: One of them is out of range.
    """

    dedup_id: str | None
    ttl: float | None
    at: float | None
    kind: str
    key: str
    identity: str | None
    uncertain: bool

    def __post_init__(self) -> None:
        if self.dedup_id is not None:
            check_label("dedup_id", self.dedup_id)
        if self.at is not None and not is_number(self.at, 0.0, LATEST):
            raise QueueError(f"at is seconds since 1970, not {shown(self.at)}")
        if self.ttl is not None:
            check_seconds("ttl", self.ttl)
        if self.identity is not None:
            check_label("identity", self.identity)
        if not isinstance(self.uncertain, bool):
            raise QueueError(f"uncertain is True or False, not {shown(self.uncertain)}")
        for name, text in (("kind", self.kind), ("key", self.key)):
            if text != "":
                check_label(name, text)
