from __future__ import annotations

import asyncio

import msgspec
import pytest

import oddswire
from oddswire.cache import Namespace
from oddswire.clock import ManualClock, SystemClock
from oddswire.errors import OddswireError
from oddswire.events import (
    CircuitClosed,
    CircuitOpened,
    Degraded,
    Disconnected,
    Events,
    Ready,
    Restored,
)
from oddswire.metrics import Journal, Metrics, Snapshot
from oddswire.pubsub import Topic
from oddswire.queue import QueueKey
from oddswire.ratelimit import Rule, SlidingWindow
from support import loaded_by
from support.hooks import drop_connection

RULES = [Rule("user", SlidingWindow(2, 60.0), key="user")]
PRICES = Topic("prices", int)
ALERTS = QueueKey("alerts", dict)


@pytest.fixture
async def wire(server, prefix):
    """A wire with every part, on the server that the whole run shares."""
    async with oddswire.connect(
        url=server.url,
        prefix=prefix,
        rules=RULES,
        topics=[PRICES],
        queues=[ALERTS],
        namespaces=[Namespace(name="market")],
    ) as wire:
        yield wire


async def use(wire):
    """Use every part, each a known number of times."""
    for _ in range(5):
        await wire.client.get("nothing")
    for _ in range(3):
        await wire.cache.get_or_set("market:1", lambda _: 64)
    for _ in range(4):
        await wire.limiter.hit("user", user=1)
    async with wire.pubsub.subscribe(PRICES) as subscription:
        await wire.pubsub.publish(PRICES, 64)
        await anext(subscription)
    async with wire.lock("one", ttl=10.0):
        pass
    await wire.sessions.update(7, lambda _: None, create=True)
    await wire.queues[ALERTS].enqueue(7, {"text": "64"})


@pytest.mark.integration
@pytest.mark.requirement("C10", "R6", "P6")
async def test_a_snapshot_has_what_every_part_was_counted_to_do(wire):
    """The numbers of a snapshot are those of the calls that were made."""
    await use(wire)
    seen = wire.metrics.snapshot()

    assert seen.client.calls["GET"] >= 5
    assert seen.client.latency.histogram.count == seen.client.latency.count
    market = seen.namespaces["market"]
    assert (market.misses, market.l1_hits, market.loads) == (1, 2, 1)
    user = seen.limiter.rules["user"]
    assert (user.admitted, user.denied) == (2, 2)
    prices = seen.pubsub.topics["prices"]
    assert (prices.published, prices.delivered) == (1, 1)
    assert seen.locks.acquired == 1
    assert seen.queues["alerts"].enqueued == 1


@pytest.mark.advanced
@pytest.mark.requirement("C10")
async def test_what_redis_knows_is_of_the_last_sample(wire):
    """A snapshot asks nobody; the counts of all processes are of the last sample."""
    await use(wire)
    before = wire.metrics.snapshot()
    assert before.sample is None
    again = wire.metrics.snapshot()
    assert again.client.total == before.client.total

    await wire.metrics.sample()
    sample = wire.metrics.snapshot().sample
    assert sample.sessions.total == 1
    assert (sample.queues["alerts"].depth, sample.queues["alerts"].enqueued) == (1, 1)
    assert sample.age >= 0.0


@pytest.mark.advanced
@pytest.mark.requirement("C10")
async def test_a_sample_has_the_distance_of_the_clocks(server, prefix):
    """A server whose clock is an hour behind ours has a skew of minus an hour."""
    clock = ManualClock(SystemClock().now() + 3600.0)
    async with oddswire.connect(url=server.url, prefix=prefix) as wire:
        metrics = Metrics(wire.client, clock=clock)
        await metrics.sample()
        assert metrics.snapshot().sample.clock_skew == pytest.approx(-3600.0, abs=5.0)
        await wire.metrics.sample()
        assert abs(wire.metrics.snapshot().sample.clock_skew) < 5.0


@pytest.mark.advanced
@pytest.mark.requirement("C10")
async def test_attempts_made_again_are_counted_by_their_reason(own):
    """A read that outlasts a lost connection counts one retry, and no failure."""
    async with oddswire.connect(url=own.url, command_timeout=5.0) as wire:
        await wire.client.get("k")
        before = wire.metrics.snapshot().client
        read = asyncio.Task(wire.client.get("k"), name="read")
        await asyncio.sleep(0)  # it is sent, and its reply cannot have been read
        drop_connection(wire.client)
        assert await read is None
        after = wire.metrics.snapshot().client
    assert before.retries == {}
    assert after.retries == {"ConnectionLost": 1}
    assert after.failures == before.failures


@pytest.mark.errors
@pytest.mark.requirement("C10")
async def test_a_sample_that_fails_leaves_the_one_before(own):
    """Without Redis the last sample stays and grows older, and the failure counts."""
    async with oddswire.connect(
        url=own.url, command_timeout=2.0, retries=0, queues=[ALERTS]
    ) as wire:
        await wire.metrics.sample()
        own.kill()
        with pytest.raises(OddswireError):
            await wire.metrics.sample()
        seen = wire.metrics.snapshot()
        assert (seen.sample_failures, seen.sample.sessions.total) == (1, 0)
        assert ("command", "disconnected") in seen.degraded


@pytest.mark.basic
@pytest.mark.requirement("C10")
async def test_a_snapshot_is_plain_data(wire):
    """A snapshot is JSON and back the same."""
    await use(wire)
    await wire.metrics.sample()
    seen = wire.metrics.snapshot()
    encoded = msgspec.json.encode(seen)
    assert msgspec.json.encode(msgspec.json.decode(encoded, type=Snapshot)) == encoded


@pytest.mark.basic
def test_the_journal_follows_an_outage_from_its_beginning_to_its_end():
    """Each change is an entry; what lasts is an incident until it ends."""
    events, clock = Events(), ManualClock()
    journal = Journal(events, clock)
    events.emit(Ready(connection="command", took=0.1))
    events.emit(Disconnected(connection="command", reason="10.0.0.7:6379 password"))
    events.emit(CircuitOpened(connection="command", attempts=10, reason="10.0.0.7"))
    events.emit(Degraded(part="topic:of 42", mode="waiting", reason="10.0.0.7"))

    assert set(journal.degraded) == {
        ("command", "disconnected"),
        ("command", "circuit open"),
        ("topic", "waiting"),
    }
    asyncio.run(clock.advance(3.0))
    events.emit(CircuitClosed(connection="command"))
    events.emit(Ready(connection="command", took=0.1, outage=3.0))
    events.emit(Restored(part="topic:of 42", mode="waiting", outage=3.0))
    events.emit(Disconnected(connection="command", reason="bye", closed=True))

    assert journal.degraded == ()
    assert {each.seconds for each in journal.incidents} == {3.0}
    assert journal.lost == {"command": 1}
    assert journal.counts["Ready"] == 2
    said = " ".join(f"{each.subject} {each.text}" for each in journal.entries)
    assert "10.0.0.7" not in said
    assert "42" not in said
    assert len(journal.entries) == 7


@pytest.mark.performance
@pytest.mark.requirement("C10")
def test_no_exporter_is_imported_unless_it_is_asked_for():
    """A wire imports neither prometheus_client nor OpenTelemetry nor aiohttp."""
    # redis-py imports OpenTelemetry by itself where that is installed.
    loaded = set(loaded_by("oddswire.wire")) - set(loaded_by("redis.asyncio"))
    assert "oddswire.metrics" in loaded
    strangers = ("prometheus_client", "opentelemetry", "aiohttp", "jinja2")
    assert not [name for name in loaded if name.startswith(strangers)]
