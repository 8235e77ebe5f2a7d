"""New events under tags: each is told once to each follower, whatever is killed."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.alerts import tag_id
from oddsbot.markets_watch import Choice, ListedEvent, compared, joined
from oddsbot.polymarket import Data, Gamma, GammaEvent, GammaMarket
from oddsbot.polymarket.gamma import EventPage
from oddsbot.standin.polymarket import Replay
from oddsbot.store import AlertLog, SqlFollowers, SqlRules, SqlTags
from oddsbot.watch import MarketNews, Rounds
from oddswire.clock import SystemClock
from support.shards import Outgoing

PAGE = 4
TAGS = "crypto", "up-or-down"
STEPS = st.lists(
    st.tuples(
        st.integers(0, PAGE - 1),  # how many begin
        st.sets(st.integers(0, 60)),  # which end
        st.booleans(),  # whether an old one is listed again
    ),
    max_size=20,
)


@pytest.mark.basic
@pytest.mark.requirement("B3")
@given(st.integers(0, 10), STEPS)
def test_what_began_after_the_first_look_is_new_once_and_nothing_else(first, steps):
    """A page has the newest open ones; old ones come up where newer ones close."""
    at = iter(range(1, 1_000))
    open_ = {str(each): each for each, _ in zip(at, range(first), strict=False)}
    gone, told, began = {}, [], []

    def look(before):
        page = dict(sorted(open_.items(), key=lambda each: -each[1])[:PAGE])
        return compared(before, page, more=len(open_) > PAGE)

    listing, new = look(None)
    assert new == []
    for count, ends, again in steps:
        for each in map(str, ends):
            if each in open_:
                gone[each] = open_.pop(each)
        if again and gone:
            open_ |= dict([gone.popitem()])
        for _ in range(count):
            number = next(at)
            open_[str(number)] = number
            began.append(str(number))
        listing, new = look(listing)
        told += new
    assert told == began


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_a_listing_keeps_its_size_and_tells_nothing_twice():
    """Of very many, the newest are known by name, and the others by the floor."""
    listing, _ = compared(None, {}, more=False)
    for start in range(0, 5_000, 50):
        page = {str(each): each + 1 for each in range(start, start + 50)}
        listing, new = compared(listing, page, more=False)
        assert new == list(page)
    assert len(listing.known) == 1_000
    every = {str(each): each + 1 for each in range(5_000)}
    assert compared(listing, every, more=False) == (listing, [])


@pytest.mark.basic
@pytest.mark.requirement("B3")
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("AB"), st.integers(0, 5), st.booleans()),
            max_size=4,
        ),
        max_size=12,
    )
)
def test_what_joins_an_event_is_new_once(steps):
    """Markets open, close and open again; the first look at an event tells none."""
    open_ = {"A": {}, "B": {}}
    seen, told, wanted = {}, [], []
    first = {}
    for step in steps:
        for event, number, is_open in step:
            if is_open:
                open_[event][str(number)] = Choice(str(number), "0x", "")
            else:
                open_[event].pop(str(number), None)
        for event, markets in open_.items():
            there = first.get(event)
            if there is None and markets:
                first[event] = set(markets)
            elif there is not None:
                wanted += [(event, each) for each in markets if each not in there]
                there |= set(markets)
        listed = [
            ListedEvent(event, "", "", "", len(markets), tuple(markets.values()))
            for event, markets in open_.items()
        ]
        seen, new = joined(seen, listed)
        told += [(event, each.id) for event in new for each in new[event]]
    assert told == wanted


@pytest.mark.basic
@pytest.mark.requirement("B3")
def test_what_events_were_seen_with_keeps_its_size():
    """Of very many events the newest, which are listed first, are known."""
    events = [
        ListedEvent(str(number), "", "", "", 1, (Choice("1", "0x", ""),))
        for number in range(500, 0, -1)
    ]
    seen, _ = joined({}, events)
    assert set(seen) == {str(number) for number in range(201, 501)}
    assert joined(seen, events[:300]) == (seen, {})


@pytest.fixture
async def replay(sampled):
    """A Polymarket whose recording is not played."""
    async with Replay(sampled, speed=float("inf"), seed=5) as replay:
        yield replay


class Upstream:
    """Admits each request at once."""

    async def call(self, _host, _path, ask):
        """Ask."""
        return await ask()


@pytest.mark.integration
@pytest.mark.requirement("B3", "B6")
@pytest.mark.parametrize("seed", [1, 2])
async def test_each_follower_is_told_of_each_new_event_once(
    engine, known, due, replay, seed
):
    """Two processes look at once, some are killed in a look, people come and go.

    Both tags list the same events: who follows both is told once.
    """
    chance = random.Random(seed)
    markets = replay.recording.markets
    pattern = next(iter(markets.values()))
    tags, outgoing, people = SqlTags(engine), Outgoing(), (1, 2, 3)
    await known(*people)
    follows = {each: set() for each in people}
    looked, wanted = set(), set()
    async with aiohttp.ClientSession() as http:

        def process():
            clock, stored = SystemClock(), SqlRules(engine)
            return MarketNews(
                Rounds(engine, "0.results", stored, clock), SqlFollowers(engine), tags,
                stored, Gamma(http, replay.gamma_url), Data(http, replay.data_url),
                Upstream(), None, outgoing, clock,
            )  # fmt: skip

        processes = [process(), process()]
        for step in range(15):
            person, tag = chance.choice(people), chance.choice(TAGS)
            on = tag not in follows[person]
            if chance.random() < 0.5:
                await write(engine, (tags.follow if on else tags.unfollow)(person, tag))
                (follows[person].add if on else follows[person].discard)(tag)
            followed = set().union(*follows.values())
            # What opens while nobody follows a tag is no news.
            looked &= followed
            if len(markets) > 1 and chance.random() < 0.3:
                markets.pop(chance.choice(list(markets)))  # decided
            for number in range(chance.choice((0, 1, 3))):
                begun = pattern.start_ts + 1_000 * (100 * step + number + 1)
                market_id = f"0x{100 * step + number:064x}"
                new = msgspec.structs.replace(
                    pattern, market_id=market_id, slug=market_id, start_ts=begun
                )
                markets[market_id] = new
                wanted |= {
                    f"{each}:{new.gamma_id}:opened"
                    for each in people
                    if follows[each] & looked
                }
            loop = asyncio.get_running_loop()
            looks = [
                loop.create_task(each.polls.look_at_tags(), name="look")
                for each in processes
            ]
            if chance.random() < 0.4:
                await asyncio.sleep(chance.random() * 0.02)
                killed = chance.randrange(2)
                looks[killed].cancel()
                processes[killed] = process()
            await asyncio.wait(looks)
            for each in processes:
                await each.polls.look_at_tags()
            looked = followed
    found = [row[1] for row in await due()]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert len(wanted) > 5
    # How many came of a tag can be asked for.
    log = AlertLog(engine)
    counts = [await log.fates(rule_id=tag_id(tag)) for tag in TAGS]
    assert sum(sum(each.values()) for each in counts) == len(found)


class OneEvent:
    """A Gamma with one event under each tag.

    Attributes:
        markets: Of the event, by their numbers: whether each is active and open.
    """

    def __init__(self) -> None:
        self.markets = {11: (True, True)}

    async def events(self, **_):
        """Return a page."""
        markets = tuple(
            GammaMarket(
                id=str(number), condition_id=f"0x{number}", active=active,
                closed=not is_open, group_item_title=f"Choice {number}",
            )
            for number, (active, is_open) in self.markets.items()
        )  # fmt: skip
        begun = "2026-01-01T00:00:00Z"
        return EventPage(
            (GammaEvent(id="7", title="Who?", start_date=begun, markets=markets),)
        )


@pytest.mark.integration
@pytest.mark.requirement("B3", "B6")
async def test_each_follower_is_told_of_what_joins_an_event(engine, known, due):
    """Once, whatever her tags are, and two processes look; several are one alert.

    A place that is kept for a later choice is told when it is one; what opens again is
    not.
    """
    gamma, tags = OneEvent(), SqlTags(engine)
    await known(1, 2)
    for person, tag in ((1, "crypto"), (1, "up-or-down"), (2, "crypto")):
        await write(engine, tags.follow(person, tag))

    def news():
        clock, stored = SystemClock(), SqlRules(engine)
        return MarketNews(
            Rounds(engine, "0.results", stored, clock), SqlFollowers(engine), tags,
            stored, gamma, None, Upstream(), None, Outgoing(), clock,
        )  # fmt: skip

    processes = [news(), news()]

    async def look(**changed):
        gamma.markets |= {int(each[1:]): state for each, state in changed.items()}
        before = {row[:2] for row in await due()}
        for each in processes:
            await each.polls.look_at_tags()
        return sorted({row[:2] for row in await due()} - before)

    assert await look() == []
    assert await look(_12=(True, True)) == [(1, "1:7:joined:12"), (2, "2:7:joined:12")]
    assert await look(_20=(False, True)) == []
    assert await look(_14=(True, True), _13=(True, True)) == [
        (1, "1:7:joined:13"),
        (2, "2:7:joined:13"),
    ]
    (alert, *_) = [
        row.alert() for row in await AlertLog(engine).history(2) if "13" in row.id
    ]
    assert (alert.choice, alert.joined, alert.market) == ("Choice 13", 2, "0x13")
    assert await look(_12=(True, False)) == []
    processes[0] = news()
    assert await look(_12=(True, True)) == []
    assert await look(_20=(True, True)) == [(1, "1:7:joined:20"), (2, "2:7:joined:20")]


@pytest.mark.errors
@pytest.mark.requirement("B3", "B6")
async def test_each_of_very_many_new_events_is_told_once(engine, known, due, replay):
    """Nobody looked for a day; the process that looks then is killed again and again.

    A round has at most 100 events, the oldest first; the next look goes on behind it.
    """
    markets, tags = replay.recording.markets, SqlTags(engine)
    pattern = next(iter(markets.values()))
    await known(1, 2)
    for person in (1, 2):
        await write(engine, tags.follow(person, "crypto"))
    async with aiohttp.ClientSession() as http:

        def news():
            clock, stored = SystemClock(), SqlRules(engine)
            return MarketNews(
                Rounds(engine, "0.results", stored, clock), SqlFollowers(engine), tags,
                stored, Gamma(http, replay.gamma_url), Data(http, replay.data_url),
                Upstream(), None, Outgoing(), clock,
            )  # fmt: skip

        await news().polls.look_at_tags()
        wanted = []
        for number in range(1_250):
            begun = pattern.start_ts + 1_000 * (number + 1)
            name = f"0x{number:064x}"
            new = msgspec.structs.replace(
                pattern, market_id=name, slug=name, start_ts=begun
            )
            markets[name] = new
            wanted.append(new.gamma_id)
        for part in (1, 3, 6):
            look = asyncio.get_running_loop().create_task(news().polls.look_at_tags())
            await due.until(200 * part)
            look.cancel()
            await asyncio.wait([look])
        await news().polls.look_at_tags()
        await news().polls.look_at_tags()
    found = [row[:2] for row in await due()]
    assert [name for person, name in found if person == 1] == [
        f"1:{each}:opened" for each in wanted
    ]
    assert len(found) == 2 * len(wanted)


async def write(engine, also):
    """Write what a session's change writes beside it."""
    async with engine.begin() as connection:
        await also(connection)
