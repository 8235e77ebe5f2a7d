"""A bot on aiogram that takes orders, in as many processes as you start.

Conversations, turns and limits are in Redis. Run it:
``python examples/aiogram_bot.py 42:TOKEN --redis redis://localhost:6379``; without
``--redis`` it starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.filters import CommandStart
from aiogram.fsm.context import FSMContext  # noqa: TC002 - aiogram reads annotations
from aiogram.fsm.state import State, StatesGroup
from aiogram.types import Message, TelegramObject, Update

import oddswire
from oddswire.adapters.aiogram import (
    Deduplicate,
    EventIsolation,
    SendLimits,
    Storage,
    Throttle,
    before_isolation,
)
from oddswire.ratelimit import Decision, RateLimiter, Rule, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from oddswire import Client

PREFIX = "shop:"
ASKING = Rule("asking", SlidingWindow(20, 60.0), key="user")
SENDING = Rule("sending", SlidingWindow(25, 1.0), key="bot")
TO_A_CHAT = Rule("to-a-chat", TokenBucket(1.0, burst=3), key="chat")
TO_A_GROUP = Rule("to-a-group", SlidingWindow(20, 60.0), key="chat")

router = Router()


class Order(StatesGroup):
    """The steps of an order."""

    amount = State()


@router.message(CommandStart())
async def start(message: Message, state: FSMContext) -> None:
    """Ask."""
    await state.set_state(Order.amount)
    await message.answer("How much?")


@router.message(Order.amount)
async def amount(message: Message, state: FSMContext) -> None:
    """Add it up: a user who taps twice is served one after the other."""
    try:
        much = Decimal(message.text or "")
    except InvalidOperation:
        await message.answer("A number, please.")
        return
    total = much + await state.get_value("total", Decimal(0))
    await state.update_data(total=total)
    await message.answer(f"{total} in all")


async def too_fast(
    event: TelegramObject, decision: Decision, data: dict[str, Any]
) -> None:
    """Say so once; what is refused from memory is a flood, and gets no answer."""
    if decision.source == "redis" and isinstance(event, Update) and event.message:
        bot: Bot = data["bot"]
        wait = f"Please wait {decision.retry_after:.0f} s."
        await bot.send_message(event.message.chat.id, wait)


async def serve(bot: Bot, client: Client, limiter: RateLimiter) -> None:
    """Answer until the process is told to stop."""
    dispatcher = Dispatcher(
        storage=Storage(client, prefix=PREFIX),
        events_isolation=EventIsolation(client, prefix=PREFIX),
    )
    before_isolation(
        dispatcher,
        Throttle(limiter, ASKING, on_limited=too_fast),
        Deduplicate(client, prefix=PREFIX),
    )
    bot.session.middleware(
        SendLimits(limiter, overall=SENDING, chat=TO_A_CHAT, group=TO_A_GROUP)
    )
    dispatcher.include_router(router)
    await dispatcher.start_polling(bot)


async def main(token: str, redis: str | None, api: str | None) -> None:
    """Open what is needed, and close it at the end."""
    server = TelegramAPIServer.from_base(api) if api else PRODUCTION
    async with (
        oddswire.connect(url=redis, prefix=PREFIX) as wire,
        RateLimiter(wire.client, prefix=PREFIX) as limiter,
        Bot(token, session=AiohttpSession(api=server)) as bot,
    ):
        await serve(bot, wire.client, limiter)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("token")
    parser.add_argument("--redis")
    parser.add_argument("--api", help="a Bot API server of your own")
    asyncio.run(main(**vars(parser.parse_args())))
