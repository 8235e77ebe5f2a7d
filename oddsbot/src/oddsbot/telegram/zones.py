"""Time zones: by the name of a city, by a place on the globe, by hours from UTC."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from zoneinfo import TZPATH, available_timezones

from oddsbot.telegram.asked import AskedError

_OFFSET = re.compile(
    r"(?:UTC|GMT)?\s*(?P<sign>[+−-])\s*(?P<hours>[0-9]{1,2})"
    r"(?::?(?P<minutes>[0-9]{2}))?\Z",
    re.IGNORECASE,
)
# Where the clock is not whole hours from UTC, and stays so all year.
_PARTS = {
    "+0330": "Asia/Tehran",
    "+0430": "Asia/Kabul",
    "+0530": "Asia/Kolkata",
    "+0545": "Asia/Kathmandu",
    "+0630": "Asia/Yangon",
    "+0845": "Australia/Eucla",
    "+0930": "Australia/Darwin",
    "-0930": "Pacific/Marquesas",
}
UNKNOWN = "I do not know that place. Send a city like Berlin, or UTC+2."
"""What is said of a place that no zone has."""
_TABLE = "zone.tab"
# The names of this list count to the west.
_BY_HOURS = re.compile(r"Etc/GMT(?P<sign>[+-])(?P<hours>[0-9]{1,2})\Z")


def named(text: str) -> str:
    """Return the name of the time zone that a person means.

    Args:
        text: A zone's name, a city of one, or a distance from UTC in hours.

    Raises:
        AskedError: There is none, or there are several.
    """
    text = " ".join(text[:100].split())
    offset = _OFFSET.match(text)
    if offset or text.casefold() in {"utc", "gmt"}:
        return "UTC" if offset is None else _by_offset(offset)
    found = _zones().get(text.casefold().replace(" ", "_"), ())
    if len(found) == 1:
        return found[0]
    if found:
        raise AskedError(f"Which one? There are {', '.join(found[:5])}.")
    raise AskedError(UNKNOWN)


def shown(zone: str) -> str:
    """Return a zone's name as a person reads it: ``UTC+2``, and not ``Etc/GMT-2``."""
    found = _BY_HOURS.match(zone)
    if found is None:
        return zone
    return f"UTC{'+' if found['sign'] == '-' else '-'}{found['hours']}"


def _by_offset(offset: re.Match[str]) -> str:
    hours, minutes = int(offset["hours"]), int(offset["minutes"] or 0)
    east = offset["sign"] == "+"
    if minutes:
        sign = "+" if east else "-"
        zone = _PARTS.get(f"{sign}{hours:02d}{minutes:02d}")
        if zone is None:
            raise AskedError("No place is that far from UTC. Send a city like Berlin.")
        return zone
    if hours > (14 if east else 12):
        raise AskedError("That is farther from UTC than any place: UTC-12 to UTC+14.")
    return f"Etc/GMT{'-' if east else '+'}{hours}" if hours else "UTC"


def nearest(latitude: float, longitude: float) -> str:
    """Return the time zone of the nearest city that names one.

    Near a border that may be the neighbour's: the answer says which one it is.

    Args:
        latitude: Degrees to the north.
        longitude: Degrees to the east.

    Raises:
        AskedError: It is no place, or this machine has no table of cities.
    """
    cities = _cities()
    fits = -90 <= latitude <= 90 and -180 <= longitude <= 180
    if not (fits and cities):
        raise AskedError(UNKNOWN)
    here = _on_globe(latitude, longitude)
    return min(cities, key=lambda city: math.dist(here, city[1]))[0]


def _on_globe(latitude: float, longitude: float) -> tuple[float, float, float]:
    north, east = math.radians(latitude), math.radians(longitude)
    flat = math.cos(north)
    return flat * math.cos(east), flat * math.sin(east), math.sin(north)


@cache
def _zones() -> dict[str, tuple[str, ...]]:
    """Return the zones by their names and by their cities."""
    zones: dict[str, set[str]] = {}
    for name in available_timezones():
        if name.startswith(("Etc/", "posix", "right", "SystemV")) or "/" not in name:
            continue
        for key in (name, name.rpartition("/")[2]):
            zones.setdefault(key.casefold(), set()).add(name)
    return {key: tuple(sorted(names)) for key, names in zones.items()}


@cache
def _cities() -> tuple[tuple[str, tuple[float, float, float]], ...]:
    """Return each zone that this machine knows, with where its city is."""
    known = available_timezones()
    for folder in TZPATH:
        table = Path(folder, _TABLE)
        if table.is_file():
            rows = table.read_text(encoding="utf-8").splitlines()
            fields = [row.split("\t") for row in rows if not row.startswith("#")]
            return tuple(
                (each[2], _on_globe(*_degrees(each[1])))
                for each in fields
                if len(each) > 2 and each[2] in known
            )
    return ()


def _degrees(text: str) -> tuple[float, float]:
    """Return the degrees of ISO 6709, ``+DDMM+DDDMM`` or with seconds."""
    at = max(text.rfind("+"), text.rfind("-"))
    return _angle(text[:at], 2), _angle(text[at:], 3)


def _angle(text: str, digits: int) -> float:
    sign, number = (-1 if text[0] == "-" else 1), text[1:]
    degrees, rest = int(number[:digits]), number[digits:]
    minutes, seconds = int(rest[:2] or 0), int(rest[2:4] or 0)
    return sign * (degrees + minutes / 60 + seconds / 3_600)
