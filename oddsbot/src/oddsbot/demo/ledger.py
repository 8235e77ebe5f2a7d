"""`Ledger`: which alerts people had to get so far, and which they got.

It shares no code with the bot: it reads the recording's files and the messages that
people's chats show, and judges each rule as `checker` does.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from . import checker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PATIENCE = 30.0
"""Seconds after which an alert that is not there counts as lost."""

_TOLD = re.compile(
    r"(?P<mark>[▲▼]) (?P<outcome>.+) (?:reached|fell to) (?P<level>[0-9.]+)¢\n"
    r"(?P<question>.+)\n"
    r"(?:bid|ask) [0-9.]+¢ at (?P<time>[0-9:]{8})"
)


class Promise(msgspec.Struct, eq=False):
    """A rule that the bot confirmed to a person, in recorded time.

    Attributes:
        person: Whom to tell.
        market: The condition id.
        side: ``UP`` or ``DOWN``, as the recording has it.
        sign: 1: at or above `level`, by the bid; -1: at or below, by the ask.
        level: From 0 to 1.
        hysteresis: How far back the price has to go before it counts again.
        base: The price that she saw when she asked, of the side that `sign` looks at.
        asked: The recorded moment at which she asked, ms; the rule counts from some
            moment between this one and `confirmed`.
        confirmed: See there.
        ended: When she took it back; None: it lasts.
    """

    person: int
    market: str
    side: str
    sign: int
    level: Decimal
    hysteresis: Decimal
    base: Decimal | None
    asked: int
    confirmed: int
    ended: int | None = None


class Account(msgspec.Struct, frozen=True):
    """How it stands.

    Attributes:
        due: Alerts that had to come by now.
        delivered: Of those, the ones that are in people's chats.
        waiting: Those that are not there yet, and may still be on their way.
        lost: Those that are not there, and late.
        wrong: Alerts in people's chats that had not to come, or came twice.
    """

    due: int
    delivered: int
    waiting: int
    lost: int
    wrong: int


class Ledger:
    """Compares the messages in people's chats with what their rules had to cause.

    Args:
        recording: The file that is played.
    """

    def __init__(self, recording: Path) -> None:
        self._markets = {each["market_id"]: each for each in checker.markets(recording)}
        self._prices: dict[tuple[str, str, int], tuple[list[int], list[Decimal]]] = {}
        for one in checker.prices(recording):
            key = one.market, one.side, one.sign
            times, prices = self._prices.setdefault(key, ([], []))
            times.append(one.at)
            prices.append(one.price)
        self._promises: list[Promise] = []
        self._first_missed: dict[tuple[Promise, int], float] = {}

    def promise(self, promise: Promise) -> None:
        """Take a rule down."""
        self._promises.append(promise)

    def account(
        self, until: int, chats: Iterable[tuple[int, str]], now: float
    ) -> Account:
        """Return how it stands.

        Args:
            until: What was played so far, a recorded moment, ms.
            chats: Each message of the bot: the person and the text.
            now: Seconds, of a clock that does not go back.
        """
        told = self._told(chats)
        due = delivered = waiting = lost = 0
        for promise in self._promises:
            there = told[self._name(promise)]
            times = min(
                self._courses(promise, until),
                key=lambda course: _difference(course, there),
            )
            for at in times:
                clock = _clock(at)
                if there[clock]:
                    there[clock] -= 1
                    delivered += 1
                elif promise.ended is None:
                    since = self._first_missed.setdefault((promise, at), now)
                    late = now - since > PATIENCE
                    lost += late
                    waiting += not late
                else:
                    continue  # she took the rule back before it was sent
                due += 1
        wrong = sum(count.total() for count in told.values())
        return Account(due, delivered, waiting, lost, wrong)

    def _name(self, promise: Promise) -> tuple[int, str, str, int, Decimal]:
        market = self._markets[promise.market]
        outcome = market[f"outcome_{promise.side.lower()}"]
        return (
            promise.person,
            market["question"],
            outcome,
            promise.sign,
            promise.level.normalize(),
        )

    def _told(
        self, chats: Iterable[tuple[int, str]]
    ) -> defaultdict[tuple[int, str, str, int, Decimal], Counter[str]]:
        told: defaultdict[tuple[int, str, str, int, Decimal], Counter[str]]
        told = defaultdict(Counter)
        for person, text in chats:
            match = _TOLD.match(text)
            if match is not None:
                level = (Decimal(match["level"]) / 100).normalize()
                sign = 1 if match["mark"] == "▲" else -1
                name = person, match["question"], match["outcome"], sign, level
                told[name][match["time"]] += 1
        return told

    def _courses(self, promise: Promise, until: int) -> list[list[int]]:
        """Return each list of moments at which a rule may have had to fire.

        One for each price that may have been the first that it was judged by.
        """
        key = promise.market, promise.side, promise.sign
        times, prices = self._prices.get(key, ([], []))
        if promise.ended is not None:
            until = min(until, promise.ended)
        end = bisect_right(times, until)
        first = max(0, bisect_right(times, promise.asked) - 1)
        settled = min(end, bisect_right(times, promise.confirmed))
        beginning = None
        if promise.base is not None:
            beginning = (promise.base - promise.level) * promise.sign < 0
        found: dict[tuple[bool | None, tuple[int, ...]], list[int]] = {}
        tails: dict[bool | None, list[int]] = {}
        for begin in range(first, settled + 1):
            fired, ready = _judged(promise, beginning, times, prices, begin, settled)
            if (ready, tuple(fired)) not in found:
                if ready not in tails:
                    tails[ready], _ = _judged(
                        promise, ready, times, prices, settled, end
                    )
                found[ready, tuple(fired)] = fired + tails[ready]
        return list(found.values()) or [[]]


def _judged(
    promise: Promise,
    ready: bool | None,  # noqa: FBT001 - a state, and no switch
    times: Sequence[int],
    prices: Sequence[Decimal],
    begin: int,
    end: int,
) -> tuple[list[int], bool | None]:
    """Return when a rule fires, and whether it is ready to fire after that."""
    fired = []
    for index in range(begin, end):
        beyond = (prices[index] - promise.level) * promise.sign
        if beyond >= 0:
            if ready:
                fired.append(times[index])
            ready = False
        elif ready is None or beyond <= -promise.hysteresis:
            ready = True
    return fired, ready


def _difference(course: list[int], there: Counter[str]) -> int:
    wanted = Counter(map(_clock, course))
    return (wanted - there).total() + (there - wanted).total()


def _clock(at: int) -> str:
    seconds = at // 1000 % 86_400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
