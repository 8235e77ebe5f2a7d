"""Prices, money, distances and times as a person reads them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

_STEPS = ((Decimal(10**9), "B"), (Decimal(10**6), "M"), (Decimal(10**3), "k"))
_NOTHING = "–"


def cents(price: Decimal | None) -> str:
    """Return a price of 0 to 1 as cents: ``64¢``, ``0.5¢``; a dash for none."""
    if price is None:
        return _NOTHING
    return f"{short(price * 100)}¢"


def short(number: Decimal) -> str:
    """Return a number with at most four decimal places, and no zeros at its end."""
    text = f"{round(number, 4):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


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


def day(at: datetime) -> str:
    """Return a moment as ``Dec 17, 19:00 UTC``; with its year, if it is another one."""
    return f"{at:%b} {at.day}, {at:%H:%M} UTC"


def moment(text: str) -> datetime | None:
    """Return an ISO time of Polymarket's; None for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
