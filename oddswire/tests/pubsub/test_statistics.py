"""Every number is compared with what truly happened."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client
from oddswire.pubsub import Delivery, Gap, PubSub, Topic
from support import eventually

TICKS = Topic("ticks", int)
PRICES = Topic("prices", int, delivery=Delivery.LATEST)
EVENTS = Topic("events", int, delivery=Delivery.LOG)

pytestmark = [pytest.mark.integration, pytest.mark.requirement("P6")]


async def test_published_delivered_and_depth(pubsub, take):
    """Publishes and deliveries are counted once each, by topic, and what waits is."""
    async with pubsub.subscribe(TICKS) as one, pubsub.subscribe(TICKS["a"]) as other:
        for n in range(30):
            await pubsub.publish(TICKS["a" if n % 3 else "b"], n)
        await eventually(lambda: one.depth == other.depth == 30)
        await take(one, 30)
        await take(other, 20)
        counts = pubsub.stats().topics["ticks"]
        assert (counts.published, counts.delivered) == (30, 50)
        assert counts.subscriptions == 2
        assert counts.depth == one.depth + other.depth == 0
        assert counts.lag.count == 50
        assert 0 <= counts.lag.min <= counts.lag.max < 5
        assert counts.gaps == {}
    assert pubsub.stats().topics["ticks"].subscriptions == 0


async def test_dropped_and_gaps_agree(pubsub):
    """Dropped, delivered and the gap's count add up to what was published."""
    events = []
    async with pubsub.subscribe(TICKS, queue=16) as sub:
        for burst in range(4):
            for n in range(40):
                await pubsub.publish(TICKS, burst * 40 + n)
            last = burst * 40 + 39
            while not events or getattr(events[-1], "value", None) != last:
                async with asyncio.timeout(5):
                    events.append(await anext(sub))
        counts = pubsub.stats().topics["ticks"]
    gaps = [each for each in events if isinstance(each, Gap)]
    assert counts.published == 160
    assert counts.delivered == len(events) - len(gaps) == 160 - counts.dropped
    assert sum(gap.lost for gap in gaps) == counts.dropped
    assert counts.gaps == {"overflow": len(gaps)}


async def test_conflated_and_outdated(pubsub, take):
    """A value that was replaced unread and a version that was refused are counted."""
    async with pubsub.subscribe(PRICES) as sub:
        for version in range(1, 11):
            await pubsub.publish(PRICES["m"], version, version=version)
        for version in (3, 10):
            await pubsub.publish(PRICES["m"], 0, version=version)
        await eventually(lambda: pubsub.stats().topics["prices"].conflated == 9)
        (event,) = await take(sub, 1)
        counts = pubsub.stats().topics["prices"]
    assert event.value == 10
    assert (counts.published, counts.outdated, counts.delivered) == (10, 2, 1)


async def test_duplicates_recoveries_and_gaps(own, opened, take):
    """Duplicates at the publisher, recoveries and gaps by reason at the reader."""
    async with opened(own.url, check_every=60) as pubsub:
        async with pubsub.subscribe(EVENTS, queue=5) as sub:
            for n in range(20):
                await pubsub.publish(EVENTS, n, dedup_id=f"id:{n % 15}")
            await take(sub, 15)
            await pubsub.client.flushall()
            await pubsub.publish(EVENTS, 100)
            await take(sub, 2)
            counts = pubsub.stats().topics["events"]
        assert counts.published == 16
        assert counts.duplicates == 5
        assert counts.delivered == 16
        assert counts.gaps == {"reset": 1}
        # Overflowed once, lost the step once.
        assert counts.recoveries == 2
        assert counts.recovered >= 10
        assert pubsub.stats().connects == 1


async def test_lag_is_the_clocks_difference(server, prefix, take):
    """The lag is our clock minus the server's time of the publish."""

    class Ahead:
        def now(self):
            return at + 7.0

    async with Client.from_url(server.url) as client:
        at = (await client.time())[0]
        async with (
            PubSub(client, prefix=prefix, clock=Ahead()) as pubsub,
            pubsub.subscribe(EVENTS) as sub,
        ):
            await pubsub.publish(EVENTS, 1)
            await take(sub, 1)
            lag = pubsub.stats().topics["events"].lag
    assert 4.0 <= lag.max <= 8.0
