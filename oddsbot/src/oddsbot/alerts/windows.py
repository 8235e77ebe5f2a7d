"""Moves within a time: what `swinging` says of each rule, found for many rules at once.

Of each side of an asset's book there is a monotone queue of what its price was: a price
stays in it only while no later one is lower (for bids; higher for asks), because a
later one stays in the window for longer. So the first price that is young enough is the
lowest of the window, whichever window it is.

The signal of a gate is the size of the move, and its level the size that a rule asks
for: rules of one time and unit are in the same gates, and a quote costs what it fires.
"""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from .crossing import size_of, swinging
from .gates import Side
from .rules import TIMES, Direction, Unit

if TYPE_CHECKING:
    from oddsbot.polymarket import Quote

    from .gates import Watched
    from .rules import MoveRule

_Group: TypeAlias = "tuple[int, Unit, Side]"
_until = itemgetter(0)


class Prices(msgspec.Struct, array_like=True):
    """What the price of one side was, as far as a window can need it.

    Attributes:
        price: The last one; None: there was none.
        known: Up to when it is known to have stood, ms.
        past: Those before it: until when, and the price; the oldest first. The bids in
            it grow, the asks fall.
    """

    price: Decimal | None = None
    known: int = 0
    past: list[tuple[int, Decimal]] = []

    def hold(self, until: int, *, falls: bool) -> None:
        """Note that the last price stood until now; it is known to have until then."""
        price, past = self.price, self.past
        if price is None:
            return
        self.known = until
        while past and (past[-1][1] <= price if falls else past[-1][1] >= price):
            past.pop()
        past.append((until, price))
        oldest = until - TIMES[-1] * 1000
        if past[0][0] <= oldest:
            del past[: bisect_right(past, oldest, key=_until)]

    def extreme(self, at: int, within: int, price: Decimal, *, falls: bool) -> Decimal:
        """Return the lowest bid, or the highest ask, of a time that ends now."""
        past = self.past
        first = bisect_right(past, at - within * 1000, key=_until)
        if first == len(past):
            return price
        found = past[first][1]
        return max(found, price) if falls else min(found, price)


class History(msgspec.Struct, array_like=True):
    """What an asset was quoted at, for a day.

    Attributes:
        at: The market's time of the last quote, ms; it never goes back.
        bids: Of the best bid.
        asks: Of the best ask.
    """

    at: int
    bids: Prices
    asks: Prices


_decoder = msgspec.json.Decoder(History)


class Swing(NamedTuple):
    """Rules of one time and unit that fire.

    Attributes:
        rules: The rules.
        direction: Which way the price went.
        price: The bid or ask now.
        since: The lowest bid, or the highest ask, of the time.
    """

    rules: list[Watched]
    direction: Direction
    price: Decimal
    since: Decimal


class Windows:
    """The rules of one asset that have a time, and what its prices were.

    Attributes:
        size: How many rules there are.
    """

    __slots__ = ("_groups", "_history", "_sides", "size")

    def __init__(self) -> None:
        self.size = 0
        self._history = History(0, Prices(), Prices())
        # Those of rises and those of falls, by time and unit.
        self._sides: dict[tuple[int, Unit], tuple[Side, Side]] = {}
        self._groups: tuple[list[_Group], list[_Group]] = [], []  # the same, by way

    def add(
        self, watched: Watched, rule: MoveRule, armed: tuple[bool | None, bool | None]
    ) -> None:
        """Watch a rule.

        Args:
            watched: The rule, as the engine has it.
            rule: The rule.
            armed: Whether it may fire on a rise, and on a fall; None: the next price
                decides.
        """
        self.size += 1
        for side, may_fire in zip(self._of(rule), armed, strict=True):
            _place(side, watched, rule, armed=may_fire)

    def take_out(self, watched: Watched, rule: MoveRule) -> None:
        """Watch a rule no more; the engine takes it out of its gates."""
        self.size -= 1
        for side in self._of(rule):
            side.fresh.pop(watched.place, None)

    def armed(
        self, watched: Watched, rule: MoveRule
    ) -> tuple[bool | None, bool | None]:
        """Return whether a rule may fire on a rise, and on a fall, as for `add`."""
        rises, falls = self._of(rule)
        found = {side: watched.place in gate.armed for side, gate in watched.gates}
        return found.get(rises), found.get(falls)

    def judge(
        self,
        quote: Quote,
        at: int,
        held: int | None,
        changed: dict[int, Watched] | None,
    ) -> list[Swing]:
        """Return what fires, rises first.

        Args:
            quote: The quote.
            at: The market's time, ms.
            held: Up to when the quote before is known to have stood, ms; None: until
                this one.
            changed: Gets the rules that began, or are armed again.
        """
        history = self._history
        at = history.at = max(history.at, at)
        fired: list[Swing] = []
        for falls, price in ((False, quote.bid), (True, quote.ask)):
            if price is not None:
                self._judge_side(fired, price, at, held, changed, falls=falls)
        return fired

    def _judge_side(
        self,
        fired: list[Swing],
        price: Decimal,
        at: int,
        held: int | None,
        changed: dict[int, Watched] | None,
        *,
        falls: bool,
    ) -> None:
        prices = self._history.asks if falls else self._history.bids
        before = prices.price
        groups = self._groups[falls]
        if price == before and not any(each[2].waits for each in groups):
            prices.known = at  # the moves get smaller, and nobody waits for that
            return
        if before is not None:
            # While a price stands, older ones leave the window and the move gets
            # smaller: it was smallest just before this quote. If the price stands on,
            # it is smaller still now.
            until = at if held is None else min(at, max(held, prices.known))
            prices.hold(until, falls=falls)
            for within, unit, side in groups if price != before else ():
                if side.waits:
                    since = prices.extreme(until, within, before, falls=falls)
                    small = size_of(unit, before, since)
                    side.arm(small.copy_negate(), changed)
        prices.price, prices.known = price, at
        direction = Direction.BELOW if falls else Direction.ABOVE
        for within, unit, side in groups:
            since = prices.extreme(at, within, price, falls=falls)
            size = size_of(unit, price, since)
            if side.fresh:
                _begin(side, size, changed)
            rules = side.judge(size, size.copy_negate(), changed)
            if rules:
                fired.append(Swing(rules, direction, price, since))

    # --- what outlives the process

    def encode(self) -> str:
        """Return what the prices were, as text."""
        return msgspec.json.encode(self._history).decode()

    def restore(self, text: str | None, until: int) -> None:
        """Go on with what the prices were.

        Args:
            text: As `encode` returned it; None, or damaged: nothing is known.
            until: Up to when the last prices are known to have stood at least, ms.
        """
        self._history = History(0, Prices(), Prices())
        if text is not None and any(
            side.has_rules for sides in self._sides.values() for side in sides
        ):
            try:
                self._history = history = _decoder.decode(text)
            except msgspec.MsgspecError:
                return
            for prices in (history.bids, history.asks):
                prices.known = max(prices.known, until)

    def _of(self, rule: MoveRule) -> tuple[Side, Side]:
        key = rule.within or 0, rule.unit
        sides = self._sides.get(key)
        if sides is None:
            sides = self._sides[key] = Side(), Side()
            for side, groups in zip(sides, self._groups, strict=True):
                groups.append((*key, side))
        return sides


def _begin(side: Side, size: Decimal, changed: dict[int, Watched] | None) -> None:
    """Show new rules their first price."""
    fresh, side.fresh = side.fresh, {}
    for watched in fresh.values():
        rule: Any = watched.rule
        _, armed = swinging(rule, size, armed=None)
        _place(side, watched, rule, armed=armed)
    if changed is not None:
        changed.update(fresh)


def _place(side: Side, watched: Watched, rule: MoveRule, *, armed: bool | None) -> None:
    if armed is None:
        side.fresh[watched.place] = watched
    else:
        # Below half, not at it.
        back = (rule.by / 2).copy_negate(), True
        side.add(watched, rule.by, back, armed=armed)
