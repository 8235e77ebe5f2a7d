"""The definition of firing: one rule, one quote. `gates` does the same for many rules.

"Above" looks at the best bid (somebody really pays that much), "below" at the best ask
(somebody really sells for that little). There is no mid and no last trade. A side that
a quote does not have says nothing.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from .rules import Base, Direction, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .rules import MoveRule, PriceRule, QuoteRule, VolumeRule

_CENT = Decimal("0.01")
_NINE_TENTHS = Decimal("0.9")

# How far the market's clock may be ahead of ours before its time is not believed.
_AHEAD_MS = 60_000


def crossing(
    rule: PriceRule, price: Decimal, *, armed: bool | None
) -> tuple[bool, bool]:
    """Decide what one price means to one rule.

    Args:
        rule: The rule.
        price: The bid for ``above``, the ask for ``below``.
        armed: Whether it may fire; None before its first price.

    Returns:
        Whether it fires now, and whether it may fire after this.
    """
    if rule.direction is Direction.ABOVE:
        across = price >= rule.level
        back = price <= rule.level - rule.hysteresis
    else:
        across = price <= rule.level
        back = price >= rule.level + rule.hysteresis
    if armed is None:
        # Where the price already is when a rule begins is no crossing.
        return False, not across
    if armed:
        return across, not across
    # Without hysteresis the level itself is both across and back; across wins, or a
    # price that stays on the level would fire with every quote.
    return False, back and not across


def armed_at_first(rule: PriceRule) -> bool | None:
    """Return whether a rule may fire at its first price.

    None where the person saw no price on the rule's side: the first one decides.
    """
    if rule.base is None:
        return None
    above = rule.direction is Direction.ABOVE
    seen = rule.base.bid if above else rule.base.ask
    if seen is None:
        return None
    return crossing(rule, seen, armed=None)[1]


def distance(rule: MoveRule, price: Decimal) -> Decimal:
    """Return how far from a price of its reference a rule fires."""
    if rule.unit is Unit.CENTS:
        return rule.by / 100
    return max(price * rule.by / 100, _CENT)


def moving(
    rule: MoveRule, bid: Decimal | None, ask: Decimal | None, reference: Base
) -> tuple[Direction | None, Base]:
    """Decide what one quote means to one rule.

    Args:
        rule: The rule.
        bid: The best bid, None when there is none.
        ask: The best ask, likewise.
        reference: What the move is measured from.

    Returns:
        Which way it fires now, and the reference after this. A quote that fires is the
        new reference; else it only fills in the sides that the reference does not have.
    """
    rise, fall = reference.bid, reference.ask
    if bid is not None and rise is not None and bid >= rise + distance(rule, rise):
        return Direction.ABOVE, Base(bid, ask)
    if ask is not None and fall is not None and ask <= fall - distance(rule, fall):
        return Direction.BELOW, Base(bid, ask)
    return None, Base(bid if rise is None else rise, ask if fall is None else fall)


class Held(NamedTuple):
    """What the best bid or ask of an outcome was for a while.

    Attributes:
        price: The price.
        until: When the next one came, ms; where quotes may be missing before that one,
            up to when this price is known to have stood.
    """

    price: Decimal
    until: int


def since_when(
    direction: Direction, price: Decimal, held: Iterable[Held], at: int, within: int
) -> Decimal:
    """Return what a move within a time is measured from.

    The lowest bid for a rise, the highest ask for a fall: of the prices that stood at
    any moment of the time, and of the price now.

    Args:
        direction: ``above`` for a rise.
        price: The bid or ask now.
        held: The bids or asks before it.
        at: Now, in the market's time, ms.
        within: The time, in seconds.
    """
    young = [each.price for each in held if each.until > at - within * 1000]
    return (min if direction is Direction.ABOVE else max)([*young, price])


def size_of(unit: Unit, price: Decimal, since: Decimal) -> Decimal:
    """Return how far a price has gone, in a unit; in percent less than 1 cent is 0."""
    gone = abs(price - since)
    if unit is Unit.CENTS:
        return gone * 100
    if gone < _CENT:
        return Decimal(0)
    return gone * 100 / since if since else Decimal("Infinity")


def swinging(rule: MoveRule, size: Decimal, *, armed: bool | None) -> tuple[bool, bool]:
    """Decide what the size of a move within a rule's time means, in one direction.

    While a price stands, older ones leave the time and the move gets smaller. So before
    a quote is judged, the price before it is, at the last moment up to which it stood.

    Args:
        rule: The rule.
        size: How far the price has gone, in the rule's unit.
        armed: Whether it may fire; None before its first price.

    Returns:
        Whether it fires now, and whether it may fire after this.
    """
    if armed is None:
        # A move that is there when a rule begins is no news.
        return False, size < rule.by
    if armed:
        return size >= rule.by, size < rule.by
    return False, size < rule.by / 2


def armed_by(rule: VolumeRule) -> bool | None:
    """Return whether a rule may fire at its first volume; None: that one decides."""
    return None if rule.base is None else rule.base < rule.level


def reaching(
    rule: VolumeRule, volume: Decimal, *, armed: bool | None
) -> tuple[bool, bool]:
    """Decide what one volume of its market means to one rule.

    Args:
        rule: The rule.
        volume: What was traded, in dollars: ever, or in 24 hours, as the rule says.
        armed: Whether it may fire; None before its first volume.

    Returns:
        Whether it fires now, and whether it may fire after this: the volume of a day
        has to go back below nine tenths of the level.
    """
    if armed is None:
        return False, volume < rule.level
    if armed:
        return volume >= rule.level, volume < rule.level
    return False, volume < rule.level * _NINE_TENTHS


def is_cooling(rule: QuoteRule, at: int, fired_at: int | None) -> bool:
    """Return whether a firing falls into the cooldown of the last alert that was told.

    Args:
        rule: The rule.
        at: When it fires, ms.
        fired_at: When an alert was told last, ms; None: never.
    """
    # By the distance: a time that was wrong by a year must not silence for a year.
    return fired_at is not None and abs(at - fired_at) < rule.cooldown * 1000


def is_over(rule: QuoteRule, at: int) -> bool:
    """Return whether a rule ended by itself before a quote of this time, ms."""
    return rule.until is not None and at >= rule.until


def believable(at: int | None, seen_at: float) -> int:
    """Return the market's time, ms, or ours where it says none or one yet to come.

    Ends and cooldowns go by it: one wrong clock must not end the rules of an asset.
    """
    seen = int(seen_at * 1000)
    return seen if at is None or at > seen + _AHEAD_MS else at
