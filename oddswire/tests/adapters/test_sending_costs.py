"""What a request costs of Telegram's limits, and which errors are a 429."""

from __future__ import annotations

import asyncio

import aiogram.methods
import pytest
from aiogram.client.session.base import BaseSession
from aiogram.exceptions import TelegramAPIError, TelegramBadRequest, TelegramRetryAfter
from aiogram.methods import (
    CopyMessages,
    EditMessageText,
    ForwardMessages,
    GetChatMember,
    SendChatAction,
    SendMediaGroup,
    SendMessage,
)
from aiogram.types import InputMediaPhoto
from telegram.error import NetworkError

from oddswire.adapters._send_limiter import messages
from oddswire.adapters.aiogram import SendLimits
from oddswire.adapters.ptb import RateLimiter as PtbRateLimiter
from oddswire.errors import RateLimited
from oddswire.ratelimit import Rule, SlidingWindow, TokenBucket

OVERALL = Rule("bot", SlidingWindow(1000, 60.0), key="bot")
CHAT = Rule("chat", TokenBucket(0.01, burst=3), key="chat")
GROUP = Rule("group", SlidingWindow(20, 600.0), key="chat")
ALBUM = [InputMediaPhoto(media=f"f{number}") for number in range(10)]


class Answering(BaseSession):
    """A session that answers with what the test says: errors first, then True."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)
        self.sent = []

    async def make_request(self, bot, method, timeout=None):
        """Answer a request."""
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(method.__api_method__)
        return True

    async def close(self):
        """Do nothing."""

    async def stream_content(self, *_, **__):
        """Do nothing."""
        yield b""


def bot_behind(limiter, *errors, **options):
    """Return a bot behind `SendLimits`, and its session."""
    options = {"chat": CHAT, "group": GROUP, "timeout": 0.3, "retries": 0, **options}
    session = Answering(*errors)
    session.middleware(SendLimits(limiter, overall=OVERALL, **options))
    return aiogram.Bot("42:TEST", session=session), session


@pytest.mark.basic
@pytest.mark.requirement("R4")
def test_every_method_that_makes_a_message_costs_and_no_other():
    """The Bot API's own return types are the oracle: a message in it costs one."""
    by_hand = {
        "sendGift": 1,  # a service message, answered with True
        "sendChatJoinRequestWebApp": 1,  # goes to no chat, so it is never asked
        "stopPoll": 1,  # edits a message, answered with the poll
        "getUserPersonalChatMessages": 0,
    }
    costs = {}
    for name in aiogram.methods.__all__:
        method = getattr(aiogram.methods, name)
        api = getattr(method, "__api_method__", None)
        if not isinstance(api, str) or api in by_hand or api.startswith("editEphem"):
            continue
        returned = str(method.__returning__).replace("InaccessibleMessage", "")
        makes = any(
            text in returned for text in ("message.Message", "message_id.MessageId")
        )
        costs[api] = messages(api, lambda _: None), int(makes)

    assert len(costs) > 100
    assert {api: cost for api, cost in costs.items() if cost[0] != cost[1]} == {}
    assert {api: messages(api, lambda _: None) for api in by_hand} == by_hand
    assert messages("editEphemeralMessageText", lambda _: None) == 1


@pytest.mark.integration
@pytest.mark.requirement("R4")
@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (SendMessage(chat_id=-7, text="a"), 1),
        (EditMessageText(chat_id=-7, message_id=1, text="a"), 1),
        (SendMediaGroup(chat_id=-7, media=ALBUM), 10),
        (CopyMessages(chat_id=-7, from_chat_id=5, message_ids=list(range(15))), 15),
        (ForwardMessages(chat_id=-7, from_chat_id=5, message_ids=[1, 2]), 2),
        (GetChatMember(chat_id=-7, user_id=1), 0),
        (SendChatAction(chat_id=-7, action="typing"), 0),
    ],
    ids=lambda value: getattr(value, "__api_method__", value),
)
async def test_a_request_costs_the_messages_that_it_makes(limiter, method, cost):
    """An album and copies count each message; what sends nothing costs nothing."""
    bot, _ = bot_behind(limiter)
    await bot(method)

    assert 20 - (await limiter.peek("group", chat="42:-7")).remaining == cost
    assert 1000 - (await limiter.peek("bot", bot=42)).remaining == cost


@pytest.mark.advanced
@pytest.mark.requirement("R4")
async def test_more_messages_than_a_rule_admits_take_all_of_it(limiter):
    """An album of ten under a burst of three is sent, and the next has to wait."""
    bot, session = bot_behind(limiter)
    await bot(SendMediaGroup(chat_id=7, media=ALBUM))
    with pytest.raises(RateLimited, match="chat"):
        await bot(SendMessage(chat_id=7, text="a"))
    copies = CopyMessages(chat_id=-7, from_chat_id=5, message_ids=list(range(50)))
    await bot(copies)
    with pytest.raises(RateLimited, match="group"):
        await bot(SendMessage(chat_id=-7, text="a"))

    assert session.sent == ["sendMediaGroup", "copyMessages"]
    assert 1000 - (await limiter.peek("bot", bot=42)).remaining == 60


@pytest.mark.advanced
async def test_a_paid_broadcast_costs_its_chat_alone(limiter):
    """Telegram counts it apart from the bot's messages; its 429 is waited out."""
    bot, session = bot_behind(limiter, retry_after(0.2), retries=1, timeout=5.0)
    await bot(SendMessage(chat_id=-7, text="a", allow_paid_broadcast=True))
    assert (await limiter.peek("bot", bot=42)).remaining == 1000
    # It was tried twice.
    assert (await limiter.peek("group", chat="42:-7")).remaining == 18
    assert session.sent == ["sendMessage"]


@pytest.mark.basic
async def test_a_channel_has_one_limit_however_its_name_is_written(limiter):
    """Telegram's names are the same in upper and lower case."""
    bot, _ = bot_behind(limiter, group=Rule("g", SlidingWindow(1, 60.0), key="chat"))
    await bot(SendMessage(chat_id="@News", text="a"))
    with pytest.raises(RateLimited):
        await bot(SendMessage(chat_id="@news", text="a"))


def retry_after(seconds):
    """Return aiogram's error for a 429."""
    method = SendMessage(chat_id=7, text="a")
    return TelegramRetryAfter(method=method, message="429", retry_after=seconds)


def plain(text, kind=TelegramAPIError):
    """Return an error of Telegram that has nothing but a text."""
    return kind(method=SendMessage(chat_id=7, text="a"), message=text)


def caused(error):
    """Return an error that a middleware made of another."""
    wrapper = RuntimeError("the request failed")
    wrapper.__cause__ = error
    return wrapper


REFUSALS = {
    "typed": lambda: retry_after(30),
    "text": lambda: plain("Too Many Requests: retry after 30"),
    "text of a bad request": lambda: plain("FLOOD_WAIT_30", TelegramBadRequest),
    "cause": lambda: caused(retry_after(30)),
    "cause of a cause": lambda: caused(caused(plain("retry after 30"))),
    "group": lambda: ExceptionGroup("sending", [ValueError(), retry_after(30)]),
}


@pytest.mark.errors
@pytest.mark.requirement("R4")
@pytest.mark.parametrize("wrapping", REFUSALS)
async def test_a_429_is_obeyed_in_any_wrapping(limiter, wrapping):
    """Typed, as a text, as a cause or in a group: the bot pauses, the error passes."""
    error = REFUSALS[wrapping]()
    bot, session = bot_behind(limiter, error)
    with pytest.raises(type(error)) as caught:
        await bot(SendMessage(chat_id=7, text="a"))
    with pytest.raises(RateLimited) as paused:
        await bot(SendMessage(chat_id=8, text="a"))

    assert caught.value is error
    assert 25 < paused.value.retry_after <= 30
    assert session.sent == []


@pytest.mark.errors
@pytest.mark.parametrize(
    "error",
    [
        plain("Bad Request: message text is empty", TelegramBadRequest),
        caused(plain("Forbidden: bot was blocked by the user")),
        ValueError("Too Many Requests: retry after 30"),
    ],
    ids=str,
)
async def test_other_errors_pause_nobody(limiter, error):
    """What is no 429 of Telegram passes as it is, and the next message is sent."""
    bot, session = bot_behind(limiter, error)
    with pytest.raises(type(error)):
        await bot(SendMessage(chat_id=7, text="a"))
    await bot(SendMessage(chat_id=7, text="a"))

    assert session.sent == ["sendMessage"]


@pytest.mark.errors
async def test_an_error_while_a_429_is_handled_is_no_429(limiter):
    """A failure of the handler's own message is not taken for the 429 before it."""
    bot, session = bot_behind(limiter, plain("Bad Request: empty", TelegramBadRequest))
    try:
        raise retry_after(30)
    except TelegramRetryAfter:
        with pytest.raises(TelegramBadRequest):
            await bot(SendMessage(chat_id=7, text="a"))
    await bot(SendMessage(chat_id=7, text="a"))

    assert session.sent == ["sendMessage"]


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_a_429_of_what_costs_nothing_pauses_all_that_sends(limiter):
    """It is sent again after the pause; when that is too long, its 429 is raised."""
    bot, session = bot_behind(limiter, retry_after(0.2), retries=1, timeout=5.0)
    await bot(GetChatMember(chat_id=7, user_id=1))
    assert session.sent == ["getChatMember"]

    bot, session = bot_behind(limiter, retry_after(30), retries=3)
    with pytest.raises(TelegramRetryAfter):
        await bot(GetChatMember(chat_id=7, user_id=1))
    with pytest.raises(RateLimited):
        await bot(SendMessage(chat_id=7, text="a"))
    # Telegram decides about what sends nothing.
    await bot(GetChatMember(chat_id=7, user_id=1))
    assert session.sent == ["getChatMember"]


@pytest.mark.errors
@pytest.mark.requirement("R4")
async def test_python_telegram_bot_counts_and_obeys_the_same(limiter):
    """Its album counts ten, its question nothing; a 429 without a type pauses it."""
    ptb = PtbRateLimiter(
        limiter, bot_id=43, overall=OVERALL, group=GROUP, timeout=0.2, retries=0
    )
    errors = []

    async def send(endpoint, **data):
        async def callback():
            if errors:
                raise errors.pop()
            return True

        return await ptb.process_request(
            callback, (), {}, endpoint, {"chat_id": -9, **data}, None
        )

    await send("sendMediaGroup", media=list(range(10)))
    await send("getChatMember", user_id=1)
    assert (await limiter.peek("group", chat="43:-9")).remaining == 10
    errors.append(NetworkError("Too Many Requests: retry after 30"))
    with pytest.raises(NetworkError):
        await send("getChatMember", user_id=1)
    with pytest.raises(RateLimited) as paused:
        await send("sendMessage")
    assert 25 < paused.value.retry_after <= 30


@pytest.mark.advanced
async def test_a_cancelled_request_leaves_nothing_behind(limiter):
    """Cancelled while it waits it is not sent, and the next goes on."""
    bot, session = bot_behind(
        limiter, chat=Rule("c", SlidingWindow(1, 0.3), key="chat"), timeout=None
    )
    await bot(SendMessage(chat_id=7, text="a"))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(bot(SendMessage(chat_id=7, text="b")))
        await asyncio.sleep(0)
        waiting.cancel()
    await bot(SendMessage(chat_id=7, text="c"))

    assert waiting.cancelled()
    assert session.sent == ["sendMessage", "sendMessage"]
