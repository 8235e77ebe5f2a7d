from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiogram.exceptions import ClientDecodeError, TelegramRetryAfter
from hypothesis import given
from hypothesis import strategies as st

from oddsbot.standin.telegram import ApiError, BotApi, Fault, Limits
from oddsbot.standin.telegram.faults import Counts
from support import eventually

ADA, BEN = 1001, 1002


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_each_switch_breaks_the_calls_that_it_names(api, bot, call):
    """A 429, a page of HTML, a 401 and a 400 come as planned, then all is well."""
    plan = api.faults.planned
    plan += [Fault(kind="flood", method="sendMessage", chat=ADA, seconds=3)]
    assert await bot.get_me()
    with pytest.raises(TelegramRetryAfter) as error:
        await bot.send_message(ADA, "x")
    assert error.value.retry_after == 3
    plan += [Fault(kind="error", times=2)]
    for _ in range(2):
        with pytest.raises(ClientDecodeError):
            await bot.get_me()
    plan += [Fault(kind="unauthorized"), Fault(kind="refused")]
    assert [(await call("getMe"))["error_code"] for _ in range(2)] == [401, 400]
    assert plan == []
    assert not api.world.sent
    assert await bot.send_message(ADA, "x")


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_lost_answer_was_sent_and_silence_was_not(api, call):
    """`lost` cuts the connection after the message is there, `silence` before."""
    api.faults.planned += [Fault(kind="lost", method="sendMessage")]
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call("sendMessage", chat_id=ADA, text="lost")
    assert [sent.text for sent in api.world.sent] == ["lost"]
    api.faults.planned += [Fault(kind="silence"), Fault(kind="slow", seconds=0.01)]
    waiting = asyncio.Task(call("sendMessage", chat_id=ADA, text="unheard"))
    await eventually(lambda: api.world.calls["sendMessage"] == 2)
    assert (await call("sendMessage", chat_id=ADA, text="slow"))["ok"]
    assert not waiting.done()
    waiting.cancel()
    assert [sent.text for sent in api.world.sent] == ["lost", "slow"]


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_updates_come_twice_and_backwards_by_switch(api, bot):
    """Each is given once more after it was confirmed; a batch may be turned round."""
    api.faults.repeat = api.faults.reverse = True
    api.world.say(ADA, "a")
    api.world.say(ADA, "b")
    rounds = [await bot.get_updates(offset=3) for _ in range(2)]
    assert [[u.update_id for u in each] for each in rounds] == [[2, 1], []]


@pytest.mark.errors
@pytest.mark.requirement("B10")
async def test_a_flood_is_refused_until_its_pause_is_over(clock):
    """Six messages at once to a chat are one too many; another chat is not held up."""
    async with (
        BotApi(clock) as api,
        aiohttp.ClientSession(f"{api.url}/bot{api.token}/") as http,
    ):

        async def send(chat):
            message = {"chat_id": chat, "text": "x"}
            async with http.post("sendMessage", data=message) as answer:
                return await answer.json()

        api.world.say(ADA, "/start")
        api.world.say(BEN, "/start")
        answers = [await send(ADA) for _ in range(6)]
        assert [each["ok"] for each in answers] == [True] * 5 + [False]
        assert answers[5]["error_code"] == 429
        assert answers[5]["parameters"] == {"retry_after": 5}
        assert (await send(BEN))["ok"]
        clock.time += 5
        assert (await send(ADA))["ok"]
        assert len(api.world.sent) == 7


@pytest.mark.errors
@pytest.mark.requirement("B10")
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 1, allow_nan=False)), max_size=100
    )
)
def test_no_window_has_more_messages_than_its_limit(steps):
    """Whatever is asked for and when: what passes keeps every limit, waits suffice."""
    limits = Limits(all=(6, 1.0), chat=(3, 2.0), group=(4, 4.0))
    counts, now, passed = Counts(limits), 0.0, []
    for chat, pause in steps:
        now += pause
        for _ in range(3):  # each of two windows may ask for a pause
            try:
                counts.spend(now, chat, group=chat == 0)
            except ApiError as error:
                now += error.parameters["retry_after"]
            else:
                break
        else:
            pytest.fail("a pause was not enough")
        passed += [(now, chat)]
    for end, chat in passed:
        of_chat = limits.chat if chat else limits.group
        for (most, window), chats in ((limits.all, {0, 1, 2, 3}), (of_chat, {chat})):
            within = [t for t, c in passed if c in chats and end - window < t <= end]
            assert len(within) <= most
