"""What people are told."""

from __future__ import annotations

from decimal import Decimal
from typing import TypeAlias

import msgspec

from .rules import Direction, Unit


class PriceCrossed(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="price"):
    """A price reached the level of a rule.

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
        in_cooldown: The rule's cooldown holds it back: it counts, and is not told.
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
    in_cooldown: bool = False


class Moved(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="move"):
    """A price went as far as a rule says.

    Attributes:
        id: ``{rule id}:{n}``, n counting the firings of the rule from 1.
        user_id: Whom to tell.
        rule_id: The rule that fired.
        market: The market's condition id.
        asset_id: The outcome's token id.
        direction: ``above`` for a rise, of the bid; ``below`` for a fall, of the ask.
        by: As in the rule.
        unit: As in the rule.
        within: As in the rule.
        reference: The bid or ask that the move is measured from.
        price: The bid or ask now.
        at: As in `PriceCrossed`.
        seen_at: As in `PriceCrossed`.
        in_cooldown: As in `PriceCrossed`.
    """

    id: str
    user_id: int
    rule_id: str
    market: str
    asset_id: str
    direction: Direction
    by: Decimal
    unit: Unit
    reference: Decimal
    price: Decimal
    at: int
    seen_at: float
    in_cooldown: bool = False
    within: int | None = None


class VolumeReached(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="volume"):
    """The volume of a market reached the level of a rule.

    Attributes:
        id: ``{rule id}:{n}``, n counting the firings of the rule from 1.
        user_id: Whom to tell.
        rule_id: The rule that fired.
        market: The market's condition id.
        level: As in the rule.
        daily: As in the rule.
        volume: What was traded.
        at: When this process saw it, in ms: Polymarket does not say when it happened.
        seen_at: The same, in seconds.
    """

    id: str
    user_id: int
    rule_id: str
    market: str
    level: int
    daily: bool
    volume: Decimal
    at: int
    seen_at: float


class Resolved(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="resolved"):
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


class Proposed(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="proposed"):
    """Somebody told the oracle how a market ended that the user follows.

    Attributes:
        id: ``{user id}:{market}:proposed:{this proposal}``.
        user_id: Whom to tell.
        market: The market's condition id.
        outcome: The name of the outcome that is said to have won; empty where it is
            shared, or unknown.
        final_at: The earliest time at which it is final unless it is disputed, an
            estimate, Unix seconds; None: unknown.
        at: As in `Resolved`.
        seen_at: As in `Resolved`.
    """

    id: str
    user_id: int
    market: str
    outcome: str
    final_at: int | None
    at: int
    seen_at: float


class Disputed(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="disputed"):
    """A proposal is disputed, of a market that the user follows.

    Attributes:
        id: ``{user id}:{market}:disputed:{this dispute}``.
        user_id: Whom to tell.
        market: The market's condition id.
        outcome: The name of the outcome that was proposed; empty as in `Proposed`.
        at: As in `Resolved`.
        seen_at: As in `Resolved`.
    """

    id: str
    user_id: int
    market: str
    outcome: str
    at: int
    seen_at: float


class Opened(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="opened"):
    """An event is new under a tag that the user follows, or markets joined one.

    Attributes:
        id: ``{user id}:{event}:opened``, or ``...:joined:{market}`` by Gamma's id of
            the first that joined; two of her tags make one alert of an event.
        user_id: Whom to tell.
        tag: The tag's slug.
        event: The event's id of Gamma's.
        title: Of the event.
        market: The condition id of its first market, or of the first that joined.
        markets: How many it has.
        choice: What the first that joined is called; empty: the event is new.
        joined: How many joined.
        at: When it began, as Gamma says, in ms.
        seen_at: As in `Resolved`.
    """

    id: str
    user_id: int
    tag: str
    event: str
    title: str
    market: str
    markets: int
    at: int
    seen_at: float
    choice: str = ""
    joined: int = 0


def tag_id(tag: str) -> str:
    """Return what stands in a tag's alerts where others name a rule."""
    return f"tag:{tag}"


QuoteAlert: TypeAlias = PriceCrossed | Moved
"""What a rule about an outcome's price asked for."""

RuleAlert: TypeAlias = PriceCrossed | Moved | VolumeReached
"""What a rule of the person asked for."""

MarketAlert: TypeAlias = Proposed | Disputed | Resolved
"""News of a market: proposed, disputed or resolved."""

Alert: TypeAlias = RuleAlert | MarketAlert | Opened
