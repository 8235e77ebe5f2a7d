from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import Alerts, Base, Direction, PriceRule
from oddsbot.demo.ledger import PATIENCE, Gap, Ledger, Message, Promise
from oddsbot.polymarket import Quote

ADA = 1001
CENTS = st.integers(40, 60)


def promised(level, about, **other):
    """Return a rule of Ada's on Up of the made market, by the bid, from the start."""
    return Promise(
        **{
            "rule": "r",
            "person": ADA,
            "market": about["market"],
            "side": "UP",
            "sign": 1,
            "level": Decimal(level),
            "hysteresis": Decimal("0.01"),
            "base": Decimal("0.40"),
            "asked": about["start"] - 1,
            "confirmed": about["start"] - 1,
            **other,
        }
    )


def told(at, level="0.5", *, again=False, came=0.0):
    """Return the message of the alert at `at` seconds."""
    seconds = 1_790_000_000 + at
    clock = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    cents = f"{Decimal(level) * 100:f}".rstrip("0").rstrip(".")
    mark = "\nMay be a repeat: the bot was restarted." if again else ""
    text = f"▲ Up reached {cents}¢\nMade for a test?\nbid 50¢ at {clock}{mark}"
    return Message(ADA, text, came)


@pytest.fixture
def names():
    """What the made recording is about."""
    return {"market": "0xmarket", "start": 1_790_000_000_000}


@pytest.fixture
def crossing(written):
    """A recording whose bid is at 0.5 at 2 s and 6 s, and below it otherwise."""
    for at, bid in ((0, 0.4), (2, 0.5), (4, 0.45), (6, 0.5), (8, 0.4)):
        written.book(at * 1000, bid=bid, ask=bid + 0.1)
    return written.save()


def stands(ledger, names, *messages, until=10, now=0.0):
    """Return the account after `until` seconds."""
    return ledger.account(
        names["start"] + until * 1000,
        messages,
        now,
        lambda at: (at - names["start"]) / 1000,
    )


@pytest.mark.basic
@pytest.mark.requirement("B5")
def test_what_came_is_delivered_and_what_is_late_is_lost(crossing, names):
    """An alert that is not there is on its way for 30 s, and lost after that."""
    ledger = Ledger(crossing)
    ledger.promise(promised("0.5", names))
    first = stands(ledger, names, told(2, came=2.5))
    assert (first.due, first.delivered, first.waiting, first.lost) == (2, 1, 1, 0)
    assert first.p50 == first.p99 == pytest.approx(0.5)
    late = stands(ledger, names, told(2), now=PATIENCE + 1)
    assert (late.lost, late.waiting, len(late.problems)) == (1, 0, 1)
    whole = stands(ledger, names, told(2), told(6), now=PATIENCE + 1)
    assert (whole.due, whole.delivered, whole.problems) == (2, 2, ())


@pytest.mark.basic
@pytest.mark.requirement("B5")
def test_a_copy_that_says_so_is_repeated_and_any_other_is_wrong(crossing, names):
    """Whoever gets an alert twice is told so; unmarked, or never due, it is wrong."""
    ledger = Ledger(crossing)
    ledger.promise(promised("0.5", names))
    marked = stands(ledger, names, told(2), told(2, again=True), told(6))
    assert (marked.repeated, marked.wrong, marked.delivered) == (1, 0, 2)
    unmarked = stands(ledger, names, told(2), told(2), told(6))
    assert (unmarked.repeated, unmarked.wrong) == (0, 1)
    assert stands(ledger, names, told(2), told(3), told(6)).wrong == 1
    assert stands(ledger, names, told(2, "0.7"), told(2), told(6)).wrong == 1


@pytest.mark.basic
@pytest.mark.requirement("B5")
def test_what_the_feed_did_not_bring_is_unseen_and_not_lost(crossing, names):
    """An alert of a broken feed may come or not; one of a later price has to."""
    ledger = Ledger(crossing)
    ledger.promise(promised("0.5", names))
    start = names["start"]
    ledger.gap(Gap(begin=start + 1_000, end=start + 3_000))
    without = stands(ledger, names, told(6), now=PATIENCE + 1)
    assert (without.lost, without.wrong, without.unseen) == (0, 0, 1)
    with_it = stands(ledger, names, told(2), told(6), now=PATIENCE + 1)
    assert (with_it.delivered, with_it.wrong, with_it.unseen) == (2, 0, 0)
    ledger.gap(Gap(begin=start + 5_000, end=None, market="0xother"))
    other = stands(ledger, names, told(2), now=3 * PATIENCE)
    assert other.waiting + other.lost == 1


@pytest.mark.basic
@pytest.mark.requirement("B5")
def test_a_rule_that_was_taken_back_makes_nothing_due(crossing, names):
    """What fired just before the end may be there; nothing of it is missed."""
    ledger = Ledger(crossing)
    promise = promised("0.5", names)
    ledger.promise(promise)
    promise.ended = names["start"] + 5_000
    account = stands(ledger, names, now=PATIENCE + 1)
    assert (account.due, account.lost) == (0, 0)
    # Asked for again in the same words.
    ledger.promise(promised("0.5", names, asked=promise.ended, confirmed=promise.ended))
    again = stands(ledger, names, told(2), told(6), now=PATIENCE + 1)
    assert (again.due, again.delivered, again.wrong) == (2, 2, 0)


@pytest.mark.advanced
@pytest.mark.requirement("B5", "B3")
@given(bids=st.lists(CENTS, min_size=1, max_size=30), level=CENTS, base=CENTS)
def test_the_ledger_and_the_bots_rules_agree(
    tmp_path_factory, recording_in, bids, level, base
):
    """For the ledger each alert of the engine is delivered; none is wrong or lost."""
    written = recording_in(tmp_path_factory.mktemp("made"))
    for at, bid in enumerate(bids, 1):
        written.book(at * 1000, bid=bid / 100)
    names = {"market": "0xmarket", "start": 1_790_000_000_000}
    ledger = Ledger(written.save())
    limit, seen = Decimal(level) / 100, Decimal(base) / 100
    ledger.promise(promised(limit, names, base=seen))
    rules = Alerts(
        [
            PriceRule(
                id="r",
                user_id=ADA,
                market="0xmarket",
                asset_id="up",
                direction=Direction.ABOVE,
                level=limit,
                hysteresis=Decimal("0.01"),
                base=Base(bid=seen),
            )
        ]
    )
    messages = []
    for at, bid in enumerate(bids, 1):
        moment = names["start"] + at * 1000
        quote = Quote("0xmarket", "up", Decimal(bid) / 100, None, moment)
        fired = rules.on_quote(quote, seen_at=0.0)
        messages += [told(at, str(limit)) for _ in fired]
    account = stands(ledger, names, *messages, until=len(bids) + 1, now=PATIENCE + 1)
    assert account.problems == ()
    assert account.delivered == len(messages)
