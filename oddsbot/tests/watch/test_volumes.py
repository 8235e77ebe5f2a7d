"""Volumes: what is told of them is what the one-rule definition says, once."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import RuleError, VolumeRule, armed_by, reaching
from oddsbot.polymarket import Found, GammaMarket
from oddsbot.store import SqlFollowers, SqlRules
from oddsbot.watch import MarketNews, Rounds
from oddswire.clock import SystemClock
from support.shards import Outgoing

MARKET = "0xmarket"
DOLLARS = st.integers(0, 30).map(lambda each: Decimal(each) / 2)


def rule(name="v", level=10, user_id=1, **more):
    """Return a rule on the volume of the market."""
    return VolumeRule(id=name, user_id=user_id, market=MARKET, level=level, **more)


@pytest.mark.basic
@pytest.mark.requirement("B3")
@given(st.none() | DOLLARS, st.lists(DOLLARS, max_size=20))
def test_a_volume_fires_where_it_reaches_the_level_after_it_was_well_below(seen, sums):
    """A firing has a sum below the level before it, and nine tenths after another."""
    wish = rule(base=seen, daily=True)
    armed, fired = armed_by(wish), []
    for at, volume in enumerate(sums):
        fires, armed = reaching(wish, volume, armed=armed)
        assert not (fires and armed)
        if fires:
            fired.append(at)
    before = [] if seen is None else [seen]
    for last, at in zip([None, *fired], fired, strict=False):
        between = sums[:at] if last is None else sums[last + 1 : at]
        least = 10 if last is None else 9
        assert sums[at] >= 10
        assert any(
            each < least for each in [*(before if last is None else ()), *between]
        )
    rest = sums[fired[-1] + 1 :] if fired else sums
    if fired and all(each >= 9 for each in rest):
        assert armed is False


@pytest.mark.errors
@pytest.mark.requirement("B3")
def test_a_volume_rule_that_cannot_be_is_refused_in_one_sentence():
    """The sentence names the rule and says what is accepted."""
    for fields, accepted in (
        ({"level": 0}, "give 1 to 1,000,000,000,000 dollars"),
        ({"level": 10**13}, "give 1 to 1,000,000,000,000 dollars"),
    ):
        with pytest.raises(RuleError, match=accepted):
            rule(**fields)
    with pytest.raises(RuleError, match="give the market's condition id"):
        VolumeRule(id="v", user_id=1, market="a b", level=1)


class Polymarket:
    """Answers with the volumes that a test has set, as both clients and the limiter."""

    def __init__(self):
        self.volume = self.day = Decimal(0)

    async def call(self, _host, _path, ask):
        """Ask at once."""
        return await ask()

    async def markets_by_condition(self, *ids):
        """Return the market."""
        market = GammaMarket(
            id="1", condition_id=MARKET, volume=self.volume, volume24hr=self.day
        )
        return Found({MARKET: market} if MARKET in ids else {})


@pytest.mark.advanced
@pytest.mark.requirement("B3", "B6")
@pytest.mark.parametrize("seed", [1, 2])
async def test_any_world_of_volumes_agrees_with_the_definition(
    engine, known, due, seed
):
    """Two processes ask, one begins anew, rules come: each alert is due once."""
    chance, asked = random.Random(seed), Polymarket()
    await known(1, 2)
    stored, clock, outgoing = SqlRules(engine), SystemClock(), Outgoing()

    def process():
        return MarketNews(
            Rounds(engine, "0.results", stored, clock), SqlFollowers(engine), stored,
            asked, asked, asked, None, outgoing, clock,
        )  # fmt: skip

    armed, counted, wishes, wanted = {}, {}, [], []
    ended = set()

    def judge(wish, volume):
        if wish.id in ended:
            return
        sum_ = volume[wish.daily]
        fires, armed[wish.id] = reaching(wish, sum_, armed=armed[wish.id])
        if fires:
            counted[wish.id] += 1
            wanted.append(f"{wish.id}:{counted[wish.id]}")
            ended.update(() if wish.daily else (wish.id,))

    processes = {process(): None, process(): None}  # each with what it knows
    for step in range(60):
        if chance.random() < 0.2:
            processes.pop(chance.choice(list(processes)))
            processes[process()] = None
        new = []
        if chance.random() < 0.2 and len(wishes) < 8:
            wish = rule(
                f"v{len(wishes)}",
                5 + 5 * len(wishes),
                chance.choice((1, 2)),
                daily=chance.random() < 0.7,
                base=chance.choice((None, Decimal(0))),
            )
            wishes.append(wish)
            new.append(wish)
            await stored.save(wish)
            armed[wish.id], counted[wish.id] = armed_by(wish), 0
        if step:
            asked.volume += chance.choice((0, 1, 4))
            asked.day = Decimal(chance.randrange(50))
        now = asked.volume, asked.day
        first, *_ = order = chance.sample(list(processes), 2)
        # Whoever looks first judges a new rule by what it knows, then by what is new.
        for wish in new:
            if processes[first] is not None:
                judge(wish, processes[first])
        for wish in wishes:
            judge(wish, now)
        if new:
            for each in order:
                await each.polls.look_at_markets()
        else:
            # One finds that the other was quicker, and judges what is there then.
            await asyncio.gather(*(each.polls.look_at_markets() for each in order))
        # Of a market without rules nobody asks.
        processes = dict.fromkeys(processes, now if wishes else None)
    found = [row[1] for row in await due()]
    assert sorted(found) == sorted(wanted)
    assert len(wanted) > 10
    assert len(outgoing.put_in) == len(wanted)
