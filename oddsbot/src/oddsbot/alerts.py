"""Who is to be told what, from quotes and resolutions alone: no I/O, no clock.

A price rule fires once when its price crosses the level, and again only after the price
went back by the hysteresis, so that a price that trembles around the level tells its
user once. "Above" looks at the best bid (somebody really pays that much), "below" at
the best ask (somebody really sells for that little); there is no mid and no last trade.

The state (which rules are armed) lives in this object and ends with it.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddsbot.polymarket import MarketResolved, Quote


class RuleError(ValueError):
    """A rule cannot be watched: a level or hysteresis out of range, an id in use."""


_PLACES = 30


class Direction(StrEnum):
    """Which way a price has to go for a rule to fire."""

    ABOVE = "above"
    BELOW = "below"


class PriceRule(msgspec.Struct, frozen=True, kw_only=True):
    """What one user wants to be told about one price.

    Attributes:
        id: Unique among the user's rules; alerts are named after it.
        user_id: Whom to tell.
        market: The market's condition id.
        asset_id: The outcome's token id; the price is that of this outcome.
        direction: ``above`` watches the best bid, ``below`` the best ask.
        level: Fires when the price reaches it, ``0 < level < 1``.
        hysteresis: How far back from the level the price must go before the rule
            can fire again, ``0 <= hysteresis < 1``.

    Raises:
        RuleError: The level or the hysteresis is out of range.
    """

    id: str
    user_id: int
    market: str
    asset_id: str
    direction: Direction
    level: Decimal
    hysteresis: Decimal = Decimal("0.01")

    def __post_init__(self) -> None:
        # Asked this way round, NaN is refused as well, and before it is compared.
        for number in (self.level, self.hysteresis):
            # Shown or compared, a number of a million places stops the loop.
            if number.is_finite() and not -_PLACES <= number.adjusted() <= _PLACES:
                raise RuleError(f"rule {self.id!r}: a number has too many places")
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


class PriceCrossed(msgspec.Struct, frozen=True, kw_only=True, tag="price"):
    """A rule fired.

    Attributes:
        id: ``{rule id}:{n}``, n counting the firings of the rule from 1.
        user_id: Whom to tell.
        rule_id: The rule that fired.
        market: The market's condition id.
        asset_id: The outcome's token id.
        direction: As in the rule.
        level: As in the rule.
        price: The bid or ask that reached the level.
        at: When it happened: the market's own time, in ms; where the market says none,
            when this process saw it.
        seen_at: When this process saw it: its own clock, in seconds.
    """

    id: str
    user_id: int
    rule_id: str
    market: str
    asset_id: str
    direction: Direction
    level: Decimal
    price: Decimal
    at: int
    seen_at: float


class Resolved(msgspec.Struct, frozen=True, kw_only=True, tag="resolved"):
    """A market that the user follows was resolved.

    Attributes:
        id: ``{user id}:{market}:resolved``.
        user_id: Whom to tell.
        market: The market's condition id.
        asset_id: The token id of the outcome that won.
        outcome: Its name.
        at: When it happened: the market's own time, in ms; where the market says none,
            when this process saw it.
        seen_at: When this process saw it: its own clock, in seconds.
    """

    id: str
    user_id: int
    market: str
    asset_id: str
    outcome: str
    at: int
    seen_at: float


Alert: TypeAlias = PriceCrossed | Resolved


def crossing(
    rule: PriceRule, price: Decimal, *, armed: bool | None
) -> tuple[bool, bool]:
    """Decide what one price means to one rule.

    Args:
        rule: The rule.
        armed: Whether it may fire; None before its first price.
        price: The bid for ``above``, the ask for ``below``.

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


class _Watched:
    """A rule and where it stands."""

    __slots__ = ("armed", "fired", "rule")

    def __init__(self, rule: PriceRule) -> None:
        self.rule = rule
        self.armed: bool | None = None
        self.fired = 0


class Alerts:
    """The rules and followers of a process, and what they make of each event.

    Synchronous and not for several threads. A quote costs one look at each rule of its
    asset and nothing for all others.

    Args:
        rules: The price rules to start with.
        followers: Pairs of user id and market: who is told of which resolution.

    Raises:
        RuleError: Two rules of a user have the same id.
    """

    def __init__(
        self,
        rules: Iterable[PriceRule] = (),
        followers: Iterable[tuple[int, str]] = (),
    ) -> None:
        # By owner and id: nobody removes or replaces the rule of another user.
        self._by_asset: dict[str, dict[tuple[int, str], _Watched]] = {}
        self._assets: dict[tuple[int, str], str] = {}
        # Insertion order is the order in which followers are told.
        self._followers: dict[str, dict[int, None]] = {}
        self._resolved: set[str] = set()
        for rule in rules:
            self.add(rule)
        for user_id, market in followers:
            self.follow(user_id, market)

    def add(self, rule: PriceRule) -> None:
        """Watch a rule from its asset's next quote on.

        Raises:
            RuleError: A rule of this user with this id is already watched.
        """
        key = (rule.user_id, rule.id)
        if key in self._assets:
            raise RuleError(
                f"rule {rule.id!r} is already watched; remove it first, "
                "or give the new one another id"
            )
        self._assets[key] = rule.asset_id
        self._by_asset.setdefault(rule.asset_id, {})[key] = _Watched(rule)

    def remove(self, user_id: int, rule_id: str) -> bool:
        """Stop watching a user's rule; False when the user has none with this id."""
        asset_id = self._assets.pop((user_id, rule_id), None)
        if asset_id is None:
            return False
        rules = self._by_asset[asset_id]
        del rules[user_id, rule_id]
        if not rules:
            del self._by_asset[asset_id]
        return True

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

    def on_quote(self, quote: Quote, seen_at: float) -> list[PriceCrossed]:
        """Return the alerts of one quote, in the order their rules were added.

        A side that the quote does not have says nothing: the rules on that side stay
        as they are.

        Args:
            quote: The top of one asset's book.
            seen_at: When this process saw it, in seconds.
        """
        alerts: list[PriceCrossed] = []
        for watched in self._by_asset.get(quote.asset_id, {}).values():
            rule = watched.rule
            above = rule.direction is Direction.ABOVE
            price = quote.bid if above else quote.ask
            if price is None:
                continue
            fires, watched.armed = crossing(rule, price, armed=watched.armed)
            if not fires:
                continue
            watched.fired += 1
            alerts.append(
                PriceCrossed(
                    id=f"{rule.id}:{watched.fired}",
                    user_id=rule.user_id,
                    rule_id=rule.id,
                    market=rule.market,
                    asset_id=rule.asset_id,
                    direction=rule.direction,
                    level=rule.level,
                    price=price,
                    at=_when(quote.at, seen_at),
                    seen_at=seen_at,
                )
            )
        return alerts

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


def _when(at: int | None, seen_at: float) -> int:
    return int(seen_at * 1000) if at is None else at
