"""Numbers that a caller gives: whole ones and durations, each within a range.

A check by hand forgets one of these: True is an int to Python, NaN is not below any
limit and not above any, and an int of some thousand digits cannot be printed.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from oddswire.plain import plain

if TYPE_CHECKING:
    from typing import TypeGuard


_HALF = 2**63


def is_int(value: object, low: int, high: int) -> TypeGuard[int]:
    """Whether it is a whole number from `low` to `high`; True and 1.0 are none."""
    return (
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    )


def is_number(value: object, low: float, high: float) -> TypeGuard[int | float]:
    """Whether it is an int or a float from `low` to `high`; NaN is in no range."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and low <= value <= high
    )


def check_int(
    name: str, value: object, low: int, high: int, error: type[Exception]
) -> None:
    """Refuse what is no whole number from `low` to `high`.

    Raises:
        Exception: Of the type `error`; it names the argument and the range.
    """
    if not is_int(value, low, high):
        raise error(
            f"{name} {shown(value)}: accepted is a whole number from {low} to {high}"
        )


def check_duration(
    name: str, value: object, low: float, high: float, error: type[Exception]
) -> None:
    """Refuse what is no number of seconds from `low` to `high`.

    Raises:
        Exception: Of the type `error`; it names the argument and the range.
    """
    if not is_number(value, low, high):
        # Ten digits: a year is 31536000, not 3.1536e+07.
        upper = "" if high == inf else f" to {high:.10g}"
        raise error(f"{name} {shown(value)}: accepted are seconds from {low:g}{upper}")


def check_user(user_id: object, error: type[Exception]) -> None:
    """Refuse what is no user id: an int of 64 bits, as Telegram's are.

    "77" would be another user than 77 wherever keys are made of it.

    Raises:
        Exception: Of the type `error`.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, int):
        raise error(f"user_id must be an int, not {type(user_id).__name__}")
    if not -_HALF <= user_id < _HALF:
        raise error("user_id must have at most 64 bits, as Telegram's have")


def shown(value: object) -> str:
    """Return any value as an error message shows it."""
    try:
        return plain(repr(value), 80)
    except ValueError:  # an int of thousands of digits
        return f"<{type(value).__name__}>"
