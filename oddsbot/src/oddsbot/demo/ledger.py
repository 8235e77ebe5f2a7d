"""`Ledger`: which alerts people had to get so far, and which they got.

It shares no code with the bot. It reads the recording's files, the messages that
people's chats show, and in the bot's database what people asked for (rules that are
gone, alerts that were kept back). Each rule is judged as `checker` does.
"""

from __future__ import annotations

import re
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from . import checker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

PATIENCE = 30.0
"""Seconds after which an alert that is not there counts as lost."""

_TOLD = re.compile(
    r"(?P<mark>[▲▼]) (?P<outcome>.+) (?:reached|fell to) (?P<level>[0-9.]+)¢\n"
    r"(?P<question>.+)\n"
    r"(?:bid|ask) [0-9.]+¢ at (?P<time>[0-9:]{8})"
)
_REPEATED = "May be a repeat"

_Name = tuple[int, str, str, int, Decimal]


class Promise(msgspec.Struct, eq=False):
    """A rule that the bot confirmed to a person, in recorded time.

    Attributes:
        rule: Its id.
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

    rule: str
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


class Gap(msgspec.Struct, eq=False):
    """Recorded time, in ms, in which the feed brought the bot nothing.

    Attributes:
        begin: From then on.
        end: Until then; None: it lasts.
        market: Of this market; None: of all.
    """

    begin: int
    end: int | None = None
    market: str | None = None


class Message(NamedTuple):
    """A message of a chat: whose it is, its text, when it came (seconds since 1970)."""

    person: int
    text: str
    came: float


class Account(msgspec.Struct, frozen=True):
    """How it stands.

    Attributes:
        due: Alerts that had to come by now.
        delivered: Of those, the ones that are in people's chats.
        waiting: Those that are not there yet, and may still be on their way.
        lost: Those that are not there, and late.
        wrong: Alerts in people's chats that had not to come, or came twice unmarked.
        repeated: Further copies that say of themselves that they may be repeats.
        unseen: Alerts of prices that the feed did not bring; none of them is due.
        kept_back: Alerts that people did not want at that moment: muted, stopped, or
            of a kind that is switched off.
        p50: Seconds from a price to its alert in the chat, the median; None: no alert
            came yet.
        p99: The same, of 99 of 100.
        problems: One line for each alert that is lost or wrong.
    """

    due: int = 0
    delivered: int = 0
    waiting: int = 0
    lost: int = 0
    wrong: int = 0
    repeated: int = 0
    unseen: int = 0
    kept_back: int = 0
    p50: float | None = None
    p99: float | None = None
    problems: tuple[str, ...] = ()


class _Wanted(NamedTuple):
    """The moments at which a rule fires, in order.

    Attributes:
        sure: Whichever of the prices that the bot may have missed it was given.
        perhaps: Others, if it was given the right ones of these.
        missed: Those that would be sure if no feed had been interrupted.
    """

    sure: list[int]
    perhaps: list[int]
    missed: list[int]


class _Course(msgspec.Struct):
    """How far a rule was judged.

    Attributes:
        index: Of the next price.
        maybe: The states in which the rule may be.
        whole: Those in which it would be, had the feed not been interrupted.
        found: When it fired.
    """

    index: int
    maybe: set[bool | None]
    whole: set[bool | None]
    found: _Wanted


class Ledger:
    """Compares the messages in people's chats with what their rules had to cause.

    Args:
        recording: The file that is played.
        database: The bot's, of SQLite; None: nobody takes a rule back by erasing
            herself, and nothing is kept back.
    """

    def __init__(self, recording: Path, database: Path | None = None) -> None:
        self._markets = {each["market_id"]: each for each in checker.markets(recording)}
        self._prices: dict[tuple[str, str, int], tuple[list[int], list[Decimal]]] = {}
        for one in checker.prices(recording):
            key = one.market, one.side, one.sign
            times, prices = self._prices.setdefault(key, ([], []))
            times.append(one.at)
            prices.append(one.price)
        self._database = database
        self._promises: list[Promise] = []
        self._gaps: list[Gap] = []
        self._first_missed: dict[tuple[Promise, int], float] = {}
        self._courses: dict[Promise, _Course] = {}

    def promise(self, promise: Promise) -> None:
        """Take a rule down."""
        self._promises.append(promise)

    def gap(self, gap: Gap) -> None:
        """Take down that the feed is interrupted."""
        self._gaps.append(gap)
        # The last prices were on their way: they are judged once more.
        self._courses.clear()

    def account(
        self,
        until: int,
        chats: Iterable[Message],
        now: float,
        played: Callable[[int], float],
    ) -> Account:
        """Return how it stands. Reads the database: call it in a thread.

        Args:
            until: What was played so far, a recorded moment, ms.
            chats: Each message of the bot.
            now: Seconds, of a clock that does not go back.
            played: Returns when a recorded moment was played, seconds since 1970.
        """
        alive, kept_back = self._look()
        told, marked = self._told(chats)
        total: Counter[str] = Counter(kept_back=kept_back.total())
        waits: list[float] = []
        problems: list[str] = []
        wanted: defaultdict[_Name, list[tuple[Promise, _Wanted]]] = defaultdict(list)
        for promise in self._promises:
            if alive is not None and promise.rule not in alive and not promise.ended:
                promise.ended = until
            # A rule that was taken back and asked for again is told by the same words.
            wanted[self._name(promise)].append((promise, self._wanted(promise, until)))
        for name, rules in wanted.items():
            there = told.pop(name, defaultdict(list))
            left = Counter({clock: len(came) for clock, came in there.items()})
            for promise, due in rules:
                for at in due.sure:
                    clock = _clock(at)
                    if left[clock]:
                        left[clock] -= 1
                        total["delivered"] += 1
                        waits.append(max(0.0, min(there[clock]) - played(at)))
                    elif promise.ended or kept_back[promise.person, promise.rule, at]:
                        continue  # she did not want it any more when it was to be sent
                    else:
                        since = self._first_missed.setdefault((promise, at), now)
                        late = now - since > PATIENCE
                        total["lost" if late else "waiting"] += 1
                        if late:
                            problems.append(_problem("lost", name, clock))
                    total["due"] += 1
            # What is left may be of prices that the bot may have missed.
            for at in sorted(at for _, due in rules for at in due.perhaps):
                clock = _clock(at)
                if left[clock]:
                    left[clock] -= 1
                    total["due"] += 1
                    total["delivered"] += 1
                    waits.append(max(0.0, min(there[clock]) - played(at)))
            missed = Counter(_clock(at) for _, due in rules for at in due.missed)
            all_of_it = Counter({clock: len(each) for clock, each in there.items()})
            total["unseen"] += (missed - all_of_it).total()
            for clock, more in left.items():
                repeated = min(more, marked[name, clock])
                total["repeated"] += repeated
                problems += [_problem("wrong", name, clock)] * (more - repeated)
        for name, others in told.items():
            for clock, came in others.items():
                problems += [_problem("wrong", name, clock)] * len(came)
        total["wrong"] = sum(each.startswith("wrong") for each in problems)
        waits.sort()
        return Account(
            **total,
            p50=_quantile(waits, 0.5),
            p99=_quantile(waits, 0.99),
            problems=tuple(problems),
        )

    def lively(
        self,
        market: str,
        side: str,
        now: int,
        first: tuple[int, int],
        hysteresis: Decimal,
    ) -> Decimal | None:
        """Return a level that the bid soon comes to from below, and often.

        Args:
            market: The condition id.
            side: ``UP`` or ``DOWN``.
            now: The bid is below the level at this recorded moment, ms.
            first: When it first reaches it, in ms from then: not before the one, and
                where there is such a level, not after the other.
            hysteresis: How far it has to go back before it counts again.
        """
        times, prices = self._prices.get((market, side, 1), ([], []))
        begin = bisect_right(times, now)
        if not 0 < begin < len(times):
            return None
        early, late = (now + each for each in first)
        # By how often it is reached if that begins in time, else by how early.
        found: list[tuple[int, int, Decimal]] = []
        for cents in range(int(prices[begin - 1] * 100) + 1, 100):
            level = Decimal(cents) / 100
            ready, fired = True, []
            for at, price in zip(times[begin:], prices[begin:], strict=True):
                if price >= level:
                    fired += [at] * ready
                    ready = False
                elif price <= level - hysteresis:
                    ready = True
                if fired and fired[0] < early:
                    break
            else:
                if fired:
                    often = len(fired) if fired[0] <= late else 0
                    found.append((often, -fired[0], level))
        return max(found)[2] if found else None

    # --- what the bot's database says of people's wishes

    def _look(self) -> tuple[set[str] | None, Counter[tuple[int, str, int]]]:
        """Return the rules that are there, and the alerts that were kept back."""
        if self._database is None:
            return None, Counter()
        address = f"file:{self._database}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as connection:
            rules = connection.execute("SELECT id FROM oddsbot_rules")
            alive = {row[0] for row in rules}
            rows = connection.execute(
                "SELECT user_id, rule_id, at FROM oddsbot_alerts WHERE fate IN "
                "('cooldown', 'held', 'muted', 'filtered', 'stopped', 'withdrawn')"
            )
            return alive, Counter(map(tuple, rows))

    # --- what is in the chats

    def _name(self, promise: Promise) -> _Name:
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
        self, chats: Iterable[Message]
    ) -> tuple[
        defaultdict[_Name, defaultdict[str, list[float]]], Counter[tuple[_Name, str]]
    ]:
        """Return when which alert came, and how many say that they may be repeats."""
        told: defaultdict[_Name, defaultdict[str, list[float]]]
        told = defaultdict(lambda: defaultdict(list))
        marked: Counter[tuple[_Name, str]] = Counter()
        for person, text, came in chats:
            match = _TOLD.match(text)
            if match is not None:
                level = (Decimal(match["level"]) / 100).normalize()
                sign = 1 if match["mark"] == "▲" else -1
                name = person, match["question"], match["outcome"], sign, level
                told[name][match["time"]].append(came)
                marked[name, match["time"]] += _REPEATED in text
        return told, marked

    # --- what a rule had to cause

    def _wanted(self, promise: Promise, until: int) -> _Wanted:
        """Judge each price, where the bot may not have been given some of them.

        A rule is ready to fire, or not, or was not judged yet (None). After a price
        that the bot may have missed it is in one of several states, until a price
        brings them together again.
        """
        times, prices = self._prices.get(
            (promise.market, promise.side, promise.sign), ([], [])
        )
        if promise.ended is not None:
            until = min(until, promise.ended)
        course = self._courses.get(promise)
        if course is None:
            ready: bool | None = None
            if promise.base is not None:
                ready = (promise.base - promise.level) * promise.sign < 0
            # The price before she asked may be the first that the rule was judged by.
            first = max(0, bisect_right(times, promise.asked) - 1)
            course = _Course(first, {ready}, {ready}, _Wanted([], [], []))
            self._courses[promise] = course
        found = course.found
        for index in range(course.index, bisect_right(times, until)):
            at = times[index]
            beyond = (prices[index] - promise.level) * promise.sign
            settled = at > promise.confirmed
            given = settled and not self._missed(promise.market, at)
            if beyond >= 0:
                sure = given and course.maybe == {True}
                if sure:
                    found.sure.append(at)
                elif True in course.maybe:
                    found.perhaps.append(at)
                if settled and course.whole == {True} and not sure:
                    found.missed.append(at)
            step = beyond, promise.hysteresis
            course.maybe = _after(course.maybe, *step, given=given)
            course.whole = _after(course.whole, *step, given=settled)
            course.index = index + 1
        return found

    def _missed(self, market: str, at: int) -> bool:
        return any(
            gap.begin <= at and (gap.end is None or at <= gap.end)
            for gap in self._gaps
            if gap.market in (None, market)
        )


def _after(
    states: set[bool | None], beyond: Decimal, hysteresis: Decimal, *, given: bool
) -> set[bool | None]:
    """Return in which states a rule may be after a price.

    Args:
        states: Those before: ready to fire, not ready, not judged yet (None).
        beyond: How far the price is beyond the level.
        hysteresis: See `Promise`.
        given: Whether the bot was given the price for certain.
    """
    if beyond >= 0:
        judged: set[bool | None] = {False}
    elif beyond <= -hysteresis:
        judged = {True}
    else:
        judged = {True if each is None else each for each in states}
    return judged if given else states | judged


def _problem(kind: str, name: _Name, clock: str) -> str:
    person, question, outcome, sign, level = name
    way = "reached" if sign > 0 else "fell to"
    return f"{kind}: {person}, {question}, {outcome} {way} {level} at {clock}"


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return (
        ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
    )


def _clock(at: int) -> str:
    seconds = at // 1000 % 86_400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
