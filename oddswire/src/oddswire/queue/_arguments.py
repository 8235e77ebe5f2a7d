"""What a queue accepts; each refusal is a `QueueError` that names the argument."""

from __future__ import annotations

from oddswire._numbers import shown
from oddswire.errors import QueueError

LATEST = 4e9
"""Seconds since 1970; more is a mistake, most likely milliseconds."""

_LONGEST_LABEL = 200


def check_user(user_id: int) -> int:
    """Return `user_id`, which is a whole number of 64 bits."""
    if type(user_id) is not int:
        raise QueueError(f"a user id is an int, not {type(user_id).__name__}")
    if not -(2**63) <= user_id < 2**63:
        raise QueueError("a user id has at most 64 bits, as Telegram's have")
    return user_id


def switch(kind: str | None, key: str | None) -> str:
    """Return the label that a kind, a key or neither stands for."""
    if kind is not None and key is not None:
        raise QueueError("give a kind or a key, not both; call it twice")
    if kind is not None:
        return f"kind:{label('kind', kind)}"
    if key is not None:
        return f"key:{label('key', key)}"
    return "*"


def label(what: str, text: str) -> str:
    """Return `text`, which is not empty, not long, and Unicode."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_LABEL:
        raise QueueError(f"{what} is a text of 1 to {_LONGEST_LABEL} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueueError(f"{what} is not valid Unicode") from None
    return text


def duration(what: str, seconds: float) -> float:
    """Return `seconds`, which are above 0 and finite."""
    if not 0.0 < seconds < LATEST:
        raise QueueError(f"{what} is seconds above 0, not {shown(seconds)}")
    return seconds
