from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from oddsbot.polymarket import MarketResolved
from oddsbot.watch import RESOLUTIONS, Resolutions
from oddswire import Client, EmbeddedServer
from oddswire.clock import ManualClock, SystemClock
from oddswire.pubsub import PubSub

YES = MarketResolved("0x1", 1_700_000_000_000, "11", "Yes", ("11", "12"), ("Yes", "No"))
NO = MarketResolved("0x2", 1_700_000_000_001, "22", "No")


@asynccontextmanager
async def running(resolutions: Resolutions):
    """Run it in a task for the length of a block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(resolutions.run())
        yield
        task.cancel()


@pytest.mark.integration
@pytest.mark.requirement("P4")
async def test_each_resolution_is_published_once(server, prefix):
    """However often the feed tells of it, each one is in the log once, in order."""
    async with (
        Client.from_url(server.url) as client,
        PubSub(client, prefix=prefix) as pubsub,
        pubsub.subscribe(RESOLUTIONS) as sub,
    ):
        resolutions = Resolutions(pubsub, SystemClock())
        async with running(resolutions), asyncio.timeout(5):
            for event in (YES, YES, NO, YES, NO):
                resolutions.put(event)
            got = [await anext(sub), await anext(sub)]
            # A subscriber may have it before its publisher hears so.
            await resolutions.wait_published()
        assert [each.value for each in got] == [YES, NO]
        assert [each.key for each in got] == ["0x1", "0x2"]
        assert resolutions.published == len(await pubsub.history(RESOLUTIONS)) == 2


@pytest.mark.errors
@pytest.mark.requirement("P4")
async def test_a_resolution_waits_for_redis():
    """One that is found while the server is down is published when it is back."""
    clock = ManualClock()
    async with (
        EmbeddedServer() as server,
        Client.from_url(server.url, command_timeout=0.2) as client,
        Client.from_url(server.url) as reader,
        PubSub(client) as pubsub,
        PubSub(reader) as other,
        asyncio.TaskGroup() as tasks,
    ):
        resolutions = Resolutions(pubsub, clock)
        async with running(resolutions):
            server.kill()
            await server.wait_exit()
            resolutions.put(MarketResolved("no key", 1))
            resolutions.put(YES)
            await clock.wait_sleeping()
            await server.restart()
            await reader.ping()
            # Not the count: a reply that came too late has it published already.
            published = tasks.create_task(resolutions.wait_published())
            async with asyncio.timeout(30):
                while not published.done():
                    await clock.advance(0.5)
                    await asyncio.sleep(0.01)
        (kept,) = await other.history(RESOLUTIONS)
        assert kept.value == YES
        assert resolutions.refused == 1
