"""Which alerts had to come, and what is wrong with those that came.

It knows prices as integers, and shares no code with what it checks.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from market import Link, Tick, Told

# An owner that lives for so long after a price has committed what it made of it.
COMMIT_SECONDS = 1.0
# A courier sent what it had in its hands when it died at most so long before.
IN_HAND_SECONDS = 3.0


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
    """A process that took the shard over."""

    when: float
    pid: int


class Played(NamedTuple):
    """What the market did, and which watcher was there.

    Attributes:
        ticks: The prices that were sent.
        first: The price of each asset before them.
        links: Which watcher was connected when.
        owned: Which watcher took the shard over when.
    """

    ticks: Sequence[Tick]
    first: Sequence[int]
    links: Sequence[Link]
    owned: Sequence[Owned]


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


def expected(
    ticks: Iterable[Tick], first: Sequence[int], wishes: Iterable[Wish]
) -> set[tuple[int, str, int]]:
    """Return the user, the rule and the time of every alert that had to come."""
    ready: dict[Wish, bool] = {}
    of_asset: defaultdict[int, list[Wish]] = defaultdict(list)
    for wish in wishes:
        price = first[wish.asset] + (10 if wish.sign < 0 else 0)
        ready[wish] = (price - wish.level) * wish.sign < 0
        of_asset[wish.asset].append(wish)
    found = set()
    for at, asset, bid, ask in ticks:
        for wish in of_asset[asset]:
            beyond = ((bid if wish.sign > 0 else ask) - wish.level) * wish.sign
            if ready[wish] and beyond >= 0:
                ready[wish] = False
                found.add((wish.user, wish.name, at))
            elif not ready[wish] and beyond <= -max(wish.back, 1):
                ready[wish] = True
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
    seen = [
        tick
        for tick, visible in zip(run.ticks, _visible(run, dead), strict=True)
        if visible
    ]
    wanted = expected(run.ticks, run.first, wishes)
    # What a price that nobody kept would have changed may come later, or not at all.
    sure = wanted & expected(seen, run.first, wishes)
    possible = wanted | expected(seen, run.first, wishes)
    copies: defaultdict[tuple[int, str, int], list[Told]] = defaultdict(list)
    newest: dict[int, int] = {}
    late = []
    for one in told:
        key = (one.user, one.rule, one.at)
        if key not in copies:
            if one.at < newest.get(one.user, 0):
                late.append((one.rule, one.at))
            newest[one.user] = max(newest.get(one.user, 0), one.at)
        copies[key].append(one)
    missing = sorted(wanted - copies.keys())
    repeated = by_courier = by_fault = 0
    untraced, unmarked = [], []
    for (_, rule, at), each in copies.items():
        for before, copy in pairwise(each):
            repeated += 1
            died = dead.get(before.pid)
            held = died is not None and 0 <= died - before.when < IN_HAND_SECONDS
            broken = any(
                begin - IN_HAND_SECONDS <= before.when <= end for begin, end in faults
            )
            by_courier += held
            by_fault += broken and not held
            if not (held or broken):
                untraced.append((rule, at))
            if not copy.again:
                unmarked.append((rule, at))
    return Verdict(
        due=len(wanted),
        delivered=len(told),
        lost=[each[1:] for each in missing if each in sure],
        unseen=[each[1:] for each in missing if each not in sure],
        wrong=[each[1:] for each in sorted(copies.keys() - possible)],
        out_of_order=late,
        repeated=repeated,
        by_courier=by_courier,
        by_fault=by_fault,
        untraced=untraced,
        unmarked=unmarked,
        quiet=sum(each[0].again for each in copies.values()),
    )


def _visible(run: Played, dead: dict[int, float]) -> list[bool]:
    """Say of each tick whether a process had it and could go on from it.

    Not visible is one whose every watcher was killed before it, or an owner that had
    it, committed. It is visible all the same if it was the newest of its asset when the
    next watcher came: that one was given it as the book.
    """
    opened = sorted(link.opened for link in run.links)
    newest: dict[int, int] = {}
    found = []
    for tick in reversed(run.ticks):
        when = tick.at / 1000
        had = {
            link.pid
            for link in run.links
            if link.opened <= when and (link.closed is None or link.closed >= when)
        }
        kept = any(
            pid not in dead or _owned_until(run.owned, pid, when, dead[pid])
            for pid in had
        )
        following = newest.get(tick.asset)
        come = next((each for each in opened if each > when), None)
        as_book = come is not None and (following is None or following / 1000 > come)
        found.append(kept or as_book)
        newest[tick.asset] = tick.at
    return found[::-1]


def _owned_until(owned: Sequence[Owned], pid: int, when: float, death: float) -> bool:
    """Whether a process was the owner after a tick, long enough to commit it."""
    for number, each in enumerate(owned):
        end = owned[number + 1].when if number + 1 < len(owned) else death
        if each.pid == pid and min(end, death) - max(when, each.when) > COMMIT_SECONDS:
            return True
    return False


def takeovers(kills: Sequence[Kill], owned: Sequence[Owned]) -> list[float]:
    """Return how long the shard was without an owner after each kill of an owner."""
    gaps = []
    for kill in kills:
        before = [each for each in owned if each.when < kill.when]
        after = [each for each in owned if each.when >= kill.when]
        if before and after and before[-1].pid == kill.pid:
            gaps.append(after[0].when - kill.when)
    return sorted(gaps)
