"""`Throttle`: whom an update is counted for, and what a flood costs."""

from __future__ import annotations

import asyncio

import pytest
from aiogram import Dispatcher
from aiogram.fsm.storage.memory import SimpleEventIsolation
from aiogram.types import Message, Update

from oddswire import Client
from oddswire.adapters.aiogram import (
    Deduplicate,
    EventIsolation,
    Storage,
    Throttle,
    before_isolation,
)
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow

# The users of anonymous admins, of people who write as a channel, and of posts that are
# forwarded from the linked channel.
SHARED = (1087968824, 136817688, 777000)
ONE = Rule("user", SlidingWindow(1, 600.0), key="user")


def dispatcher_behind(throttle, **options):
    """Return a dispatcher behind a throttle, and the chats that it handled."""
    dispatcher = Dispatcher(**options)
    before_isolation(dispatcher, throttle)
    handled = []

    async def note(event):
        message = getattr(event, "message", event)
        handled.append(message.chat.id)

    dispatcher.message.register(note)
    dispatcher.edited_message.register(note)
    dispatcher.callback_query.register(note)
    return dispatcher, handled


def anonymous(number, chat, user, sender=None, kind="message"):
    """Make the update of somebody who writes as a chat."""
    group = {"id": chat, "type": "supergroup", "title": "g"}
    message = {"message_id": number, "date": 1, "chat": group, "text": "x"}
    message["from"] = {"id": user, "is_bot": True, "first_name": "G"}
    if sender is not None:
        message["sender_chat"] = {"id": sender, "type": "channel", "title": "c"}
    return Update.model_validate({"update_id": number, kind: message})


@pytest.mark.integration
@pytest.mark.requirement("R4")
@pytest.mark.parametrize("user", SHARED)
@pytest.mark.parametrize("kind", ["message", "edited_message"])
async def test_who_writes_as_a_chat_is_limited_as_that_chat(
    limiter, bot_of, user, kind
):
    """The same user comes from every group: only its own chat's use counts."""
    dispatcher, handled = dispatcher_behind(Throttle(limiter, ONE))
    bot = bot_of(42)
    for number, (chat, sender) in enumerate(
        [(-1, -1), (-1, -1), (-2, -2), (-1, -51), (-2, -51), (-3, None), (-4, None)]
    ):
        update = anonymous(number, chat, user, sender, kind)
        await dispatcher.feed_update(bot, update)

    # As the chat that wrote: one of a group, and a channel also in another group.
    assert handled == [-1, -2, -1, -3, -4]


@pytest.mark.basic
async def test_a_tap_of_such_a_user_counts_for_its_chat(limiter, bot_of):
    """A callback query names no sender: the chat of its message is taken."""
    dispatcher, handled = dispatcher_behind(Throttle(limiter, ONE))
    for number, chat in enumerate((-1, -1, -2)):
        message = anonymous(number, chat, SHARED[0]).message.model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        query = {"id": "1", "chat_instance": "1", "data": "x", "message": message}
        query["from"] = message["from"]
        update = {"update_id": number, "callback_query": query}
        await dispatcher.feed_update(bot_of(42), Update.model_validate(update))
    assert handled == [-1, -2]


def in_front(dispatcher, *middlewares):
    """Register them as the pages advise."""
    before_isolation(dispatcher, *middlewares)


def as_usual(dispatcher, *middlewares):
    """Register them as any middleware of aiogram."""
    for each in middlewares:
        dispatcher.update.outer_middleware(each)


class Wrapped(EventIsolation):
    """Calls the isolation through a method of its own, as a subclass may."""

    def lock(self, key):
        """Have the conversation for a block."""
        return super().lock(key)


@pytest.mark.integration
@pytest.mark.requirement("R4")
@pytest.mark.parametrize("throttle_first", [True, False])
@pytest.mark.parametrize("register", [in_front, as_usual])
async def test_a_flood_is_limited_before_it_takes_a_turn(
    own, bot_of, update_of, register, throttle_first
):
    """Of 400 at once the admitted are handled, nothing fails and few ask Redis."""
    handled, limited = [], []
    async with (
        Client.from_url(own.url) as client,
        RateLimiter(client, deadline=2.0) as limiter,
    ):
        dispatcher = Dispatcher(
            storage=Storage(client), events_isolation=EventIsolation(client)
        )
        rule = Rule("asking", SlidingWindow(20, 600.0), key="user")

        async def on_limited(event, decision, data):
            limited.append(event.update_id)

        throttle, once = (
            Throttle(limiter, rule, on_limited=on_limited),
            Deduplicate(client),
        )
        register(
            dispatcher, *((throttle, once) if throttle_first else (once, throttle))
        )

        @dispatcher.message()
        async def note(message: Message):
            handled.append(message.message_id)
            await asyncio.sleep(0.01)

        bot = bot_of(42)
        await asyncio.gather(
            *(dispatcher.feed_update(bot, update_of(number)) for number in range(400))
        )
        asked = limiter.stats().asked

    assert len(handled) == 20
    # No update is counted twice, and each of the others was told.
    assert sorted(handled + limited) == list(range(400))
    # 20 were admitted; a denial is asked for again once a second.
    assert 20 < asked < 40


@pytest.mark.advanced
@pytest.mark.parametrize("kind", [Wrapped, SimpleEventIsolation, None])
async def test_a_throttle_moves_itself_whatever_isolates(
    client, prefix, limiter, bot_of, update_of, caplog, kind
):
    """From its first update on it runs before the state, and says nothing."""
    read = []

    class Reading(Storage):
        async def get_state(self, key):
            read.append(key)
            return await super().get_state(key)

    isolation = kind and (kind() if kind is SimpleEventIsolation else Wrapped(client))
    dispatcher = Dispatcher(
        storage=Reading(client, prefix=prefix), events_isolation=isolation
    )
    as_usual(dispatcher, Deduplicate(client, prefix=prefix), Throttle(limiter, ONE))
    for number in range(5):
        await dispatcher.feed_update(bot_of(42), update_of(number))
    assert len(read) == 1
    assert "Throttle" not in caplog.text


@pytest.mark.basic
async def test_middlewares_before_turns_keep_their_order(
    client, prefix, bot_of, update_of
):
    """First those given first, then the turn, then what was registered before."""
    seen = []

    class Isolation(EventIsolation):
        def lock(self, key):
            seen.append("turn")
            return super().lock(key)

    def named(name):
        async def middleware(handler, event, data):
            seen.append(name)
            assert "event_from_user" in data
            return await handler(event, data)

        return middleware

    dispatcher = Dispatcher(events_isolation=Isolation(client, prefix=prefix))
    dispatcher.update.outer_middleware(named("late"))
    before_isolation(dispatcher, named("a"), named("b"))
    before_isolation(dispatcher, named("c"))
    await dispatcher.feed_update(bot_of(42), update_of(1))
    assert seen == ["a", "b", "c", "turn", "late"]

    seen.clear()
    stateless = Dispatcher(disable_fsm=True)
    before_isolation(stateless, named("a"))
    await stateless.feed_update(bot_of(42), update_of(1))
    assert seen == ["a"]


@pytest.mark.errors
async def test_a_throttle_behind_the_turns_says_so_once(
    client, prefix, limiter, bot_of, update_of, caplog
):
    """What somebody registered before it stays before it, and one line says so."""
    seen = []

    async def language(handler, event, data):
        return await handler(event, {**data, "language": "de"})

    async def on_limited(event, decision, data):
        seen.append(data["language"])

    dispatcher = Dispatcher(events_isolation=EventIsolation(client, prefix=prefix))
    dispatcher.update.outer_middleware(language)
    dispatcher.update.outer_middleware(Throttle(limiter, ONE, on_limited=on_limited))
    for number in range(4):
        await dispatcher.feed_update(bot_of(42), update_of(number))
    assert seen == ["de"] * 3
    assert caplog.text.count("before_isolation") == 1
