"""Metrics for Prometheus. Extra ``prometheus`` (prometheus_client).

`Collector` reads a snapshot when it is scraped: without input or output, and at no cost
between two scrapes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as _Collector

from oddswire.counters import HistogramSnapshot
from oddswire.metrics._reader import SnapshotReader
from oddswire.metrics.families import FAMILIES
from oddswire.metrics.labels import LabelLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.metrics.families import Family, Value
    from oddswire.metrics.metrics import Metrics


class Collector(_Collector):
    """Every family of `oddswire.metrics.families`, at the moment of a scrape.

    It may be scraped in another thread, such as one of prometheus_client's servers:
    made in the coroutine that opened the metrics, it reads them in that loop's thread.

    Args:
        metrics: Of the process.
        series: Most series of one family; what is above is added up under ``other``.

    Example:
        >>> prometheus_client.REGISTRY.register(Collector(wire.metrics))
    """

    def __init__(self, metrics: Metrics, *, series: int = 200) -> None:
        self._reader = SnapshotReader(metrics)
        self._limit = LabelLimit(series)

    def describe(self) -> Iterator[Metric]:
        """Return the families without values, so that registering reads nothing."""
        for family in FAMILIES:
            yield _empty(family)

    def collect(self) -> Iterator[Metric]:
        """Return the families with their values."""
        snapshot = self._reader.read()
        for family in FAMILIES:
            metric = _empty(family)
            for labels, value in self._limit.rows(family.name, family.read(snapshot)):
                _add(metric, labels, value)
            yield metric


def exposition(collector: Collector) -> bytes:
    """Return what a scrape of this collector alone answers, in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _empty(family: Family) -> Metric:
    match family.kind:
        case "counter":
            return CounterMetricFamily(family.name, family.help, labels=family.labels)
        case "gauge":
            return GaugeMetricFamily(family.name, family.help, labels=family.labels)
        case "histogram":
            return HistogramMetricFamily(family.name, family.help, labels=family.labels)


def _add(metric: Metric, labels: tuple[str, ...], value: Value) -> None:
    if isinstance(metric, HistogramMetricFamily):
        assert isinstance(value, HistogramSnapshot)  # noqa: S101 - of a histogram's family
        # Prometheus' buckets contain the smaller ones.
        bounds = (*(repr(bound) for bound in value.bounds), "+Inf")
        buckets = zip(bounds, accumulate(value.counts), strict=True)
        metric.add_metric(labels, buckets=list(buckets), sum_value=value.sum)
    elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
        assert not isinstance(value, HistogramSnapshot)  # noqa: S101 - of no histogram's family
        metric.add_metric(labels, value)
