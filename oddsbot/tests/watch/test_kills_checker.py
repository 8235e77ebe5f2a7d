"""The checker of `make kills`: which prices had to be judged, and what follows."""

from __future__ import annotations

from math import inf

import pytest

from kills import checker
from kills.checker import Kill, Owned, Played, Wish
from kills.market import Link, Tick, Told

WISH = Wish(user=1, name="r", asset=0, sign=1, level=600, back=20)
CROSSES = Tick(10_000, 0, 610, 620)
RETURNS = Tick(11_000, 0, 500, 510)


def judge(kills, owned, links, told=()):
    """Judge a run of one rule, whose price crosses at 10 s and returns at 11 s."""
    run = Played([CROSSES, RETURNS], [500], links, owned)
    came = [
        Told(at / 1000, 1, "r", at, "0.61", again=False, pid=9, latency=0.0)
        for at in told
    ]
    return checker.judge(run, [WISH], came, [Kill(w, "watch", p) for w, p in kills], [])


@pytest.mark.basic
@pytest.mark.requirement("B4", "B6")
@pytest.mark.parametrize(
    ("killed", "standby", "newcomer", "kept"),
    [
        (None, None, None, True),
        (10.1, None, 11.5, False),
        (10.1, inf, None, True),
        # A younger process takes over although the standby lives: it is to blame.
        (10.1, 14.0, 11.5, True),
        (10.1, 11.2, 11.5, False),
        (13.0, None, 14.0, True),
    ],
)
def test_a_price_is_lost_if_one_that_had_it_lived(killed, standby, newcomer, kept):
    """Who had a price, and lived until the next takeover, decides; nothing else."""
    kills, links, owned = [], [Link(1, 0.0, killed)], [Owned(1.0, 1)]
    if killed is not None:
        kills.append((killed, 1))
    if standby is not None:
        links.append(Link(2, 0.0, None if standby == inf else standby))
        if standby == inf:
            owned.append(Owned(11.4, 2))
        else:
            kills.append((standby, 2))
    if newcomer is not None:
        links.append(Link(3, newcomer, None))
        owned.append(Owned(newcomer, 3))
    verdict = judge(kills, owned, links)
    assert (len(verdict.lost), len(verdict.unseen)) == ((1, 0) if kept else (0, 1))
    assert judge(kills, owned, links, [10_000]).wrong == []
    assert judge(kills, owned, links, [11_000]).wrong == [("r", 11_000)]
