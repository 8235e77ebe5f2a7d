from __future__ import annotations

import ast
import inspect
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import Alerts, Direction, PriceRule
from oddsbot.demo import checker
from oddsbot.demo.checker import Rule, Told
from oddsbot.polymarket import Quote
from oddsbot.standin.polymarket import Group, Recording, sample

MARKET = "0xmarket"
START = 1_790_000_000_000
FOREVER = START * 2

# In the shipped recording: when Up of the first market was bid 0.79 or more, having
# been at 0.76 or less before; and when the two markets were resolved.
KNOWN = [
    1_790_598_044_917,
    1_790_598_399_896,
    1_790_598_458_879,
    1_790_598_470_911,
    1_790_598_475_930,
    1_790_598_485_749,
]
RESOLVED = 1_790_598_658_427, 1_790_599_541_000


def above(level="0.60", hysteresis="0.02", side="UP") -> Rule:
    """Make a rule of user 1 on bids."""
    return Rule(1, "a", MARKET, side, 1, Decimal(level), Decimal(hysteresis))


def below(level="0.40", hysteresis="0.02", side="UP") -> Rule:
    """Make a rule of user 2 on asks."""
    return Rule(2, "b", MARKET, side, -1, Decimal(level), Decimal(hysteresis))


def crossings(recording, *rules: Rule, until=FOREVER) -> list[tuple[int, str]]:
    """Return when, in ms from the start, and what."""
    told = checker.expected(recording, rules, [], until)
    return [(one.at - START, one.name) for one in told]


@pytest.mark.basic
def test_the_checker_knows_what_a_crossing_is(written):
    """Firing, trembling, arming again, missing sides: a recording made by hand."""
    for at, bid in enumerate([0.5, 0.6, 0.59, 0.6, 0.58, None, 0.7]):
        written.book(at, bid=bid, ask=None if bid is None else round(bid + 0.02, 2))
    for at, ask in enumerate([0.39, 0.42, 0.4], start=10):
        written.book(at, bid=0.01, ask=ask)

    found = crossings(written.save(), above(), below())

    # Below 0.40 is across at its first ask only after asks above it, at 12.
    assert found == [(1, "a"), (6, "a"), (10, "b"), (12, "b")]


@pytest.mark.basic
def test_the_checker_stops_where_the_playing_stopped(written):
    """What is recorded after `until` is not asked for, a resolution neither."""
    for at, bid in enumerate([0.5, 0.6, 0.5, 0.6]):
        written.book(at, bid=bid)
    recording = written.save()

    assert crossings(recording, above(), until=START + 2) == [(1, "a")]
    assert checker.expected(recording, [], [(1, MARKET)], START + 999) == []
    assert checker.expected(recording, [], [(1, MARKET)], START + 1_000) == [
        Told(START + 1_000, 1, MARKET)
    ]


@pytest.mark.errors
def test_the_checker_leaves_out_the_lines_that_the_recording_leaves_out(written):
    """Damaged lines count for neither of the two, and the good ones for both."""
    written.book(0, bid=0.5)
    written.line(b'{"ts": 1790000000001, "market_id"')
    written.line(b"[1, 2]")
    written.line(b"\xff\xfe")
    written.book(2, bid=0.9, market_id="0xother")
    written.book(2, bid=0.9, side="SIDEWAYS")
    written.book(2, bid=7.0)
    written.book(2, bid=0.9, bids=[[0.8, 1.0], [0.9, 1.0]])
    written.book(2, bid=0.9, bids=[[0.9, -1.0]])
    written.book(2, bid=0.9, ts="soon")
    written.book(86_400_000_000, bid=0.9)
    written.book(3, bid=0.6)
    written.book(1, bid=0.9)
    recording = written.save()

    assert Recording.load(recording).skipped == 11
    assert crossings(recording, above()) == [(3, "a")]


@pytest.mark.errors
def test_a_file_that_is_cut_off_counts_up_to_there(written):
    """Of a truncated file the checker reads what the replay plays."""
    for at in range(2_000):
        written.book(at, bid=(at * 7 % 90 + 5) / 100)
    whole = written.save().read_bytes()
    written.path.write_bytes(whole[: len(whole) // 2])

    recording = Recording.load(written.path)
    read = {price.at for price in checker.prices(written.path)}

    assert recording.warning is not None
    assert 0 < len(read) < 2_000
    assert read == {item.ts for item in recording.timeline if isinstance(item, Group)}


@pytest.mark.basic
def test_what_differs_is_told_apart():
    """Missing, unexpected, told twice and out of order are each found."""
    one, two, three = Told(1, 1, "a"), Told(2, 1, "a"), Told(3, 2, "b")
    wanted = [one, two, three]

    assert checker.compare(wanted, [one, three, two]) == ([], [], [])
    assert checker.compare(wanted, [one, three]) == ([two], [], [])
    assert checker.compare(wanted, [one, two, two, three]) == ([], [two], [])
    assert checker.compare([one, three], [one, two, three]) == ([], [two], [])
    assert checker.compare(wanted, [two, one, three]) == ([], [], [one])


@pytest.mark.basic
def test_the_checker_shares_no_code_with_what_it_checks():
    """It imports the standard library only."""
    tree = ast.parse(inspect.getsource(checker))
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert not [name for name in imported if name.startswith(("odds", "msgspec", "."))]
    assert len(inspect.getsource(checker).splitlines()) < 150


PRICES = st.integers(1, 99).map(lambda cents: cents / 100)
SIDES = st.sampled_from(["UP", "DOWN"])
BOOKS = st.tuples(SIDES, PRICES | st.none(), PRICES | st.none())
RULES = st.builds(
    Rule,
    user=st.integers(1, 3),
    name=st.just("r"),
    market=st.just(MARKET),
    side=SIDES,
    sign=st.sampled_from([1, -1]),
    level=st.integers(1, 99).map(lambda cents: Decimal(cents) / 100),
    hysteresis=st.integers(0, 20).map(lambda cents: Decimal(cents) / 100),
)


def by_the_engine(rules: list[Rule], recording: Recording) -> list[Told]:
    """Return what the alert engine makes of a recording's books."""
    engine = Alerts(
        PriceRule(
            id=rule.name,
            user_id=rule.user,
            market=rule.market,
            asset_id=rule.market + rule.side,
            direction=Direction.ABOVE if rule.sign == 1 else Direction.BELOW,
            level=rule.level,
            hysteresis=rule.hysteresis,
        )
        for rule in rules
    )
    return sorted(
        Told(alert.at, alert.user_id, alert.rule_id)
        for group in recording.timeline
        if isinstance(group, Group)
        for book in group.snapshots
        for alert in engine.on_quote(
            Quote(
                book.market_id,
                book.market_id + book.side,
                book.bids[0][0] if book.bids else None,
                book.asks[0][0] if book.asks else None,
                book.ts,
            ),
            seen_at=0.0,
        )
    )


@pytest.mark.advanced
@given(
    books=st.lists(BOOKS, min_size=1, max_size=40), rules=st.lists(RULES, max_size=5)
)
def test_checker_and_engine_agree_on_any_books(
    tmp_path_factory, recording_in, books, rules
):
    """Written twice, by two ways of thinking: the same alerts from any recording."""
    rules = [rule._replace(name=f"r{n}") for n, rule in enumerate(rules)]
    written = recording_in(tmp_path_factory.mktemp("any"))
    for at, (side, bid, ask) in enumerate(books):
        written.book(at, bid=bid, ask=ask, side=side)
    path = written.save()

    wanted = checker.expected(path, rules, [], FOREVER)

    assert by_the_engine(rules, Recording.load(path)) == wanted


@pytest.mark.requirement("B3")
@pytest.mark.advanced
def test_the_recorded_sample_gives_its_known_alerts():
    """Ana's rule on the shipped recording: the engine, the checker and the known times.

    The times were read off the recording by a third program, once.
    """
    recording = Recording.load(sample())
    first, second = recording.markets
    rule = Rule(1, "ana", first, "UP", 1, Decimal("0.79"), Decimal("0.03"))

    assert [one.at for one in by_the_engine([rule], recording)] == KNOWN
    assert checker.expected(sample(), [rule], [(1, first), (1, second)], FOREVER) == [
        *(Told(at, 1, "ana") for at in KNOWN),
        Told(RESOLVED[0], 1, first),
        Told(RESOLVED[1], 1, second),
    ]
