"""What one price or move rule tells of, quote by quote: alerts the slow way.

Written from the definitions in `oddsbot.alerts.crossing`, which it calls; it shares
nothing with the sorted gates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oddsbot.alerts import (
    Base,
    Direction,
    Held,
    MoveRule,
    PriceRule,
    crossing,
    moving,
    since_when,
    size_of,
    swinging,
)

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


class Stretch(NamedTuple):
    """One side of a quote, as rules with a time look at it.

    Attributes:
        direction: Which way they fire.
        before: The price before it; None: it is the first one.
        until: Up to when that one stood.
        price: The price now.
        at: Now, ms.
        held: All prices before it.
    """

    direction: Direction
    before: Decimal | None
    until: int
    price: Decimal
    at: int
    held: list[Held]


class Past:
    """All that an asset was quoted at."""

    def __init__(self) -> None:
        self.at = 0
        self.held: dict[Direction, list[Held]] = {each: [] for each in Direction}
        self.last: dict[Direction, tuple[Decimal, int]] = {}

    def show(self, quote: Quote, moment: int, held: int | None) -> list[Stretch]:
        """Take the next quote; return a stretch for each side that it has."""
        at = self.at = max(self.at, moment)
        found = []
        for direction, price in zip(Direction, (quote.bid, quote.ask), strict=True):
            if price is None:
                continue
            before, until = None, at
            if direction in self.last:
                before, known = self.last[direction]
                if held is not None:
                    until = min(at, max(held, known))
                self.held[direction].append(Held(before, until))
            self.last[direction] = price, at
            past = list(self.held[direction])
            found.append(Stretch(direction, before, until, price, at, past))
        return found


class OneRule:
    """A rule, and everything that it remembers."""

    def __init__(self, rule: Rule, n: int = 0) -> None:
        self.rule = rule
        self.n = n
        self.told_at: int | None = None
        self.ended = False
        self.armed: bool | None = None
        # Of a rule with a time: on a fall.
        self.armed_fall: bool | None = None
        self.reference = rule.base or Base()
        if isinstance(rule, PriceRule):
            seen = self.price(self.reference)
            if seen is not None:
                _, self.armed = crossing(rule, seen, armed=None)

    def price(self, quote: Quote | Base) -> Decimal | None:
        """Return the price that a price rule looks at."""
        above = self.rule.direction is Direction.ABOVE
        return quote.bid if above else quote.ask

    def judge(
        self, quote: Quote, seen_at: float, stretches: Iterable[Stretch]
    ) -> list[Fired]:
        """Show the rule a quote of its asset."""
        rule, moment = self.rule, moment_of(quote, seen_at)
        self.ended |= rule.until is not None and moment >= rule.until
        if self.ended:
            return []
        if isinstance(rule, MoveRule) and rule.within is not None:
            return self._swing(rule, quote, moment, stretches)
        was = None
        if isinstance(rule, PriceRule):
            direction, price = rule.direction, self.price(quote)
            if price is None:
                return []
            fires, self.armed = crossing(rule, price, armed=self.armed)
        else:
            before = self.reference
            direction, self.reference = moving(rule, quote.bid, quote.ask, before)
            fires, above = direction is not None, direction is Direction.ABOVE
            price, was = (quote.bid, before.bid) if above else (quote.ask, before.ask)
        return [self._fire(quote, moment, direction, price, was)] if fires else []

    def _swing(
        self, rule: MoveRule, quote: Quote, moment: int, stretches: Iterable[Stretch]
    ) -> list[Fired]:
        fired = []
        for each in stretches:
            way = each.direction

            def size(price, at, each=each, way=way):
                since = since_when(way, price, each.held, at, rule.within)
                return size_of(rule.unit, price, since), since

            name = "armed" if way is Direction.ABOVE else "armed_fall"
            armed = getattr(self, name)
            if each.before is not None and armed is not None:
                small, _ = size(each.before, each.until)
                fires, armed = swinging(rule, small, armed=armed)
                assert not fires
            gone, since = size(each.price, each.at)
            fires, armed = swinging(rule, gone, armed=armed)
            setattr(self, name, armed)
            if fires and not self.ended:
                fired.append(self._fire(quote, moment, way, each.price, since))
        return fired

    def _fire(self, quote, moment, direction, price, was) -> Fired:
        rule = self.rule
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


def has_time(each: OneRule) -> bool:
    """Whether a rule is a move within a time, and has not ended."""
    rule = each.rule
    return isinstance(rule, MoveRule) and rule.within is not None and not each.ended


def moment_of(quote: Quote, seen_at: float) -> int:
    """Return the market's time, ms; ours where it says none that can be."""
    now = int(seen_at * 1000)
    return quote.at if quote.at is not None and quote.at <= now + 60_000 else now


class NaiveAlerts:
    """All rules, each shown each quote of its asset."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        # From the first rule with a time to the last one's end.
        self.pasts: dict[str, Past] = {}
        self.by_asset: dict[str, dict[tuple[int, str], OneRule]] = {}
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Begin to watch a rule."""
        rules = self.by_asset.setdefault(rule.asset_id, {})
        rules[rule.user_id, rule.id] = OneRule(rule)
        if isinstance(rule, MoveRule) and rule.within is not None:
            self.pasts.setdefault(rule.asset_id, Past())

    def remove(self, rule: Rule) -> int:
        """Forget a rule; return how often it fired."""
        removed = self.by_asset[rule.asset_id].pop((rule.user_id, rule.id))
        self._forget(rule.asset_id)
        return removed.n

    def on_quote(
        self, quote: Quote, seen_at: float, held: int | None = None
    ) -> list[Fired]:
        """Show every rule of an asset a quote of it; `held` as the engine takes it."""
        rules = self.by_asset.get(quote.asset_id, {}).values()
        past, stretches = self.pasts.get(quote.asset_id), []
        if past is not None:
            stretches = past.show(quote, moment_of(quote, seen_at), held)
        found = [
            fired for rule in rules for fired in rule.judge(quote, seen_at, stretches)
        ]
        self._forget(quote.asset_id)
        return found

    def restart(self, until: int) -> None:
        """Go on in another process; prices are known to have stood up to `until`."""
        for asset_id, past in self.pasts.items():
            rules = self.by_asset[asset_id].values()
            if all(
                each.armed is None and each.armed_fall is None
                for each in rules
                if has_time(each)
            ):
                self.pasts[asset_id] = Past()
            past.last = {
                way: (price, max(known, until))
                for way, (price, known) in past.last.items()
            }

    def _forget(self, asset_id: str) -> None:
        if not any(map(has_time, self.by_asset.get(asset_id, {}).values())):
            self.pasts.pop(asset_id, None)
