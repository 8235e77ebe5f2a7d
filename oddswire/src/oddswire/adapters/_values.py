"""What bots keep of a conversation, as JSON and back, with its types.

JSON as aiogram and others write it, except for what JSON has not: that becomes an
object with one key, such as ``{"$decimal": "0.61"}``. A dict that looks like one, or
has keys that are no text, is written as ``{"$dict": [[key, value], ...]}``.

Redis keeps no order of a hash's fields. Where each value of a dict is a field, it is
stored with its place in the dict, as ``@7:"text"``.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from oddswire.errors import CodecError

MAX_SIZE = 512 * 1024 * 1024
"""Bytes of a value that Redis takes."""

_DEEPEST = 64
_INT64 = 2**63
_MOST_DIGITS = 6_144
_ALIKE = 64
"""Keys of one hash: of a hundred thousand, chance gives a handful."""
_PLACED = re.compile(rb"@(\d{1,15}):")


def _span(parts: Any) -> timedelta:
    days, seconds, microseconds = parts
    return timedelta(days, seconds, microseconds)


def _iso(at: datetime | time) -> str:
    if at.tzinfo is not None and at.utcoffset() is None:
        raise CodecError(
            f"a {type(at).__name__} whose zone {at.tzinfo} has no offset of its own "
            "cannot be stored: give it one, or keep the zone's name beside it",
            reason="type",
        )
    return at.isoformat()


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    # Shown or compared, 1E999999999 is a text of a gigabyte.
    if value.is_finite() and abs(value.adjusted()) > _MOST_DIGITS:
        raise ArithmeticError("a decimal of an exponent that nobody meant")
    return value


def _decimal_text(value: Decimal) -> str:
    if value.is_finite() and abs(value.adjusted()) > _MOST_DIGITS:
        raise CodecError("a decimal has too large an exponent", reason="type")
    return str(value)


def _keys(keys: list[Any]) -> list[Any]:
    """Return keys that a dictionary takes in linear time.

    Any writer to Redis chooses them; numbers and tuples that share a hash cost
    quadratic time, and the loop stands still.
    """
    if len(keys) > _ALIKE:
        most = max(Counter(map(hash, keys)).values())
        if most > _ALIKE:
            raise CodecError("keys that only slow a dictionary down", reason="damaged")
    return keys


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    keys = _keys([key for key, _ in pairs])
    return dict(zip(keys, (each for _, each in pairs), strict=True))


# A subclass stands before its base: a datetime is a date.
_WRITE: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (datetime, "$datetime", _iso),
    (date, "$date", date.isoformat),
    (time, "$time", _iso),
    (timedelta, "$timedelta", lambda it: [it.days, it.seconds, it.microseconds]),
    (Decimal, "$decimal", _decimal_text),
    (UUID, "$uuid", str),
    (bytes, "$bytes", lambda it: b64encode(it).decode()),
)
_GROUPS: tuple[tuple[type[Any], str], ...] = (
    (tuple, "$tuple"),
    (set, "$set"),
    (frozenset, "$frozenset"),
)
_READ: dict[str, Callable[[Any], Any]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": _span,
    "$decimal": _decimal,
    "$uuid": UUID,
    "$bytes": lambda text: b64decode(text, validate=True),
    "$int": int,
    "$float": float,
    "$tuple": tuple,
    "$set": lambda each: set(_keys(each)),
    "$frozenset": lambda each: frozenset(_keys(each)),
    "$dict": _dict,
}


def encode(value: Any) -> bytes:
    """Return a value as JSON.

    None, bool, int, float, str, list, dict, tuple, set, frozenset, bytes, Decimal, UUID
    and the types of `datetime` come back equal; a time zone as its offset, an enum of
    text or numbers as what it is equal to.

    Raises:
        CodecError: Something of another type, too deeply nested, or text that is not
            valid Unicode.
    """
    try:
        return msgspec.json.encode(_plain(value, 0))
    except UnicodeEncodeError:
        raise CodecError("a text is not valid Unicode", reason="type") from None


def decode(data: bytes) -> Any:
    """Return what was encoded.

    Raises:
        CodecError: It is not JSON, or not as `encode` writes it; the message does not
            show it.
    """
    try:
        return _revived(msgspec.json.decode(data))
    except CodecError:
        raise
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise CodecError(
            f"{len(data)} bytes are not a stored value ({type(error).__name__})",
            reason="damaged",
        ) from None


def placed(place: int, value: bytes) -> bytes:
    """Return an encoded value with its place in a dict; below 0: without."""
    return value if place < 0 else b"@%d:%b" % (place, value)


def place_of(stored: bytes) -> tuple[int, bytes]:
    """Return the place and the encoded value; -1 for one that was stored without."""
    found = _PLACED.match(stored)
    return (-1, stored) if found is None else (int(found[1]), stored[found.end() :])


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_INT64 <= number < _INT64 else {"$int": _digits(number)}
    if isinstance(value, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else {"$float": repr(real)}
    if depth == _DEEPEST:
        raise CodecError(
            f"it is nested more than {_DEEPEST} deep, or contains itself", reason="type"
        )
    deeper = depth + 1
    if isinstance(value, Mapping):
        pairs = [
            (_plain(key, deeper), _plain(each, deeper)) for key, each in value.items()
        ]
        texts = all(isinstance(key, str) for key, _ in pairs)
        if texts and not (len(pairs) == 1 and pairs[0][0].startswith("$")):
            return dict(pairs)
        return {"$dict": pairs}
    if isinstance(value, list):
        return [_plain(each, deeper) for each in value]
    for group, tag in _GROUPS:
        if isinstance(value, group):
            return {tag: [_plain(each, deeper) for each in value]}
    for kind, tag, write in _WRITE:
        if isinstance(value, kind):
            return {tag: write(value)}
    raise CodecError(
        f"{type(value).__name__} cannot be stored: keep its plain fields, such as ids "
        "and texts",
        reason="type",
    )


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # longer than Python reads back
        raise CodecError("a number has too many digits", reason="type") from None


def _revived(value: Any) -> Any:
    if isinstance(value, list):
        return [_revived(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag,) = value
        if tag.startswith("$"):
            read = _READ.get(tag)
            if read is None:
                raise CodecError(
                    f"{tag[:20]!r} is no type that this version knows", reason="newer"
                )
            return read(_revived(value[tag]))
    return {key: _revived(each) for key, each in value.items()}
