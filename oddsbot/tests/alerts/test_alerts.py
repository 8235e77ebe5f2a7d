from __future__ import annotations

from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import Alerts, Direction, PriceRule, RuleError, crossing
from oddsbot.polymarket import MarketResolved, Quote

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKET = "0xmarket"
UP = "1" * 77
DOWN = "2" * 77


def rule(direction="above", level="0.60", hysteresis="0.02", **other) -> PriceRule:
    """Make a rule on the price of the outcome Up."""
    defaults = {"id": "r", "user_id": 1, "market": MARKET, "asset_id": UP}
    return PriceRule(
        direction=Direction(direction),
        level=Decimal(level),
        hysteresis=Decimal(hysteresis),
        **(defaults | other),
    )


def quote(bid=None, ask=None, at=0, asset_id=UP) -> Quote:
    """Make a quote from prices as text."""

    def price(text):
        return None if text is None else Decimal(text)

    return Quote(MARKET, asset_id, price(bid), price(ask), at)


def fired(rules: Iterable[PriceRule], quotes: Iterable[Quote]) -> list[tuple[int, str]]:
    """Return when each alert happened and its id."""
    alerts = Alerts(rules)
    return [(a.at, a.id) for q in quotes for a in alerts.on_quote(q, seen_at=0.0)]


def bids(*prices: str) -> list[Quote]:
    """Make quotes of bids only, one per ms from 0 on."""
    return [quote(bid=price, at=at) for at, price in enumerate(prices)]


def asks(*prices: str) -> list[Quote]:
    """Make quotes of asks only, one per ms from 0 on."""
    return [quote(ask=price, at=at) for at, price in enumerate(prices)]


def resolution(market=MARKET, at=5) -> MarketResolved:
    """Make the resolution of a market for Up."""
    return MarketResolved(
        market=market, timestamp=at, winning_asset_id=UP, winning_outcome="Up"
    )


@pytest.mark.basic
def test_above_fires_when_the_bid_reaches_the_level():
    """A rule "above 0.60" tells its user at the first bid of 0.60 or more, once."""
    assert fired([rule()], bids("0.50", "0.59", "0.60", "0.61")) == [(2, "r:1")]


@pytest.mark.basic
def test_below_fires_when_the_ask_reaches_the_level():
    """A rule "below 0.40" tells its user at the first ask of 0.40 or less, once."""
    below = rule("below", "0.40")

    assert fired([below], asks("0.50", "0.41", "0.40", "0.39")) == [(2, "r:1")]


@pytest.mark.basic
def test_trembling_around_the_level_tells_once():
    """A price that moves by less than the hysteresis does not fire a rule again."""
    trembling = bids("0.50", "0.60", "0.59", "0.60", "0.585", "0.60")

    assert fired([rule()], trembling) == [(1, "r:1")]


@pytest.mark.basic
def test_going_back_by_the_hysteresis_arms_the_rule_again():
    """After the price went back to level minus hysteresis, the next crossing fires."""
    assert fired([rule()], bids("0.50", "0.60", "0.58", "0.60")) == [
        (1, "r:1"),
        (3, "r:2"),
    ]


@pytest.mark.basic
def test_below_is_armed_again_from_above():
    """A "below" rule is armed again by an ask at level plus hysteresis."""
    prices = asks("0.50", "0.40", "0.41", "0.40", "0.42", "0.40")

    assert fired([rule("below", "0.40")], prices) == [(1, "r:1"), (5, "r:2")]


@pytest.mark.basic
def test_the_first_price_is_no_crossing():
    """A price that is already across when a rule begins tells nobody."""
    assert fired([rule()], bids("0.70", "0.71")) == []
    assert fired([rule()], bids("0.70", "0.58", "0.60")) == [(2, "r:1")]


@pytest.mark.errors
def test_a_missing_side_says_nothing():
    """An empty side neither fires, nor arms, nor counts as the first price."""
    empty_first = [quote(at=0), quote(bid="0.70", at=1)]
    empty_between = [*bids("0.50", "0.60"), quote(at=2), quote(bid="0.60", at=3)]
    below = rule("below", "0.40")

    assert fired([rule()], empty_first) == []
    assert fired([rule()], empty_between) == [(1, "r:1")]
    assert fired([below], [quote(ask="0.50"), quote(bid="0.01", at=1)]) == []


@pytest.mark.basic
def test_without_hysteresis_staying_on_the_level_tells_once():
    """With hysteresis 0, a rule fires again only after the price left the level."""
    on_the_level = bids("0.50", "0.60", "0.60", "0.60")
    left = bids("0.50", "0.60", "0.599", "0.60")

    assert fired([rule(hysteresis="0")], on_the_level) == [(1, "r:1")]
    assert fired([rule(hysteresis="0")], left) == [(1, "r:1"), (3, "r:2")]


@pytest.mark.basic
def test_above_ignores_asks_and_below_ignores_bids():
    """The two prices of a book are never mixed: nobody pays the ask."""
    wide = [quote(bid="0.30", ask="0.90", at=at) for at in range(3)]
    wider = quote(bid="0.10", ask="0.99", at=3)

    assert fired([rule(), rule("below", "0.40", id="b")], [*wide, wider]) == []


@pytest.mark.basic
def test_an_alert_says_when_it_happened_and_when_it_was_seen():
    """An alert carries the market's time, our time, and what its reader must know."""
    alerts = Alerts([rule(user_id=7)])
    alerts.on_quote(quote(bid="0.5", at=1_000), seen_at=10.0)

    (alert,) = alerts.on_quote(quote(bid="0.65", at=2_000), seen_at=11.5)

    assert (alert.at, alert.seen_at) == (2_000, 11.5)
    assert (alert.user_id, alert.rule_id, alert.price) == (7, "r", Decimal("0.65"))
    assert (alert.market, alert.asset_id) == (MARKET, UP)
    assert (alert.direction, alert.level) == (Direction.ABOVE, Decimal("0.60"))


@pytest.mark.basic
def test_each_follower_is_told_of_a_resolution_once():
    """A resolution reaches each follower of the market once, however often it comes."""
    alerts = Alerts(followers=[(1, MARKET), (2, MARKET), (3, "0xother")])

    told = alerts.on_resolved(resolution(), seen_at=9.0)

    assert [(a.id, a.user_id) for a in told] == [
        (f"1:{MARKET}:resolved", 1),
        (f"2:{MARKET}:resolved", 2),
    ]
    assert {(a.outcome, a.asset_id, a.at, a.seen_at) for a in told} == {
        ("Up", UP, 5, 9.0)
    }
    assert alerts.on_resolved(resolution(), seen_at=9.1) == []
    alerts.follow(1, MARKET)
    assert alerts.on_resolved(resolution(), seen_at=9.2) == []
    assert [a.user_id for a in alerts.on_resolved(resolution("0xother"), 9.3)] == [3]


@pytest.mark.basic
def test_who_stopped_following_is_not_told():
    """Unfollowing ends what was due, and says whether anything was."""
    alerts = Alerts(followers=[(1, MARKET), (2, MARKET)])

    assert alerts.unfollow(1, MARKET)
    assert not alerts.unfollow(1, MARKET)
    assert [a.user_id for a in alerts.on_resolved(resolution(), 0.0)] == [2]


@pytest.mark.errors
@pytest.mark.requirement("X4")
def test_nobody_touches_the_rule_of_another_user():
    """Two users may call a rule the same; each removes, replaces and hears her own."""
    alerts = Alerts([rule(), rule(user_id=2)])
    alerts.on_quote(quote(bid="0.5"), 0.0)
    assert not alerts.remove(3, "r")
    with pytest.raises(RuleError, match="already watched"):
        alerts.add(rule(user_id=2))
    assert alerts.remove(2, "r")
    assert [a.user_id for a in alerts.on_quote(quote(bid="0.7"), 0.0)] == [1]


@pytest.mark.basic
def test_a_removed_rule_is_silent():
    """A removed rule fires no more, its id is free again, the others go on."""
    alerts = Alerts([rule(), rule(id="other")])
    alerts.on_quote(quote(bid="0.5"), 0.0)

    assert alerts.remove(1, "r")
    assert not alerts.remove(1, "r")
    assert [a.id for a in alerts.on_quote(quote(bid="0.6"), 0.0)] == ["other:1"]
    alerts.add(rule())
    assert alerts.remove(1, "other")
    assert alerts.on_quote(quote(bid="0.7"), 0.0) == []


@pytest.mark.errors
def test_two_rules_with_one_id_are_refused():
    """A second rule with the same id is refused: its alerts could not be told apart."""
    alerts = Alerts([rule()])

    with pytest.raises(RuleError, match="'r' is already watched"):
        alerts.add(rule(level="0.7"))


@pytest.mark.errors
@pytest.mark.parametrize("level", ["0", "1", "-0.1", "65", "NaN", "sNaN", "Infinity"])
def test_a_level_that_is_no_price_is_refused(level):
    """A level outside 0 to 1, or no number at all, is refused with what to give."""
    with pytest.raises(RuleError, match=r"level .* is no price; give one between"):
        rule(level=level)


@pytest.mark.errors
@pytest.mark.parametrize("hysteresis", ["-0.01", "1", "NaN", "Infinity"])
def test_a_hysteresis_out_of_range_is_refused(hysteresis):
    """A hysteresis below 0, or of 1 and more, is refused with what to give."""
    with pytest.raises(RuleError, match=r"hysteresis .* is out of range; give 0"):
        rule(hysteresis=hysteresis)


# --- against a second, naive engine


PRICES = st.integers(0, 100).map(lambda cents: Decimal(cents) / 100)
RULES = st.builds(
    rule,
    direction=st.sampled_from(["above", "below"]),
    level=st.integers(1, 99).map(lambda cents: str(Decimal(cents) / 100)),
    hysteresis=st.integers(0, 20).map(lambda cents: str(Decimal(cents) / 100)),
    user_id=st.integers(1, 3),
    asset_id=st.sampled_from([UP, DOWN]),
)
TOPS = st.tuples(st.sampled_from([UP, DOWN]), st.none() | PRICES, st.none() | PRICES)


def naive(watched: PriceRule, quotes: list[Quote]) -> list[int]:
    """Look at the whole past anew at each quote, keeping no state but the hits."""
    above = watched.direction is Direction.ABOVE
    prices = [
        (q.at, price - watched.level if above else watched.level - price)
        for q in quotes
        if q.asset_id == watched.asset_id
        and (price := q.bid if above else q.ask) is not None
    ]
    hits: list[int] = []
    for n, (_, beyond) in enumerate(prices):
        silence = [by for _, by in prices[hits[-1] if hits else 0 : n]]
        never_across = all(by < 0 for by in silence)
        went_back = any(by < 0 and -by >= watched.hysteresis for by in silence)
        if beyond >= 0 and silence and (never_across or went_back):
            hits.append(n)
    return [prices[n][0] for n in hits]


@pytest.mark.advanced
@given(
    rules=st.lists(RULES, max_size=6),
    tops=st.lists(TOPS, max_size=60),
)
def test_the_engine_agrees_with_a_naive_one(rules, tops):
    """Over any rules and quotes the engine fires exactly where a naive one does."""
    rules = [msgspec.structs.replace(each, id=f"r{n}") for n, each in enumerate(rules)]
    quotes = [
        Quote(MARKET, asset_id, bid, ask, at)
        for at, (asset_id, bid, ask) in enumerate(tops)
    ]
    alerts = Alerts(rules)

    told = [a for q in quotes for a in alerts.on_quote(q, seen_at=0.0)]

    for each in rules:
        mine = [a for a in told if a.rule_id == each.id]
        assert [a.at for a in mine] == naive(each, quotes)
        assert [a.id for a in mine] == [
            f"{each.id}:{n}" for n, _ in zip(count(1), mine, strict=False)
        ]
    assert [a.at for a in told] == sorted(a.at for a in told)


@pytest.mark.advanced
@given(watched=RULES, price=PRICES, armed=st.none() | st.booleans())
def test_a_rule_that_fires_is_not_armed(watched, price, armed):
    """No price both fires a rule and leaves it armed; only an armed rule fires."""
    fires, armed_after = crossing(watched, price, armed=armed)

    assert not (fires and armed_after)
    assert armed or not fires
