from __future__ import annotations

import asyncio

import pytest
from aiogram import Dispatcher
from aiogram.exceptions import TelegramBadRequest, TelegramRetryAfter
from aiogram.fsm.context import FSMContext  # noqa: TC002 - aiogram reads annotations
from aiogram.types import Message  # noqa: TC002 - aiogram reads annotations

from oddswire import Client
from oddswire.adapters.aiogram import EventIsolation, SendLimits, Storage, Throttle
from oddswire.errors import OddswireError, RateLimited, RuleError, SettingsError
from oddswire.ratelimit import Priority, RateLimiter, Rule, SlidingWindow

OVERALL = Rule("bot", SlidingWindow(1000, 1.0), key="bot")


def counting(client, prefix):
    """Return a dispatcher whose handler counts taps in two steps."""
    dispatcher = Dispatcher(
        storage=Storage(client, prefix=prefix),
        events_isolation=EventIsolation(client, prefix=prefix),
    )

    @dispatcher.message()
    async def tap(message: Message, state: FSMContext):
        taps = await state.get_value("taps", 0)
        await asyncio.sleep(0)
        await state.update_data(taps=taps + 1)

    return dispatcher


# --- storage and isolation


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_fifty_taps_at_once_count_fifty_for_each_of_two_bots(
    client, prefix, bot_of, update_of
):
    """A real dispatcher, one user, two bots on one Redis: no tap is lost or mixed."""
    dispatcher = counting(client, prefix)
    bots = [bot_of(42), bot_of(43)]

    await asyncio.gather(
        *(
            dispatcher.feed_update(bot, update_of(number))
            for number in range(50)
            for bot in bots
        )
    )

    contexts = [dispatcher.fsm.get_context(bot, 1, 1) for bot in bots]
    assert [await each.get_value("taps") for each in contexts] == [50, 50]


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_two_dispatchers_count_the_taps_of_one_user(
    server, client, prefix, bot_of, update_of
):
    """Two replicas with connections of their own keep each other's updates."""
    async with Client.from_url(server.url) as other:
        dispatchers = [counting(each, prefix) for each in (client, other)]
        bot = bot_of(42)
        await asyncio.gather(
            *(
                dispatchers[number % 2].feed_update(bot, update_of(number))
                for number in range(50)
            )
        )
        context = dispatchers[0].fsm.get_context(bot, 1, 1)
        assert await context.get_value("taps") == 50


# --- limits on what comes in


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_a_flooding_user_is_told_and_others_are_served(
    limiter, bot_of, update_of
):
    """Limits by user and chat, per bot; the hook answers instead of the handler."""
    told, handled = [], []

    async def tell(event, decision, data):
        told.append((data["event_from_user"].id, decision.rule))

    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(
        Throttle(
            limiter,
            Rule("user", SlidingWindow(3, 60.0), key="user"),
            Rule("chat", SlidingWindow(5, 60.0), key="chat"),
            on_limited=tell,
        )
    )

    @dispatcher.message()
    async def note(message: Message, bot):
        handled.append((bot.id, message.from_user.id))

    bot, other = bot_of(42), bot_of(43)
    for number in range(5):
        await dispatcher.feed_update(bot, update_of(number, user=1))
    await dispatcher.feed_update(other, update_of(9, user=1))
    for number in range(10, 14):
        for user in (2, 3):
            await dispatcher.feed_update(bot, update_of(number, user=user, chat=-5))

    assert handled.count((42, 1)) == 3
    assert handled.count((43, 1)) == 1
    assert sum(user in (2, 3) for _, user in handled) == 5
    assert told[:2] == [(1, "user"), (1, "user")]
    assert "chat" in [rule for _, rule in told[2:]]


@pytest.mark.basic
async def test_an_update_without_user_passes_the_rules_of_users(limiter, bot_of):
    """A rule whose subject is missing is left out; without a hook it is dropped."""
    from aiogram.types import Update

    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(
        Throttle(limiter, Rule("user", SlidingWindow(1, 60.0), key="user"))
    )
    handled = []

    @dispatcher.channel_post()
    async def post(message: Message):
        handled.append("post")

    @dispatcher.message()
    async def note(message: Message):
        handled.append("message")

    chat = {"id": -5, "type": "channel", "title": "c"}
    post_of = {"message_id": 1, "date": 1, "chat": chat, "text": "x"}
    update = Update.model_validate({"update_id": 1, "channel_post": post_of})
    for _ in range(3):
        await dispatcher.feed_update(bot_of(42), update)
    assert handled == ["post"] * 3


# --- limits on what goes out


@pytest.fixture
def sending(limiter, bot_of):
    """`sending(**options)`: a bot behind `SendLimits`."""

    def make(number=42, **options):
        bot = bot_of(number)
        options.setdefault("overall", OVERALL)
        bot.session.middleware(SendLimits(limiter, **options))
        return bot

    return make


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_after_a_429_every_process_holds_back(
    server, client, prefix, telegram, sending, worker
):
    """Telegram's pause holds for aiogram here and for another real process."""
    other = await worker("send", server.url, prefix, telegram.url, 42)
    assert await other.stdout.readline() == b"ready\n"
    bot = sending(retries=0)
    loop = asyncio.get_running_loop()
    began, telegram.flood = loop.time(), (1, 2)
    with pytest.raises(TelegramRetryAfter):
        await bot.send_message(1, "a")

    # The other process has not heard of it yet: it asks Redis before it sends.
    assert await other.stdout.readline() == b"sent\n"
    assert loop.time() - began > 1.9
    assert telegram.refused == 1
    # And the other way round.
    began, telegram.flood = loop.time(), (1, 1)
    assert await other.stdout.readline() == b"refused\n"
    await bot.send_message(1, "b")
    assert loop.time() - began > 0.9
    assert telegram.refused == 2


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_a_429_is_waited_out_and_the_message_is_sent_once(telegram, sending):
    """The caller sees nothing of it."""
    bot = sending()
    telegram.flood = (2, 1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    message = await bot.send_message(1, "a")

    assert message.message_id == 1
    assert loop.time() - began > 1.9
    assert [form["text"] for _, method, form in telegram.sent] == ["a"]


@pytest.mark.integration
@pytest.mark.requirement("R4")
async def test_chats_groups_and_the_bot_have_their_limits(telegram, sending):
    """Each counts its own; a request above them waits or is refused by timeout."""
    bot = sending(
        overall=Rule("bot", SlidingWindow(8, 60.0), key="bot"),
        chat=Rule("chat", SlidingWindow(1, 60.0), key="chat"),
        group=Rule("group", SlidingWindow(2, 60.0), key="chat"),
        timeout=0.5,
    )
    await bot.send_message(1, "a")
    await bot.send_message(2, "a")
    await bot.send_message(-7, "a")
    await bot.send_message("-7", "a")
    for chat in (1, -7, "-7", "1"):
        with pytest.raises(RateLimited) as caught:
            await bot.send_message(chat, "b")
        assert caught.value.retry_after > 50
    for chat in range(11, 15):
        await bot.send_message(chat, "a")
    with pytest.raises(RateLimited, match="bot"):
        await bot.send_message(99, "a")
    assert (await bot.me()).id == 42  # no chat: not limited
    assert len(telegram.sent) == 8


@pytest.mark.integration
async def test_two_bots_have_limits_of_their_own(telegram, sending):
    """Telegram counts by bot, so one bot's use leaves the other's."""
    rules = {
        "overall": Rule("bot", SlidingWindow(2, 60.0), key="bot"),
        "chat": Rule("chat", SlidingWindow(1, 60.0), key="chat"),
        "timeout": 0.0,
    }
    for bot in (sending(42, **rules), sending(43, **rules)):
        await bot.send_message(1, "a")
    assert [bot for bot, _, _ in telegram.sent] == [42, 43]


@pytest.mark.advanced
async def test_a_reply_goes_before_a_broadcast(telegram, sending):
    """The hook says who goes first of those who wait."""

    def priority(method):
        return Priority.LOW if method.text.startswith("news") else Priority.HIGH

    bot = sending(
        overall=Rule("bot", SlidingWindow(1, 1.5), key="bot", reserve=0.0),
        priority=priority,
    )
    await bot.send_message(1, "first")
    async with asyncio.TaskGroup() as tasks:
        news = [
            tasks.create_task(bot.send_message(1, f"news {number}"))
            for number in range(3)
        ]
        await asyncio.sleep(0)
        await bot.send_message(2, "reply")
        for each in news:
            each.cancel()
    assert [form["text"] for _, _, form in telegram.sent] == ["first", "reply"]


@pytest.mark.errors
async def test_other_errors_of_telegram_pass(serving, prefix, limiter, bot_of):
    """What is no 429 is raised as it came, and pauses nobody."""
    from aiohttp import web

    async def refuse(request):
        body = {"ok": False, "error_code": 400, "description": "Bad Request: chat"}
        return web.json_response(body, status=400)

    async with serving(refuse) as url:
        bot = bot_of(42)
        bot.session.api = type(bot.session.api).from_base(url)
        bot.session.middleware(SendLimits(limiter, overall=OVERALL))
        for _ in range(2):
            with pytest.raises(TelegramBadRequest):
                await bot.send_message(1, "a")


@pytest.mark.errors
async def test_without_redis_this_process_still_obeys_a_429(own, telegram, bot_of):
    """Redis killed: messages go by the local share, and its own pause holds."""
    async with Client.from_url(own.url) as client:
        await client.ping()
        async with RateLimiter(client, deadline=0.1) as limiter:
            bot = bot_of(42)
            bot.session.middleware(SendLimits(limiter, overall=OVERALL))
            own.kill()
            await bot.send_message(1, "a")
            telegram.flood = (1, 1)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await bot.send_message(1, "b")
            assert loop.time() - began > 0.9
    assert len(telegram.sent) == 2


@pytest.mark.errors
def test_rules_that_count_by_something_else_are_refused(limiter):
    """A rule that would not hold for a bot or a chat is a mistake."""
    for rules in (
        {"overall": Rule("x", SlidingWindow(1, 1.0))},
        {"overall": OVERALL, "chat": Rule("y", SlidingWindow(1, 1.0), key="user")},
        {"overall": OVERALL, "group": Rule("y", SlidingWindow(1, 1.0), key="bot")},
    ):
        with pytest.raises(SettingsError, match="key"):
            SendLimits(limiter, **rules)
    SendLimits(limiter, overall=OVERALL)
    with pytest.raises(RuleError):
        SendLimits(limiter, overall=Rule("bot", SlidingWindow(1, 1.0), key="bot"))


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_redis_killed_a_dispatcher_says_so_and_recovers(own, bot_of, update_of):
    """An update that needs Redis fails with a typed error; after a restart it works."""
    async with Client.from_url(own.url, command_timeout=1.0) as client:
        dispatcher = counting(client, "oddswire:")
        bot = bot_of(42)
        await dispatcher.feed_update(bot, update_of(1))
        own.kill()
        with pytest.raises(OddswireError):
            await dispatcher.feed_update(bot, update_of(2))
        await own.restart()
        async with asyncio.timeout(60):
            while True:
                try:
                    await dispatcher.feed_update(bot, update_of(3))
                    break
                except OddswireError:
                    await asyncio.sleep(0.05)
        context = dispatcher.fsm.get_context(bot, 1, 1)
        assert await context.get_value("taps") >= 1
