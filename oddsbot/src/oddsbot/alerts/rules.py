"""What a person can ask for about a market, and where a rule stands."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class RuleError(ValueError):
    """A rule cannot be watched: a field out of range, an id in use, a past end."""


_DIGITS = 30
_PLACES = 6
_LONGEST_ID = 128
_LONGEST_COOLDOWN = 30 * 86_400
_LAST_MOMENT = 4_102_444_800_000  # 2100-01-01
MOST_VOLUME = 1_000_000_000_000
_MOST = {"cents": 99, "percent": 1_000}

TIMES = (300, 900, 3_600, 86_400)
"""The seconds that a move may be given, the longest last."""


class Direction(StrEnum):
    """Which way a price has to go for a rule to fire."""

    ABOVE = "above"
    BELOW = "below"


class Unit(StrEnum):
    """What the size of a move is counted in."""

    CENTS = "cents"
    PERCENT = "percent"


class Base(msgspec.Struct, frozen=True, gc=False):
    """The two prices that a rule is measured from.

    Attributes:
        bid: The best bid, None when there was none.
        ask: The best ask, likewise.
    """

    bid: Decimal | None = None
    ask: Decimal | None = None


class PriceRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A level that the price of one outcome has to reach.

    Attributes:
        id: Unique among the user's rules; alerts are named after it.
        user_id: Whom to tell.
        market: The market's condition id.
        asset_id: The outcome's token id; the price is that of this outcome.
        direction: ``above`` watches the best bid, ``below`` the best ask.
        level: Fires when the price reaches it, ``0 < level < 1``, six decimal places.
        hysteresis: How far back from the level the price must go before the rule
            can fire again, ``0 <= hysteresis < 1``.
        base: The quote that the person saw when she set the rule. The first price fires
            if it lies across from there. Without it the first price fires nothing.
        cooldown: For how many seconds after an alert that was told the next ones are
            not told; 0 for none.
        until: When the rule ends, Unix milliseconds of the market's time; None: never.
        once: The rule ends when it fires.
        paused: It is kept and not watched.

    Raises:
        RuleError: A field is out of range; the text says what is accepted.
    """

    id: str
    user_id: int
    market: str
    asset_id: str
    direction: Direction
    level: Decimal
    hysteresis: Decimal = Decimal("0.01")
    base: Base | None = None
    cooldown: int = 0
    until: int | None = None
    once: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        _check_number(self.id, self.level)
        _check_number(self.id, self.hysteresis)
        # Asked this way round, NaN is refused as well, and before it is compared.
        if not (self.level.is_finite() and 0 < self.level < 1):
            raise RuleError(
                f"rule {self.id!r}: level {self.level} is no price; "
                "give one between 0 and 1, like 0.65"
            )
        if not (self.hysteresis.is_finite() and 0 <= self.hysteresis < 1):
            raise RuleError(
                f"rule {self.id!r}: hysteresis {self.hysteresis} is out of range; "
                "give 0 or more and less than 1, like 0.01"
            )
        _check_places(self.id, "level", self.level)
        _check_places(self.id, "hysteresis", self.hysteresis)
        _check_common(self)


class MoveRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A distance that the price of one outcome has to go, up or down.

    The distance is measured from the reference: `base` at first, then the quote of the
    last firing. A rise is measured between bids, a fall between asks.

    With `within` it has to go it in that time: a rise is measured from the lowest bid
    of the time, a fall from the highest ask. Either fires once, and again after the
    move was below half of the distance. A move that is there when the rule begins is
    not told.

    Attributes:
        id: Unique among the user's rules; alerts are named after it.
        user_id: Whom to tell.
        market: The market's condition id.
        asset_id: The outcome's token id; the price is that of this outcome.
        by: How far, 1 to 99 cents or 1 to 1,000 percent of the reference. A percentage
            that comes to less than one cent means one cent.
        unit: What `by` is counted in.
        base: The quote that the person saw when she set the rule. A side that is
            missing begins with its next price. With `within` nothing is measured from
            it.
        within: In how many seconds, one of `TIMES`; None: however long it takes.
        cooldown: As in `PriceRule`.
        until: As in `PriceRule`.
        once: As in `PriceRule`.
        paused: As in `PriceRule`.

    Raises:
        RuleError: A field is out of range; the text says what is accepted.
    """

    id: str
    user_id: int
    market: str
    asset_id: str
    by: Decimal
    unit: Unit = Unit.CENTS
    base: Base | None = None
    within: int | None = None
    cooldown: int = 0
    until: int | None = None
    once: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        _check_number(self.id, self.by)
        most = _MOST[self.unit]
        if not (self.by.is_finite() and 1 <= self.by <= most):
            raise RuleError(
                f"rule {self.id!r}: a move of {self.by} {self.unit} is out of range; "
                f"give 1 to {most:,} {self.unit}"
            )
        _check_places(self.id, "move", self.by)
        if self.within is not None and self.within not in TIMES:
            raise RuleError(
                f"rule {self.id!r}: a time of {self.within} seconds is not watched; "
                f"give one of {', '.join(map(str, TIMES))}"
            )
        _check_common(self)


class VolumeRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A sum that has to be traded in one market.

    Attributes:
        id: Unique among the user's rules; alerts are named after it.
        user_id: Whom to tell.
        market: The market's condition id.
        level: Fires when the volume reaches it, whole US dollars.
        daily: The volume of the last 24 hours; else what was traded ever, and the rule
            ends when it fires.
        base: The volume that the person saw when she set the rule. Without it the
            first one fires nothing.
        paused: As in `PriceRule`.

    Raises:
        RuleError: A field is out of range; the text says what is accepted.
    """

    id: str
    user_id: int
    market: str
    level: int
    daily: bool = False
    base: Decimal | None = None
    paused: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.level <= MOST_VOLUME:
            raise RuleError(
                f"rule {self.id!r}: a volume of {self.level} is out of range; "
                f"give 1 to {MOST_VOLUME:,} dollars"
            )
        _check_id(self.id, "market", self.market, "the market's condition id")


QuoteRule: TypeAlias = PriceRule | MoveRule
"""What is judged quote by quote."""

Rule: TypeAlias = PriceRule | MoveRule | VolumeRule


def assets_of(rules: Iterable[Rule]) -> set[str]:
    """Return the outcomes that some rules are about; a volume is of none."""
    return {each.asset_id for each in rules if not isinstance(each, VolumeRule)}


class RuleState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a rule stands: with the rule, all that the next quote needs.

    Attributes:
        n: How often it fired.
        armed: Whether a `PriceRule` or a `VolumeRule` may fire, or a `MoveRule` with a
            time on a rise; None before its first price or volume.
        armed_fall: Whether a `MoveRule` with a time may fire on a fall; likewise.
        reference: What a `MoveRule` without a time is measured from.
        fired_at: The market's time of the last alert that was told, ms.
        ended: The rule is over.
    """

    n: int = 0
    armed: bool | None = None
    armed_fall: bool | None = None
    reference: Base | None = None
    fired_at: int | None = None
    ended: bool = False


def check_new(rule: QuoteRule, *, now: float, assets: Collection[str]) -> None:
    """Refuse a rule that a person cannot mean, before it is kept.

    A rule that is read back is not asked this: its end may have come meanwhile.

    Args:
        rule: The rule.
        now: Our time, in seconds.
        assets: The token ids of the rule's market, while it trades; none when it is
            resolved or unknown.

    Raises:
        RuleError: The market has no such outcome, or the end lies in the past.
    """
    if not assets:
        raise RuleError(
            f"rule {rule.id!r}: market {rule.market!r} does not trade; "
            "give the condition id of a market that is open"
        )
    if rule.asset_id not in assets:
        raise RuleError(
            f"rule {rule.id!r}: market {rule.market!r} has no outcome "
            f"{rule.asset_id!r}; give one of its token ids: {', '.join(assets)}"
        )
    if rule.until is not None and rule.until <= now * 1000:
        raise RuleError(
            f"rule {rule.id!r}: until {rule.until} is past; "
            "give a time after now, in Unix milliseconds"
        )


def _check_number(rule_id: str, number: Decimal) -> None:
    # Shown or compared, a number of a million digits stops the loop.
    if number.is_finite() and not -_DIGITS <= number.adjusted() <= _DIGITS:
        raise RuleError(
            f"rule {rule_id!r}: a number has too many places; "
            f"give at most {_PLACES} decimal places, like 0.65"
        )


def _check_places(rule_id: str, name: str, number: Decimal) -> None:
    # With so few places the sums of levels and prices are exact.
    if round(number, _PLACES) != number:
        raise RuleError(
            f"rule {rule_id!r}: {name} has too many places; "
            f"give at most {_PLACES} decimal places, like 0.65"
        )


def _check_id(rule_id: str, name: str, text: str, what: str) -> None:
    plain = text.isascii() and text.isprintable() and " " not in text
    if not (plain and 1 <= len(text) <= _LONGEST_ID):
        raise RuleError(
            f"rule {rule_id!r}: {name} {text[:_LONGEST_ID]!r} is no id; give {what}"
        )


def _check_common(rule: QuoteRule) -> None:
    _check_id(rule.id, "market", rule.market, "the market's condition id")
    _check_id(rule.id, "asset_id", rule.asset_id, "the outcome's token id")
    if not 0 <= rule.cooldown <= _LONGEST_COOLDOWN:
        raise RuleError(
            f"rule {rule.id!r}: cooldown {rule.cooldown} is out of range; "
            f"give 0 to {_LONGEST_COOLDOWN:,} seconds"
        )
    if rule.until is not None and not 0 < rule.until < _LAST_MOMENT:
        raise RuleError(
            f"rule {rule.id!r}: until {rule.until} is no time; "
            "give Unix milliseconds before the year 2100"
        )
    for price in (rule.base.bid, rule.base.ask) if rule.base is not None else ():
        if price is not None and not (price.is_finite() and 0 <= price <= 1):
            raise RuleError(
                f"rule {rule.id!r}: base {price} is no price; "
                "give the quote that was shown, or leave the side out"
            )
