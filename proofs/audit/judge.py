"""Judges what the workers of the audit wrote down."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Verdict(NamedTuple):
    """What came of an audit.

    Attributes:
        reads: That returned a value.
        writes: Invalidations that were confirmed.
        errors: Reads that raised, by class.
        own: Reads of a process older than an invalidation of its own that had returned
            before the read began (KG1).
        others: Reads older than an invalidation that any process had confirmed more
            than the bound before the read began (KG3, KG4).
        worst: The longest time that a read was late, in seconds.
        first: Some of the wrong reads, for looking at.
    """

    reads: int
    writes: int
    errors: Mapping[str, int]
    own: int
    others: int
    worst: float
    first: Sequence[str]


class _Floor:
    """The least version that a read of a key must have, by the time it began."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._least: list[int] = []

    def add(self, time: float, version: int) -> None:
        self._times.append(time)
        self._least.append(max(version, self._least[-1] if self._least else 0))

    def at(self, time: float) -> int:
        position = bisect_right(self._times, time)
        return self._least[position - 1] if position else 0

    def since(self, version: int) -> float:
        """Return when a version became too old."""
        return self._times[bisect_right(self._least, version)]


def judge(lines: Iterable[tuple[str, list[Any]]], bound: float) -> Verdict:
    """Return the verdict.

    Args:
        lines: (process, line), of all processes. Their clock is one: the machine's.
        bound: Seconds for which an invalidation by another process may be unknown.
    """
    events = list(lines)
    anybody: defaultdict[str, _Floor] = defaultdict(_Floor)
    own: defaultdict[tuple[str, str], _Floor] = defaultdict(_Floor)
    writes = [each for each in events if each[1][0] == "write"]
    for process, (_, key, version, _, ended) in sorted(
        writes, key=lambda each: each[1][4]
    ):
        anybody[key].add(ended, version)
        own[process, key].add(ended, version)
    reads, worst = 0, 0.0
    wrong_own, wrong_others = 0, 0
    first: list[str] = []
    errors: Counter[str] = Counter()
    for process, (what, key, value, began, ended) in events:
        if what == "error":
            errors[value] += 1
        if what != "read":
            continue
        reads += 1
        mine = value < own[process, key].at(began)
        theirs = value < anybody[key].at(began - bound)
        if value < anybody[key].at(began):
            worst = max(worst, began - anybody[key].since(value))
        wrong_own += mine
        wrong_others += theirs
        if (mine or theirs) and len(first) < 5:
            first.append(
                f"process {process}: key {key} read as {value}, "
                f"{began - anybody[key].since(value):.3f} s too late "
                f"({'own' if mine else 'others'}; took {ended - began:.3f} s)"
            )
    return Verdict(
        reads, len(writes), dict(errors), wrong_own, wrong_others, worst, first
    )
