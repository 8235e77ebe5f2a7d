"""What a person chose of how much she is sent, from the press to the message."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import insert

from oddsbot.alerts import Direction, Moved, Opened, PriceCrossed, Unit, tag_id
from oddsbot.store import Fate, Place, open_database
from oddsbot.store.tables import alerts
from oddsbot.watch import Committed
from oddswire.clock import SystemClock
from support import eventually

from .conftest import ADA, Talk, running, text_of

LINK = "https://polymarket.com/event/btc-updown-15m-1790597700"
pytestmark = [pytest.mark.integration, pytest.mark.requirement("B2", "B4", "B9")]


def crossed(rule, number):
    """Return an alert of a rule."""
    now = SystemClock().now()
    return PriceCrossed(
        id=f"{rule.id}:{number}",
        user_id=ADA,
        rule_id=rule.id,
        market=rule.market,
        asset_id=rule.asset_id,
        direction=Direction.ABOVE,
        level=Decimal("0.9"),
        price=Decimal("0.91"),
        at=int(now * 1000),
        seen_at=now,
    )


def moved(rule, number, to):
    """Return an alert of a move from 50¢."""
    alert = msgspec.structs.asdict(crossed(rule, number))
    del alert["level"]
    return Moved(
        **alert
        | {"price": Decimal(to), "reference": Decimal("0.5")}
        | {"by": Decimal(2), "unit": Unit.PERCENT}
    )


def opened(number, tag="crypto"):
    """Return what is told of a new event of a tag."""
    now = SystemClock().now()
    return Opened(
        id=f"{ADA}:{number}:opened",
        user_id=ADA,
        tag=tag,
        event=str(number),
        title=f"Event {number}",
        market=f"0x{number}",
        markets=1,
        at=int(now * 1000),
        seen_at=now,
    )


async def due(bot, settings, *due_ones):
    """Make alerts due as a shard does: committed, then given to the outbox."""
    rows = [
        {
            "user_id": ADA, "id": each.id, "kind": "price",
            "rule_id": (
                tag_id(each.tag) if isinstance(each, Opened) else each.rule_id
            ),
            "market": each.market, "data": msgspec.json.encode(each).decode(),
            "at": each.at, "seen_at": each.at, "due_at": each.at, "shard": "test",
            "epoch": 1, "n": int(each.id.split(":")[1]), "place": 0,
            "home": bot.outbox.home,
        }
        for each in due_ones
    ]  # fmt: skip
    async with (
        open_database(settings.database_url) as engine,
        engine.begin() as connection,
    ):
        await connection.execute(insert(alerts), rows)
    bot.outbox.put(
        [
            Committed(ADA, Place("test", row["n"], 0), "price", row["market"])
            for row in rows
        ]
    )


async def fates_of(bot):
    """Return how many of her alerts have which fate."""
    return Counter(each.fate for each in await bot.log.history(ADA))


async def test_more_than_she_wants_in_a_minute_is_one_message(settings, api):
    """One a minute: the first alert is told, the others are one message at its end.

    Each alert has one fate, the settings say what was chosen, and an alert that she
    stopped meanwhile is not told.
    """
    ada = Talk(api.world)
    async with running(settings, api, minute=3.0) as bot:
        await ada.say("/start", "No wallet")
        await ada.say("/settings", "Each alert is a message")
        await ada.press("Limits")
        await eventually(lambda: ada.last.startswith("Limits"))
        await ada.press("1 a minute", "Noted.")
        await eventually(lambda: "At most 1 alert a market and minute" in ada.last)
        await ada.say(f"/alert {LINK} down > 98", "Down reaches 98¢")
        await ada.say("/alert down > 99", "Down reaches 99¢")
        kept, stopped = sorted(await bot.rules.of(ADA), key=lambda rule: rule.level)
        before = len(ada.messages)
        wanted = [crossed(kept, number) for number in range(1, 6)]
        await due(bot, settings, *wanted, crossed(stopped, 6))
        await eventually(lambda: len(ada.messages) > before)
        await bot.rules.remove(ADA, stopped.id)

        async def done():
            rows = await bot.log.page(ADA)
            return len(rows) > 6 and None not in {row.fate for row in rows}

        await eventually(done, 20.0)
        fates = await fates_of(bot)
        texts = [text_of(each) for each in ada.messages[before:]]
        more = [text for text in texts if "more alert" in text]
        # The minute may end between two of them.
        assert fates[Fate.HELD] >= 3
        assert fates.total() == 6
        told = sum(int(text.split()[0]) for text in more)
        assert told + fates[Fate.SENT] + fates[Fate.WITHDRAWN] in (5, 6)
        assert "Down reached 90¢" in more[0]
        await ada.press("Limits")
        await eventually(lambda: ada.last.startswith("Limits"))


async def test_moves_that_are_too_small_are_left_out(settings, api):
    """From 5¢: 2¢ is not sent and its fate says why, 6¢ is; /alert 2c is refused."""
    ada = Talk(api.world)
    async with running(settings, api) as bot:
        await ada.say("/start", "No wallet")
        await ada.say(f"/alert {LINK} 2%", "has gone 2%")
        await ada.say("/settings", "Moves of any size")
        await ada.press("Limits")
        await eventually(lambda: ada.last.startswith("Limits"))
        await ada.press("From 5¢", "Noted.")
        await ada.say("/alert 2c", "leave out moves below 5¢")
        (rule,) = await bot.rules.of(ADA)
        before = len(ada.messages)
        await due(bot, settings, moved(rule, 1, "0.52"), moved(rule, 2, "0.56"))
        await eventually(lambda: len(ada.messages) > before)
        assert "went 2% up: 50¢ → 56¢" in ada.last
        await eventually(lambda: fates_of(bot), holds=lambda fates: None not in fates)
        newest, small = await bot.log.history(ADA)
        assert (newest.fate, small.fate) == (Fate.SENT, Fate.FILTERED)
        assert small.reason == "a move below 5¢"


async def test_a_busy_tag_is_three_messages_an_hour_and_one_of_the_others(
    settings, api
):
    """Without a setting: each event is in a message, and each has one fate.

    Another tag has its own three. What was held of a tag that she ended since is not
    told.
    """
    ada = Talk(api.world)
    async with running(settings, api, minute=0.1) as bot:  # an hour is 6 s
        await ada.say("/start", "No wallet")
        for tag in ("crypto", "up-or-down"):
            await ada.say(f"/new {tag}", "New")
            await ada.press("Tell me of new ones", "I tell you what is new")
            await eventually(lambda: ada.button("No more of these"))
        before = len(ada.messages)
        numbers = range(1, 41)
        quiet = opened(41, "up-or-down")
        await due(bot, settings, *(opened(number) for number in numbers), quiet)

        async def done():
            return None not in {row.fate for row in await bot.log.page(ADA)}

        await eventually(done, 20.0)
        texts = [text_of(each) for each in ada.messages[before:]]
        told = Counter(
            "more" if "more new: crypto" in text else text.split()[2] for text in texts
        )
        fates = await bot.log.fates(ADA)
        assert fates.keys() == {Fate.SENT, Fate.HELD}
        assert sum(fates.values()) == 41
        assert told["up-or-down"] == 1
        # The hour may end between two of them.
        assert 3 <= told["crypto"] <= 6
        more = [text for text in texts if "more new: crypto" in text]
        assert sum(int(text.split()[1]) for text in more) == fates[Fate.HELD] >= 34
        assert "/new crypto" in more[0]

        # What is told at the end of an hour may be on its way when she ends the tag.
        await eventually(lambda: SystemClock().now() % 6 < 2)
        await due(bot, settings, *(opened(number) for number in range(42, 60)))
        await eventually(
            lambda: bot.log.fates(ADA),
            holds=lambda now: now[Fate.HELD] > fates[Fate.HELD],
        )
        await ada.press("No more of crypto", "No more of crypto")
        before = len(ada.messages)
        await eventually(done, 20.0)
        assert not [m for m in ada.messages[before:] if "more new" in text_of(m)]
        assert sum((await bot.log.fates(ADA)).values()) == 41 + 18


async def test_what_a_tag_may_send_is_chosen(settings, api):
    """All new: each event is a message of its own; the settings say so."""
    ada = Talk(api.world)
    async with running(settings, api) as bot:
        await ada.say("/start", "No wallet")
        await ada.say("/settings", "Settings")
        await ada.press("Limits")
        await eventually(lambda: "At most 3 new events a tag and hour" in ada.last)
        await ada.press("All new", "Noted.")
        await eventually(lambda: "Each new event of a tag is a message" in ada.last)
        await due(bot, settings, *(opened(number) for number in range(1, 9)))
        await eventually(
            lambda: fates_of(bot), holds=lambda fates: fates == {"sent": 8}
        )
