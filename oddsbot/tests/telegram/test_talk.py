"""What people write besides what they were asked: the answer is true, and says more."""

from __future__ import annotations

import msgspec
import pytest

from oddsbot.delivery import Action, Press
from oddsbot.polymarket import UpstreamUnavailable
from oddsbot.standin.telegram import Fault
from oddsbot.telegram.buttons import Buttons
from support import eventually

from .conftest import Talk, running

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
TITLE = "Bitcoin Up or Down - September 28, 8:15AM-8:30AM ET"
PHOTO = [{"file_id": "1", "file_unique_id": "1", "width": 1, "height": 1}]
pytestmark = [pytest.mark.integration, pytest.mark.requirement("B2")]


def send(talk, **content):
    """Have a person send something that is not just a text."""
    room = talk.world.rooms[talk.person]
    room.began = True
    talk.world.updates.add("message", talk.world.post(room, talk.person, content))


async def test_a_question_ends_when_the_person_goes_on(ada, bot):
    """A command or a link ends it; a wrong answer does not, and says how to end it."""
    await ada.say(LINK, TITLE)
    for goes_on, answer in (
        ("/alerts", "No alerts yet"),
        (LINK, TITLE),
        ("/cancel", "Cancelled."),
    ):
        card = next(each for each in ada.messages if "Other…" in str(each))
        await ada.press("Other…", message=card)
        await eventually(lambda: "Which price?" in ada.last)
        await ada.say("soon", "/cancel ends this question")
        await ada.say(goes_on, answer)
        await ada.say("70", "“70”")
    assert await bot.rules.of(ada.person) == []
    await ada.say("/cancel", "There is nothing to cancel.")
    await ada.say("/settings", "Settings")
    await ada.press("Time zone")
    await ada.wait("Where are you?")
    await ada.say("atlantis", "I do not know that place")
    await ada.say("UTC+2", "Never quiet (UTC+2)")


async def test_an_answer_is_about_the_market_of_its_question(ada):
    """Also when another market's card was looked at between the two."""
    await ada.say(LINK, TITLE)
    asked = ada.messages[-1]
    await ada.say(LINK.replace("597700", "598600"), "8:30AM-8:45AM")
    looked_at = ada.messages[-1]
    await ada.press("Other…", message=asked)
    await ada.wait("Which price?")
    await ada.press("↻", "As it is now.", looked_at)
    assert TITLE in await ada.say("down > 97", "Down reaches 97¢")


async def test_commands_may_be_in_capitals(ada):
    """As a keyboard writes them that begins a sentence."""
    await ada.say("/START", "No wallet of yours")
    await ada.say("/Help", "/alert no < 40")
    await ada.say(f"/Alert {LINK} DOWN > 99", "Down reaches 99¢")


async def test_a_card_that_cannot_be_edited_is_sent_again(ada, api):
    """Deleted, or refused by Telegram: the press has its answer all the same."""
    await ada.say("/settings", "Settings")
    api.faults.planned.append(Fault(kind="refused", method="editMessageText"))
    before = len(ada.messages)
    await ada.press("No prices", "No prices.")
    assert "✗ prices" in await ada.wait("Settings", before)


async def test_a_link_is_found_wherever_a_message_has_it(ada):
    """In a shared text, under a photo, behind a word; Telegram's own notes get none."""
    await ada.say(f"Look at this ({LINK}), wow!", TITLE)
    forwarded = {"type": "hidden_user", "sender_user_name": "x", "date": 1}
    entity = {"type": "text_link", "offset": 0, "length": 4, "url": LINK}
    for content in (
        {"photo": PHOTO, "caption": f"BREAKING\n\n{LINK}"},
        {"text": "this market", "entities": [entity]},
        {"text": f"Odds up {LINK}", "forward_origin": forwarded},
        {"photo": PHOTO, "caption": "this one", "caption_entities": [entity]},
    ):
        before = len(ada.messages)
        send(ada, **content)
        await ada.wait(TITLE, before)
    await ada.say(f"**{LINK}**", TITLE)
    await ada.say(f"{LINK}🔥", TITLE)
    before = len(ada.messages)
    send(ada, photo=PHOTO, caption="/foo")
    await ada.wait("I do not know that command", before)
    before = len(ada.messages)
    send(ada, photo=PHOTO)
    await ada.wait("I read texts", before)
    before = len(ada.messages)
    send(ada, pinned_message=ada.messages[-1])
    send(ada, message_auto_delete_timer_changed={"message_auto_delete_time": 86_400})
    await ada.say("/alerts", "No alerts yet")
    assert len(ada.messages) == before + 1


async def test_alerts_are_shown_paused_and_stopped_without_polymarket(
    ada, bot, monkeypatch
):
    """What a person has is here: only to go on, an alert needs the price of now."""
    await ada.say(f"/alert {LINK} > 91", "91¢")
    await ada.say("/alert 5c", "has gone 5¢")
    await ada.say("/watch", "Watching")

    async def away(*_):
        raise UpstreamUnavailable("away")

    for name in ("market", "prices"):
        monkeypatch.setattr(bot.markets, name, away)
    await ada.say("/watchlist", "1 that Polymarket does not name now")
    await ada.say("/alerts", "2 alerts")
    await ada.press("Pause all", "Paused.")
    await eventually(lambda: "2 paused" in ada.last)
    await ada.press("Resume all", "Polymarket does not answer")
    rules = await bot.rules.of(ada.person)
    assert [rule.paused for rule in rules] == [True, True]
    before = len(ada.messages)
    await ada.press("1")
    await ada.wait("paused", before)
    await ada.press("Why")
    await ada.wait("It fired 0 times.", before)
    await ada.press("Stop", "Stopped.")
    assert len(await bot.rules.of(ada.person)) == 1


async def test_what_was_done_is_said_although_polymarket_went_away(
    ada, bot, monkeypatch
):
    """Watched, the card cannot be drawn again: not that nothing was changed."""
    await ada.say(LINK, TITLE)

    async def away(*_):
        raise UpstreamUnavailable("away")

    monkeypatch.setattr(bot.markets, "prices", away)
    await ada.press("Watch", "Watching: I tell you its result.")
    assert len((await bot.sessions.get(ada.person)).markets) == 1


async def test_what_keeps_an_alert_from_its_person_is_said_with_it(ada):
    """Stopped, muted, a kind that is off: no promise without a word of it."""
    await ada.say("/start", "No wallet")
    await ada.say("/stop", "Stopped")
    assert "You stopped me" in await ada.say(f"/alert {LINK} > 91", "reaches 91¢")
    await ada.say("/watch", "Watching: I tell you its result. You stopped me")
    assert "again" not in await ada.say("/unmute", "You stopped me")
    await ada.say("/start", "No wallet")
    await ada.say("/mute 2 hours", "2 h")
    assert "You are muted for 2 h" in await ada.say("/alert > 92", "reaches 92¢")
    await ada.say("/unmute", "again")
    await ada.say("/settings", "Settings")
    await ada.press("No prices", "No prices.")
    assert "switched off prices" in await ada.say("/alert > 93", "reaches 93¢")
    assert "off" not in await ada.say("/alert volume 900m", "are traded")
    assert "off" not in await ada.say("/watch", "Watching")


async def test_a_block_that_was_taken_back_is_said_with_an_alert(ada, bot):
    """Who unblocks the bot and does not say /start is told that nothing comes."""
    await ada.say("/start", "No wallet")
    ada.world.block(ada.person)

    async def stopped():
        return not (await bot.sessions.get(ada.person)).is_active

    await eventually(stopped)
    assert "/start brings it back" in await ada.say(f"/alert {LINK} > 91", "91¢")


async def test_a_move_that_no_price_can_make_is_refused(ada, bot):
    """60¢ from 43¢ leads nowhere: it says so, and how to ask for the price of 60¢."""
    await ada.say(LINK, TITLE)
    said = await ada.say("/alert 60¢", "cannot go 60¢")
    assert "write /alert 60." in said
    await ada.say("/alert 200%", "cannot go 200%")
    await ada.say("/alert down 60c", "write /alert down 60.")
    await ada.say("/alert 50c", "has gone 50¢")
    await ada.say("/alert 60c in 1h", "goes 60¢ within")
    assert len(await bot.rules.of(ada.person)) == 2


async def test_an_outcome_that_is_none_is_repeated(ada):
    """What was taken for an outcome's name is said, and mentions nobody."""
    await ada.say(LINK, TITLE)
    said = await ada.say("/alert up reaches @ben 67", "Which outcome is “up reaches")
    assert "@ben" not in said


async def test_an_answer_goes_to_the_topic_of_its_question(ada, api):
    """In a private chat with topics and in a forum: card, redrawn card, file, note."""
    await ada.say("/start", "No wallet")
    topic = ada.world.open_topic(ada.person, "Markets")

    async def thread_of(text, answer):
        before = len(ada.messages)
        ada.world.say(ada.person, text, topic=topic)
        await ada.wait(answer, before)
        return ada.messages[-1].get("message_thread_id")

    assert await thread_of(LINK, TITLE) == topic
    assert await thread_of("/export", "All that I keep of you") == topic
    assert await thread_of("/settings", "Settings") == topic
    before = len(ada.messages)
    await ada.press("Limits")
    await ada.wait("Limits", before)
    assert ada.messages[-1]["message_thread_id"] == topic
    api.faults.planned.append(Fault(kind="refused", method="editMessageText"))
    await ada.press("From 5¢", "Noted.")
    assert ada.messages[-1]["message_thread_id"] == topic
    await ada.say("/alerts", "No alerts yet")
    assert "message_thread_id" not in ada.messages[-1]
    group = ada.world.rooms[ada.world.group]
    topic = ada.world.open_topic(ada.person, "Talk", chat=group.id)
    ada.world.say(ada.person, "/help@stand_in_bot", chat=group.id, topic=topic)
    await eventually(lambda: "private chat" in str(group.messages[group.last]))
    assert group.messages[group.last]["message_thread_id"] == topic


async def test_an_edited_message_is_read_where_it_was_not_understood(ada, bot):
    """As if it had been right at once; one that had an answer is not done again."""
    await ada.say(LINK, TITLE)

    async def edit(message, text, answer):
        before = len(ada.messages)
        ada.world.edit(ada.person, message, text)
        return await ada.wait(answer, before)

    wrote = ada.world.say(ada.person, "/alret 65")["message_id"]
    await ada.wait("do not know that command")
    await edit(wrote, "/alert", "I need a price")
    await edit(wrote, "/alert 65", "reaches 65¢")
    assert len(await bot.rules.of(ada.person)) == 1
    await edit(wrote, "/alert 66", "Write it as a new message")
    assert len(await bot.rules.of(ada.person)) == 1
    await ada.say(LINK, TITLE)
    await ada.press("Other…")
    await ada.wait("Which price?")
    wrote = ada.world.say(ada.person, "soon")["message_id"]
    await ada.wait("/cancel ends this question")
    await edit(wrote, "70", "reaches 70¢")
    assert len(await bot.rules.of(ada.person)) == 2


async def test_a_large_percentage_is_not_taken_for_a_price(ada):
    """From 43¢ 110 % is a move to 90¢: no price of 110¢ is spoken of."""
    await ada.say(LINK, TITLE)
    said = await ada.say("/alert 110%", "has gone 110%")
    assert "110¢" not in said


async def test_alerts_of_a_market_are_in_the_order_of_their_prices(ada):
    """In the list, on the market's card and in /why: prices, moves, volumes."""
    await ada.say(LINK, TITLE)
    for asked in ("volume 5m", "5c", "> 90", "< 10", "> 70", "1%"):
        await ada.say(f"/alert {asked}", "I tell you")
    for text, answer in (("/alerts", "6 alerts"), (LINK, TITLE), ("/why", TITLE)):
        said = await ada.say(text, answer)
        rules = ("≤ 10¢", "≥ 70¢", "≥ 90¢", "±1%", "±5¢", "≥ $5M")
        places = [said.index(each) for each in rules]
        assert places == sorted(places)


async def test_no_alert_is_promised_where_none_fits(settings, api):
    """*Alert on any* of who has all that she may have: a sentence, and nothing set."""
    ada = Talk(api.world)
    async with running(msgspec.structs.replace(settings, max_rules=1), api) as bot:
        await ada.say(f"/alert {LINK} > 91", "reaches 91¢")
        event = await bot.markets.event(LINK.rpartition("/")[2])
        press = Press(Action.ALERT_ALL, int(event.id))
        data = Buttons(api.token).seal(press, chat=ada.person, person=ada.person)
        api.world.push_press(ada.person, data, api.world.rooms[ada.person], None)
        await eventually(lambda: ada.said)
        assert ada.said[-1].startswith("You have 1 alert, and may have no more")
        assert len(await bot.rules.of(ada.person)) == 1


async def test_what_was_taken_for_a_volume_is_said(ada):
    """65 dollars were traded long ago: the answer names them, and how a price looks."""
    await ada.say(LINK, TITLE)
    said = await ada.say("/alert $65", "$65 are traded already")
    assert "/alert 65" in said
