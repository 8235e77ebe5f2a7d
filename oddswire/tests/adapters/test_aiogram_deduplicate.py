"""An update is handled once; one that another process has is not answered as done."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiogram import Dispatcher
from aiogram.types import Message  # noqa: TC002 - aiogram reads annotations
from aiogram.webhook.aiohttp_server import SimpleRequestHandler

from oddswire import Client
from oddswire.adapters.aiogram import Deduplicate
from oddswire.clock import ManualClock
from oddswire.errors import OddswireError, SettingsError, UpdateInProgress
from oddswire.keys import UPDATE_SEEN, KeySpace
from support import eventually


@pytest.fixture
def once(client, prefix):
    """A dispatcher that notes what it handles, behind `Deduplicate`."""
    dispatcher = Dispatcher()
    dispatcher["handled"] = []
    dispatcher["fail"] = []
    middleware = Deduplicate(client, prefix=prefix, deadline=2.0)
    dispatcher.update.outer_middleware(middleware)

    @dispatcher.message()
    async def note(message: Message, bot, handled, fail):
        await asyncio.sleep(0)
        if message.message_id in fail:
            raise ZeroDivisionError
        handled.append((bot.id, message.message_id))

    dispatcher["once"] = middleware
    return dispatcher


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_an_update_delivered_again_is_handled_once(once, bot_of, update_of):
    """At the same time or later; an update of another bot is another one."""
    bot, other = bot_of(42), bot_of(43)
    answers = await asyncio.gather(
        *(once.feed_update(bot, update_of(7)) for _ in range(10)),
        return_exceptions=True,
    )
    await once.feed_update(bot, update_of(7))
    await once.feed_update(other, update_of(7))
    await once.feed_update(bot, update_of(8))

    assert once["handled"] == [(42, 7), (43, 7), (42, 8)]
    assert sum(isinstance(each, UpdateInProgress) for each in answers) == 9
    assert once["once"].in_progress == 9
    assert once["once"].dropped == 1


@pytest.mark.errors
async def test_an_update_whose_handler_failed_is_handled_again(once, bot_of, update_of):
    """A webhook that answers 500 gets the update again, and it is not dropped."""
    bot = bot_of(42)
    once["fail"].append(7)
    with pytest.raises(ZeroDivisionError):
        await once.feed_update(bot, update_of(7))
    once["fail"].clear()
    await once.feed_update(bot, update_of(7))

    assert once["handled"] == [(42, 7)]


@pytest.mark.errors
async def test_an_update_of_a_killed_process_is_free_after_its_lease(
    once, client, prefix, bot_of, update_of
):
    """It is known for the lease while it is handled, and for a day when it was."""
    key = KeySpace(prefix).key(UPDATE_SEEN, 42, 7)
    left = []

    @once.message.middleware()
    async def look(handler, event, data):
        left.append(await client.pttl(key))
        return await handler(event, data)

    await once.feed_update(bot_of(42), update_of(7))

    assert 50_000 < left[0] <= 60_000
    assert await client.pttl(key) > 86_000_000


@pytest.mark.errors
async def test_without_redis_every_update_is_handled(own, bot_of, update_of):
    """Redis away: handled, perhaps twice, and counted."""
    async with Client.from_url(own.url) as client:
        await client.ping()
        once = Deduplicate(client, deadline=0.2)
        dispatcher = Dispatcher()
        dispatcher.update.outer_middleware(once)
        handled = []

        @dispatcher.message()
        async def note(message: Message):
            handled.append(message.message_id)

        own.kill()
        for _ in range(2):
            await dispatcher.feed_update(bot_of(42), update_of(7))
    assert handled == [7, 7]
    assert once.unchecked == 2


@pytest.mark.errors
def test_wrong_options_of_once_are_named(client):
    """Numbers out of range raise at once."""
    for options in (
        {"ttl": 1.0},
        {"lease": 0},
        {"ttl": 1e9},
        {"deadline": 0},
        {"wait": -1},
    ):
        with pytest.raises(SettingsError):
            Deduplicate(client, **options)


# --- another process has it


def dispatcher_of(handler, once):
    """Return a dispatcher with one handler of messages, behind `Deduplicate`."""
    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(once)
    dispatcher.message.register(handler)
    return dispatcher


@pytest.mark.errors
@pytest.mark.requirement("S9")
async def test_an_update_of_a_killed_process_comes_again_and_is_handled(
    server, client, prefix, bot_of, update_of, worker
):
    """Deliveries within its lease fail, the first after it is handled."""
    process = await worker("once", server.url, prefix, 3.0)
    assert await process.stdout.readline() == b"begun\n"
    process.kill()
    handled = []

    async def note(message: Message):
        handled.append(message.message_id)

    once = Deduplicate(client, prefix=prefix, deadline=2.0)
    dispatcher, bot = dispatcher_of(note, once), bot_of(42)
    with pytest.raises(UpdateInProgress):
        await dispatcher.feed_update(bot, update_of(7))

    async def delivered():
        try:
            await dispatcher.feed_update(bot, update_of(7))
        except UpdateInProgress:
            return False
        return True

    await eventually(delivered, pause=0.1)
    assert handled == [7]


@pytest.mark.integration
@pytest.mark.requirement("S9")
async def test_a_webhook_answers_500_until_the_update_is_handled(
    client, prefix, bot_of, message_of, serving
):
    """Also where the dispatcher has an error handler that takes every error."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    seen = []

    async def slow(message: Message):
        begun.set()
        await go_on.wait()

    async def swallow(event):
        seen.append(event)

    dispatcher = dispatcher_of(slow, Deduplicate(client, prefix=prefix, deadline=2.0))
    dispatcher.error.register(swallow)
    hook = SimpleRequestHandler(dispatcher, bot_of(42), handle_in_background=False)
    async with serving(hook.handle) as url, aiohttp.ClientSession() as session:

        async def deliver():
            async with session.post(url, json=message_of(7)) as response:
                return response.status

        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(deliver())
            await begun.wait()
            assert [await deliver(), await deliver()] == [500, 500]
            go_on.set()
        assert first.result() == 200
        assert await deliver() == 200
    assert seen == []


@pytest.mark.errors
async def test_who_lost_the_lease_frees_nothing_of_the_next(
    client, prefix, bot_of, update_of
):
    """A handler that fails after it stood still does not give back what another has."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fail(message: Message):
        begun.set()
        await go_on.wait()
        raise ZeroDivisionError

    clock = ManualClock()
    slow = dispatcher_of(
        fail, Deduplicate(client, prefix=prefix, deadline=2.0, clock=clock)
    )
    bot, key = bot_of(42), KeySpace(prefix).key(UPDATE_SEEN, 42, 7)

    async def feed():
        with pytest.raises(ZeroDivisionError):
            await slow.feed_update(bot, update_of(7))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        await begun.wait()
        await client.set(key, "another", px=60_000)
        await clock.advance(60.0)  # it is not renewed either
        go_on.set()
    assert await client.get(key) == b"another"
    assert await client.pttl(key) > 50_000


@pytest.mark.integration
async def test_a_handler_longer_than_its_lease_keeps_the_update(
    client, prefix, bot_of, update_of
):
    """A second delivery is refused for as long as the first is being handled."""
    handled, go_on = [], asyncio.Event()

    async def slow(message: Message):
        handled.append(message.message_id)
        await go_on.wait()

    clock = ManualClock()
    once = Deduplicate(client, prefix=prefix, deadline=2.0, clock=clock)
    dispatcher, bot = dispatcher_of(slow, once), bot_of(42)
    key = KeySpace(prefix).key(UPDATE_SEEN, 42, 7)

    async def renewed():
        return await client.pttl(key) > 50_000

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(dispatcher.feed_update(bot, update_of(7)))
        await eventually(lambda: handled)
        for _ in range(3):
            await client.pexpire(key, 10_000)
            await clock.advance(20.0)
            await eventually(renewed)
            with pytest.raises(UpdateInProgress):
                await dispatcher.feed_update(bot, update_of(7))
        go_on.set()
    await dispatcher.feed_update(bot, update_of(7))
    assert handled == [7]


@pytest.mark.advanced
async def test_with_polling_it_waits_for_the_other(client, prefix, bot_of, update_of):
    """Nobody delivers again what a poll returned: it is handled when it is free."""
    handled = []

    async def note(message: Message):
        handled.append(message.message_id)

    once = Deduplicate(client, prefix=prefix, deadline=2.0, wait=20.0)
    dispatcher, bot = dispatcher_of(note, once), bot_of(42)
    key = KeySpace(prefix).key(UPDATE_SEEN, 42, 7)
    await client.set(key, "another", px=300)
    await dispatcher.feed_update(bot, update_of(7))
    assert handled == [7]

    key = KeySpace(prefix).key(UPDATE_SEEN, 42, 8)
    await client.set(key, "another")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(dispatcher.feed_update(bot, update_of(8)))
        await asyncio.sleep(0)
        await client.set(key, "1")  # the other is done
    assert handled == [7]
    assert (once.dropped, once.in_progress) == (1, 0)


@pytest.mark.errors
async def test_an_update_that_was_handled_unchecked_is_noted_when_redis_is_back(
    own, bot_of, update_of
):
    """Redis was away at the beginning alone: the second delivery is dropped."""
    handled = []
    async with Client.from_url(own.url) as client:
        await client.ping()

        async def note(message: Message):
            handled.append(message.message_id)
            await own.restart()

            async def back():
                return await client.ping()

            await eventually(lambda: attempt(back))

        once = Deduplicate(client, deadline=1.0)
        dispatcher, bot = dispatcher_of(note, once), bot_of(42)
        own.kill()
        await dispatcher.feed_update(bot, update_of(7))
        await dispatcher.feed_update(bot, update_of(7))
    assert handled == [7]
    assert (once.unchecked, once.dropped) == (1, 1)


async def attempt(call):
    """Return what a call returns, None where it fails."""
    try:
        return await call()
    except OddswireError:
        return None
