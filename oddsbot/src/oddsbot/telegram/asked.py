"""`parse_asked`: what ``/alert`` was given, as a level or a move."""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec

from oddsbot.alerts import MOST_VOLUME, TIMES, Direction, Unit

_LONGEST = 200
# Not "up" and "down": these are names of outcomes.
_ABOVE = {">", ">=", "=>", "≥", "above", "over"}
_BELOW = {"<", "<=", "=<", "≤", "below", "under"}
_NUMBER = re.compile(
    r"(?P<sign>[+±-])?(?P<dollars>\$)?"
    r"(?P<number>[0-9]{1,4}(?:[.,][0-9]{1,6})?|[.,][0-9]{1,6})"
    r"\s*(?P<unit>¢|c|ct|cents?|%|percent)?\Z",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\s+(?:with)?in\s+(?P<number>[0-9]{1,6}|an?)\s*"
    r"(?P<unit>m|min|minutes?|h|hours?|d|days?)\Z",
    re.IGNORECASE,
)
# A price has no thousands, so that a dollar sign or `100k` says enough.
_VOLUME = re.compile(
    r"(?:volume|vol|(?=\$[1-9]|\$?[0-9.,]+\s*[kmb]))\s*(?:>=|>|≥|over|above)?\s*\$?"
    r"(?P<number>[0-9]{1,13}(?:[., ][0-9]{3})*(?:[.,][0-9]{1,3})?)"
    r"\s*(?P<unit>k|m|mio|million|b|billion)?"
    r"(?P<day>\s+(?:in|a)\s+(?:24\s*h|1?\s*d|1?\s*day))?\Z",
    re.IGNORECASE,
)
_DOLLARS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
_OPERATOR = re.compile(r"(>=|<=|=>|=<|[<>≥≤])")
_MOST_CENTS, _MOST_PERCENT = 99, 1_000
EXAMPLES = (
    "/alert 65 · /alert yes > 65 · /alert 5% · /alert 5c in 15m · /alert volume 1m"
)


_NO_PRICE = (
    f"A price is between 0 and 100 cents, and {{}} is not. Write it like {EXAMPLES}."
)


class AskedError(ValueError):
    """It cannot be meant; the text is a sentence for the person."""


class Level(msgspec.Struct, frozen=True):
    """A price to reach.

    Attributes:
        price: 0 to 1.
        direction: None: from wherever the price is to there.
        outcome: As she wrote it; empty: the first.
    """

    price: Decimal
    direction: Direction | None = None
    outcome: str = ""


class Move(msgspec.Struct, frozen=True):
    """A distance to go, either way.

    Attributes:
        by: In `unit`.
        outcome: As she wrote it; empty: the first.
        within: In how many seconds; None: however long it takes.
    """

    by: Decimal
    unit: Unit
    outcome: str = ""
    within: int | None = None


class Traded(msgspec.Struct, frozen=True):
    """A volume to reach.

    Attributes:
        dollars: How much.
        daily: In 24 hours; else ever.
    """

    dollars: int
    daily: bool = False


def parse_asked(text: str) -> Level | Move | Traded:
    """Return what a person asked to be told of.

    ``65``, ``0.65``: a price; the way is from where it is now. ``> 65``, ``below 40¢``:
    a price and the way. ``5%``, ``5c``: a move from now, in percent of the price or in
    cents; ``5c in 15m``: a move within a time. The name of the outcome comes first,
    where it is not the first one. ``volume 1m``, ``$500k in 24h``: what is traded.

    Raises:
        AskedError: There is no number, or none that a price can be.
    """
    if len(text) > _LONGEST:
        raise AskedError(f"That is too long. Write it like {EXAMPLES}.")
    text = text.strip().rstrip(".,;!?")  # as at the end of a sentence
    if volume := _VOLUME.match(text):
        return _traded(volume)
    time = _TIME.search(text)
    within = None if time is None else _seconds_of(time)
    text = text if time is None else text[: time.start()]
    words = _OPERATOR.sub(r" \1 ", text).split()
    number, words = _number_of(words)
    direction = None
    if words and words[-1].lower() in _ABOVE | _BELOW:
        above = words.pop().lower() in _ABOVE
        direction = Direction.ABOVE if above else Direction.BELOW
    outcome = " ".join(words)
    value = Decimal(number["number"].replace(",", "."))
    unit = (number["unit"] or "").lower()
    if direction is None and (unit or number["sign"]):
        return _move(value, unit, outcome, within)
    if within is not None:
        raise AskedError("A time goes with a move: /alert 5c in 15m.")
    if number["dollars"] and value >= 1:
        raise AskedError(_NO_PRICE.format(f"${value}"))
    return Level(_price(value, unit), direction, outcome)


def _number_of(words: list[str]) -> tuple[re.Match[str], list[str]]:
    """Return the number at the end, which may stand apart from its unit."""
    for count in (1, 2):
        found = _NUMBER.match(" ".join(words[-count:])) if words[-count:] else None
        if found:
            return found, words[:-count]
    raise AskedError(f"I need a price or a size. Write it like {EXAMPLES}.")


def _seconds_of(time: re.Match[str]) -> int:
    number = time["number"]
    count = int(number) if number.isdigit() else 1  # an hour
    seconds = count * _SECONDS[time["unit"][0].lower()]
    if seconds not in TIMES:
        raise AskedError("A move is watched in 5m, 15m, 1h or 24h: /alert 5c in 15m.")
    return seconds


def _price(value: Decimal, unit: str) -> Decimal:
    # 0.65 is what Polymarket's books have, 65 what its pages have.
    price = value if not unit and value < 1 else value / 100
    if not 0 < price < 1:
        raise AskedError(_NO_PRICE.format(f"{value}¢"))
    if round(price, 6) != price:
        raise AskedError("That has too many decimal places: at most four of a cent.")
    return price


def _traded(volume: re.Match[str]) -> Traded:
    unit = (volume["unit"] or "")[:1].lower()
    dollars = int(_amount(volume["number"], unit) * _DOLLARS[unit])
    if not 0 < dollars <= MOST_VOLUME:
        raise AskedError("A volume is $1 to $1,000b. Write it like /alert volume 1m.")
    return Traded(dollars, volume["day"] is not None)


def _amount(text: str, unit: str) -> Decimal:
    """Return ``2,000,000``, ``2 000 000``, ``1.5`` or ``1,5`` as a number.

    Three digits at the end are thousands, but for those of ``1.250m``.
    """
    *before, last = re.split("[., ]", text)
    if not before or (len(last) == 3 and not (unit and len(before) == 1)):
        return Decimal("".join([*before, last]))
    return Decimal(f"{''.join(before)}.{last}")


def _move(value: Decimal, unit: str, outcome: str, within: int | None) -> Move:
    percent = unit in {"%", "percent"}
    most = _MOST_PERCENT if percent else _MOST_CENTS
    if not 1 <= value <= most:
        named = f"1 to {most:,} percent" if percent else f"1 to {most} cents"
        raise AskedError(f"A move is {named}. Write it like {EXAMPLES}.")
    return Move(value, Unit.PERCENT if percent else Unit.CENTS, outcome, within)
