from __future__ import annotations

import asyncio
import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import oddswire
from oddswire import Client
from oddswire.metrics import FAMILIES, Metrics
from oddswire.metrics.prometheus import Collector, exposition

DOCS = Path(__file__).parents[3] / "docs"


def scraped(metrics):
    """Return every sample of a scrape, by name and labels."""
    text = exposition(Collector(metrics)).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.integration
@pytest.mark.requirement("C10", "O1")
async def test_a_scrape_has_the_numbers_of_the_snapshot(server, prefix):
    """What Prometheus reads is what was counted, buckets one in another."""
    async with Client.from_url(server.url) as client:
        metrics = Metrics(client)
        for _ in range(7):
            await client.get("nothing")
        found = scraped(metrics)
        stats = client.stats()

    name = "oddswire_command_duration_seconds"
    assert found["oddswire_commands_total", "GET"] == 7
    assert found[f"{name}_bucket", "+Inf"] == found[f"{name}_count",]
    assert found[f"{name}_count",] == stats.latency.count
    buckets = [value for key, value in found.items() if key[0] == f"{name}_bucket"]
    assert buckets == sorted(buckets)
    assert found[f"{name}_sum",] == pytest.approx(
        stats.latency.mean * stats.latency.count
    )


@pytest.mark.basic
@pytest.mark.requirement("X6")
async def test_a_scrape_asks_redis_nothing(own):
    """A scrape is answered from memory: no command, and as well while Redis is away."""
    async with Client.from_url(own.url) as client:
        metrics = Metrics(client)
        await client.ping()
        before = scraped(metrics)
        for _ in range(20):
            assert scraped(metrics).keys() == before.keys()
        assert client.stats().total == 1
        own.kill()
        assert scraped(metrics)["oddswire_commands_total", "PING"] == 1


@pytest.mark.errors
@pytest.mark.requirement("X6", "X3")
async def test_names_that_grow_without_end_do_not_grow_the_series(server):
    """Above the limit, further names count under one label, and none is lost."""
    async with Client.from_url(server.url) as client:
        collector = Collector(Metrics(client), series=3)
        for number in range(20):
            for _ in range(number + 1):
                with pytest.raises(oddswire.OddswireError):
                    await client.execute_command(f'NO"{number}\nX{{}}')
        rows = [
            sample
            for family in text_string_to_metric_families(exposition(collector).decode())
            if family.name == "oddswire_commands"
            for sample in family.samples
        ]
    assert len(rows) == 4
    assert sum(row.value for row in rows) == 210
    assert rows[-1].labels == {"command": "other"}


@pytest.mark.basic
async def test_registering_reads_nothing(server):
    """The collector can be registered, and a second one is refused by name."""
    async with Client.from_url(server.url) as client:
        registry = CollectorRegistry(auto_describe=True)
        registry.register(Collector(Metrics(client)))
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(Collector(Metrics(client)))


@pytest.mark.errors
def test_a_collector_made_outside_the_loop_says_what_to_do(server):
    """Made where no loop runs, it refuses another thread instead of a torn read."""

    async def metrics():
        async with Client.from_url(server.url) as client:
            return Metrics(client)

    collector = Collector(asyncio.run(metrics()))
    assert exposition(collector)
    with ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="coroutine"):
        pool.submit(exposition, collector).result()


@pytest.mark.basic
@pytest.mark.requirement("O1")
def test_the_reference_lists_every_family():
    """The reference has each name with its kind, labels and meaning, and no other."""
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    lines: list[str] = []
    conf.describe_families(None, "data", "FAMILIES", FAMILIES, None, lines)
    rows = re.findall(
        r"^- ``(\w+)`` \((\w+)(.*)\): (.+)$", "\n".join(lines), re.MULTILINE
    )
    assert rows == [
        (
            each.name,
            each.kind,
            "".join(f", ``{label}``" for label in each.labels),
            each.help,
        )
        for each in FAMILIES
    ]
    page = (DOCS / "reference" / "api" / "oddswire.metrics.md").read_text()
    assert ".. autodata:: oddswire.metrics.FAMILIES" in page
    assert len({each.name for each in FAMILIES}) == len(FAMILIES)
    for each in FAMILIES:
        assert each.name.endswith("_total") == (each.kind == "counter")
