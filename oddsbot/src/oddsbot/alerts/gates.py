"""Sorted levels: what `crossing` says of each rule, found for many rules at once.

Of one side of an asset's book, turned so that every rule fires upwards: the signal is
the bid for "above", and the ask with its sign turned for "below".

A gate holds the rules of one level and one threshold, those that may fire (armed) apart
from those that fired (resting). The gates with armed rules are in a heap by level, the
lowest first; those with resting rules in a heap by threshold, the highest first. So a
signal looks at the first of each heap, and goes on only while they fire or are armed
again: a rule that does neither costs nothing.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from .rules import Base, QuoteRule

_SPARE = 64


class Watched:
    """A rule and where it stands, but for whether it is armed: its gates know that.

    Attributes:
        rule: The rule.
        place: Grows with each rule; alerts of one quote come in its order.
        n: How often it fired.
        fired_at: When an alert was told last, ms.
        reference: What a `MoveRule` is measured from.
        gates: Where it is: one for a `PriceRule`, up to two for a `MoveRule`.
        ended: It is over, and in no gate.
    """

    __slots__ = ("ended", "fired_at", "gates", "n", "place", "reference", "rule")

    def __init__(self, rule: QuoteRule, place: int) -> None:
        self.rule = rule
        self.place = place
        self.n = 0
        self.fired_at: int | None = None
        self.reference: Base | None = None
        self.gates: list[tuple[Side, Gate]] = []
        self.ended = False


class Gate:
    """The rules of one level and one threshold, on one side of an asset's book.

    Attributes:
        level: Fires at this signal.
        back: The threshold with its sign turned, and whether the signal has to be
            beyond it; None: who fired does not stay in this gate.
    """

    __slots__ = ("armed", "armed_queued", "back", "level", "resting", "resting_queued")

    def __init__(self, level: Decimal, back: tuple[Decimal, bool] | None) -> None:
        self.level = level
        self.back = back
        self.armed: dict[int, Watched] = {}
        self.resting: dict[int, Watched] = {}
        # Whether the gate is in the side's heap; never twice.
        self.armed_queued = False
        self.resting_queued = False


class Side:
    """The gates of one side of one asset's book.

    Attributes:
        fresh: Rules whose first price is to come, by place.
    """

    __slots__ = ("_armed", "_gates", "_resting", "_serial", "fresh")

    def __init__(self) -> None:
        self.fresh: dict[int, Watched] = {}
        self._gates: dict[tuple[Decimal, tuple[Decimal, bool] | None], Gate] = {}
        # The number keeps two gates from being compared.
        self._armed: list[tuple[Decimal, int, Gate]] = []
        self._resting: list[tuple[Decimal, bool, int, Gate]] = []
        self._serial = count()

    @property
    def has_rules(self) -> bool:
        """Whether there is a rule whose first price has come."""
        return bool(self._gates)

    @property
    def waits(self) -> bool:
        """Whether a rule may be waiting for its first price, or to be armed again."""
        return bool(self.fresh or self._resting)

    def add(
        self,
        watched: Watched,
        level: Decimal,
        back: tuple[Decimal, bool] | None,
        *,
        armed: bool,
    ) -> None:
        """Put a rule into the gate of its level and threshold."""
        gate = self._gates.get((level, back))
        if gate is None:
            gate = self._gates[level, back] = Gate(level, back)
        if armed:
            gate.armed[watched.place] = watched
            self._queue_armed(gate)
        else:
            gate.resting[watched.place] = watched
            self._queue_resting(gate)
        watched.gates.append((self, gate))

    def remove(self, watched: Watched, gate: Gate) -> None:
        """Take a rule out of its gate. The caller forgets the gate."""
        gate.armed.pop(watched.place, None)
        gate.resting.pop(watched.place, None)
        if gate.armed or gate.resting:
            return
        key = (gate.level, gate.back)
        if self._gates.get(key) is gate:
            del self._gates[key]
        # A gate without rules stays in the heaps until it is popped, or until there are
        # more such gates than others.
        most = 2 * len(self._gates) + _SPARE
        if len(self._armed) > most:
            self._armed = [each for each in self._armed if each[-1].armed]
            heapify(self._armed)
        if len(self._resting) > most:
            self._resting = [each for each in self._resting if each[-1].resting]
            heapify(self._resting)

    def judge(
        self,
        signal: Decimal,
        turned: Decimal,
        changed: dict[int, Watched] | None,
    ) -> list[Watched]:
        """Return the rules that fire at a signal, in no order, and move them to rest.

        Args:
            signal: The bid, or the ask with its sign turned.
            turned: The signal with its sign turned.
            changed: Gets the rules that are armed again.
        """
        fired: list[Watched] = []
        heap = self._armed
        while heap and heap[0][0] <= signal:
            gate = heappop(heap)[-1]
            gate.armed_queued = False
            rules, gate.armed = gate.armed, {}
            if rules:
                fired.extend(rules.values())
                # A move is measured anew by the caller, which takes it out.
                if gate.back is not None:
                    gate.resting = _joined(gate.resting, rules)
                    self._queue_resting(gate)
        self.arm(turned, changed)
        return fired

    def arm(self, turned: Decimal, changed: dict[int, Watched] | None) -> None:
        """Arm the rules again that a signal is beyond the threshold of.

        Args:
            turned: The signal with its sign turned.
            changed: Gets them.
        """
        rest = self._resting
        while rest and rest[0][0] <= turned:
            if rest[0][1] and rest[0][0] == turned:
                break
            gate = heappop(rest)[-1]
            gate.resting_queued = False
            rules = gate.resting
            if rules:
                if changed is not None:
                    changed.update(rules)
                gate.armed, gate.resting = _joined(gate.armed, rules), {}
                self._queue_armed(gate)

    def _queue_armed(self, gate: Gate) -> None:
        if not gate.armed_queued:
            gate.armed_queued = True
            heappush(self._armed, (gate.level, next(self._serial), gate))

    def _queue_resting(self, gate: Gate) -> None:
        if not gate.resting_queued and gate.back is not None:
            gate.resting_queued = True
            heappush(self._resting, (*gate.back, next(self._serial), gate))


def _joined(one: dict[int, Watched], other: dict[int, Watched]) -> dict[int, Watched]:
    """Return the rules of both; the smaller is put into the larger."""
    if len(one) < len(other):
        one, other = other, one
    one.update(other)
    return one
