"""`Alerts`: the rules of a process, judged quote by quote.

A price rule fires once when its price crosses the level, and again only after the price
went back by the hysteresis, so that a price that trembles around the level tells its
user once. What that means is in `crossing`; the state lives in this object.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, TypeAlias, cast

from .crossing import (
    armed_at_first,
    believable,
    crossing,
    distance,
    is_cooling,
    is_over,
)
from .events import Moved, PriceCrossed, Resolved
from .gates import Side, Watched
from .rules import Base, Direction, MoveRule, RuleError, RuleState
from .windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from oddsbot.polymarket import MarketResolved, Quote

    from .rules import PriceRule, QuoteRule

_SPARE = 64
# Place, rule, which way, the price, and what a move was measured from.
_Fired: TypeAlias = "tuple[int, Watched, Direction, Decimal, Base | None]"
_in_order = attrgetter("place")
_by_place = itemgetter(0)


class _Book:
    """The rules of one asset.

    Attributes:
        above: Gates whose signal is the bid.
        below: Gates whose signal is the ask with its sign turned.
        windows: The moves within a time; None: there is no such rule.
        ends: When rules end by themselves, the soonest first.
        size: How many rules there are.
    """

    __slots__ = ("above", "below", "ends", "size", "windows")

    def __init__(self) -> None:
        self.above = Side()
        self.below = Side()
        self.windows: Windows | None = None
        self.ends: list[tuple[int, int, Watched]] = []
        self.size = 0


class Alerts:
    """The rules and followers of a process, and what they make of each event.

    Synchronous and not for several threads. A quote costs what it fires, arms again and
    ends; a rule that it does not change costs nothing, however many there are.

    Args:
        rules: The rules to start with.
        followers: Pairs of user id and market: who is told of which resolution.
        keep_changes: Keep for `take_changes` which rules changed; someone has to take
            them, or they add up.

    Raises:
        RuleError: Two rules of a user have the same id.
    """

    def __init__(
        self,
        rules: Iterable[QuoteRule] = (),
        followers: Iterable[tuple[int, str]] = (),
        *,
        keep_changes: bool = False,
    ) -> None:
        # By owner and id: nobody removes or replaces the rule of another user.
        self._rules: dict[tuple[int, str], Watched] = {}
        self._books: dict[str, _Book] = {}
        self._places = count()
        self._changed: dict[int, Watched] | None = {} if keep_changes else None
        # Insertion order is the order in which followers are told.
        self._followers: dict[str, dict[int, None]] = {}
        self._resolved: set[str] = set()
        for rule in rules:
            self.add(rule)
        for user_id, market in followers:
            self.follow(user_id, market)

    def __len__(self) -> int:
        """Return how many rules are watched."""
        return len(self._rules)

    def add(self, rule: QuoteRule, state: RuleState | None = None) -> None:
        """Watch a rule from its asset's next quote on.

        Args:
            rule: The rule.
            state: Where it stands; None: where its `base` says.

        Raises:
            RuleError: A rule of this user with this id is already watched, or it ended.
        """
        key = (rule.user_id, rule.id)
        if key in self._rules:
            raise RuleError(
                f"rule {rule.id!r} is already watched; remove it first, "
                "or give the new one another id"
            )
        if state is None:
            state = _beginning(rule)
        if state.ended:
            raise RuleError(f"rule {rule.id!r} has ended; give a new one another id")
        watched = Watched(rule, next(self._places))
        watched.n, watched.fired_at = state.n, state.fired_at
        book = self._books.get(rule.asset_id)
        if book is None:
            book = self._books[rule.asset_id] = _Book()
        book.size += 1
        self._rules[key] = watched
        if rule.until is not None:
            heappush(book.ends, (rule.until, watched.place, watched))
        if not isinstance(rule, MoveRule):
            _place(book, watched, rule, armed=state.armed)
        elif rule.within is None:
            _measure(book, watched, rule, state.reference or Base())
        else:
            if book.windows is None:
                book.windows = Windows()
            book.windows.add(watched, rule, (state.armed, state.armed_fall))

    def remove(self, user_id: int, rule_id: str) -> bool:
        """Stop watching a user's rule; False when the user has none with this id."""
        watched = self._rules.get((user_id, rule_id))
        if watched is None:
            return False
        self._forget(watched)
        return True

    def replace(self, rule: QuoteRule) -> None:
        """Watch a rule in place of the user's rule with the same id, or as a new one.

        It begins where its `base` says. Its alerts are counted on, so that none has the
        id of an earlier one.
        """
        old = self._rules.get((rule.user_id, rule.id))
        if old is not None:
            self._forget(old)
        self.begin(rule, 0 if old is None else old.n)

    def begin(self, rule: QuoteRule, n: int) -> None:
        """Watch a rule from where its `base` says; its alerts are counted on from `n`.

        Raises:
            RuleError: As from `add`.
        """
        state = _beginning(rule)
        self.add(rule, RuleState(n=n, armed=state.armed, reference=state.reference))

    def state(self, user_id: int, rule_id: str) -> RuleState | None:
        """Return where a user's rule stands; None when it is not watched."""
        watched = self._rules.get((user_id, rule_id))
        return None if watched is None else self._state(watched)

    def take_changes(self) -> list[tuple[QuoteRule, RuleState]]:
        """Return the rules that quotes changed since the last call, in their order.

        Fired, armed again, measured from another price, or ended; each once and as it
        is now. A rule that was removed is not among them, one that ended is.
        """
        if not self._changed:
            return []
        taken = sorted(self._changed.values(), key=_in_order)
        self._changed.clear()
        return [(each.rule, self._state(each)) for each in taken]

    def follow(self, user_id: int, market: str) -> None:
        """Tell a user when a market is resolved; nothing if it already was."""
        if market not in self._resolved:
            self._followers.setdefault(market, {})[user_id] = None

    def unfollow(self, user_id: int, market: str) -> bool:
        """Tell the user nothing of the market's resolution; False if none was due."""
        followers = self._followers.get(market, {})
        if user_id not in followers:
            return False
        del followers[user_id]
        if not followers:
            del self._followers[market]
        return True

    def history(self, asset_id: str) -> str | None:
        """Return what the prices of an asset were, as text.

        Moves within a time are measured from them, so they are kept with the states.
        None: no rule needs them.
        """
        book = self._books.get(asset_id)
        if book is None or book.windows is None:
            return None
        return book.windows.encode()

    def restore(self, histories: Mapping[str, str], until: int) -> None:
        """Go on with what the prices of all assets were.

        Args:
            histories: As `history` returned them, by asset; of others nothing is known.
            until: Up to when the last prices are known to have stood at least, ms.
        """
        for asset_id, book in self._books.items():
            if book.windows is not None:
                book.windows.restore(histories.get(asset_id), until)

    def on_quote(
        self, quote: Quote, seen_at: float, held: int | None = None
    ) -> list[PriceCrossed | Moved]:
        """Return the alerts of one quote, in the order their rules were added.

        A side that the quote does not have says nothing: the rules on that side stay
        as they are. Alerts in their rule's cooldown are among them and say so.

        Args:
            quote: The top of one asset's book.
            seen_at: When this process saw it, in seconds.
            held: Where quotes may be missing before this one: up to when the one before
                is known to have stood, in the market's time, ms. None: until this one.
        """
        book = self._books.get(quote.asset_id)
        if book is None:
            return []
        if book.ends:
            self._end_until(book, believable(quote.at, seen_at))
        fired: list[_Fired] = []
        bid, ask = quote.bid, quote.ask
        if book.windows is not None:
            at = believable(quote.at, seen_at)
            for swing in book.windows.judge(quote, at, held, self._changed):
                since, way = Base(swing.since, swing.since), swing.direction
                fired += [
                    (watched.place, watched, way, swing.price, since)
                    for watched in swing.rules
                ]
        if bid is not None:
            side = book.above
            if side.fresh:
                self._begin(book, side, bid)
            for watched in side.judge(bid, bid.copy_negate(), self._changed):
                was = watched.reference
                fired.append((watched.place, watched, Direction.ABOVE, bid, was))
                if was is not None:
                    # Before the asks are judged: a move fires once a quote.
                    _measure_from(book, watched, Base(bid, ask))
        if ask is not None:
            side = book.below
            if side.fresh:
                self._begin(book, side, ask)
            for watched in side.judge(ask.copy_negate(), ask, self._changed):
                was = watched.reference
                fired.append((watched.place, watched, Direction.BELOW, ask, was))
                if was is not None:
                    _measure_from(book, watched, Base(bid, ask))
        return self._alerts_of(fired, quote, seen_at) if fired else []

    def on_resolved(self, event: MarketResolved, seen_at: float) -> list[Resolved]:
        """Return one alert per follower, the first time a market is resolved.

        Args:
            event: The resolution; a repeated one for the same market says nothing.
            seen_at: When this process saw it, in seconds.
        """
        # Remembered, since a feed tells of one resolution once per subscribed outcome
        # and may tell it again after a reconnect.
        self._resolved.add(event.market)
        return [
            Resolved(
                id=f"{user_id}:{event.market}:resolved",
                user_id=user_id,
                market=event.market,
                asset_id=event.winning_asset_id,
                outcome=event.winning_outcome,
                at=_when(event.timestamp, seen_at),
                seen_at=seen_at,
            )
            for user_id in self._followers.pop(event.market, {})
        ]

    def _alerts_of(
        self, fired: list[_Fired], quote: Quote, seen_at: float
    ) -> list[PriceCrossed | Moved]:
        at, believed = _when(quote.at, seen_at), believable(quote.at, seen_at)
        changed = self._changed
        alerts: list[PriceCrossed | Moved] = []
        fired.sort(key=_by_place)
        for place, watched, direction, price, was in fired:
            rule = watched.rule
            if watched.ended:
                continue  # a rule for once, whose other direction has fired
            watched.n += 1
            cooling = rule.cooldown > 0 and is_cooling(rule, believed, watched.fired_at)
            if not cooling:
                watched.fired_at = believed
            if changed is not None:
                changed[place] = watched
            if rule.once:
                self._end(watched)
            if isinstance(rule, MoveRule):
                # The side that fired had a reference.
                above = direction is Direction.ABOVE
                reference = cast("Base", was).bid if above else cast("Base", was).ask
                alerts.append(
                    Moved(
                        id=f"{rule.id}:{watched.n}",
                        user_id=rule.user_id,
                        rule_id=rule.id,
                        market=rule.market,
                        asset_id=rule.asset_id,
                        direction=direction,
                        by=rule.by,
                        unit=rule.unit,
                        within=rule.within,
                        reference=cast("Decimal", reference),
                        price=price,
                        at=at,
                        seen_at=seen_at,
                        in_cooldown=cooling,
                    )
                )
            else:
                alerts.append(
                    PriceCrossed(
                        id=f"{rule.id}:{watched.n}",
                        user_id=rule.user_id,
                        rule_id=rule.id,
                        market=rule.market,
                        asset_id=rule.asset_id,
                        direction=direction,
                        level=rule.level,
                        price=price,
                        at=at,
                        seen_at=seen_at,
                        in_cooldown=cooling,
                    )
                )
        return alerts

    def _begin(self, book: _Book, side: Side, price: Decimal) -> None:
        """Show the rules without a price on a side their first one."""
        fresh, side.fresh = side.fresh, {}
        for place, watched in fresh.items():
            rule = watched.rule
            if isinstance(rule, MoveRule):
                was = watched.reference or Base()
                above = side is book.above
                watched.reference = Base(
                    price if above else was.bid, was.ask if above else price
                )
                _place_move(side, watched, rule, price, above=above)
            else:
                _place(book, watched, rule, armed=crossing(rule, price, armed=None)[1])
            if self._changed is not None:
                self._changed[place] = watched

    def _end_until(self, book: _Book, at: int) -> None:
        """End the rules whose time is over."""
        while book.ends and is_over(book.ends[0][-1].rule, at):
            _, place, watched = heappop(book.ends)
            if not watched.ended:
                self._end(watched)
                if self._changed is not None:
                    self._changed[place] = watched

    def _state(self, watched: Watched) -> RuleState:
        rule, armed, armed_fall = watched.rule, None, None
        if isinstance(rule, MoveRule) and rule.within is not None:
            windows = None if watched.ended else self._books[rule.asset_id].windows
            if windows is not None:
                armed, armed_fall = windows.armed(watched, rule)
        elif watched.gates and watched.reference is None:
            armed = watched.place in watched.gates[0][1].armed
        return RuleState(
            n=watched.n,
            armed=armed,
            armed_fall=armed_fall,
            reference=watched.reference,
            fired_at=watched.fired_at,
            ended=watched.ended,
        )

    def _forget(self, watched: Watched) -> None:
        self._end(watched)
        if self._changed is not None:
            self._changed.pop(watched.place, None)

    def _end(self, watched: Watched) -> None:
        """Watch a rule no more."""
        rule = watched.rule
        watched.ended = True
        del self._rules[rule.user_id, rule.id]
        book = self._books[rule.asset_id]
        if isinstance(rule, MoveRule) and rule.within is not None and book.windows:
            book.windows.take_out(watched, rule)
            if not book.windows.size:
                book.windows = None
        _take_out(book, watched)
        book.size -= 1
        if not book.size:
            del self._books[rule.asset_id]
        elif len(book.ends) > 2 * book.size + _SPARE:
            # Rules that were removed before their time would add up.
            book.ends = [each for each in book.ends if not each[-1].ended]
            heapify(book.ends)


def _beginning(rule: QuoteRule) -> RuleState:
    if isinstance(rule, MoveRule):
        return RuleState(reference=None if rule.within else rule.base)
    return RuleState(armed=armed_at_first(rule))


def _place(
    book: _Book, watched: Watched, rule: PriceRule, *, armed: bool | None
) -> None:
    above = rule.direction is Direction.ABOVE
    side = book.above if above else book.below
    if armed is None:
        side.fresh[watched.place] = watched
        return
    # On the side of the asks everything has its sign turned, and so has each threshold.
    level = rule.level if above else rule.level.copy_negate()
    back = rule.hysteresis - rule.level if above else rule.level + rule.hysteresis
    # Without hysteresis the price has to leave the level.
    side.add(watched, level, (back, not rule.hysteresis), armed=armed)


def _measure(book: _Book, watched: Watched, rule: MoveRule, reference: Base) -> None:
    watched.reference = reference
    for side, price, above in (
        (book.above, reference.bid, True),
        (book.below, reference.ask, False),
    ):
        if price is None:
            side.fresh[watched.place] = watched
        else:
            _place_move(side, watched, rule, price, above=above)


def _place_move(
    side: Side, watched: Watched, rule: MoveRule, price: Decimal, *, above: bool
) -> None:
    far = distance(rule, price)
    level = price + far if above else (price - far).copy_negate()
    side.add(watched, level, None, armed=True)


def _measure_from(book: _Book, watched: Watched, reference: Base) -> None:
    _take_out(book, watched)
    _measure(book, watched, cast("MoveRule", watched.rule), reference)


def _take_out(book: _Book, watched: Watched) -> None:
    for side, gate in watched.gates:
        side.remove(watched, gate)
    watched.gates.clear()
    book.above.fresh.pop(watched.place, None)
    book.below.fresh.pop(watched.place, None)


def _when(at: int | None, seen_at: float) -> int:
    return int(seen_at * 1000) if at is None else at
