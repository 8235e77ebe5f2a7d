"""Two bots on one Redis: every part keeps its keys under its client's prefix."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import AsyncMock

import msgspec
import pytest
import telegram
from aiogram.fsm.storage.base import StorageKey
from aiogram.types import Update

import oddswire
from oddswire import Client, Settings
from oddswire.adapters import aiogram, ptb
from oddswire.cache import Cache
from oddswire.errors import SettingsError
from oddswire.locks import Locks
from oddswire.pubsub import Delivery, PubSub, Topic
from oddswire.queue import Queue
from oddswire.ratelimit import RateLimiter, Rule, SlidingWindow
from oddswire.sessions import Sessions

LATEST = Topic("quotes", int, delivery=Delivery.LATEST)
KEY = StorageKey(bot_id=1, chat_id=2, user_id=3)


async def _limit(client):
    limiter = RateLimiter(client, [Rule("r", SlidingWindow(1, 60), key="user")])
    async with limiter:
        return (await limiter.hit("r", user=7)).allowed


async def _cache(client):
    async with Cache(client, timeout=2.0) as cache:
        found = await cache.get("market:1")
        await cache.set("market:1", "v")
        return found is None


async def _queue(client):
    return await Queue(client, "q", int).enqueue(7, 1, dedup_id="once") is not None


async def _sessions(client):
    sessions = Sessions(client)
    found = await sessions.get(7)
    await sessions.update(7, lambda s: None, create=True)
    return found is None


async def _lock(client):
    async with Locks(client).lock("l", 5) as lock:
        return lock.fence > 0


async def _pubsub(client):
    async with PubSub(client) as pubsub:
        published = await pubsub.publish(LATEST["a"], 1, version=1)
        return published is not None


async def _storage(client):
    storage = aiogram.Storage(client)
    found = await storage.get_data(KEY)
    await storage.update_data(KEY, {"a": 1})
    return found == {}


async def _isolation(client):
    isolation = aiogram.EventIsolation(client)
    async with isolation.lock(KEY):
        return bool(await client.keys())


async def _once(client):
    handled = []

    async def handle(event, _data):
        handled.append(event.update_id)

    once = aiogram.Deduplicate(client)
    for _ in range(2):
        await once(handle, Update(update_id=5), {"bot": SimpleNamespace(id=1)})
    return handled == [5]


async def _processor(client):
    """Have a turn for a user, and find its lock under the prefix."""
    found = []
    processor = ptb.UpdateProcessor(client)
    saved = AsyncMock()
    processor.application = SimpleNamespace(
        bot=SimpleNamespace(id=1), update_persistence=saved
    )
    user = telegram.User(id=7, first_name="Ana", is_bot=False)
    message = telegram.Message(
        message_id=1,
        date=datetime.fromtimestamp(0, UTC),
        chat=telegram.Chat(id=7, type="private"),
        from_user=user,
    )

    async def handle():
        found.extend(await client.keys())

    update = telegram.Update(update_id=5, message=message)
    await processor.do_process_update(update, handle())
    own = client.settings.prefix.encode()
    return any(key.startswith(own) for key in found)


async def _persistence(client):
    persistence = ptb.Persistence(client)
    persistence.bot = SimpleNamespace(id=1)
    found = await persistence.get_user_data()
    await persistence.update_user_data(7, {"a": 1})
    await persistence.flush()
    return found == {}


PARTS = [_limit, _cache, _queue, _sessions, _lock, _pubsub, _storage, _isolation,
         _once, _processor, _persistence]  # fmt: skip


@pytest.mark.integration
@pytest.mark.requirement("X2", "G1")
@pytest.mark.parametrize("use", PARTS, ids=lambda use: use.__name__.strip("_"))
async def test_two_bots_share_nothing(own, use):
    """The second bot finds nothing of the first, which has its keys for itself."""
    for name in ("one", "two"):
        settings = Settings(url=own.url, prefix=f"{name}:")
        async with Client.from_settings(settings) as client:
            assert await use(client)
    async with Client.from_url(own.url) as client:
        assert {key.partition(b":")[0] for key in await client.keys()} <= {
            b"one",
            b"two",
        }


@pytest.mark.errors
@pytest.mark.requirement("X1")
@pytest.mark.parametrize(
    "part",
    [
        Cache, RateLimiter, PubSub, Locks, Sessions, aiogram.Storage,
        aiogram.EventIsolation, aiogram.Deduplicate, ptb.Persistence,
        ptb.UpdateProcessor,
        lambda url: Queue(url, "q", int),
    ],
)  # fmt: skip
def test_a_url_in_place_of_a_client_says_what_to_give(part):
    """One sentence that names the argument and the right form, without the URL."""
    with pytest.raises(SettingsError) as caught:
        part("redis://:CANARY@h")
    assert str(caught.value) == (
        "client must be an oddswire.Client, not a URL or another text: "
        "give Client.from_url(url)"
    )


@pytest.mark.basic
def test_overrides_are_the_fields_of_settings():
    """The keywords that a type checker knows are the fields, with their types."""
    from typing import get_type_hints

    from oddswire.settings import Overrides

    fields = get_type_hints(Settings)
    fields.pop("notices")
    assert get_type_hints(Overrides) == {
        field.name: fields[field.name]
        for field in msgspec.structs.fields(oddswire.Settings)
        if field.name != "notices"
    }
