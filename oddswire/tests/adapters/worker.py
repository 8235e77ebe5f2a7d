"""A second process of a test: it does one thing and says on stdout how far it is.

``python worker.py <what> <url of Redis> <prefix> <further arguments>``
"""

# ruff: noqa: D103 - it talks to the test

from __future__ import annotations

import asyncio
import sys

from oddswire import Client
from oddswire.adapters._send_limiter import SendLimiter
from oddswire.adapters._update_locks import UpdateLocks
from oddswire.ratelimit import Priority, RateLimiter, Rule, SlidingWindow

# aiogram takes seconds to import; its isolation is this and the name of the turn.
KEY = ("conversation", 42, 1, 1, "", "", "default")


def say(text):
    print(text, flush=True)


def turns_of(client, prefix, lease=30.0):
    return UpdateLocks(
        client, prefix=prefix, lease=lease, timeout=60.0, queue=100, on_error="raise"
    )


async def count(client, prefix, key, times):
    """Count up in two steps, which only a lock keeps right."""
    turns = turns_of(client, prefix)

    async def one():
        async with turns.take(*KEY):
            number = int(await client.get(key) or 0)
            await asyncio.sleep(0)
            await client.set(key, number + 1)

    await asyncio.gather(*(one() for _ in range(int(times))))
    say("done")


async def hold(client, prefix, lease):
    """Hold the lock until killed."""
    turns = turns_of(client, prefix, float(lease))
    async with turns.take(*KEY):
        say("held")
        await asyncio.Event().wait()


async def once(client, prefix, lease):
    """Begin to handle an update, and wait to be killed."""
    from aiogram import Bot, Dispatcher
    from aiogram.types import Message, Update

    from oddswire.adapters.aiogram import Deduplicate

    dispatcher = Dispatcher()
    middleware = Deduplicate(client, prefix=prefix, lease=float(lease), deadline=2.0)
    dispatcher.update.outer_middleware(middleware)

    async def begin(event):
        say("begun")
        await asyncio.Event().wait()

    dispatcher.message.register(begin)
    message = {"message_id": 7, "date": 1, "chat": {"id": 1, "type": "private"}}
    message["from"] = {"id": 1, "is_bot": False, "first_name": "f"}
    update = Update(update_id=7, message=Message.model_validate(message))
    await dispatcher.feed_update(Bot("42:TEST"), update)


class Refused(Exception):
    """A 429."""


async def send(client, prefix, url, bot):
    """Send one message, then further ones until one is refused."""
    import aiohttp

    rule = Rule("bot", SlidingWindow(1000, 1.0), key="bot")
    async with (
        aiohttp.ClientSession() as session,
        RateLimiter(client, prefix=prefix, deadline=2.0) as limiter,
    ):
        sending = SendLimiter(
            limiter,
            lambda error: error.args[0],
            overall=rule,
            timeout=None,
            retries=0,
        )

        async def post():
            form = {"chat_id": 2, "text": "worker"}
            call = session.post(f"{url}/bot{bot}:TEST/sendMessage", data=form)
            async with call as response:
                if response.status == 429:
                    body = await response.json()
                    raise Refused(body["parameters"]["retry_after"])

        async def message():
            await sending.send(
                post,
                bot=int(bot),
                chat=2,
                messages=1,
                paid=False,
                priority=Priority.NORMAL,
            )

        say("ready")
        # The pause is there before the first message: see the test.
        while not await client.keys(f"{prefix}rate-block:*"):
            pass
        await message()
        say("sent")
        try:
            while True:
                await message()
        except Refused:
            say("refused")


async def ask(client, prefix, url):
    """Ask an upstream once, when it has sent a 429 to somebody."""
    import aiohttp

    from oddswire.adapters.aiohttp import UpstreamLimits

    async with RateLimiter(client, prefix=prefix, deadline=2.0) as limiter:
        limits = UpstreamLimits(
            limiter, lambda _: [Rule("books", SlidingWindow(1000, 1.0))]
        )
        async with aiohttp.ClientSession(url, middlewares=[limits]) as session:
            say("ready")
            while not await client.keys(f"{prefix}rate-block:*"):
                pass
            async with session.get("/books") as response:
                say("asked" if response.status == 200 else str(response.status))


async def ptb(client, prefix, url, times):
    """Handle taps of one user, and wait to be killed."""
    from telegram import Update
    from telegram.ext import Application, TypeHandler

    from oddswire.adapters.ptb import Persistence, UpdateProcessor

    async def tap(update, context):
        context.user_data["taps"] = context.user_data.get("taps", 0) + 1

    processor = UpdateProcessor(client, prefix=prefix)
    builder = Application.builder().token("42:TEST").base_url(f"{url}/bot")
    builder = builder.updater(None).job_queue(None)
    builder = builder.persistence(Persistence(client, prefix=prefix))
    application = builder.concurrent_updates(processor).build()
    processor.application = application
    application.add_handler(TypeHandler(Update, tap))
    async with application:
        await application.start()
        say("ready")
        for number in range(1000, 1000 + int(times)):
            message = {
                "message_id": number,
                "date": 1,
                "chat": {"id": 1, "type": "private", "first_name": "f"},
                "from": {"id": 1, "is_bot": False, "first_name": "f"},
                "text": "tap",
            }
            update = {"update_id": number, "message": message}
            await application.update_queue.put(Update.de_json(update, application.bot))
        await application.update_queue.join()
        say("done")
        await asyncio.Event().wait()


async def main(what, url, prefix, *arguments):
    async with Client.from_url(url) as client:
        await WHAT[what](client, prefix, *arguments)


WHAT = {
    "count": count,
    "hold": hold,
    "send": send,
    "ask": ask,
    "ptb": ptb,
    "once": once,
}

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
