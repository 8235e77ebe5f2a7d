"""Volumes: what is told of them is what the one-rule definition says, once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import RuleError, VolumeRule, armed_by, reaching
from oddsbot.polymarket import Found, GammaMarket, Resolution
from oddsbot.store import SqlFollowers, SqlRules, SqlTags
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
    """Answers with the volumes that a test has set, as both clients and the limiter.

    Attributes:
        volume: Traded ever.
        day: Traded in 24 hours.
        decided: Whether the market is over.
        held: An answer is on its way until this is set.
        asked: Set when it is.
    """

    def __init__(self):
        self.volume = self.day = Decimal(0)
        self.decided = False
        self.held = asyncio.Event()
        self.held.set()
        self.asked = asyncio.Event()

    async def call(self, _host, _path, ask):
        """Ask at once."""
        return await ask()

    async def markets_by_condition(self, *ids):
        """Return the market as it was when it was asked about."""
        end = {
            "closed": True,
            "closed_time": "now",
            "uma_resolution_status": "resolved",
        }
        market = GammaMarket(
            id="1", condition_id=MARKET, volume=self.volume, volume24hr=self.day,
            outcomes=("Yes", "No"), outcome_prices=(Decimal(1), Decimal(0)),
            **(end if self.decided else {}),
        )  # fmt: skip
        self.asked.set()
        await self.held.wait()
        return Found({MARKET: market} if MARKET in ids else {})

    async def resolutions(self, *ids):
        """Return that a result of each is proposed."""
        return Found({
            each: Resolution(condition_id=each, status="proposed") for each in ids
        })  # fmt: skip


class Held(Rounds):
    """Rounds that are committed, and say so when `let` is set.

    Attributes:
        let: As above.
        written: Set when a round is in the database.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.let, self.written = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def commit(self, *args):
        """Commit a round."""
        due = await super().commit(*args)
        self.written.set()
        await self.let.wait()
        return due


def process(engine, asked, outgoing):
    """Return a process that asks; it has no lock."""
    stored, clock = SqlRules(engine), SystemClock()
    return MarketNews(
        Rounds(engine, "0.results", stored, clock), SqlFollowers(engine),
        SqlTags(engine), stored, asked, asked, asked, None, outgoing, clock,
    )  # fmt: skip


@pytest.mark.advanced
@pytest.mark.requirement("B3", "B6")
@pytest.mark.parametrize("seed", [1, 2])
async def test_any_world_of_volumes_agrees_with_the_definition(
    engine, known, due, seed
):
    """Two processes ask, one begins anew, rules come: each alert is due once."""
    chance, asked = random.Random(seed), Polymarket()
    await known(1, 2)
    stored, outgoing = SqlRules(engine), Outgoing()
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

    processes = [process(engine, asked, outgoing) for _ in range(2)]
    for step in range(60):
        if chance.random() < 0.2:
            processes[chance.randrange(2)] = process(engine, asked, outgoing)
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
        order = chance.sample(processes, 2)
        for wish in wishes:
            judge(wish, now)
        if new:
            for each in order:
                await each.polls.look_at_markets()
        else:
            # One finds that the other was quicker, and judges what is there then.
            await asyncio.gather(*(each.polls.look_at_markets() for each in order))
    found = [row[1] for row in await due()]
    assert sorted(found) == sorted(wanted)
    assert len(wanted) > 10
    assert len(outgoing.put_in) == len(wanted)


@pytest.mark.advanced
@pytest.mark.requirement("B3", "B6")
async def test_an_answer_from_before_another_process_wrote_does_not_count(
    engine, known, due
):
    """A process asks, is overtaken, and has its answer: the rule stays off.

    By that answer the rule would be back on, and fire again with the next one.
    """
    await known(1)
    stored, outgoing = SqlRules(engine), Outgoing()
    await stored.save(rule(daily=True, base=Decimal(0)))
    slow, quick = Polymarket(), Polymarket()
    slow.day, quick.day = Decimal(8), Decimal(12)
    first, second = (process(engine, each, outgoing) for each in (slow, quick))
    slow.held.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first.polls.look_at_markets())
        await slow.asked.wait()
        await second.polls.look_at_markets()
        assert [row[1] for row in await due()] == ["v:1"]
        slow.held.set()
    slow.day = Decimal(12)
    for _ in range(2):
        await first.polls.look_at_markets()
        await second.polls.look_at_markets()
    assert [row[1] for row in await due()] == ["v:1"]
    # What it asks for now counts again.
    slow.day = Decimal(8)
    await first.polls.look_at_markets()
    slow.day = Decimal(12)
    await first.polls.look_at_markets()
    assert [row[1] for row in await due()] == ["v:1", "v:2"]


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_a_round_that_ends_in_a_look_at_volumes_costs_none_of_its_answers(
    engine, known, due
):
    """Something else is committed while a look begins: what it asks for is judged."""
    await known(1)
    stored, asked, clock = SqlRules(engine), Polymarket(), SystemClock()
    followers = SqlFollowers(engine)
    async with engine.begin() as connection:
        await followers.follow(1, MARKET)(connection)
    await stored.save(rule(base=Decimal(0)))
    rounds = Held(engine, "0.results", stored, clock)
    news = MarketNews(
        rounds, followers, SqlTags(engine), stored, asked, asked, asked, None,
        Outgoing(), clock,
    )  # fmt: skip
    await news.polls.look_at_markets()
    asked.volume = Decimal(12)
    for each in (rounds.let, rounds.written, asked.held, asked.asked):
        each.clear()
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(news.polls.look_at_oracle())
        await rounds.written.wait()
        tasks.create_task(news.polls.look_at_markets())
        # It goes on to its question, or waits for the round: then this takes its time.
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asked.asked.wait()
        rounds.let.set()
        await telling
        asked.held.set()
    assert "v:1" in [row[1] for row in await due()]


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_where_a_market_is_decided_its_volume_rules_end(engine, known, due):
    """Nothing is traded there any more: they are listed no longer, and fire nothing."""
    await known(1)
    stored, asked = SqlRules(engine), Polymarket()
    await stored.save(rule(level=10))
    await stored.save(rule("w", level=5, base=Decimal(0)))
    news = process(engine, asked, Outgoing())
    await news.polls.look_at_markets()
    assert len(await stored.volumes()) == 2
    asked.decided, asked.volume = True, Decimal(6)
    await news.polls.look_at_markets()
    assert await stored.volumes() == []
    assert [row[1] for row in await due()] == ["w:1"]
