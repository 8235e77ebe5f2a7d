"""Metrics for OpenTelemetry. Extra ``otel`` (opentelemetry-api).

`observe` makes observable instruments, which are read when the SDK collects and cost
nothing in between. Those that the semantic conventions name have their names; the
others are the families of `oddswire.metrics.families`, with dots.
"""

from __future__ import annotations

import time
from itertools import accumulate
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation, get_meter_provider

from oddswire.counters import HistogramSnapshot
from oddswire.metrics._reader import SnapshotReader
from oddswire.metrics.families import FAMILIES
from oddswire.metrics.labels import LabelLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

    from oddswire.metrics.families import Family, Value
    from oddswire.metrics.metrics import Metrics
    from oddswire.metrics.snapshot import Snapshot

# A collection reads every instrument, one after the other: all of one snapshot.
_HOLD = 0.1


def observe(
    metrics: Metrics, provider: MeterProvider | None = None, *, pool: str = "oddswire"
) -> None:
    """Make an instrument of each family, and those of ``db.client.connection``.

    Called in the coroutine that opened the metrics; the SDK may collect in any thread.
    OpenTelemetry has no observable histogram: one is three counters, with ``.bucket``
    (attribute ``le``), ``.sum`` and ``.count`` behind its name.

    Args:
        metrics: Of the process.
        provider: Default: the global one.
        pool: ``db.client.connection.pool.name``.
    """
    meter = (provider or get_meter_provider()).get_meter("oddswire")
    observer = _Observer(metrics)
    for family in FAMILIES:
        if family.kind == "histogram":
            observer.histogram(meter, family)
        else:
            observer.number(meter, family)
    observer.connections(meter, pool)


class _Observer:
    """Gives the instruments their values."""

    def __init__(self, metrics: Metrics) -> None:
        self._reader = SnapshotReader(metrics)
        self._limit = LabelLimit()
        self._last: tuple[float, Snapshot] | None = None

    def number(self, meter: Meter, family: Family) -> None:
        name = _dotted(family.name)
        make = (
            meter.create_observable_counter
            if family.kind == "counter"
            else meter.create_observable_gauge
        )

        def values(_: CallbackOptions) -> Iterator[Observation]:
            for labels, value in self._rows(family):
                assert not isinstance(value, HistogramSnapshot)  # noqa: S101 - of no histogram's family
                yield Observation(value, labels)

        make(name, callbacks=[values], description=family.help)

    def histogram(self, meter: Meter, family: Family) -> None:
        name = _dotted(family.name)

        def observed(
            read: Callable[[HistogramSnapshot], Iterable[tuple[dict[str, str], float]]],
        ) -> Callable[[CallbackOptions], Iterator[Observation]]:
            def values(_: CallbackOptions) -> Iterator[Observation]:
                for labels, value in self._rows(family):
                    assert isinstance(value, HistogramSnapshot)  # noqa: S101 - of a histogram's family
                    for more, number in read(value):
                        yield Observation(number, {**labels, **more})

            return values

        for suffix, unit, read in (
            ("bucket", "1", _buckets),
            ("sum", "s", lambda seen: [({}, seen.sum)]),
            ("count", "1", lambda seen: [({}, seen.count)]),
        ):
            meter.create_observable_counter(
                f"{name}.{suffix}",
                callbacks=[observed(read)],
                unit=unit,
                description=family.help,
            )

    def connections(self, meter: Meter, pool: str) -> None:
        """Make those of the semantic conventions, which are in development there."""
        ours = {"db.client.connection.pool.name": pool}

        def count(_: CallbackOptions) -> Iterator[Observation]:
            seen = self._snapshot().client.connections
            for state, number in (
                ("used", seen.shared + seen.leased),
                ("idle", seen.idle),
            ):
                yield Observation(number, {**ours, "db.client.connection.state": state})

        def waiting(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(self._snapshot().client.connections.waiting, ours)

        meter.create_observable_up_down_counter(
            "db.client.connection.count", callbacks=[count], unit="{connection}"
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.pending_requests",
            callbacks=[waiting],
            unit="{request}",
        )

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        if self._last is None or now - self._last[0] > _HOLD:
            self._last = (now, self._reader.read())
        return self._last[1]

    def _rows(self, family: Family) -> Iterator[tuple[dict[str, str], Value]]:
        rows = self._limit.rows(family.name, family.read(self._snapshot()))
        for values, value in rows:
            yield dict(zip(family.labels, values, strict=True)), value


def _dotted(name: str) -> str:
    """Return ``oddswire.cache.requests`` of ``oddswire_cache_requests_total``."""
    stem = name.removesuffix("_total").removesuffix("_seconds")
    first, _, rest = stem.partition("_")
    part, _, what = rest.partition("_")
    return ".".join(each for each in (first, part, what) if each)


def _buckets(seen: HistogramSnapshot) -> Iterator[tuple[dict[str, str], float]]:
    bounds = (*(repr(bound) for bound in seen.bounds), "+Inf")
    for bound, count in zip(bounds, accumulate(seen.counts), strict=True):
        yield {"le": bound}, count
