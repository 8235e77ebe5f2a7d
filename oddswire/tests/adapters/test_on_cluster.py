"""Conversations and updates of aiogram on a cluster: each is in one slot."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiogram import Dispatcher
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage

from oddswire import Client
from oddswire.adapters.aiogram import Deduplicate, EventIsolation, Storage
from oddswire.adapters.ptb import Persistence
from oddswire.embedded import EmbeddedCluster

KEYS = [StorageKey(bot_id=42, chat_id=-n, user_id=n) for n in range(1, 31)]


@pytest.mark.integration
@pytest.mark.requirement("C16", "S9")
async def test_conversations_and_updates_on_three_primaries(bot_of, update_of):
    """Conversations of all nodes, those that RedisStorage left, isolation, updates."""
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        Client.from_url(cluster.cluster_url) as client,
    ):
        # RedisStorage has state and data of a conversation in different slots.
        left = RedisStorage(client)
        for key in KEYS[:10]:
            await left.set_state(key, "left")
            await left.set_data(key, {"n": key.user_id})
        storage = Storage(client, legacy_prefix="fsm")
        for key in KEYS[10:]:
            await storage.replace(key, "ours", {"n": key.user_id})
        for key in KEYS:
            await storage.update_data(key, {"more": 1})
            expected = "left" if key in KEYS[:10] else "ours"
            assert await storage.get_state(key) == expected
            assert await storage.get_data(key) == {"n": key.user_id, "more": 1}
            await storage.clear(key)
            assert await storage.get_data(key) == {}
        sizes = [await node.dbsize() for node in await client.primaries()]
        assert all(sizes)

        isolation = EventIsolation(client)
        inside = 0

        async def work():
            nonlocal inside
            async with isolation.lock(KEYS[0]):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*[work() for _ in range(10)])

        dispatcher, handled = Dispatcher(), []
        dispatcher.update.outer_middleware(Deduplicate(client, deadline=5.0))

        @dispatcher.message()
        async def note(message):
            handled.append(message.message_id)

        for number in (*range(20), *range(20)):
            await dispatcher.feed_update(bot_of(42), update_of(number))
        assert handled == list(range(20))


@pytest.mark.integration
@pytest.mark.requirement("C16", "S9")
async def test_what_ptb_keeps_is_found_on_three_primaries():
    """Users of all nodes are written, found by another process, and dropped."""
    async with (
        EmbeddedCluster(primaries=3) as cluster,
        Client.from_url(cluster.cluster_url) as client,
    ):
        first = Persistence(client, preload=True)
        first.bot = SimpleNamespace(id=42)
        for user in range(1, 31):
            await first.update_user_data(user, {"n": user})
        await first.flush()
        await first.drop_user_data(1)
        await first.flush()
        other = Persistence(client, preload=True)
        other.bot = first.bot
        found = await other.get_user_data()
        assert found == {user: {"n": user} for user in range(2, 31)}
