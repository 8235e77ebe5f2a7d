from __future__ import annotations

import csv
import gzip
import random
import sys
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsbot.alerts import (
    TIMES,
    Alerts,
    Base,
    Direction,
    Moved,
    MoveRule,
    PriceRule,
    RuleError,
    RuleState,
    Unit,
    check_new,
)
from oddsbot.polymarket import Quote
from support.one_rule import Fired, NaiveAlerts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddsbot.alerts import Rule

MARKET = "0xmarket"
UP = "1" * 77
DOWN = "2" * 77


def cents(number) -> Decimal:
    """Return cents as a price."""
    return Decimal(number) / 100


def above(level="0.60", **other) -> PriceRule:
    """Make a rule on the bid of Up."""
    return PriceRule(
        **{
            "id": "r", "user_id": 1, "market": MARKET, "asset_id": UP,
            "direction": Direction.ABOVE, "level": Decimal(level),
            "hysteresis": Decimal("0.02"), **other,
        }
    )  # fmt: skip


def move(by="5", unit="cents", **other) -> MoveRule:
    """Make a rule on moves of Up."""
    return MoveRule(
        **{
            "id": "r", "user_id": 1, "market": MARKET, "asset_id": UP,
            "by": Decimal(by), "unit": Unit(unit), **other,
        }
    )  # fmt: skip


def base(bid=None, ask=None) -> Base:
    """Make the quote that a person saw."""
    return Base(*(None if each is None else Decimal(each) for each in (bid, ask)))


def tops(*prices: str | tuple[str | None, str | None]) -> list[Quote]:
    """Make quotes, one each second from 0 on; of one price, the bid."""
    both = [each if isinstance(each, tuple) else (each, None) for each in prices]
    return [
        Quote(MARKET, UP, *msgspec.structs.astuple(base(*each)), at * 1000)
        for at, each in enumerate(both)
    ]


def judged(alerts: Alerts, quotes: Iterable[Quote]) -> list:
    """Return the alerts of quotes, each seen at its own time."""
    return [a for q in quotes for a in alerts.on_quote(q, seen_at=q.at / 1000)]


def ids(rule: Rule, quotes: Iterable[Quote]) -> list[tuple[int, str]]:
    """Return the second and the id of each alert that is told."""
    found = judged(Alerts([rule]), quotes)
    return [(a.at // 1000, a.id) for a in found if not a.in_cooldown]


def as_fired(alerts: Iterable) -> list[Fired]:
    """Return alerts as the slow way has them."""
    return [
        Fired(
            a.id, a.user_id, a.direction, a.price,
            a.reference if isinstance(a, Moved) else None, a.at, a.in_cooldown,
        )
        for a in alerts
    ]  # fmt: skip


def calls(alerts: Alerts, quote: Quote) -> int:
    """Count the functions that one quote calls, Python's and C's."""
    counted: Counter[str] = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda _, event, __: counted.update([event]))
    try:
        alerts.on_quote(quote, 0.0)
    finally:
        sys.setprofile(before)
    return counted["call"] + counted["c_call"]


# --- what the person saw


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_the_first_price_fires_if_it_lies_across_from_what_was_seen():
    """A price that crossed between the screen and the first quote is told of."""
    assert ids(above(base=base("0.55")), tops("0.60")) == [(0, "r:1")]
    assert ids(above(base=base("0.60")), tops("0.61", "0.58", "0.60")) == [(2, "r:1")]
    # An empty side was seen: the first price decides, as without a base.
    assert ids(above(base=base(None, "0.70")), tops("0.61", "0.58", "0.6")) == [
        (2, "r:1")
    ]
    below = above("0.40", direction=Direction.BELOW, base=base("0.1", "0.45"))
    assert ids(below, tops((None, "0.40"))) == [(0, "r:1")]


# --- moves


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_move_is_told_each_time_its_distance_is_gone():
    """A rise of the bid or a fall of the ask by the distance fires, and starts anew."""
    quotes = tops(
        ("0.50", "0.52"), ("0.54", "0.56"), ("0.55", "0.57"), ("0.59", "0.61"),
        ("0.50", "0.52"), ("0.55", "0.58"),
    )  # fmt: skip
    found = judged(Alerts([move(base=base("0.50", "0.52"))]), quotes)

    assert [(a.at // 1000, a.direction, a.reference, a.price) for a in found] == [
        (2, Direction.ABOVE, Decimal("0.50"), Decimal("0.55")),
        (4, Direction.BELOW, Decimal("0.57"), Decimal("0.52")),
        (5, Direction.ABOVE, Decimal("0.50"), Decimal("0.55")),
    ]


@pytest.mark.basic
def test_a_move_in_percent_is_of_the_price_and_at_least_a_cent():
    """Ten percent of 50 cents are 5 cents, and of 4 cents one cent."""
    of_fifty, of_four = (
        move("10", "percent", base=base("0.50")),
        move("10", "percent", base=base("0.04")),
    )

    assert ids(of_fifty, tops("0.549", "0.55")) == [(1, "r:1")]
    assert ids(of_four, tops("0.045", "0.05")) == [(1, "r:1")]


@pytest.mark.basic
def test_a_side_that_was_not_seen_begins_with_its_next_price():
    """A move measures a side from its first price when nobody had seen one."""
    late = tops((None, "0.50"), ("0.30", None), ("0.35", None))

    assert ids(move(), late) == [(2, "r:1")]
    # The quote that fires is the reference, whatever it has not.
    gone = tops(("0.30", "0.50"), ("0.35", None), (None, "0.20"), (None, "0.15"))
    assert ids(move(), gone) == [(1, "r:1"), (3, "r:2")]


# --- moves within a time


def minutes(*quotes: tuple[float, str | None, str | None]) -> list[Quote]:
    """Make quotes of a minute, a bid and an ask."""
    return [
        Quote(MARKET, UP, *msgspec.structs.astuple(base(bid, ask)), int(at * 60_000))
        for at, bid, ask in quotes
    ]


def swings(rule: MoveRule, quotes: Iterable[Quote]) -> list[tuple]:
    """Return the minute of each alert, which way, from where and to where."""
    return [
        (a.at / 60_000, a.direction.value, str(a.reference), str(a.price))
        for a in judged(Alerts([rule]), quotes)
    ]


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_move_within_a_time_is_from_the_lowest_bid_or_highest_ask_of_it():
    """A slow rise says nothing; one within the time fires once, and so does a fall."""
    slow = minutes(*((5 * n, f"0.{50 + n}", None) for n in range(10)))
    quick = minutes(
        (0, "0.50", "0.52"), (4, "0.48", "0.55"), (9, "0.53", "0.55"),
        (10, "0.54", "0.56"), (12, "0.50", "0.51"), (13, "0.49", "0.50"),
    )  # fmt: skip

    assert swings(move(within=900), slow) == []
    assert swings(move(within=900), quick) == [
        (9, "above", "0.48", "0.53"), (12, "below", "0.56", "0.51"),
    ]  # fmt: skip


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_price_stands_until_the_next_one():
    """After an hour without a quote a jump fires, and arms by then what had fired."""
    quotes = minutes(
        (0, "0.50", None), (60, "0.60", None), (61, "0.70", None), (120, "0.80", None)
    )

    assert swings(move("10", within=300), quotes) == [
        (60, "above", "0.50", "0.60"), (120, "above", "0.70", "0.80"),
    ]  # fmt: skip


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_move_from_before_a_gap_is_none_of_the_time():
    """What is not known to have stood counts up to when it is known, and no longer."""
    alerts = Alerts([move(within=300)])
    first, second, third = minutes(
        (0, "0.5", None), (10, "0.6", None), (11, "0.7", None)
    )

    assert alerts.on_quote(first, 0.0) == []
    assert alerts.on_quote(second, 600.0, held=60_000) == []
    assert [a.price for a in alerts.on_quote(third, 660.0)] == [Decimal("0.7")]


@pytest.mark.basic
@pytest.mark.requirement("B3")
@pytest.mark.parametrize(("until", "fires"), [(0, False), (10, True)])
def test_a_next_owner_knows_up_to_when_the_prices_stood(until, fires):
    """A price of an hour ago counts if the owner before had it until just now."""
    rule, quotes = move(within=300), minutes((0, "0.5", None), (14, "0.6", None))
    first, second = Alerts([rule], keep_changes=True), Alerts()
    judged(first, quotes[:1])
    for each, state in first.take_changes():
        second.add(each, state)
    second.restore({UP: first.history(UP)}, until * 60_000)

    assert bool(second.on_quote(quotes[1], 840.0, held=0)) is fires


@pytest.mark.basic
def test_a_move_that_is_there_when_a_rule_begins_is_not_told():
    """The bot has watched the price for another rule: the new one hears what is new."""
    alerts = Alerts([move(id="old", within=900, by="50")])
    quotes = minutes(
        (0, "0.50", None), (1, "0.60", None), (2, "0.61", None), (30, "0.61", None),
        (31, "0.67", None),
    )  # fmt: skip
    judged(alerts, quotes[:2])
    alerts.add(move(id="new", within=900))

    assert [(a.id, a.reference) for a in judged(alerts, quotes[2:])] == [
        ("new:1", Decimal("0.61"))
    ]


# --- cooldown, ends


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_cooldown_thins_what_is_told_and_changes_no_state():
    """In the cooldown firings count and say so; what is told later has its number."""
    zigzag = tops("0.5", *["0.6", "0.5"] * 4)
    found = judged(Alerts([above(cooldown=4)]), zigzag)

    assert [(a.at // 1000, a.id, a.in_cooldown) for a in found] == [
        (1, "r:1", False), (3, "r:2", True), (5, "r:3", False), (7, "r:4", True),
    ]  # fmt: skip


@pytest.mark.errors
def test_a_wrong_time_neither_silences_nor_ends_a_rule():
    """A quote from the year 2090 counts as now."""
    zigzag = tops("0.5", "0.6", "0.5", "0.6", "0.5", "0.6")
    zigzag[1] = msgspec.structs.replace(zigzag[1], at=3_800_000_000_000)
    alerts = Alerts([above(cooldown=3, until=1_000_000)])

    found = [a for n, q in enumerate(zigzag) for a in alerts.on_quote(q, seen_at=n)]

    assert [(a.id, a.in_cooldown) for a in found] == [
        ("r:1", False), ("r:2", True), ("r:3", False),
    ]  # fmt: skip


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_rule_ends_with_its_time_and_one_for_once_with_its_firing():
    """An ended rule is silent, its id is free, and the end is among the changes."""
    zigzag = tops("0.5", *["0.6", "0.5"] * 4)
    alerts = Alerts(
        [above(until=5_000), above(id="once", once=True)], keep_changes=True
    )

    found = judged(alerts, zigzag)

    assert [(a.at // 1000, a.id) for a in found] == [
        (1, "r:1"), (1, "once:1"), (3, "r:2"),
    ]  # fmt: skip
    assert len(alerts) == 0
    ends = {rule.id: (state.n, state.ended) for rule, state in alerts.take_changes()}
    assert ends == {"r": (2, True), "once": (1, True)}
    alerts.add(above())


# --- changes, states


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_replaced_rule_begins_anew_and_counts_on():
    """No alert of the new rule has the id of one of the old."""
    alerts = Alerts([above(base=base("0.5"))])
    first = judged(alerts, tops("0.6"))
    alerts.replace(above("0.70", base=base("0.65")))
    alerts.replace(above("0.80", id="new", base=base("0.65")))

    second = judged(alerts, tops("0.69", "0.80"))

    assert [a.id for a in (*first, *second)] == ["r:1", "r:2", "new:1"]


@pytest.mark.basic
def test_what_changed_is_all_that_a_successor_needs():
    """Rules with the states that were taken go on as if nobody had stopped."""
    rules = [
        above(), above("0.7", id="b", base=base("0.5"), cooldown=9), move(id="m"),
    ]  # fmt: skip
    quotes = tops(*["0.5", "0.61", "0.7", "0.65", "0.55", "0.72", "0.6", "0.7"] * 2)
    whole = judged(Alerts(rules), quotes)
    for cut in range(1, len(quotes)):
        first = Alerts(rules, keep_changes=True)
        told, states = [], {}
        for quote in quotes[:cut]:
            told += judged(first, [quote])
            states |= {rule.id: state for rule, state in first.take_changes()}
            assert first.take_changes() == []
        second = Alerts()
        for rule in rules:
            second.add(rule, states.get(rule.id))
        assert told + judged(second, quotes[cut:]) == whole
    assert first.state(1, "b") == states.get("b", first.state(1, "b"))
    assert first.state(2, "b") is None


@pytest.mark.errors
def test_an_ended_rule_is_not_watched_again():
    """A state that says "ended" is refused with what to do."""
    with pytest.raises(RuleError, match="has ended; give a new one another id"):
        Alerts().add(above(), RuleState(n=1, ended=True))


# --- rules that cannot be


@pytest.mark.errors
@pytest.mark.requirement("B3")
def test_a_rule_that_cannot_be_is_refused_in_one_sentence():
    """The sentence names the rule and says what is accepted."""
    for make, text in (
        (lambda: above("0.1234567"), "give at most 6 decimal places"),
        (lambda: above(hysteresis=Decimal("1e-9")), "give at most 6 decimal places"),
        (lambda: above("1E-999999"), "give at most 6 decimal places"),
        (lambda: above(market=""), "give the market's condition id"),
        (lambda: above(market="x" * 129), "give the market's condition id"),
        (lambda: above(asset_id="a b"), "give the outcome's token id"),
        (lambda: above(cooldown=-1), "give 0 to 2,592,000 seconds"),
        (lambda: above(until=0), "give Unix milliseconds before"),
        (lambda: above(until=10**18), "give Unix milliseconds before"),
        (lambda: above(base=base("NaN")), "give the quote that was shown"),
        (lambda: move("0.5"), "give 1 to 99 cents"),
        (lambda: move("100"), "give 1 to 99 cents"),
        (lambda: move("NaN"), "give 1 to 99 cents"),
        (lambda: move("1001", "percent"), "give 1 to 1,000 percent"),
        (lambda: move(until=-5), "give Unix milliseconds before"),
        (lambda: move(within=0), "give one of 300, 900, 3600, 86400"),
        (lambda: move(within=10**30), "give one of 300, 900, 3600, 86400"),
    ):
        with pytest.raises(RuleError, match=text) as caught:
            make()
        assert str(caught.value).startswith("rule 'r': ")
        assert len(str(caught.value)) < 300


@pytest.mark.errors
def test_a_new_rule_needs_an_open_market_its_outcome_and_a_time_to_come():
    """What was possible when a rule was set is not asked when it is read back."""
    check_new(above(until=5_001), now=5.0, assets=[UP, DOWN])
    for rule, assets, text in (
        (above(), [], "give the condition id of a market that is open"),
        (above(asset_id="3"), [UP], "give one of its token ids: 111"),
        (move(until=5_000), [UP], "give a time after now"),
    ):
        with pytest.raises(RuleError, match=text):
            check_new(rule, now=5.0, assets=assets)


# --- the same as the definition


COMMON = {
    "user_id": st.integers(1, 2),
    "asset_id": st.sampled_from([UP, DOWN]),
    "base": st.none()
    | st.builds(Base, *[st.none() | st.integers(0, 20).map(cents)] * 2),
    "cooldown": st.sampled_from([0, 0, 3]),
    "until": st.sampled_from([None, None, 20_000]),
    "once": st.sampled_from([False, False, False, True]),
}
PRICE_RULES = st.builds(
    above,
    level=st.integers(1, 20).map(lambda each: str(cents(each))) | st.just("0.99"),
    hysteresis=st.sampled_from([0, 0, 1, 2, 7]).map(cents),
    direction=st.sampled_from(Direction),
    **COMMON,
)
MOVE_RULES = st.builds(
    move,
    by=st.sampled_from(["1", "2.5", "5", "30"]),
    unit=st.sampled_from(Unit),
    **COMMON,
)
# Levels and prices are close together, so that most quotes do something; 0 and 1 are no
# prices that an order can have, and still numbers.
PRICES = (
    st.none()
    | st.integers(0, 22).map(cents)
    | st.sampled_from([Decimal("0.0999999999"), Decimal("0.99"), Decimal(1)])
)
QUOTES = st.builds(
    Quote,
    st.just(MARKET),
    st.sampled_from([UP, DOWN]),
    PRICES,
    PRICES,
    st.none() | st.integers(0, 40_000) | st.just(4_000_000_000_000),
)
STEPS = st.lists(
    QUOTES
    | QUOTES
    | PRICE_RULES
    | MOVE_RULES
    | st.tuples(st.just("remove"), st.integers(0, 40))
    | st.tuples(st.just("replace"), st.integers(0, 40), PRICE_RULES | MOVE_RULES)
    | st.just("again"),
    max_size=80,
)


@pytest.mark.advanced
@pytest.mark.requirement("B3")
@settings(max_examples=200)
@given(first=st.lists(PRICE_RULES | MOVE_RULES, max_size=8), steps=STEPS)
def test_the_gates_agree_with_the_definition_in_any_world(first, steps):
    """Over any rules and quotes, each alert is that of the one-rule definition.

    Rules come, change and go between quotes; sides are missing, levels are equal,
    quotes are repeated, older, or of a time that cannot be.
    """
    alerts, naive = Alerts(keep_changes=True), NaiveAlerts()
    known: list[Rule] = []
    states: dict[tuple[int, str], RuleState] = {}
    last = None

    def add(rule: Rule) -> None:
        rule = msgspec.structs.replace(rule, id=f"r{len(known)}")
        known.append(rule)
        alerts.add(rule)
        naive.add(rule)

    for rule in first:
        add(rule)
    for second, step in enumerate(steps):
        match step:
            case PriceRule() | MoveRule():
                add(step)
            case ("remove", which) if which < len(known):
                rule = known[which]
                watched = naive.by_asset[rule.asset_id].get((rule.user_id, rule.id))
                there = watched is not None and not watched.ended
                assert alerts.remove(rule.user_id, rule.id) == there
                if there:
                    naive.remove(rule)
            case ("replace", which, other) if which < len(known):
                old = known[which]
                if alerts.state(old.user_id, old.id) is None:
                    continue
                rule = msgspec.structs.replace(other, id=old.id, user_id=old.user_id)
                known[which] = rule
                states.pop((rule.user_id, rule.id), None)
                alerts.replace(rule)
                n = naive.remove(old)
                naive.add(rule)
                naive.by_asset[rule.asset_id][rule.user_id, rule.id].n = n
            case Quote() | "again":
                quote = last if step == "again" else step
                if quote is None:
                    continue
                last = quote
                found = alerts.on_quote(quote, seen_at=second)
                wanted = [
                    each._replace(at=second * 1000) if each.at is None else each
                    for each in naive.on_quote(quote, seen_at=second)
                ]
                assert as_fired(found) == wanted
        states |= {(r.user_id, r.id): state for r, state in alerts.take_changes()}
    for rules in naive.by_asset.values():
        for key, mine in rules.items():
            state = states.get(key) or alerts.state(*key)
            assert (state.n, state.fired_at) == (mine.n, mine.told_at)
            assert state.ended == mine.ended == (alerts.state(*key) is None)
            if not mine.ended:
                assert state == alerts.state(*key)
                assert state.armed == mine.armed


SWING_RULES = st.builds(
    move,
    by=st.sampled_from(["5", "5", "2.5", "30"]),
    unit=st.sampled_from([Unit.CENTS, Unit.CENTS, Unit.PERCENT]),
    within=st.sampled_from([300, 300, 900, 86_400]),
    asset_id=st.sampled_from([UP, UP, UP, DOWN]),
    user_id=st.just(1),
    cooldown=st.sampled_from([0, 0, 0, 600]),
    once=st.sampled_from([False] * 7 + [True]),
)
# So that quotes fall into a window, on its edge and out of it; and few prices, so that
# most quotes do something.
LATER = st.sampled_from([0, 60_000, 150_000, 299_999, 300_000, 900_000, -5_000])
SWINGING = st.sampled_from([10, 12, 15, 16, 20, 30]).map(cents)
SWING_STEPS = st.lists(
    st.tuples(
        LATER,
        st.sampled_from([UP, UP, UP, DOWN]),
        SWINGING,
        SWINGING | st.none(),
        st.sampled_from([None, None, None, 0, 200_000]),
    )
    | SWING_RULES
    | st.tuples(st.just("remove"), st.integers(0, 20))
    | st.tuples(st.just("restart"), st.booleans()),
    min_size=10,
    max_size=40,
)


@pytest.mark.advanced
@pytest.mark.requirement("B3")
@settings(max_examples=300)
@given(
    first=st.lists(SWING_RULES | PRICE_RULES, min_size=1, max_size=4), steps=SWING_STEPS
)
def test_moves_within_a_time_agree_with_the_definition_in_any_world(first, steps):
    """Over any rules, quotes, gaps and restarts, each alert is the definition's.

    A restart keeps of the rules what `take_changes` returned, and of the prices what
    `history` did; the definition remembers every price by itself.
    """
    alerts, naive = Alerts(keep_changes=True), NaiveAlerts()
    rules: list[Rule] = []
    states: dict[str, RuleState] = {}
    now = 0

    def add(rule: Rule) -> None:
        rule = msgspec.structs.replace(rule, id=f"r{len(rules)}")
        rules.append(rule)
        alerts.add(rule)
        naive.add(rule)

    for rule in first:
        add(rule)
    for step in steps:
        match step:
            case MoveRule():
                add(step)
            case ("remove", which):
                if which < len(rules):
                    rule = rules[which]
                    if alerts.remove(rule.user_id, rule.id):
                        naive.remove(rule)
            case ("restart", known):
                # Up to when the owner before is known to have had each price.
                until = now if known else 0
                histories = {
                    asset: text
                    for asset in (UP, DOWN)
                    if (text := alerts.history(asset)) is not None
                }
                alive = [r for r in rules if alerts.state(r.user_id, r.id) is not None]
                alerts = Alerts(keep_changes=True)
                for rule in alive:
                    alerts.add(rule, states.get(rule.id))
                alerts.restore(histories, until)
                naive.restart(until)
            case (later, asset, bid, ask, held):
                now = max(0, now + later)
                quote = Quote(MARKET, asset, bid, ask, now)
                found = alerts.on_quote(quote, now / 1000, held)
                assert as_fired(found) == naive.on_quote(quote, now / 1000, held)
        states |= {rule.id: state for rule, state in alerts.take_changes()}


# --- what it costs


def crowd(size: int) -> list[PriceRule]:
    """Make rules of levels from 0.20 to 0.79, each seen below its level."""
    return [
        above(str(Decimal("0.2") + cents(n % 60)), id=f"r{n}", base=base("0.1"))
        for n in range(size)
    ]


@pytest.mark.performance
@pytest.mark.requirement("B3")
def test_a_quote_costs_what_it_fires_and_not_what_watches():
    """With 100 times as many rules a quote calls as many functions."""
    few, many = Alerts(crowd(60)), Alerts(crowd(6_000))
    others = Alerts(
        [msgspec.structs.replace(each, asset_id=DOWN) for each in crowd(60)]
    )
    quiet, loud = tops("0.195", "0.20")

    assert calls(few, quiet) == calls(many, quiet) < 10
    assert calls(others, loud) < 5
    assert len(many.on_quote(loud, 0.0)) == 100
    # All of a level are armed again as one.
    few.on_quote(loud, 0.0)
    assert calls(few, tops("0.10")[0]) == calls(many, tops("0.10")[0]) < 20


@pytest.mark.performance
@pytest.mark.requirement("B3")
def test_a_quote_costs_moves_within_a_time_what_it_fires():
    """With 100 times as many such rules, and a day of prices, it calls as many."""
    few, many = (
        Alerts(
            move(str(6 + n % 60), id=f"r{n}", within=TIMES[n % 4])
            for n in range(240 * times)
        )
        for times in (1, 100)
    )
    day = minutes(*((n, f"0.{50 + n % 5}", f"0.{60 + n % 5}") for n in range(1_440)))
    for alerts in (few, many):
        assert judged(alerts, day) == []
    quiet, loud = minutes((1_440, "0.53", "0.62"), (1_441, "0.56", "0.65"))

    assert calls(few, quiet) == calls(many, quiet) < 120
    assert len(many.on_quote(loud, 0.0)) == 400


@pytest.mark.performance
def test_rules_that_came_and_went_leave_nothing():
    """A million levels that nobody watches any more take no memory and no time."""
    alerts = Alerts([above(base=base("0.5"))])
    for n in range(5_000):
        rule = above(
            str(Decimal("0.7") + Decimal(n) / 100_000), id="x", until=10**12 + n
        )
        alerts.add(rule, RuleState(armed=bool(n % 2)))
        alerts.remove(1, "x")

    assert calls(alerts, tops("0.01")[0]) < 500
    assert len(alerts.on_quote(tops("0.99")[0], 0.0)) == 1
    assert calls(alerts, tops("0.99")[0]) < 10


# --- a recorded day


@pytest.mark.shared
@pytest.mark.advanced
@pytest.mark.requirement("B3")
def test_a_recorded_hour_of_quotes_agrees_with_the_definition(shared_data):
    """Recorded quotes of 9,266 markets and 5,000 rules: the same alerts in order.

    The recording names markets by slugs; they stand for the token ids.
    """
    quotes = []
    with gzip.open(shared_data / "quotes/2026-07-10.bbo-changes.csv.gz", "rt") as lines:
        for row, _ in zip(csv.DictReader(lines), range(30_000), strict=False):
            bid, ask = (
                Decimal(row[each]) if row[each] else None for each in ("bid", "ask")
            )
            quotes.append(Quote(MARKET, row["slug"], bid, ask, int(row["ts"]) * 1000))
    chance = random.Random(7)
    busy = [slug for slug, _ in Counter(q.asset_id for q in quotes).most_common(500)]
    rules: list[Rule] = []
    for n in range(5_000):
        common = {"id": f"r{n}", "user_id": chance.randrange(1_000)}
        common |= {"asset_id": chance.choice(busy), "cooldown": chance.choice([0, 600])}
        rules.append(
            move(chance.choice(["1", "2", "5"]), **common)
            if n % 5 == 0
            else above(
                cents(chance.randrange(1, 100)),
                direction=chance.choice(list(Direction)),
                hysteresis=cents(chance.choice([0, 1, 2])),
                **common,
            )
        )
    alerts, naive = Alerts(rules), NaiveAlerts(rules)

    found = [a for q in quotes for a in alerts.on_quote(q, q.at / 1000)]

    assert len(found) > 1_000
    assert as_fired(found) == [
        a for q in quotes for a in naive.on_quote(q, q.at / 1000)
    ]
