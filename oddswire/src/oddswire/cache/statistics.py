"""The counters of the cache."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import msgspec

from oddswire.counters import Histogram, HistogramSnapshot


@dataclass(slots=True)
class CacheCounters:
    """Plain counters of one namespace; `CacheStats` says what they mean."""

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    stale: int = 0
    stale_on_error: int = 0
    loads: int = 0
    load_errors: int = 0
    load_timeouts: int = 0
    refreshes: int = 0
    shared: int = 0
    waits: int = 0
    fenced: int = 0
    corrupt: int = 0
    bypassed: int = 0
    writes: int = 0
    bytes_written: int = 0
    invalidations: int = 0
    invalidated: int = 0
    load_time: Histogram = field(default_factory=Histogram)


_SUMMED = [each.name for each in fields(CacheCounters) if each.name != "load_time"]


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the cache was made.

    A lookup of a key counts once, as a hit of one tier or as a miss.

    Attributes:
        l1_hits: Served from this process.
        l2_hits: Served from Redis.
        misses: In neither tier.
        stale: Hits that were past their time and within their stale window.
        stale_on_error: Of these, served because loading failed.
        loads: Loaders that were called.
        load_errors: Of these, that raised.
        load_timeouts: Callers that gave up waiting for a load.
        refreshes: Loads begun in the background.
        shared: Callers that waited for a load that was under way in this process.
        waits: Loads that waited for another process.
        fenced: Loaded values that were not stored: invalidated, or older, meanwhile.
        corrupt: Entries that could not be read; they count as missing.
        bypassed: Loads made without Redis, which could not be reached.
        writes: Entries stored.
        bytes_written: Their bytes.
        invalidations: Keys that this process invalidated.
        invalidated: Messages of the server that an entry held here has changed.
        load_time: How long loaders took.
        l1_entries: Entries in memory, of all namespaces.
        l1_bytes: Bytes that they count for.
        l1_evicted: Entries that memory evicted.
        l2_evicted: Entries that this process removed from Redis to keep `max_size`.
            A removal whose answer was lost is not counted.
        coherence: ``"tracking"``; ``"pubsub"``: the server refuses CLIENT TRACKING or
            failed the test of it, and processes publish what they write (the weaker
            bound is in guides/cache.md); ``"off"``: nothing is kept in this process.
        generations: How often all of memory was dropped: the connection was lost, or
            the server was flushed.
    """

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    stale: int = 0
    stale_on_error: int = 0
    loads: int = 0
    load_errors: int = 0
    load_timeouts: int = 0
    refreshes: int = 0
    shared: int = 0
    waits: int = 0
    fenced: int = 0
    corrupt: int = 0
    bypassed: int = 0
    writes: int = 0
    bytes_written: int = 0
    invalidations: int = 0
    invalidated: int = 0
    load_time: HistogramSnapshot
    l1_entries: int = 0
    l1_bytes: int = 0
    l1_evicted: int = 0
    l2_evicted: int = 0
    coherence: str = "tracking"
    generations: int = 0

    @property
    def hit_ratio(self) -> float | None:
        """Hits of both tiers / lookups; None before the first."""
        hits = self.l1_hits + self.l2_hits
        return hits / (hits + self.misses) if hits + self.misses else None


def total(counters: list[CacheCounters], **others: int | str) -> CacheStats:
    """Return the sum of the namespaces."""
    load_time = Histogram().snapshot()
    for each in counters:
        load_time = load_time.merge(each.load_time.snapshot())
    sums = {name: sum(getattr(each, name) for each in counters) for name in _SUMMED}
    return CacheStats(load_time=load_time, **sums, **others)  # type: ignore[arg-type]
