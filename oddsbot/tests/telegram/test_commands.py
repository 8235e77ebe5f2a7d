"""Each command through a real dispatcher, over HTTP, against the stand-in."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import insert

from oddsbot.alerts import Direction, PriceCrossed
from oddsbot.store import Fate, open_database
from oddsbot.store.tables import alerts as alert_table
from oddswire.clock import SystemClock
from support import eventually

from .conftest import BEN, Talk, running

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
TITLE = "Bitcoin Up or Down - September 28, 8:15AM-8:30AM ET"
pytestmark = pytest.mark.requirement("B2", "B10")


@pytest.mark.integration
async def test_start_help_and_what_nobody_knows(ada):
    """/start, /help, an unknown command, a place, and the buttons under the first."""
    await ada.say("/start", "No wallet of yours")
    await ada.press("Find a market")
    await ada.wait("What shall I look for?")
    await ada.say("/help", "/alert no < 40")
    await ada.say("/frobnicate", "I do not know that command")
    before = len(ada.messages)
    ada.world.locate(ada.person, 52.5, 13.4)
    await ada.wait("I read texts", before)


@pytest.mark.integration
async def test_a_market_by_link_words_and_deep_link(ada):
    """A pasted link, words, /search and /start m_<id> give the card, with its chart."""
    card = await ada.say(LINK, TITLE)
    assert "Up" in card
    assert "bid" in card
    assert "photo" in ada.messages[-1]
    found = await ada.say("bitcoin 8:15", "1 event")
    assert TITLE in found
    await ada.press("1")
    await eventually(lambda: ada.last.startswith(TITLE))
    assert "nothing" in await ada.say("/search no such thing", "nothing")
    await ada.say("/top", "Traded most today")
    await ada.say("/new", "New")
    await ada.say("/search", "What shall I look for?")


@pytest.mark.integration
async def test_the_parts_of_a_card(ada):
    """/price, /book, /chart and /market are of the market that was sent last."""
    await ada.say("/price", "Of which market?")
    await ada.say(LINK, TITLE)
    assert "·" in await ada.say("/price", "bid")
    book = await ada.say("/book", "shares at each price")
    assert book.count(" bid") > 1
    await ada.press("Down")
    await eventually(lambda: "Down: shares" in ada.last)
    await ada.say(f"/market {LINK}", TITLE)
    await ada.press("1w", "no history of that length")
    await ada.press("↻", "As it is now.")
    await ada.say(
        "/book https://polymarket.com/market/none-such", "has no market there"
    )


@pytest.mark.integration
async def test_watching_a_market(ada, bot):
    """/watch, the button, /watchlist and /unwatch say and keep the same."""
    await ada.say("/watchlist", "You watch no market")
    await ada.say(LINK, TITLE)
    await ada.say("/watch", "Watching")
    session = await bot.sessions.get(ada.person)
    assert len(session.markets) == 1
    assert TITLE in await ada.say("/watchlist", "You watch 1 market")
    await ada.say("/market", TITLE)
    await ada.press("Unwatch", "Not watched")
    await ada.say("/watchlist", "You watch no market")
    await ada.say("/unwatch", "Not watched")


@pytest.mark.integration
async def test_an_alert_from_its_first_word_to_its_end(ada, bot):
    """Set by words and by button, shown, changed, undone; the second one is refused."""
    await ada.say("/alerts", "No alerts yet")
    await ada.say("/alert 65", "Of which market?")
    await ada.say(f"/alert {LINK} down > 99", "Down reaches 99¢")
    await ada.say("/alert down > 99", "You have that alert already")
    await ada.say("/alert 5c", "has gone 5¢")
    await ada.say("/alert 5c in 7m", "in 5m, 15m, 1h or 24h")
    await ada.say("/alert 5c in 15m", "goes 5¢ within 15 min")
    await ada.say("/alert 5c in 15m", "You have that alert already")
    await ada.say("/alert", "I need a price")
    assert "±5¢ in 15 min" in await ada.say("/alerts", "3 alerts")
    await ada.press("1")
    await eventually(lambda: "Change" in str(ada.messages[-1]))
    await ada.press("Change")
    await ada.wait("to which price?")
    await ada.press("Other…")
    await ada.wait("Which price?")
    await ada.say("down > 98", "Down reaches 98¢")
    levels = {getattr(rule, "level", None) for rule in await bot.rules.of(ada.person)}
    assert {str(level) for level in levels} == {"0.98", "None"}
    # Undo would promise 99¢ again.
    await ada.press("Stop", "Stopped.")
    await eventually(lambda: "that alert is gone" in ada.last)
    await ada.say(LINK, TITLE)
    await ada.press("≥", "Set.")
    await ada.say(LINK, TITLE)
    await ada.press("Other…")
    await ada.wait("Which price?")
    await ada.press("Cancel", "Cancelled.")
    assert len(await bot.rules.of(ada.person)) == 3


@pytest.mark.integration
async def test_an_alert_that_is_paused_and_goes_on(ada, bot):
    """Pause and Resume by the alert and for all; the same press twice is the same."""
    await ada.say("/start", "No wallet")
    await ada.say(f"/alert {LINK} down > 99", "Down reaches 99¢")
    await ada.say("/alert 5c", "has gone 5¢")
    await ada.say("/alerts", "2 alerts")
    await ada.press("Pause all", "Paused.")
    assert [rule.paused for rule in await bot.rules.of(ada.person)] == [True, True]
    await eventually(lambda: "2 alerts · 2 paused" in ada.last)
    await ada.press("1")
    await eventually(lambda: "Resume" in str(ada.messages[-1]["reply_markup"]))
    one = ada.messages[-1]
    again = ada.button("Resume", one)
    await ada.press("Resume", "Goes on.", one)
    before = len(ada.said)
    room = ada.world.rooms[ada.person]
    data = one["reply_markup"]["inline_keyboard"][again[1]][again[2]]["callback_data"]
    ada.world.push_press(ada.person, data, room, room.messages[one["message_id"]])
    await eventually(lambda: len(ada.said) > before)
    paused = [rule.paused for rule in await bot.rules.of(ada.person)]
    assert sorted(paused) == [False, True]


async def told(settings, rule, fates):
    """Have the database say of a rule that it fired, and what became of it."""
    now = int(SystemClock().now() * 1000)
    rows = []
    for n, fate in enumerate(fates):
        alert = PriceCrossed(
            id=f"{rule.id}:{n}", user_id=rule.user_id, rule_id=rule.id,
            market=rule.market, asset_id=rule.asset_id, direction=Direction.ABOVE,
            level=rule.level, price=Decimal("0.991"), at=now, seen_at=now / 1000,
        )  # fmt: skip
        rows.append({
            "user_id": rule.user_id, "id": alert.id, "rule_id": rule.id,
            "kind": "price", "market": rule.market, "at": now, "seen_at": now,
            "data": msgspec.json.encode(alert).decode(), "due_at": now + n,
            "shard": "0", "epoch": 1, "n": n, "place": 0, "home": "", "fate": fate,
            "settled_at": now,
        })  # fmt: skip
    async with (
        open_database(settings.database_url) as engine,
        engine.begin() as connection,
    ):
        await connection.execute(insert(alert_table), rows)


@pytest.mark.integration
@pytest.mark.requirement("B9")
async def test_what_became_of_each_alert(ada, bot, settings):
    """/history by pages, with the sum of fates; /why of a market."""
    await ada.say("/start", "No wallet")
    await ada.say("/history", "Nothing in 30 days")
    await ada.say("/why", "Of which market?")
    await ada.say(f"/why {LINK}", "I say nothing of it")
    await ada.say("/alert down > 99", "Down reaches 99¢")
    (rule,) = await bot.rules.of(ada.person)
    await told(settings, rule, [Fate.SENT] * 9 + [Fate.COOLDOWN] * 3)
    newest = await ada.say("/history", "12 in 30 days")
    assert "9: sent" in newest
    assert "3: too soon after the last one" in newest
    assert newest.count("Down reached 99¢") == 10
    before = len(ada.messages)
    await ada.press("›")
    oldest = await ada.wait("12 in 30 days", before)
    assert oldest.count("Down reached 99¢") == 2
    await ada.say("/mute 2h", "2 h")
    why = await ada.say("/why", "Down ≥ 99¢")
    assert TITLE in why
    assert "You are muted for 2 h" in why
    assert "9: sent" in why


@pytest.mark.integration
async def test_a_wallet_by_address_link_and_name(ada, bot, replay):
    """An address, a profile's link, @name and /start w_<address>: the same card."""
    wallet = replay.wallets[0]
    card = await ada.say(wallet, "position")
    assert "¢" in card
    for text in (f"https://polymarket.com/profile/{wallet}", f"/start w_{wallet}"):
        assert await ada.say(text, "position") == card
    name = (await bot.wallets.profile(wallet)).name
    assert await ada.say(f"@{name}", "position") == card
    await ada.say("@nobody-of-that-name", "no profile of that name")
    await ada.say("0x" + "1" * 40, "knows nothing of it")


@pytest.mark.integration
async def test_settings_are_sets_and_no_toggles(ada, bot):
    """Kinds, quiet hours, a zone by its city; the same press twice is the same."""
    await ada.say("/settings", "Settings")
    settings = ada.messages[-1]
    await ada.press("No results", "No results.")
    first = settings["reply_markup"]
    assert (await bot.sessions.get(ada.person)).notifications.resolution is False
    # The old keyboard, pressed again: it says what it means, and means it still.
    data = first["inline_keyboard"][0][1]["callback_data"]
    before = len(ada.said)
    room = ada.world.rooms[ada.person]
    ada.world.push_press(ada.person, data, room, room.messages[settings["message_id"]])
    await eventually(lambda: len(ada.said) > before)
    assert (await bot.sessions.get(ada.person)).notifications.resolution is False
    await ada.press("22–7", "Noted.")
    await ada.press("Time zone")
    await ada.wait("Where are you?")
    await ada.say("nowhere at all", "I do not know that place")
    await ada.say("berlin", "Europe/Berlin")
    session = await bot.sessions.get(ada.person)
    assert (session.timezone, session.quiet.start) == ("Europe/Berlin", 1320)


@pytest.mark.integration
async def test_mute_status_and_stop(ada, bot):
    """/mute and /unmute, /status in words, /stop keeps everything, /start goes on."""
    await ada.say("/start", "No wallet")
    await ada.say("/mute 2h", "Muted for 2 h")
    assert (
        await bot.sessions.get(ada.person)
    ).muted_until > SystemClock().now() + 7_000
    await ada.say("/mute yesterday", "For how long?")
    await ada.say("/unmute", "again")
    assert (await bot.sessions.get(ada.person)).muted_until == 0
    await ada.say("/status", "Everything runs.")
    await ada.press("↻", "As it is now.")
    await ada.say("/stop", "Stopped")
    assert not (await bot.sessions.get(ada.person)).is_active
    await ada.say("/start", "No wallet")
    assert (await bot.sessions.get(ada.person)).is_active


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_erase_asks_once_and_leaves_nothing(ada, bot, own, prefix):
    """One confirmation, a receipt, nothing left; the button is good once."""
    await ada.say("/start", "No wallet")
    await ada.say(f"/alert {LINK} down > 99", "Down reaches 99¢")
    await ada.say("/erase", "Delete everything")
    question = ada.messages[-1]
    await ada.press("Delete everything", "Erased.", question)
    await eventually(lambda: "nothing is left" in ada.last)
    assert await bot.sessions.get(ada.person) is None
    assert await bot.rules.of(ada.person) == []
    data = question["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
    room = ada.world.rooms[ada.person]
    before = len(ada.said)
    ada.world.push_press(ada.person, data, room, None)
    await eventually(lambda: len(ada.said) > before)
    assert "used or older" in ada.said[-1]


@pytest.mark.errors
@pytest.mark.requirement("X2")
async def test_a_press_that_is_not_ones_own_is_answered_and_changes_nothing(
    ada, bot, api
):
    """Forged, cut, of another person, of another chat: a sentence each, no effect."""
    ben = Talk(api.world, BEN)
    await ben.say("/start", "No wallet")
    await ada.say(f"/alert {LINK} down > 99", "Down reaches 99¢")
    stop = next(
        each["callback_data"]
        for row in ada.messages[-1]["reply_markup"]["inline_keyboard"]
        for each in row
        if each["text"] == "Undo"
    )
    forged = [stop[:-2] + "AA", stop[:10], "", "x" * 64, "ü", stop + "A"]
    for person, data in [(BEN, stop), *((ada.person, each) for each in forged)]:
        who = ben if person == BEN else ada
        before = len(who.said)
        room = api.world.rooms[person]
        api.world.push_press(person, data, room, who.messages[-1])
        await eventually(lambda who=who, before=before: len(who.said) > before)
        assert "not yours" in who.said[-1]
    assert len(await bot.rules.of(ada.person)) == 1
    # Her own press without its message, twice: the second one finds it gone.
    room = api.world.rooms[ada.person]
    for said in ("Stopped.", "gone already"):
        before = len(ada.said)
        api.world.push_press(ada.person, stop, room, None)
        await eventually(lambda before=before: len(ada.said) > before)
        assert said in ada.said[-1]
    assert await bot.rules.of(ada.person) == []


@pytest.mark.integration
async def test_a_conversation_survives_a_restart(settings, api):
    """The question is asked by one process and answered by the next."""
    ada = Talk(api.world)
    async with running(settings, api):
        await ada.say(LINK, TITLE)
        await ada.press("Other…")
        await ada.wait("Which price?")
    async with running(settings, api) as bot:
        await ada.say("down > 97", "Down reaches 97¢")
        assert len(await bot.rules.of(ada.person)) == 1
    async with running(settings, api) as bot:
        assert len(await bot.rules.of(ada.person)) == 1


@pytest.mark.errors
async def test_polymarket_away_is_said_in_a_sentence(ada, replay, monkeypatch):
    """A market that cannot be asked for: what happened, what one can do."""
    await replay.__aexit__(None, None, None)
    await ada.say(LINK, "Polymarket does not answer")
