"""Which alerts a recording must cause, worked out a second time.

It reads the recording's files itself and shares no code with what it checks.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


class Rule(NamedTuple):
    """A price rule: `sign` is 1 for above, on bids, and -1 for below, on asks."""

    user: int
    name: str
    market: str
    side: str
    sign: int
    level: Decimal
    hysteresis: Decimal


class Told(NamedTuple):
    """A user is told of a rule, or of a resolution under the name of the market."""

    at: int
    user: int
    name: str


class Price(NamedTuple):
    """The best bid (sign 1) or ask (sign -1) of one side of a market."""

    at: int
    market: str
    side: str
    sign: int
    price: Decimal


def markets(recording: Path) -> list[dict[str, Any]]:
    """Read the list of markets beside a recording."""
    name = recording.name.removesuffix(".books.jsonl.gz") + ".markets.json"
    found: list[dict[str, Any]] = json.loads(recording.with_name(name).read_bytes())
    return found


def prices(recording: Path) -> Iterator[Price]:
    """Read the best prices of each usable line, in order."""
    slots = {market["market_id"]: market["start_ts"] for market in markets(recording)}
    last = 0
    # A file that is cut off counts up to there.
    with suppress(EOFError, zlib.error), gzip.open(recording) as lines:
        for line in lines:
            try:
                row = json.loads(line, parse_float=Decimal)
                at, market, side = row["ts"], row["market_id"], row["side"]
                bids, asks = best(row["bids"], 1), best(row["asks"], -1)
                near = abs(at - slots[market]) < 90_000_000
            except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
                continue
            if at < last or not near or side not in ("UP", "DOWN"):
                continue
            last = at
            for price in (*bids, *asks):
                yield Price(at, market, side, *price)


def best(levels: list[tuple[Any, Any]], sign: int) -> list[tuple[int, Decimal]]:
    """Return the best price of a side of a book, none of an empty one."""
    order = [Decimal(price) * -sign for price, _ in levels]
    if not all(0 < abs(price) < 1 for price in order) or order != sorted({*order}):
        raise ValueError("no book looks like this")
    if not all(0 < Decimal(size) < math.inf for _, size in levels):
        raise ValueError("no size looks like this")
    return [(sign, abs(order[0]))] if order else []


def expected(
    recording: Path,
    rules: Iterable[Rule],
    followers: Iterable[tuple[int, str]],
    until: int,
) -> list[Told]:
    """Return what must be told from the beginning of a recording to `until` (ms)."""
    found: list[Told] = []
    ready: dict[Rule, bool] = {}
    slots = {market["market_id"]: market["end_ts"] for market in markets(recording)}
    ends: dict[str, int] = {}
    rules = list(rules)
    for at, market, side, sign, price in prices(recording):
        ends[market] = max(slots[market], at)
        for rule in rules if at <= until else ():
            if (rule.market, rule.side, rule.sign) != (market, side, sign):
                continue
            beyond = (price - rule.level) * sign
            if beyond >= 0:
                if ready.get(rule):
                    found.append(Told(at, rule.user, rule.name))
                ready[rule] = False
            elif rule not in ready or beyond <= -rule.hysteresis:
                ready[rule] = True
    found += [
        Told(ends[m], u, m) for u, m in followers if ends.get(m, until + 1) <= until
    ]
    return sorted(found)


class Verdict(NamedTuple):
    """What differs; all three empty means agreement."""

    missing: list[Told]
    unexpected: list[Told]
    out_of_order: list[Told]


def compare(
    wanted: Sequence[Told], told: Sequence[Told], *, complete: bool = True
) -> Verdict:
    """Compare the alerts that were due with the alerts that people received.

    Args:
        wanted: The alerts that were due, in their order.
        told: The alerts that people received, in their order.
        complete: The feed brought everything. If not, a price of one outcome may have
            been asked for late: the order is that of each rule, and not of a user.
    """
    missing, unexpected = Counter(wanted), Counter(told)
    missing, unexpected = missing - unexpected, unexpected - missing
    latest: dict[tuple[int, str], int] = {}
    late = []
    for one in told:
        key = one.user, "" if complete else one.name
        if one.at < latest.setdefault(key, one.at):
            late.append(one)
        latest[key] = one.at
    return Verdict(sorted(missing.elements()), sorted(unexpected.elements()), late)
