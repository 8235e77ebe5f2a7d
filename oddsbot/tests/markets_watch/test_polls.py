"""`MarketPolls` against the stand-in, on a simulated clock, without a websocket."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import pytest

from oddsbot import limits
from oddsbot.markets_watch import (
    Decided,
    Disputed,
    LiquidityChanged,
    Listed,
    MarketPolls,
    Proposed,
    VolumeChanged,
)
from oddsbot.polymarket import BadAnswer, Data, Gamma, GammaEvent, GammaMarket
from oddsbot.polymarket.gamma import EventPage
from oddsbot.standin.polymarket import Fault, Replay, parse_switch
from oddsbot.store import Listing
from oddswire.clock import ManualClock
from oddswire.errors import Unavailable
from oddswire.ratelimit import RateLimiter
from support import eventually


class Watch:
    """Polls of some markets, their clock, and what they told."""

    def __init__(self, replay, clock, told):
        self.replay = replay
        self.clock = clock
        self.told = told
        self.ids = list(replay.recording.markets)
        self.fails = 0

    def of(self, *kinds):
        """Return what was told of some kinds."""
        return [each for each in self.told if isinstance(each, kinds)]

    async def followed(self):
        """Return the followed markets."""
        return self.ids

    async def tell(self, change):
        """Take a change, unless the test wants that to fail."""
        if self.fails:
            self.fails -= 1
            raise Unavailable("away")
        self.told.append(change)

    async def pass_time(self, seconds):
        """Let that long pass; each look is over before the next one."""
        for _ in range(int(seconds / 5)):
            await self.clock.wait_sleeping()
            await self.clock.advance(5.0)
        await self.clock.wait_sleeping()


@pytest.fixture
async def watch(client, prefix, sampled):
    """Watch the markets of the sample, of which nothing was played yet."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        replay = await enter(Replay(sampled, speed=float("inf"), seed=5))
        session = await enter(aiohttp.ClientSession())
        rules = limits.POLYMARKET
        limiter = await enter(RateLimiter(client, rules, prefix=prefix, deadline=2.0))
        clock = ManualClock(now=sampled.start / 1000)
        watch = Watch(replay, clock, [])
        watch.asks = (
            Gamma(session, replay.gamma_url),
            Data(session, replay.data_url),
            limits.Upstream(limiter),
        )
        polls = MarketPolls(
            *watch.asks,
            clock,
            followed=watch.followed,
            tell=watch.tell,
        )
        watch.polls = polls
        task = asyncio.get_running_loop().create_task(polls.run(), name="polls")
        await clock.wait_sleeping()
        yield watch
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.integration
@pytest.mark.requirement("B3", "B1")
async def test_a_resolution_is_told_within_one_poll(watch):
    """Without `market_resolved`, and once, whatever comes after."""
    watch.replay.faults.switch(*parse_switch("no_resolved"))
    assert watch.of(Decided) == []
    watch.replay.start()
    await watch.replay.finished()
    await watch.pass_time(60)
    assert {each.outcome for each in watch.of(Decided)} == {"Up", "Down"}
    assert len(watch.of(VolumeChanged)) >= 2
    assert len(watch.of(LiquidityChanged)) >= 2
    await watch.pass_time(300)
    assert len(watch.of(Decided)) == 2


@pytest.mark.integration
@pytest.mark.requirement("B3")
async def test_proposed_disputed_and_proposed_again_are_each_told(watch):
    """The normal course of the oracle: each step once, with its outcome."""
    market = watch.ids[0]
    for outcome, disputed in ((0, False), (0, True), (1, False)):
        watch.replay.propose(market, outcome, disputed=disputed)
        await watch.pass_time(65)
    told = watch.of(Proposed, Disputed)
    assert [(type(each), each.outcome) for each in told] == [
        (Proposed, "Up"), (Disputed, "Up"), (Proposed, "Down"),
    ]  # fmt: skip
    assert not any(each.first for each in told)
    assert len({each.id for each in told}) == 3
    await watch.pass_time(400)
    assert watch.of(Proposed, Disputed) == told


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_near_its_end_a_market_is_asked_about_each_half_minute(watch):
    """Far from its end the oracle is asked every five minutes, then every 30 s."""
    name = "GET /v2/resolutions"
    before = watch.replay.calls[name]
    await watch.pass_time(120)
    assert 3 <= watch.replay.calls[name] - before <= 5
    watch.clock.jump(-100_000)  # a day before the end
    await watch.pass_time(60)
    before = watch.replay.calls[name]
    await watch.pass_time(600)
    assert 1 <= watch.replay.calls[name] - before <= 3


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_a_new_market_is_told_and_an_old_one_is_not(watch):
    """The first look tells nobody; a market that opens later is told once."""
    await watch.pass_time(120)
    assert watch.of(Listed) == []
    known = watch.replay.recording.markets
    new = msgspec.structs.replace(known[watch.ids[0]], market_id="0xnew", slug="new")
    known["0xnew"] = new
    watch.polls.hint()
    await watch.pass_time(10)
    assert [each.market.slug for each in watch.of(Listed)] == ["new"]
    await watch.pass_time(120)
    assert len(watch.of(Listed)) == 1


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_an_old_market_that_comes_up_is_not_new(watch):
    """Where newer ones close, older ones come onto the page, which has 100."""
    known = watch.replay.recording.markets
    pattern = known[watch.ids[0]]

    def begin(*numbers):
        for number in numbers:
            known[f"0x{number}"] = msgspec.structs.replace(
                pattern,
                market_id=f"0x{number}",
                slug=f"{number}",
                start_ts=pattern.start_ts + 1_000 * number,
            )

    # A restart: the first look is at 130 markets.
    begin(*range(1, 131))
    watch.polls = MarketPolls(
        *watch.asks, watch.clock, followed=watch.followed, tell=watch.tell
    )
    await watch.polls.look_for_new()
    for number in range(100, 131):
        del known[f"0x{number}"]
    await watch.polls.look_for_new()
    assert watch.of(Listed) == []
    begin(*range(200, 320))
    await watch.polls.look_for_new()
    new = [str(number) for number in range(200, 320)]
    assert [each.market.slug for each in watch.of(Listed)] == new


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_each_of_very_many_new_markets_is_told(watch):
    """An outage is long, or a day is busy: it is asked back to what is known."""
    known = watch.replay.recording.markets
    pattern = known[watch.ids[0]]
    await watch.polls.look_for_new()
    for number in range(1, 701):
        known[f"0x{number}"] = msgspec.structs.replace(
            pattern,
            market_id=f"0x{number}",
            slug=f"{number}",
            start_ts=pattern.start_ts + 1_000 * number,
        )
    await watch.polls.look_for_new()
    told = [each.market.slug for each in watch.of(Listed)]
    assert told == [str(number) for number in range(1, 701)]


@pytest.mark.errors
@pytest.mark.requirement("B3")
async def test_a_list_that_goes_round_ends(watch):
    """Each page is the same one and has a cursor: an error, and asked again later."""

    class Round:
        asked = 0

        async def events(self, **_):
            self.asked += 1
            event = GammaEvent(
                id="1",
                start_date="2026-01-01T00:00:00Z",
                markets=(GammaMarket(id="1", condition_id="0x1"),),
            )
            return EventPage((event,), "again")

    async def tags():
        return {"crypto": Listing(0, {})}

    gamma = Round()
    polls = MarketPolls(
        gamma, *watch.asks[1:], watch.clock,
        followed=watch.followed, tell=watch.tell, tags=tags,
    )  # fmt: skip
    with pytest.raises(BadAnswer, match="goes on with what it had"):
        await polls.look_at_tags()
    assert gamma.asked == 2


@pytest.mark.errors
@pytest.mark.requirement("B3")
async def test_what_could_not_be_told_is_told_later(watch):
    """An answer that fails, or a `tell` that fails, loses no change."""
    watch.replay.start()
    await watch.replay.finished()
    watch.fails = 3
    watch.replay.faults.planned.append(Fault(kind="paused", times=4))
    await watch.pass_time(600)
    assert {each.outcome for each in watch.of(Decided)} == {"Up", "Down"}
    assert len(watch.of(Decided)) == 2
    assert watch.polls.failed >= 3


@pytest.mark.advanced
@pytest.mark.requirement("B3")
async def test_a_hint_brings_the_look_forward(watch):
    """What the websocket told is looked up at once, and not believed."""
    watch.replay.start()
    await watch.replay.finished()
    watch.polls.hint(watch.ids[0])
    await watch.pass_time(5)
    await eventually(lambda: len(watch.of(Decided)) == 2)
