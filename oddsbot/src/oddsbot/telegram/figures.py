"""Prices, money, distances and times as a person reads them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, TypeAlias

Odds: TypeAlias = Literal["cents", "percent", "decimal"]
"""How a person sees prices; how far they are from each other is in cents always."""

_STEPS = ((Decimal(10**9), "B"), (Decimal(10**6), "M"), (Decimal(10**3), "k"))
_NOTHING = "–"
_LONG_SHOT = Decimal("0.01")


def price(value: Decimal | None, odds: Odds) -> str:
    """Return a price of 0 to 1 as ``64¢``, ``64%`` or ``1.56``; a dash for none.

    Decimal odds are what a dollar becomes.
    """
    if value is None or (odds == "decimal" and not value):
        return _NOTHING
    if odds == "decimal":
        return f"{1 / value:,.2f}" if value > _LONG_SHOT else f"{1 / value:,.0f}"
    return f"{short(value * 100)}{'¢' if odds == 'cents' else '%'}"


def level(value: Decimal, odds: Odds) -> str:
    """Return a price to reach; never as decimal odds, which fall when it rises."""
    return price(value, "cents" if odds == "decimal" else odds)


def cents(price: Decimal | None) -> str:
    """Return a price of 0 to 1 as cents: ``64¢``, ``0.5¢``; a dash for none."""
    if price is None:
        return _NOTHING
    return f"{short(price * 100)}¢"


def short(number: Decimal) -> str:
    """Return a number with at most four decimal places, and no zeros at its end."""
    text = f"{round(number, 4):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(number: int, what: str) -> str:
    """Return how many of something there are: ``1 alert``, ``1,204 alerts``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def money(dollars: Decimal | None) -> str:
    """Return dollars in short: ``$4.2M``, ``$310k``, ``$95``; a dash for none."""
    if dollars is None or not dollars.is_finite():
        return _NOTHING
    sign = "−" if dollars < 0 else ""
    dollars = abs(dollars)
    for size, letter in _STEPS:
        # 999.6k would be written 1000k.
        if dollars >= size - size / 2000:
            value = dollars / size
            text = f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")
            return f"{sign}${text}{letter}"
    return f"{sign}${dollars:.0f}"


def distance(seconds: float) -> str:
    """Return how long something takes, in its largest unit: ``17 days``, ``4 min``."""
    for size, one, many in (
        (86_400, "day", "days"),
        (3_600, "hour", "hours"),
        (60, "min", "min"),
    ):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {one if count == 1 else many}"
    return f"{max(0, int(seconds))} s"


def lasting(minutes: int) -> str:
    """Return how long something lasts, exactly: ``1 h 30 min``, ``2 days``."""
    parts = []
    for size, one, many in ((1_440, "day", "days"), (60, "h", "h"), (1, "min", "min")):
        count, minutes = divmod(minutes, size)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return " ".join(parts) or "0 min"


def clock(milliseconds: int | None) -> str:
    """Return a moment of Unix milliseconds as ``14:02:07 UTC``; empty for none."""
    if milliseconds is None:
        return ""
    try:
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{at:%H:%M:%S} UTC"


def day(at: datetime, now: datetime | None = None) -> str:
    """Return a moment as ``Dec 17, 19:00 UTC``.

    Args:
        at: The moment.
        now: Where it is of another year, that is said too; None: it is recent.
    """
    year = f" {at.year}" if now is not None and at.year != now.year else ""
    return f"{at:%b} {at.day}{year}, {at:%H:%M} UTC"


def moment(text: str) -> datetime | None:
    """Return an ISO time of Polymarket's; None for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
