"""Events of many outcomes, lists by pages, deep links: from the card to the effect."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from oddsbot.polymarket import GammaEvent, SearchPage, UpstreamUnavailable
from support import eventually

SLUG = "btc-updown-15m-1790597700"
pytestmark = [pytest.mark.integration, pytest.mark.requirement("B2")]


@pytest.fixture
async def event(bot, monkeypatch):
    """An event of twelve outcomes, which no recording has; and lists of it."""
    real = await bot.markets.by_slug(SLUG)
    markets = {
        str(1_000 + n): replace(
            real,
            id=str(1_000 + n),
            condition_id=f"0x{n:064x}",
            slug=f"choice-{n}",
            question=f"Will choice {n} win?",
            group_item_title=f"Choice {n}",
            outcome_prices=(Decimal(n) / 100, 1 - Decimal(n) / 100),
            clob_token_ids=(f"{n}1", f"{n}2"),
        )
        for n in range(1, 13)
    }
    event = GammaEvent(
        id="900", slug="who-wins", title="Who wins?", markets=tuple(markets.values())
    )
    many = [replace(event, id=str(900 + n), title=f"Event {n}") for n in range(12)]
    by_condition = {each.condition_id: each for each in markets.values()}

    def answer(name, find):
        async def found(*args, **options):
            return find(*args, **options)

        monkeypatch.setattr(bot.markets, name, found)

    only = replace(event, id="950", slug="only-one", markets=event.markets[2:3])
    answer("event", {each.slug: each for each in (event, only)}.get)
    answer("event_by_id", {each.id: each for each in many}.get)
    answer("by_id", markets.get)
    answer("market", by_condition.get)
    answer("top_events", lambda _: many)
    answer("new_events", lambda _: many[::-1])
    answer(
        "search",
        lambda words, page=1, closed=False: SearchPage(
            events=(replace(event, title=f"{words} {page} {closed}"),),
            total=9,
            more=page < 2,
        ),
    )
    return event


async def test_an_event_of_many_outcomes(ada, bot, event):
    """Its pages, an alert on each outcome, all of them watched; asked twice, once."""
    await ada.say(f"https://polymarket.com/event/{event.slug}", "12 choices")
    await ada.press("›")
    await eventually(lambda: "12  Choice 1 " in ada.last)
    await ada.press("Watch all", "Watching all 12")
    assert len((await bot.sessions.get(ada.person)).markets) == 12
    assert len(await bot.followers.markets()) == 12
    card = ada.messages[-1]
    for _ in range(2):
        before = len(ada.messages)
        await ada.press("Alert on any", "Set.", card)
        said = await ada.wait("12 outcomes", before)
        assert "has gone 5¢" in said
    assert [rule.by for rule in await bot.rules.of(ada.person)] == [5] * 12
    assert "12 alerts" in await ada.say("/alerts", "12 alerts")
    before = len(ada.messages)
    await ada.press("›")
    await ada.wait("12 alerts", before)
    assert len(ada.messages[-1]["reply_markup"]["inline_keyboard"][0]) == 2
    await ada.say("/watchlist", "You watch 12 markets")
    before = len(ada.messages)
    await ada.press("›")
    await ada.wait("You watch 12 markets", before)


async def test_a_command_takes_the_link_of_an_event(ada, event):
    """Of its only market; of several the person is asked to choose one."""
    several, only = (
        f"https://polymarket.com/event/{slug}" for slug in (event.slug, "only-one")
    )
    await ada.say(f"/price {several}", "That event has 12 markets")
    await ada.say(f"/alert {several} > 65", "choose one")
    await ada.say("/price", "Of which market?")
    assert "Will choice 3 win?" in await ada.say(f"/alert {only} > 65", "reaches 65¢")
    await ada.say(f"/alert > 66 {only}", "reaches 66¢")
    await ada.say(f"/watch {only}", "Watching")


async def test_alerts_on_any_are_of_the_size_that_is_told(ada, event):
    """Of a person who is told moves from 10¢ it is 10¢."""
    await ada.say("/settings", "Settings")
    await ada.press("Limits")
    await eventually(lambda: ada.last.startswith("Limits"))
    await ada.press("From 10¢", "Noted.")
    await ada.say(f"https://polymarket.com/event/{event.slug}", "12 choices")
    await ada.press("Alert on any", "Set.")
    await ada.wait("has gone 10¢ from here")


async def test_lists_and_searches_have_pages(ada, event):
    """/top, /new and a search: to the next page and back, closed ones too."""
    for command, first, second in (
        ("/top", "1  Event 0", "6  Event 5"),
        ("/new", "1  Event 11", "6  Event 6"),
    ):
        await ada.say(command, first)
        await ada.press("›")
        await eventually(lambda second=second: second in ada.last)
        await ada.press("‹")
        await eventually(lambda first=first: first in ada.last)
    await ada.say("who wins", "who wins 1 False")
    await ada.press("›")
    await eventually(lambda: "who wins 2 False" in ada.last)
    await ada.press("Include closed")
    await eventually(lambda: "who wins 1 True" in ada.last)


async def test_a_page_of_another_list_is_not_shown(ada, event):
    """An old card turns no page of what was searched or listed since."""
    await ada.say("who wins", "who wins 1 False")
    searched = ada.messages[-1]
    await ada.say("/top", "Traded most today")
    listed = ada.messages[-1]
    await ada.say("who loses", "who loses 1 False")
    await ada.say("/top crypto", "Traded most today: crypto")
    await ada.press("›", "from earlier: send the words again", searched)
    await ada.press("›", "This list is from earlier", listed)
    await ada.say("/new crypto", "New: crypto")
    await ada.press("Tell me of new ones", "I tell you what is new")
    await ada.press("›")
    await eventually(lambda: "6  Event 6" in ada.last)


async def test_a_tag_is_followed_although_polymarket_went_away(
    ada, bot, event, monkeypatch
):
    """Followed, the list cannot be drawn again: not that nothing was changed."""
    await ada.say("/new crypto", "New: crypto")

    async def away(*_):
        raise UpstreamUnavailable("away")

    monkeypatch.setattr(bot.markets, "new_events", away)
    await ada.press("Tell me of new ones", "I tell you what is new")
    assert list((await bot.sessions.get(ada.person)).tags) == ["crypto"]


async def test_deep_links_open_what_they_name(ada, bot, event):
    """A market, an event, an alert of one's own; of what is not there: a sentence."""
    await ada.say("/start m_1003", "Will choice 3 win?")
    await ada.say("/start e_900", "12 choices")
    await ada.say("/alert 5c", "has gone 5¢")
    (rule,) = await bot.rules.of(ada.person)
    assert "Will choice 3 win?" in await ada.say(f"/start r_{rule.id}", "±5¢")
    await ada.say("/start r_00000000000000aa", "no such alert")
    assert "No wallet" in await ada.say("/start x_1", "do not know what this link")
    await ada.say(f"/start https://polymarket.com/event/{event.slug}", "12 choices")


async def test_display_and_quiet_hours_by_buttons_and_words(ada, bot):
    """Odds, hours as they are written, a place on the globe, never quiet; Why."""
    await ada.say("/settings", "Prices in cents")
    await ada.press("1.56", "Noted.")
    await eventually(lambda: "decimal odds" in ada.last)
    await ada.press("Other hours")
    await ada.wait("From when to when?")
    await ada.say("22:30-7", "Quiet: 22:30–07:00")
    await ada.press("Time zone")
    await ada.wait("Where are you?")
    ada.world.locate(ada.person, 52.4, 13.06)
    await ada.wait("Europe/Berlin")
    await ada.press("Never quiet", "Noted.")
    session = await bot.sessions.get(ada.person)
    assert (session.display.odds, session.timezone) == ("decimal", "Europe/Berlin")
    assert session.quiet.start == session.quiet.end
    await ada.say(f"/alert https://polymarket.com/event/{SLUG} down > 99", "99¢")
    await ada.say("/alerts", "1 alert")
    await ada.press("1")
    await eventually(lambda: "Why" in str(ada.messages[-1]["reply_markup"]))
    await ada.press("Why")
    await ada.wait("It fired 0 times.")
