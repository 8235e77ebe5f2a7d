from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import GetMe
from aiogram.methods.base import Response

from oddsbot.app import App
from oddsbot.delivery import Card
from oddsbot.limits import TELEGRAM, SendRules
from oddsbot.standin.telegram import Fault
from oddsbot.telegram.session import BoundedSession
from oddswire import Client
from oddswire.clock import SystemClock
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow, TokenBucket
from support import eventually

from .conftest import ADA, Talk

# One slot is 50 ms.
SENDING = SendRules(
    overall=Rule("telegram", TokenBucket(20.0, 1), key="bot", reserve=0.2),
    chat=Rule("telegram.chat", TokenBucket(1_000.0, 1_000), key="chat"),
    group=Rule("telegram.group", SlidingWindow(20_000, 60.0), key="chat"),
)


@pytest.mark.performance
@pytest.mark.requirement("R5")
async def test_queued_alerts_delay_a_reply_by_a_slot(settings, api):
    """With 10,000 alerts in line, a reply waits for one slot, and for what is sent."""
    for number in range(100):
        api.world.join(5_000 + number, f"P{number}")
    api.world.rooms[ADA].began = True
    async with (
        App(
            settings,
            api.token,
            clock=SystemClock(),
            api_url=api.url,
            sending=SENDING,
        ) as app,
        asyncio.TaskGroup() as tasks,
    ):
        left = list(range(10_000))

        async def send() -> None:
            while left:
                number = 5_000 + left.pop() % 100
                await app.alert_chat.send(number, Card(text="alert"))

        senders = [tasks.create_task(send()) for _ in range(8)]
        await eventually(lambda: len(api.world.sent) > 20)
        delays = []
        for _ in range(10):
            before = len(api.world.sent)
            await app.chat.send(ADA, Card(text="reply"))
            delays.append(len(api.world.sent) - before - 1)
        for sender in senders:
            sender.cancel()
    assert len(left) > 9_000
    # One that was on its way, and one slot: first come, first served would be eight.
    assert max(delays) <= 2
    assert sorted(delays)[5] <= 1


@pytest.mark.errors
@pytest.mark.requirement("R5")
async def test_a_429_stops_every_process(settings, api):
    """One process is told to wait: another one of the same bot sends nothing either."""
    ada = Talk(api.world)
    stop = asyncio.Event()
    options = {"clock": SystemClock(), "api_url": api.url}
    async with (
        App(settings, api.token, **options) as app,
        App(settings, api.token, **options) as other,
        Client.from_url(settings.redis.url) as client,
        asyncio.TaskGroup() as tasks,
    ):
        limiter = RateLimiter(
            client, [TELEGRAM.overall], prefix=settings.redis.prefix, deadline=5.0
        )

        async def is_told():
            decision = await limiter.peek("telegram", bot=app.bot.id)
            return not decision.allowed

        tasks.create_task(app.run(stop))
        await ada.say("/start", "No wallet")
        api.faults.planned.append(Fault(kind="flood", method="sendMessage", seconds=2))
        began = asyncio.get_running_loop().time()
        api.world.say(ADA, "/help")
        await eventually(is_told)
        await other.chat.send(ADA, Card(text="from the other process"))
        passed = asyncio.get_running_loop().time() - began
        await limiter.aclose()
        stop.set()
    assert passed >= 1.5


@pytest.mark.performance
async def test_the_type_of_an_answer_is_made_once(api):
    """It outlives a collection of garbage: to make it again holds the loop for 3 ms."""
    session = BoundedSession(api=TelegramAPIServer.from_base(api.url))
    async with Bot(api.token, session=session) as bot:
        await bot.get_me()
        kind = weakref.ref(Response[GetMe.__returning__])
        await asyncio.to_thread(gc.collect)
        assert kind() is not None


@pytest.mark.performance
async def test_no_update_is_handed_to_a_thread(bot):
    """Each filter can be awaited: aiogram hands others to a thread, for each message.

    The thread waits for the interpreter's lock up to 5 ms.
    """
    handlers = [
        handler
        for router in bot.dispatcher.chain_tail
        for observer in router.observers.values()
        for handler in observer.handlers
    ]
    assert len(handlers) > 50
    for handler in handlers:
        for each in (handler, *(handler.filters or ())):
            assert each.awaitable, f"{handler.callback.__name__}: {each.callback}"
