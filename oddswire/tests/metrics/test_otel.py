from __future__ import annotations

import asyncio
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import db_metrics, messaging_metrics

import oddswire
from oddswire import Client
from oddswire.errors import OddswireError, Undeliverable
from oddswire.metrics import FAMILIES, Metrics
from oddswire.metrics.otel import observe
from oddswire.metrics.prometheus import Collector, exposition
from oddswire.metrics.tracing import Tracing
from oddswire.queue import QueueKey

ALERTS = QueueKey("alerts", dict)


def collected(reader):
    """Return each point by name and values of its attributes."""
    data = reader.get_metrics_data()
    return {
        (metric.name, *sorted(point.attributes.values())): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


@pytest.mark.integration
@pytest.mark.requirement("C10", "O1")
async def test_the_instruments_have_the_numbers_of_the_snapshot(server):
    """What the SDK collects, in any thread, is what was counted."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with Client.from_url(server.url) as client:
        observe(Metrics(client), provider)
        for _ in range(7):
            await client.get("nothing")
        points = await asyncio.to_thread(collected, reader)
        stats = client.stats()
    provider.shutdown()

    assert points["oddswire.commands", "GET"].value == 7
    name = "oddswire.command.duration"
    assert points[f"{name}.count",].value == stats.latency.count
    assert points[f"{name}.bucket", "+Inf"].value == stats.latency.count
    conventions = db_metrics.DB_CLIENT_CONNECTION_COUNT
    assert points[conventions, "oddswire", "used"].value == 1
    assert (db_metrics.DB_CLIENT_CONNECTION_PENDING_REQUESTS, "oddswire") in points
    assert len({key[0] for key in points}) > 20


class Names:
    """A provider, and its meter, that notes which instruments are made."""

    def __init__(self):
        self.made = []

    def get_meter(self, _):
        """Return the meter."""
        return self

    def __getattr__(self, kind):
        return lambda name, **_: self.made.append((kind, name))


@pytest.mark.basic
async def test_each_family_has_an_instrument_of_its_own(server):
    """No two instruments share a name; each family has one, a histogram three."""
    names = Names()
    async with Client.from_url(server.url) as client:
        observe(Metrics(client), names)
    made = [name for _, name in names.made]
    histograms = sum(family.kind == "histogram" for family in FAMILIES)
    # Two are those of the semantic conventions.
    assert len(made) == len(set(made)) == len(FAMILIES) + 2 * histograms + 2


class Watched(Metrics):
    """Notes the threads in which it was read."""

    def __init__(self, client):
        super().__init__(client)
        self.threads = set()

    def snapshot(self):
        """Return what is counted, and note where."""
        self.threads.add(threading.get_ident())
        return super().snapshot()


@pytest.mark.advanced
@pytest.mark.requirement("C10")
async def test_a_scrape_from_another_thread_reads_in_the_loops_own(server):
    """Counters are read in the thread that counts, whoever exports them."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with Client.from_url(server.url) as client:
        metrics = Watched(client)
        collector = Collector(metrics)
        observe(metrics, provider)
        assert b"oddswire" in await asyncio.to_thread(exposition, collector)
        assert await asyncio.to_thread(collected, reader)
    provider.shutdown()
    assert metrics.threads == {threading.get_ident()}


@pytest.fixture
def traces():
    """Return (tracing, finished spans, reader of the durations)."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    yield Tracing(tracers, meters), spans, reader
    tracers.shutdown()
    meters.shutdown()


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_loads_and_handled_messages_are_spans(server, prefix, traces):
    """A wrapped loader and handler do the same, each within a span of its own."""
    tracing, spans, reader = traces
    stop = asyncio.Event()

    async def handle(message):
        stop.set()
        raise Undeliverable("canary")

    def load(context):
        return 64 if context is not None else 0

    async with oddswire.connect(url=server.url, prefix=prefix, queues=[ALERTS]) as wire:
        queue = wire.queues[ALERTS]
        await queue.enqueue(1, {"text": "canary"})
        await queue.consume(tracing.handler("alerts", handle), stop=stop)
        loader = tracing.loader("market", load)
        assert await wire.cache.get_or_set("market:1", loader) == 64
        assert await wire.cache.get_or_set("market:1", loader) == 64
        assert (await queue.stats()).dead_letters == 1

    handled, loaded = spans.get_finished_spans()
    assert (handled.name, loaded.name) == ("process alerts", "load market")
    assert handled.attributes["error.type"] == "Undeliverable"
    assert handled.attributes["messaging.destination.name"] == "alerts"
    assert not handled.status.is_ok
    assert "canary" not in handled.to_json() + loaded.to_json()
    durations = {key[0] for key in collected(reader)}
    assert durations == {"messaging.process.duration"}
    assert messaging_metrics.MESSAGING_PROCESS_DURATION in durations


@pytest.mark.integration
@pytest.mark.requirement("O1")
async def test_a_call_is_a_span_of_the_conventions_when_it_is_asked_for(server, traces):
    """What is within `call` is a client span and a duration; nothing else is one."""
    tracing, spans, reader = traces
    async with Client.from_url(server.url) as client:
        await client.get("untraced")
        with tracing.call("GET"):
            await client.get("canary")
        with pytest.raises(OddswireError) as caught, tracing.call("INCR", batch=2):
            await client.eval("return redis.error_reply('canary')", 0)
    get, incr = spans.get_finished_spans()
    assert dict(get.attributes) == {
        "db.system.name": "redis",
        "db.operation.name": "GET",
    }
    assert incr.attributes["db.operation.batch.size"] == 2
    assert incr.attributes["error.type"] == type(caught.value).__name__
    assert "canary" not in get.to_json() + incr.to_json()
    assert {key[0] for key in collected(reader)} == {"db.client.operation.duration"}
