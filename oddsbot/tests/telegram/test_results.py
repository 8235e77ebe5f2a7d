"""What becomes of a watched market, from the press of Watch to the message."""

from __future__ import annotations

import math

import msgspec
import pytest

from oddsbot.standin.polymarket import Replay
from support import eventually

from .conftest import BEN, Talk, running, text_of

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
pytestmark = [pytest.mark.integration, pytest.mark.requirement("B2", "B3")]


@pytest.fixture
async def replay(sampled):
    """A Polymarket whose recording has not begun."""
    async with Replay(sampled, speed=math.inf, seed=5) as replay:
        yield replay


def results_of(person):
    """Return what a person was told about results."""
    return [text for text in map(text_of, person.messages) if "Resolved" in text]


async def watch(person):
    """Have a person watch the market."""
    await person.say("/start", "No wallet")
    await person.say(LINK, "Bitcoin")
    await person.say("/watch", "Watching")


@pytest.mark.parametrize("silent", [True, False], ids=["gamma", "websocket"])
async def test_each_follower_is_told_a_result_once(settings, api, replay, silent):
    """With the websocket's word and without it; who stopped watching hears nothing.

    One process told it. A second one, which starts without a memory and asks again,
    tells nobody a second time.
    """
    replay.faults.no_resolved = silent
    ada, ben, eve = (Talk(api.world, person) for person in (1001, BEN, 1003))
    every = 0.2 if silent else 3_600.0
    async with running(settings, api, polls_every=every) as bot:
        for each in (ada, ben, eve):
            await watch(each)
        await eve.say("/unwatch", "Not watched")
        # An alert has the websocket followed.
        await ben.say("/alert up > 1", "I tell you")
        await eventually(lambda: bot.feed.assets)
        await replay.wait_subscribed(*bot.feed.assets)
        replay.start()
        await eventually(lambda: results_of(ada) and results_of(ben), 30)
    async with running(settings, api, polls_every=0.05) as bot:
        await eventually(lambda: bot.news.polls.rounds > 2)
        await ada.say("/watchlist", "You watch 1 market")
    assert [len(results_of(each)) for each in (ada, ben, eve)] == [1, 1, 0]


def news_of(person):
    """Return what a person was told of proposals and disputes."""
    texts = map(text_of, person.messages)
    return [text for text in texts if text.startswith(("⏳", "⚠"))]


async def test_each_step_of_the_oracle_is_told_once_to_who_watches(
    settings, api, replay
):
    """Proposed, disputed, proposed again: three messages, also over a restart.

    Who does not want disputes gets none, who does not watch nothing, and the buttons of
    the settings say so.
    """
    ada, ben, eve = (Talk(api.world, person) for person in (1001, BEN, 1003))
    async with running(settings, api, polls_every=0.1) as bot:
        for each in (ada, ben):
            await watch(each)
        await eve.say("/start", "No wallet")
        await ben.say("/settings", "disputes")
        await ben.press("No disputes")
        market = (await bot.followers.markets())[0]
        replay.propose(market, 0)
        await eventually(lambda: news_of(ada) and news_of(ben))
        replay.propose(market, 0, disputed=True)
        await eventually(lambda: len(news_of(ada)) == 2)
    async with running(settings, api, polls_every=0.1) as bot:
        await eventually(lambda: bot.news.polls.rounds > 3)
        replay.propose(market, 1)
        await eventually(lambda: len(news_of(ada)) == 3 and len(news_of(ben)) == 2)
    heads = [text.split("\n", 1)[0] for text in news_of(ada)]
    assert heads == [
        "⏳ Proposed: Up",
        "⚠ Disputed, was proposed: Up",
        "⏳ Proposed: Down",
    ]
    assert news_of(eve) == []


async def test_a_volume_is_told_once_over_restarts(settings, api, replay):
    """Set, shown, reached, told; what is reached already is refused with a sentence."""
    ada = Talk(api.world)
    async with running(settings, api, polls_every=0.2) as bot:
        await ada.say("/start", "No wallet")
        await ada.say(LINK, "Bitcoin")
        await ada.say("/alert volume 200", "when $200 are traded")
        await ada.say("/alert $100 in 24h", "$100 are traded in 24 h")
        await ada.say("/alert volume 200", "You have that alert already")
        assert "Volume ≥ $200" in await ada.say("/alerts", "2 alerts")
        await eventually(lambda: bot.news.polls.rounds > 1)
        replay.start()
        await eventually(lambda: "traded in 24 h" in str(volumes_of(ada)), 30)
    async with running(settings, api, polls_every=0.2) as bot:
        await eventually(lambda: len(volumes_of(ada)) == 2, 30)
        # The market is decided: nothing is traded there any more.
        await eventually(lambda: bot.rules.of(ada.person), holds=lambda all_: not all_)
        await ada.say("/alerts", "No alerts yet")
    heads = sorted(text.split("\n", 1)[0] for text in volumes_of(ada))
    assert heads == ["$ $100 traded in 24 h", "$ $200 traded"]


def volumes_of(person):
    """Return what a person was told of volumes."""
    return [text for text in map(text_of, person.messages) if text.startswith("$ ")]


async def test_who_begins_to_watch_too_late_is_told_all_the_same(settings, api, replay):
    """A press that was in hand while the result was told to others is no trap."""
    ada, ben = Talk(api.world, 1001), Talk(api.world, BEN)
    async with running(settings, api, polls_every=0.2) as bot:
        await watch(ada)
        replay.start()
        await eventually(lambda: results_of(ada), 30)
        # The card in the cache says that the market is open.
        market = next(iter((await bot.sessions.get(1001)).markets))
        await ben.say("/start", "No wallet")
        also = bot.followers.follow(BEN, market)
        await bot.sessions.update(BEN, lambda _: None, also=also)
        await eventually(lambda: results_of(ben), 30)
    assert len(results_of(ada)) == 1


async def test_a_follower_who_erases_herself_is_forgotten(settings, api, replay):
    """Erased, she follows nothing: the row went with her."""
    ada = Talk(api.world)
    async with running(settings, api, polls_every=3_600.0) as bot:
        await watch(ada)
        assert len(await bot.followers.markets()) == 1
        await ada.say("/erase", "Delete everything")
        await ada.press("Delete everything")
        await eventually(lambda: "nothing is left" in ada.last)
        assert await bot.followers.markets() == []


def open_market(replay, name):
    """Have a market begin after all others."""
    markets = replay.recording.markets
    last = max(markets.values(), key=lambda each: each.start_ts)
    markets[name] = msgspec.structs.replace(
        last, market_id=name, slug=name, question=name, start_ts=last.start_ts + 1_000
    )


def opened_for(person):
    """Return what a person was told of new events."""
    return [text for text in map(text_of, person.messages) if text.startswith("✦")]


async def test_new_events_under_a_tag_are_told_once_over_restarts(
    settings, api, replay
):
    """Asked for under the list, told, ended under the message; who erased hears none.

    What opened while no process ran is told, too.
    """
    ada, ben, eve = (Talk(api.world, person) for person in (1001, BEN, 1003))
    async with running(settings, api, polls_every=0.2) as bot:
        for each in (ada, ben, eve):
            await each.say("/start", "No wallet")
            await each.say("/new crypto", "New: crypto")
            await each.press("Tell me of new ones", "I tell you what is new")
        await eve.say("/erase", "Delete everything")
        await eve.press("Delete everything")
        await eventually(lambda: "nothing is left" in eve.last)
        assert "what is new under crypto" in await ada.say("/watchlist", "You watch")
        await eventually(lambda: looked_at(bot, "crypto"))
        open_market(replay, "0xfirst")
        await eventually(lambda: opened_for(ada) and opened_for(ben))
        await ben.press("No more of crypto", "No more of crypto")
        await ben.press("No more of crypto", "It was ended already")
        assert "crypto" not in await ben.say("/watchlist", "You watch")
    open_market(replay, "0xsecond")
    async with running(settings, api, polls_every=0.2) as bot:
        await eventually(lambda: len(opened_for(ada)) == 2)
        seen = replay.calls["GET /events/keyset"]
        await eventually(lambda: replay.calls["GET /events/keyset"] > seen + 3)
        await ada.say("/settings", "✓ new markets")
    told = ["✦ New: crypto\n0xfirst", "✦ New: crypto\n0xsecond"]
    assert opened_for(ada) == told
    assert opened_for(ben) == told[:1]
    assert opened_for(eve) == []


async def looked_at(bot, tag):
    """Return whether somebody looked at a tag."""
    return await bot.tags.listing(tag)


async def test_a_button_under_an_earlier_list_follows_no_other_tag(
    settings, api, replay
):
    """The list names its tag in the conversation, which has another one by now."""
    ada = Talk(api.world)
    async with running(settings, api, polls_every=3_600.0) as bot:
        await ada.say("/start", "No wallet")
        await ada.say("/new crypto", "New: crypto")
        crypto = ada.messages[-1]
        await ada.say("/new up or down", "New: up-or-down")
        await ada.press("Tell me of new ones", "This list is from earlier", crypto)
        assert await bot.tags.listings() == {}
        await ada.press("Tell me of new ones", "I tell you")
        await ada.press("No more of these", "No more of up-or-down")
        assert await bot.tags.listings() == {}
