"""Three users and what they asked for: thresholds from the recording's own range."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from oddsbot.alerts import Direction, PriceRule
from oddsbot.standin.polymarket import Group

from .checker import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oddsbot.polymarket import GammaMarket
    from oddsbot.standin.polymarket import Recording

PEOPLE = {1: "Ana", 2: "Ben", 3: "Chloe"}

_CENT = Decimal("0.01")


class Wish(NamedTuple):
    """A rule in words: where in the range of a side's price the level lies."""

    user: int
    side: int
    direction: Direction
    share: Decimal
    hysteresis: Decimal


# Ana waits for the first outcome to become likely, Ben for it to become unlikely, and
# Chloe wants to hear of every turn, of both outcomes.
WISHES = (
    Wish(1, 0, Direction.ABOVE, Decimal("0.75"), Decimal("0.03")),
    Wish(2, 0, Direction.BELOW, Decimal("0.25"), Decimal("0.03")),
    Wish(3, 0, Direction.ABOVE, Decimal("0.5"), Decimal("0.01")),
    Wish(3, 1, Direction.ABOVE, Decimal("0.5"), Decimal("0.01")),
    Wish(3, 1, Direction.BELOW, Decimal("0.4"), Decimal("0.01")),
)
_SIDES = ("UP", "DOWN")


def price_rules(
    recording: Recording, markets: Iterable[GammaMarket], until: int
) -> Iterator[PriceRule]:
    """Yield each user's rules for each market.

    Args:
        recording: Whose range of prices the levels divide.
        markets: Its markets, as Gamma describes them.
        until: The range is that up to this recorded moment, ms.
    """
    ranges = _ranges(recording, until)
    for market in markets:
        for number, wish in enumerate(WISHES, start=1):
            prices = ranges.get((market.condition_id, wish.side, wish.direction))
            if prices is None:
                continue
            low, high = prices
            level = (low + (high - low) * wish.share).quantize(_CENT)
            yield PriceRule(
                id=f"{PEOPLE[wish.user].lower()}-{number}-{market.slug}",
                user_id=wish.user,
                market=market.condition_id,
                asset_id=market.clob_token_ids[wish.side],
                direction=wish.direction,
                level=min(max(level, _CENT), 1 - _CENT),
                hysteresis=wish.hysteresis,
            )


def followers(markets: Iterable[GammaMarket]) -> list[tuple[int, str]]:
    """Return who wants to know how which market ends: Ana and Chloe, each of them."""
    return [(user, market.condition_id) for market in markets for user in (1, 3)]


def for_checker(
    rules: Iterable[PriceRule], markets: Iterable[GammaMarket]
) -> list[Rule]:
    """Return rules as the checker takes them: it knows sides, not tokens."""
    sides = {
        token: side
        for market in markets
        for token, side in zip(market.clob_token_ids, _SIDES, strict=True)
    }
    return [
        Rule(
            rule.user_id,
            rule.id,
            rule.market,
            sides[rule.asset_id],
            1 if rule.direction is Direction.ABOVE else -1,
            rule.level,
            rule.hysteresis,
        )
        for rule in rules
    ]


def _ranges(
    recording: Recording, until: int
) -> dict[tuple[str, int, Direction], tuple[Decimal, Decimal]]:
    """Return the lowest and highest best bid (above) and ask (below) of each side."""
    ranges: dict[tuple[str, int, Direction], tuple[Decimal, Decimal]] = {}
    for item in recording.timeline:
        if item.ts > until or not isinstance(item, Group):
            continue
        for snapshot in item.snapshots:
            for direction, levels in (
                (Direction.ABOVE, snapshot.bids),
                (Direction.BELOW, snapshot.asks),
            ):
                if levels:
                    key = (item.market_id, _SIDES.index(snapshot.side), direction)
                    best = levels[0][0]
                    low, high = ranges.get(key, (best, best))
                    ranges[key] = min(low, best), max(high, best)
    return ranges
