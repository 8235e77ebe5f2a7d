"""The checker of `make kills`: which prices had to be judged, and what follows."""

from __future__ import annotations

import pytest

from kills import checker
from kills.checker import Kill, Owned, Played, Wish
from kills.market import Link, Made, Tick, Told

WISH = Wish(user=1, name="r", asset=0, sign=1, level=600, back=20)
CROSSES = Tick(10_000, 0, 610, 620)
RETURNS = Tick(11_000, 0, 500, 510)


def copy(at, when=None, pid=9, n=1):
    """Return what the chat was given at a moment by a courier."""
    when = at / 1000 if when is None else when
    return Told(when, 1, "r", at, "0.61", again=True, pid=pid, latency=0.0, id=f"r:{n}")


def judge(kills, owned, links, told=(), settled=None):
    """Judge a run of one rule, whose price crosses at 10 s and returns at 11 s."""
    run = Played([CROSSES, RETURNS], [500], links, owned, settled or {})
    kills = [Kill(when, "watch", pid) for when, pid in kills]
    return checker.judge(run, [WISH], told, kills, [])


OWNER, STANDBY, YOUNGER = 1, 2, 3


@pytest.mark.basic
@pytest.mark.requirement("B4", "B6")
@pytest.mark.parametrize(
    ("kills", "owned", "kept"),
    [
        # The owner lives, or was killed after it had committed.
        ([], [Owned(1, OWNER, 11_000)], True),
        ([(13, OWNER)], [Owned(1, OWNER, 11_000), Owned(14, YOUNGER, 20_000)], True),
        # It was killed before that; the standby had the price and goes on.
        ([(30, OWNER)], [Owned(1, OWNER, 9_000), Owned(31, STANDBY, 40_000)], True),
        # A younger process takes over although the standby lives: it is to blame.
        ([(30, OWNER)], [Owned(1, OWNER, 9_000), Owned(31, YOUNGER, 40_000)], True),
        # Both were killed before anybody had committed the price.
        (
            [(30, OWNER), (31, STANDBY)],
            [Owned(1, OWNER, 9_000), Owned(32, YOUNGER, 40_000)],
            False,
        ),
        # Likewise, and the standby was the owner for a moment.
        (
            [(30, OWNER), (32, STANDBY)],
            [
                Owned(1, OWNER, 9_000),
                Owned(31, STANDBY, 9_000),
                Owned(33, YOUNGER, 40_000),
            ],
            False,
        ),
        # Nobody ever went on, and one of those that had it lives.
        ([(30, OWNER)], [Owned(1, OWNER, 9_000)], True),
        ([(30, OWNER), (31, STANDBY)], [Owned(1, OWNER, 9_000)], False),
    ],
)
def test_a_price_is_lost_if_one_that_had_it_lived(kills, owned, kept):
    """Who had a price, and who lived when another owner went past it, decides."""
    links = [
        Link(OWNER, 0, 0),
        Link(STANDBY, 0, 0),
        Link(YOUNGER, 12, 2),
    ]
    verdict = judge(kills, owned, links)
    assert (len(verdict.lost), len(verdict.unseen)) == ((1, 0) if kept else (0, 1))
    assert judge(kills, owned, links, [copy(10_000)]).wrong == []
    assert judge(kills, owned, links, [copy(11_000)]).wrong == [("r", 11_000)]


@pytest.mark.basic
@pytest.mark.requirement("B4", "B6")
def test_who_comes_while_a_price_stands_has_it_as_the_book():
    """Nobody else had it; it is lost if that one lives and does not judge it."""
    links = [Link(YOUNGER, 10.5, 1)]
    owned = [Owned(10.6, YOUNGER, 40_000)]
    assert judge([], owned, links).lost == [("r", 10_000)]
    links = [Link(YOUNGER, 11.5, 2)]
    assert judge([], owned, links).unseen == [("r", 10_000)]


@pytest.mark.basic
@pytest.mark.requirement("B4")
@pytest.mark.parametrize(
    ("read", "killed", "fate", "in_hand"),
    [
        # However long it held the alert, and although what it had sent is read later.
        (10.0, 60.0, 63.0, True),
        (60.1, 60.0, 63.0, True),
        # After the fate nobody may send it again.
        (10.0, 60.0, 59.0, False),
        # The other copy came while this courier lived.
        (10.0, 62.5, 63.0, False),
    ],
)
def test_a_repeat_is_of_a_courier_that_was_killed_before_the_fate(
    read, killed, fate, in_hand
):
    """It had the alert when it died: before another copy, and before the fate."""
    links, owned = [Link(OWNER, 0, 0)], [Owned(1, OWNER, 40_000)]
    copies = [copy(10_000, read), copy(10_000, 62.0, pid=8)]
    found = judge([(killed, 9)], owned, links, copies, {(1, "r:1"): fate})
    assert found.repeated == 1
    assert (found.by_courier, found.untraced) == (
        (1, []) if in_hand else (0, [("r", 10_000)])
    )


@pytest.mark.basic
@pytest.mark.requirement("B4")
def test_another_alert_of_the_same_price_is_no_repeat():
    """A rule that fired twice at one price is wrong, whoever was killed meanwhile."""
    links, owned = [Link(OWNER, 0, 0)], [Owned(1, OWNER, 40_000)]
    told = [copy(10_000), copy(10_000, 62.0, n=2)]
    found = judge([(60, 9)], owned, links, told)
    assert (found.repeated, found.wrong) == (0, [("r", 10_000)])


@pytest.mark.basic
@pytest.mark.requirement("B1", "B4")
def test_a_price_that_a_fault_kept_from_the_owner_is_not_asked_of_it():
    """The owner was frozen: it may miss the price, and may have judged it late."""
    links = [Link(OWNER, 0, 0), Link(STANDBY, 0, 0)]
    run = Played(
        [CROSSES, RETURNS], [500], links, [Owned(1, OWNER, 11_000)], {}, {0: {OWNER}}
    )
    verdict = checker.judge(run, [WISH], [], [], [])
    assert (verdict.lost, len(verdict.unseen)) == ([], 1)
    assert checker.judge(run, [WISH], [copy(10_000)], [], []).wrong == []


@pytest.mark.basic
@pytest.mark.requirement("B1")
def test_each_fault_of_the_feed_is_one_gap():
    """Too few and too many are wrong; one that was killed before it could, is not."""
    made = [Made(10, 1, "cut"), Made(50, 1, "freeze"), Made(60, 2, "asset")]
    assert checker.gaps(made, [1, 1, 2], {}, 30) == (0, [])
    assert checker.gaps(made, [1, 1], {2: 80}, 30) == (1, [])
    assert checker.gaps(made, [1, 2], {}, 30) == (1, [1])
    assert checker.gaps(made, [1, 1, 1, 2, 3], {}, 30) == (0, [1, 3])
