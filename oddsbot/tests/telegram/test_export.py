"""What a person takes with her: her data as a file, a market's card as a link."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from aiohttp import ClientSession
from sqlalchemy import insert, select

from oddsbot.app import App
from oddsbot.store import open_database
from oddsbot.store.tables import alerts, metadata
from oddsbot.telegram.api import UpdatesApi
from oddsbot.telegram.export import Export
from oddsbot.telegram.people import People
from oddswire.clock import SystemClock
from support import eventually

from .conftest import ADA, BEN, Talk, running, text_of

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
pytestmark = [pytest.mark.integration, pytest.mark.requirement("B2", "B10")]


def due_row(number, person=ADA):
    """Return a row of an alert that was due, and damaged."""
    return {
        "user_id": person, "id": f"rule:{number:04d}", "rule_id": "rule",
        "kind": "price", "market": "0xm", "data": "not JSON" if number else "{}",
        "at": number, "seen_at": 0, "due_at": 1_700_000_000_000 + number,
        "shard": "test", "epoch": 1, "n": number, "place": 0, "home": "here",
        "fate": "sent",
    }  # fmt: skip


async def keep(settings, *rows):
    """Keep rows of alerts that were due."""
    async with (
        open_database(settings.database_url) as engine,
        engine.begin() as connection,
    ):
        await connection.execute(insert(alerts), list(rows))


async def test_the_file_has_what_erase_deletes(ada, bot, api, settings):
    """Each row of the database that is hers, her settings and where her dialogue is.

    The button of the settings gives the same file, and Ben is not in hers.
    """
    ben = Talk(api.world, BEN)
    await ben.say("/start", "No wallet")
    await ada.say("/start", "No wallet")
    await ada.say(LINK, "Bitcoin")
    await ada.say("/watch", "Watching")
    await ada.say("/alert down > 99", "Down reaches 99¢")
    await ada.say("/mute 2h", "Muted")
    await keep(settings, due_row(1), due_row(2), due_row(3, BEN))
    await ada.say("/export", "All that I keep of you")
    document = ada.messages[-1]["document"]
    data = api.world.photos[document["file_id"]].data
    assert document["file_name"] == f"oddsbot-{ADA}-1.json"
    made = msgspec.json.decode(data)
    (rule,) = await bot.rules.of(ADA)
    session = await bot.sessions.get(ADA)
    assert made["person"] == ADA
    assert made["settings"] == msgspec.to_builtins(session)
    assert made["conversation"]["market"] == rule.market
    assert [each["asked"]["id"] for each in made["alerts"]] == [rule.id]
    assert str(BEN) not in data.decode()
    # Whatever table gets a column of people has to be in the file.
    text = data.decode()
    tables = [each for each in metadata.sorted_tables if "user_id" in each.c]
    async with (
        open_database(settings.database_url) as engine,
        engine.connect() as connection,
    ):
        for table in tables:
            mine = select(table).where(table.c.user_id == ADA)
            for row in (await connection.execute(mine)).mappings():
                named = row.get("id") or row.get("market") or ADA
                assert str(named) in text, table.name
    await ada.say("/settings", "Settings")
    before = len(ada.messages)
    await ada.press("My data")
    await ada.wait("All that I keep of you", before)


async def test_of_nobody_there_is_a_file_too(ada):
    """Who never said /start gets one that says that nothing is kept."""
    await ada.say("/export", "All that I keep of you")
    file = ada.world.photos[ada.messages[-1]["document"]["file_id"]]
    made = msgspec.json.decode(file.data)
    assert (made["settings"], made["alerts"], made["history"]) == (None, [], [])


async def test_a_long_history_is_several_files(ada, bot, settings):
    """Each row is in one of them, in order; what is damaged is given as it is."""
    await ada.say("/start", "No wallet")
    await keep(settings, *(due_row(number) for number in range(25)))
    clock = SystemClock()
    people = People(bot.sessions, clock)

    async def conversation(_):
        return {}

    export = Export(people, bot.rules.standing, bot.log, conversation, clock, most=10)
    files = [each async for each in export.files(ADA)]
    made = [msgspec.json.decode(each.data) for each in files]
    assert [len(each["history"]) for each in made] == [10, 10, 5]
    rows = [row for each in made for row in each["history"]]
    assert [row["id"] for row in rows] == [f"rule:{n:04d}" for n in range(25)]
    assert rows[0]["data"] == {}
    assert rows[1]["data"] == "not JSON"
    assert len({each.name for each in files}) == 3


async def test_a_card_is_shared_by_a_link_that_opens_it(ada, api):
    """The button offers a deep link of this bot; who follows it gets the card."""
    await ada.say(LINK, "Bitcoin")
    row, column = ada.button("Share")[1:]
    url = ada.messages[-1]["reply_markup"]["inline_keyboard"][row][column]["url"]
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "t.me", "/share/url")
    query = parse_qs(parts.query)
    assert "Bitcoin" in query["text"][0]
    link = urlsplit(query["url"][0])
    assert (link.netloc, link.path) == ("t.me", "/stand_in_bot")
    ben = Talk(api.world, BEN)
    await ben.say(f"/start {parse_qs(link.query)['start'][0]}", "Bitcoin")
    assert "photo" in ben.messages[-1]


async def test_what_was_asked_long_ago_is_answered_and_says_so(settings, api):
    """Eleven minutes late: the command is done, the answer says when it was asked."""
    ada = Talk(api.world)
    now = api.world.now
    api.world.now = lambda: now() - 660
    ada.world.say(ADA, "/mute 2h")
    ada.world.say(ADA, LINK)
    api.world.now = now
    async with running(settings, api) as bot:
        muted = await ada.wait("Muted for 2 h")
        assert muted.startswith("This is from earlier: you asked at ")
        await eventually(lambda: "Bitcoin" in ada.last)
        assert ada.last.startswith("This is from earlier")
        assert "photo" in ada.messages[-1]
        assert (await bot.sessions.get(ADA)).muted_until
        assert "earlier" not in await ada.say("/help", "/alert 65")


class Later(SystemClock):
    """A clock that is eleven minutes ahead."""

    def now(self) -> float:
        """Return the time."""
        return super().now() + 660


async def test_a_press_that_waited_too_long_is_asked_for_again(settings, api):
    """Eleven minutes in the queue: a step of a conversation is not taken, Undo is."""
    ada = Talk(api.world)
    async with running(settings, api) as bot:
        await ada.say(LINK, "Bitcoin")
        other = ada.button("Other…")
        await ada.say("/alert down > 99", "Down reaches 99¢")
        undo = ada.button("Undo")
    idle = App(settings, api.token, clock=SystemClock(), api_url=api.url)
    async with idle as bot, ClientSession() as http:
        for place in (other, undo):
            api.world.press(ADA, *place)
        polled = UpdatesApi(http, api.url, api.token, wait=0)
        await bot.updates.put_all(await polled.get_updates(0))
    before = len(ada.messages)
    async with running(settings, api, clock=Later()) as bot:
        await ada.wait("that alert is gone", before)
        assert await bot.rules.of(ADA) == []
        first, second = map(text_of, ada.messages[before:])
        assert "press it again" in first
        assert second.startswith("This is from earlier")
        await ada.say("/help", "/alert 65")
