"""What one price or move rule tells of, quote by quote: alerts the slow way.

Written from the definitions in `oddsbot.alerts.crossing`, which it calls; it shares
nothing with the sorted gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oddsbot.alerts import Base, Direction, PriceRule, crossing, moving

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from oddsbot.alerts import Rule
    from oddsbot.polymarket import Quote


class Fired(NamedTuple):
    """What an alert of the engine has to say."""

    id: str
    user_id: int
    direction: Direction
    price: Decimal
    reference: Decimal | None
    at: int | None
    in_cooldown: bool


class OneRule:
    """A rule, and everything that it remembers."""

    def __init__(self, rule: Rule, n: int = 0) -> None:
        self.rule = rule
        self.n = n
        self.told_at: int | None = None
        self.ended = False
        self.armed: bool | None = None
        self.reference = rule.base or Base()
        if isinstance(rule, PriceRule):
            seen = self.price(self.reference)
            if seen is not None:
                _, self.armed = crossing(rule, seen, armed=None)

    def price(self, quote: Quote | Base) -> Decimal | None:
        """Return the price that a price rule looks at."""
        above = self.rule.direction is Direction.ABOVE
        return quote.bid if above else quote.ask

    def judge(self, quote: Quote, seen_at: float) -> Fired | None:
        """Show the rule a quote of its asset."""
        rule = self.rule
        now = seen_at * 1000
        moment = quote.at if quote.at is not None and quote.at <= now + 60_000 else now
        self.ended |= rule.until is not None and moment >= rule.until
        if self.ended:
            return None
        was = None
        if isinstance(rule, PriceRule):
            direction, price = rule.direction, self.price(quote)
            if price is None:
                return None
            fires, self.armed = crossing(rule, price, armed=self.armed)
        else:
            before = self.reference
            direction, self.reference = moving(rule, quote.bid, quote.ask, before)
            fires, above = direction is not None, direction is Direction.ABOVE
            price, was = (quote.bid, before.bid) if above else (quote.ask, before.ask)
        if not fires:
            return None
        self.n += 1
        self.ended |= rule.once
        cooldown = 1000 * rule.cooldown
        cooling = self.told_at is not None and abs(moment - self.told_at) < cooldown
        if not cooling:
            self.told_at = moment
        return Fired(
            f"{rule.id}:{self.n}",
            rule.user_id,
            direction,
            price,
            was,
            quote.at,
            cooling,
        )


class NaiveAlerts:
    """All rules, each shown each quote of its asset."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.by_asset: dict[str, dict[tuple[int, str], OneRule]] = {}
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Begin to watch a rule."""
        rules = self.by_asset.setdefault(rule.asset_id, {})
        rules[rule.user_id, rule.id] = OneRule(rule)

    def remove(self, rule: Rule) -> int:
        """Forget a rule; return how often it fired."""
        return self.by_asset[rule.asset_id].pop((rule.user_id, rule.id)).n

    def on_quote(self, quote: Quote, seen_at: float) -> list[Fired]:
        """Show every rule of an asset a quote of it."""
        rules = self.by_asset.get(quote.asset_id, {}).values()
        found = [rule.judge(quote, seen_at) for rule in rules]
        return [each for each in found if each is not None]
