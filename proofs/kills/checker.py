"""Which alerts had to come, and what is wrong with those that came.

It knows prices as integers, and shares no code with what it checks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from market import Link, Made, Tick, Told

# A copy around a fault, by so many seconds.
_AROUND = 3.0


class Wish(NamedTuple):
    """A rule: `sign` is 1 for above, on bids, and -1 for below, on asks."""

    user: int
    name: str
    asset: int
    sign: int
    level: int
    back: int


class Kill(NamedTuple):
    """A process that was killed."""

    when: float
    role: str
    pid: int


class Owned(NamedTuple):
    """A process that took the shard over.

    Attributes:
        when: When.
        pid: Which.
        judged: The time of a price, up to which the database says that this owner, or
            one before it, has judged all of them: when the next one took over, or now.
    """

    when: float
    pid: int
    judged: int


class Played(NamedTuple):
    """What the market did, and which watcher was there.

    Attributes:
        ticks: The prices that were sent.
        first: The price of each asset before them.
        links: Which watcher was connected when.
        owned: Which watcher took the shard over when, in order.
        settled: When each alert got its fate, as the database has it: by person and id.
        withheld: From which watchers a fault of the feed kept a tick, by its number.
    """

    ticks: Sequence[Tick]
    first: Sequence[int]
    links: Sequence[Link]
    owned: Sequence[Owned]
    settled: Mapping[tuple[int, str], float]
    withheld: Mapping[int, set[int]] = MappingProxyType({})


class Verdict(NamedTuple):
    """What came of a run."""

    due: int
    delivered: int
    lost: list[tuple[str, int]]
    unseen: list[tuple[str, int]]
    wrong: list[tuple[str, int]]
    out_of_order: list[tuple[str, int]]
    repeated: int
    by_courier: int
    by_fault: int
    untraced: list[tuple[str, int]]
    unmarked: list[tuple[str, int]]
    quiet: int


class Wanted(NamedTuple):
    """Which alerts had to come: the user, the rule and the time of each.

    Attributes:
        due: If every price was judged.
        sure: Whichever of the prices that nobody kept were judged.
        possible: Depending on which of them were.
    """

    due: set[tuple[int, str, int]]
    sure: set[tuple[int, str, int]]
    possible: set[tuple[int, str, int]]


def expected(
    ticks: Iterable[Tick],
    visible: Iterable[bool],
    first: Sequence[int],
    wishes: Iterable[Wish],
) -> Wanted:
    """Return which alerts had to come, and which could.

    A price that nobody kept may have been judged or not: from there on a rule may be
    ready or not, until a price brings both together again.
    """
    ready: dict[Wish, bool] = {}
    may_be: dict[Wish, set[bool]] = {}
    of_asset: defaultdict[int, list[Wish]] = defaultdict(list)
    for wish in wishes:
        price = first[wish.asset] + (10 if wish.sign < 0 else 0)
        ready[wish] = (price - wish.level) * wish.sign < 0
        may_be[wish] = {ready[wish]}
        of_asset[wish.asset].append(wish)
    found = Wanted(set(), set(), set())
    for (at, asset, bid, ask), kept in zip(ticks, visible, strict=True):
        for wish in of_asset[asset]:
            beyond = ((bid if wish.sign > 0 else ask) - wish.level) * wish.sign
            fires = beyond >= 0
            if not fires and beyond > -max(wish.back, 1):
                continue
            alert = wish.user, wish.name, at
            if fires and ready[wish]:
                found.due.add(alert)
            if fires and True in may_be[wish]:
                found.possible.add(alert)
                if kept and len(may_be[wish]) == 1:
                    found.sure.add(alert)
            ready[wish] = not fires
            may_be[wish] = {not fires} | (set() if kept else may_be[wish])
    return found


def judge(
    run: Played,
    wishes: Sequence[Wish],
    told: Sequence[Told],
    kills: Sequence[Kill],
    faults: Sequence[tuple[float, float]],
) -> Verdict:
    """Compare what had to come with what came.

    Args:
        run: What the market did, and which watcher was there.
        wishes: The rules.
        told: What the chat was given, in order.
        kills: Which process was killed when.
        faults: From when to when something other than a process was broken.
    """
    dead = {kill.pid: kill.when for kill in kills}
    wanted = expected(run.ticks, _visible(run, dead), run.first, wishes)
    copies: defaultdict[tuple[int, str], list[Told]] = defaultdict(list)
    came: set[tuple[int, str, int]] = set()
    newest: dict[int, int] = {}
    late, twice = [], set()
    # What a fault of the feed kept back may be seen after what came later.
    held_back = {run.ticks[number].at for number in run.withheld}
    for one in told:
        if (one.user, one.id) not in copies:
            key = (one.user, one.rule, one.at)
            # Another alert, and no copy: the rule fired twice at one price.
            if key in came:
                twice.add(key)
            elif one.at < newest.get(one.user, 0) and one.at not in held_back:
                late.append((one.rule, one.at))
            came.add(key)
            newest[one.user] = max(newest.get(one.user, 0), one.at)
        copies[one.user, one.id].append(one)
    missing = sorted(wanted.due - came)
    wrong = sorted((came - wanted.possible) | twice)
    repeated = by_courier = by_fault = 0
    untraced, unmarked = [], []
    for alert, each in copies.items():
        fate = run.settled.get(alert, inf)
        for before, copy in pairwise(each):
            repeated += 1
            # A courier had it in its hands if it was killed before the next copy and
            # before the fate. What it had sent may be read after its death.
            held = dead.get(before.pid, inf) < min(copy.when, fate)
            broken = any(begin - _AROUND <= before.when <= end for begin, end in faults)
            by_courier += held
            by_fault += broken and not held
            if not (held or broken):
                untraced.append((before.rule, before.at))
            if not copy.again:
                unmarked.append((before.rule, before.at))
    return Verdict(
        due=len(wanted.due),
        delivered=len(told),
        lost=[each[1:] for each in missing if each in wanted.sure],
        unseen=[each[1:] for each in missing if each not in wanted.sure],
        wrong=[each[1:] for each in wrong],
        out_of_order=late,
        repeated=repeated,
        by_courier=by_courier,
        by_fault=by_fault,
        untraced=untraced,
        unmarked=unmarked,
        quiet=sum(each[0].again for each in copies.values()),
    )


def _visible(run: Played, dead: dict[int, float]) -> list[bool]:
    """Say of each tick whether it had to be judged.

    A watcher has a price if it was connected when it was sent, or came while it was
    the newest of its asset: then it was given it as the book. The order in which the
    market sent and was asked decides that, and no clock.
    """
    following: dict[int, float] = {}
    found = []
    for number, tick in reversed(list(enumerate(run.ticks))):
        until = following.get(tick.asset, inf)
        had = {
            link.pid
            for link in run.links
            if link.first <= until and (link.end is None or link.end > number)
        }
        withheld = run.withheld.get(number, set())
        found.append(_kept(run.owned, dead, tick.at, had - withheld, withheld))
        following[tick.asset] = number
    return found[::-1]


def _kept(
    owned: Sequence[Owned],
    dead: dict[int, float],
    at: int,
    had: set[int],
    withheld: set[int],
) -> bool:
    """Whether a price had to be judged, that some watchers had.

    The owner that goes beyond it, as the database has it, has judged it, or has gone
    past it. It may go past it only if it has not the price, and each of those that had
    it was killed before the owner took over. How long anything takes does not matter.
    From an owner that a fault of its feed keeps the price from nothing is asked: it may
    not know that the price was there.
    """
    beyond = next((each for each in owned if each.judged >= at), None)
    if beyond is None:
        return any(pid not in dead for pid in had)
    if beyond.pid in withheld:
        return False
    return beyond.pid in had or any(dead.get(pid, inf) > beyond.when for pid in had)


def gaps(
    made: Iterable[Made],
    counted: Iterable[int],
    dead: Mapping[int, float],
    within: float,
) -> tuple[int, list[int]]:
    """Compare the faults of the feed with the gaps that watchers counted.

    Args:
        made: The faults.
        counted: The watcher of each gap that was counted.
        dead: When each watcher was killed, by its pid.
        within: Seconds in which a fault has to be counted.

    Returns:
        Faults of watchers that were killed before they had to have counted them, and
        did not; and the watchers that counted too few or too many.
    """
    made = list(made)
    found = Counter(counted)
    unfinished, wrong = 0, []
    for pid in {each.pid for each in made} | set(found):
        own = [each for each in made if each.pid == pid]
        due = [each for each in own if each.when + within < dead.get(pid, inf)]
        if not len(due) <= found[pid] <= len(own):
            wrong.append(pid)
        unfinished += max(0, len(own) - found[pid])
    return unfinished, sorted(wrong)


def takeovers(kills: Sequence[Kill], owned: Sequence[Owned]) -> list[float]:
    """Return how long the shard was without an owner after each kill of an owner."""
    gaps = []
    for kill in kills:
        before = [each for each in owned if each.when < kill.when]
        after = [each for each in owned if each.when >= kill.when]
        if before and after and before[-1].pid == kill.pid:
            gaps.append(after[0].when - kill.when)
    return sorted(gaps)
