"""A bot on python-telegram-bot that counts, in as many processes as you start.

User data and limits are in Redis, live. Run it:
``python examples/ptb_bot.py 42:TOKEN --redis redis://localhost:6379``; without
``--redis`` it starts a server of its own. Telegram gives updates to one poller only:
further processes take theirs from a webhook.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import TYPE_CHECKING

from telegram.ext import Application, CommandHandler, ContextTypes

import oddswire
from oddswire.adapters.ptb import Persistence, RateLimiter, UpdateProcessor
from oddswire.ratelimit import RateLimiter as Limiter
from oddswire.ratelimit import Rule, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from telegram import Update

    from oddswire import Client

PREFIX = "shop:"
SENDING = Rule("sending", SlidingWindow(25, 1.0), key="bot")
TO_A_CHAT = Rule("to-a-chat", TokenBucket(1.0, burst=3), key="chat")
TO_A_GROUP = Rule("to-a-group", SlidingWindow(20, 60.0), key="chat")


async def start(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    """Count the visits of a user, whichever process they come to."""
    if context.user_data is None or update.effective_message is None:
        return
    context.user_data["visits"] = context.user_data.get("visits", 0) + 1
    await update.effective_message.reply_text(f"visit {context.user_data['visits']}")


def application_for(
    token: str, api: str, client: Client, limiter: Limiter
) -> Application:
    """Build it."""
    processor = UpdateProcessor(client, prefix=PREFIX)
    limits = RateLimiter(
        limiter,
        bot_id=int(token.partition(":")[0]),
        overall=SENDING,
        chat=TO_A_CHAT,
        group=TO_A_GROUP,
    )
    application = (
        Application.builder()
        .token(token)
        .base_url(f"{api}/bot")
        .persistence(Persistence(client, prefix=PREFIX))
        .concurrent_updates(processor)
        .rate_limiter(limits)
        .build()
    )
    processor.application = application
    application.add_handler(CommandHandler("start", start))
    return application


async def main(token: str, redis: str | None, api: str) -> None:
    """Open what is needed, answer until told to stop, and close it."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with (
        oddswire.connect(url=redis, prefix=PREFIX) as wire,
        Limiter(wire.client, prefix=PREFIX) as limiter,
    ):
        application = application_for(token, api, wire.client, limiter)
        async with application:
            await application.start()
            if application.updater is not None:
                await application.updater.start_polling()
                await stop.wait()
                await application.updater.stop()
            await application.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("token")
    parser.add_argument("--redis")
    parser.add_argument("--api", default="https://api.telegram.org")
    asyncio.run(main(**vars(parser.parse_args())))
