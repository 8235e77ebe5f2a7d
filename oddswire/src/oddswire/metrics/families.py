"""The families of metrics: each name, what it means, and how a snapshot has it.

Every exporter, the rules, the dashboard and guides/metrics.md follow this one table.
Values of labels come from closed sets: names in code (namespaces, topics, rules,
queues, classes of errors) and words of this file. None comes from a user, a key or a
server.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from oddswire.counters import HistogramSnapshot
from oddswire.metrics.snapshot import Snapshot

if TYPE_CHECKING:
    from oddswire.cache import CacheStats
    from oddswire.client import ClientStats
    from oddswire.locks import LockStats
    from oddswire.metrics.snapshot import QueueActivity, Sample
    from oddswire.pubsub import TopicStats
    from oddswire.queue import QueueStats
    from oddswire.ratelimit import LimiterStats, RuleCounts
    from oddswire.sessions import SessionStats

Value = int | float | HistogramSnapshot
Row = tuple[tuple[str, ...], Value]
Kind = Literal["counter", "gauge", "histogram"]
P = TypeVar("P")


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: In Prometheus.
        kind: What its values do.
        help: One sentence.
        labels: Names of its labels.
        read: Returns (values of the labels, value) from a snapshot.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    read: Callable[[Snapshot], Iterable[Row]]


def _single(
    name: str,
    kind: Kind,
    text: str,
    part: Callable[[Snapshot], P | None],
    read: Callable[[P], Value],
) -> Family:
    """Return a family of one value, or of none where the process has not the part."""

    def rows(seen: Snapshot) -> Iterator[Row]:
        found = part(seen)
        if found is not None:
            yield (), read(found)

    return Family(name, kind, text, (), rows)


def _process(seen: Snapshot) -> Snapshot:
    return seen


def _client(seen: Snapshot) -> ClientStats:
    return seen.client


def _memory(seen: Snapshot) -> CacheStats | None:
    return seen.cache


def _limiter(seen: Snapshot) -> LimiterStats | None:
    return seen.limiter


def _locks(seen: Snapshot) -> LockStats | None:
    return seen.locks


def _sampled(seen: Snapshot) -> Sample | None:
    return seen.sample


def _sampled_sessions(seen: Snapshot) -> SessionStats | None:
    return None if seen.sample is None else seen.sample.sessions


def _cache(
    name: str,
    kind: Kind,
    text: str,
    read: Callable[[CacheStats], dict[str, int] | Value],
    label: str = "",
) -> Family:
    """Return a family with a value for each namespace, or for each word of each."""

    def rows(seen: Snapshot) -> Iterator[Row]:
        for namespace, stats in seen.namespaces.items():
            found = read(stats)
            if isinstance(found, dict):
                yield from (((namespace, word), each) for word, each in found.items())
            else:
                yield (namespace,), found

    return Family(name, kind, text, ("cache", label) if label else ("cache",), rows)


def _rule(name: str, text: str, read: Callable[[RuleCounts], int]) -> Family:
    def rows(seen: Snapshot) -> Iterator[Row]:
        if seen.limiter is not None:
            for rule, counts in seen.limiter.rules.items():
                yield (rule,), read(counts)

    return Family(name, "counter", text, ("rule",), rows)


def _topic(
    name: str, kind: Kind, text: str, read: Callable[[TopicStats], Value]
) -> Family:
    def rows(seen: Snapshot) -> Iterator[Row]:
        if seen.pubsub is not None:
            for topic, stats in seen.pubsub.topics.items():
                yield (topic,), read(stats)

    return Family(name, kind, text, ("topic",), rows)


def _queue(
    name: str, kind: Kind, text: str, read: Callable[[QueueActivity], Value]
) -> Family:
    def rows(seen: Snapshot) -> Iterator[Row]:
        for queue, activity in seen.queues.items():
            yield (queue,), read(activity)

    return Family(name, kind, text, ("queue",), rows)


def _sampled_queue(
    name: str, kind: Kind, text: str, read: Callable[[QueueStats], Value]
) -> Family:
    def rows(seen: Snapshot) -> Iterator[Row]:
        if seen.sample is not None:
            for queue, stats in seen.sample.queues.items():
                yield (queue,), read(stats)

    return Family(name, kind, text, ("queue",), rows)


def _decisions(seen: Snapshot) -> Iterator[Row]:
    if seen.limiter is not None:
        for rule, counts in seen.limiter.rules.items():
            yield (rule, "admitted"), counts.admitted
            yield (rule, "denied"), counts.denied
            yield (rule, "would_deny"), counts.would_deny


def _connections(seen: Snapshot) -> Iterator[Row]:
    counts = seen.client.connections
    yield ("shared",), counts.shared
    yield ("leased",), counts.leased
    yield ("idle",), counts.idle
    yield ("opening",), counts.opening


def _certificate(seen: Snapshot) -> Iterator[Row]:
    if seen.client.certificate_ends is not None:
        yield (), seen.client.certificate_ends


def _gaps(seen: Snapshot) -> Iterator[Row]:
    if seen.pubsub is not None:
        for topic, stats in seen.pubsub.topics.items():
            yield from (
                ((topic, reason), count) for reason, count in stats.gaps.items()
            )


def _sessions(seen: Snapshot) -> Iterator[Row]:
    if seen.sample is not None and seen.sample.sessions is not None:
        yield ("active",), seen.sample.sessions.active
        yield ("inactive",), seen.sample.sessions.inactive


def _queue_states(seen: Snapshot) -> Iterator[Row]:
    if seen.sample is not None:
        for queue, stats in seen.sample.queues.items():
            yield (queue, "waiting"), stats.waiting
            yield (queue, "delayed"), stats.delayed
            yield (queue, "parked"), stats.parked
            yield (queue, "dead"), stats.dead_letters


def _outcomes(seen: Snapshot) -> Iterator[Row]:
    for queue, activity in seen.queues.items():
        for outcome in ("delivered", "retried", "postponed", "expired", "dead", "lost"):
            yield (queue, outcome), getattr(activity, outcome)


def _requests(stats: CacheStats) -> dict[str, int]:
    return {"l1": stats.l1_hits, "l2": stats.l2_hits, "miss": stats.misses}


def _pairs(counts: dict[str, int]) -> list[Row]:
    return [((name,), count) for name, count in counts.items()]


_build = (platform.python_implementation(), platform.python_version())

FAMILIES: tuple[Family, ...] = (
    Family(
        "oddswire_build_info", "gauge", "1, with the versions as labels.",
        ("version", "python"), lambda seen: [((seen.version, " ".join(_build)), 1)],
    ),
    # --- client
    Family(
        "oddswire_commands_total", "counter", "Calls by command.",
        ("command",), lambda seen: _pairs(seen.client.calls),
    ),
    Family(
        "oddswire_command_errors_total", "counter", "Failed calls by error class.",
        ("error",), lambda seen: _pairs(seen.client.failures),
    ),
    Family(
        "oddswire_command_retries_total", "counter",
        "Further attempts of calls by the error class that was their reason.",
        ("reason",), lambda seen: _pairs(seen.client.retries),
    ),
    Family(
        "oddswire_command_slow_total", "counter",
        "Replies that took longer than slow_above, by command.",
        ("command",), lambda seen: _pairs(seen.client.slow),
    ),
    _single(
        "oddswire_command_duration_seconds", "histogram",
        "From sending to reply, on the command connection.",
        _client, lambda stats: stats.latency.histogram,
    ),
    _single(
        "oddswire_command_timeouts_total", "counter", "Calls whose deadline passed.",
        _client, lambda stats: stats.timeouts,
    ),
    _single(
        "oddswire_command_abandoned_total", "counter",
        "Calls whose caller was cancelled.",
        _client, lambda stats: stats.abandoned,
    ),
    _single(
        "oddswire_commands_in_flight", "gauge",
        "Calls without a reply yet, on the command connection.",
        _client, lambda stats: stats.connections.in_flight,
    ),
    _single(
        "oddswire_commands_in_flight_bytes", "gauge", "Bytes of these calls.",
        _client, lambda stats: stats.connections.in_flight_bytes,
    ),
    _single(
        "oddswire_command_waits_total", "counter",
        "Calls that waited for room on the command connection.",
        _client, lambda stats: stats.waits,
    ),
    _single(
        "oddswire_command_waiting", "gauge",
        "Callers that wait for a connection, or for room on one.",
        _client, lambda stats: stats.connections.waiting,
    ),
    _single(
        "oddswire_socket_writes_total", "counter",
        "Socket writes of the command connection.",
        _client, lambda stats: stats.writes,
    ),
    _single(
        "oddswire_received_bytes_total", "counter", "Bytes read from the server.",
        _client, lambda stats: stats.bytes_in,
    ),
    _single(
        "oddswire_sent_bytes_total", "counter", "Bytes written to the server.",
        _client, lambda stats: stats.bytes_out,
    ),
    Family(
        "oddswire_connections", "gauge",
        "Connections: the shared command connection, and exclusive ones.",
        ("state",), _connections,
    ),
    _single(
        "oddswire_connects_total", "counter",
        "Times that the command connection was connected.",
        _client, lambda stats: stats.connects,
    ),
    Family(
        "oddswire_tls_cert_expiry_timestamp_seconds", "gauge",
        "When the server's certificate ends, in seconds since 1970; only with TLS.",
        (), _certificate,
    ),
    Family(
        "oddswire_connection_losses_total", "counter",
        "Connections that were lost, by their role.",
        ("connection",), lambda seen: _pairs(seen.connections_lost),
    ),
    _single(
        "oddswire_circuit_open", "gauge",
        "1 while calls fail at once, for the server cannot be reached.",
        _client, lambda stats: int(stats.circuit_open),
    ),
    _single(
        "oddswire_event_loop_lag_seconds", "histogram",
        "By how much the event loop came late to a deadline, when it did.",
        _client, lambda stats: stats.loop_lag.histogram,
    ),
    Family(
        "oddswire_state_changes_total", "counter",
        "Changes of state by class: Failover, DataReset, Degraded and others.",
        ("event",), lambda seen: _pairs(seen.events),
    ),
    Family(
        "oddswire_degraded", "gauge",
        "1 for each part that is less than it promises now, and its mode.",
        ("part", "mode"), lambda seen: [(each, 1) for each in seen.degraded],
    ),
    # --- cache
    _cache(
        "oddswire_cache_requests_total", "counter",
        "Lookups by where they were answered: l1, l2, or miss.",
        _requests, "result",
    ),
    _cache(
        "oddswire_cache_stale_total", "counter",
        "Hits past their time and within their stale window.",
        lambda stats: stats.stale,
    ),
    _cache(
        "oddswire_cache_loads_total", "counter", "Loaders that were called.",
        lambda stats: stats.loads,
    ),
    _cache(
        "oddswire_cache_load_errors_total", "counter", "Loaders that raised.",
        lambda stats: stats.load_errors,
    ),
    _cache(
        "oddswire_cache_load_duration_seconds", "histogram", "How long loaders took.",
        lambda stats: stats.load_time,
    ),
    _cache(
        "oddswire_cache_coalesced_total", "counter",
        "Callers that shared a load: in this process, or of another one.",
        lambda stats: {"process": stats.shared, "fleet": stats.waits}, "with",
    ),
    _cache(
        "oddswire_cache_bypassed_total", "counter",
        "Loads made without Redis, which could not be reached.",
        lambda stats: stats.bypassed,
    ),
    _cache(
        "oddswire_cache_corrupt_total", "counter", "Entries that could not be read.",
        lambda stats: stats.corrupt,
    ),
    _cache(
        "oddswire_cache_fenced_total", "counter",
        "Loaded values that were not stored, because they were outdated meanwhile.",
        lambda stats: stats.fenced,
    ),
    _cache(
        "oddswire_cache_writes_total", "counter", "Entries stored in Redis.",
        lambda stats: stats.writes,
    ),
    _cache(
        "oddswire_cache_invalidations_total", "counter",
        "Keys invalidated by this process (own), and held here and changed (server).",
        lambda stats: {"own": stats.invalidations, "server": stats.invalidated},
        "source",
    ),
    _single(
        "oddswire_cache_l1_entries", "gauge", "Entries in this process's memory.",
        _memory, lambda stats: stats.l1_entries,
    ),
    _single(
        "oddswire_cache_l1_bytes", "gauge", "Bytes that these entries count for.",
        _memory, lambda stats: stats.l1_bytes,
    ),
    Family(
        "oddswire_cache_evictions_total", "counter",
        "Entries evicted to keep a size, by tier.", ("tier",),
        lambda seen: []
        if seen.cache is None
        else [(("l1",), seen.cache.l1_evicted), (("l2",), seen.cache.l2_evicted)],
    ),
    _single(
        "oddswire_cache_tracked", "gauge",
        "1 while the server announces changes to this process's memory.",
        _memory, lambda stats: int(stats.coherence == "tracking"),
    ),
    _single(
        "oddswire_cache_generations_total", "counter",
        "Times that all of this process's memory was dropped.",
        _memory, lambda stats: stats.generations,
    ),
    # --- sessions
    Family(
        "oddswire_sessions", "gauge", "Sessions of all processes, at the last sample.",
        ("state",), _sessions,
    ),
    _single(
        "oddswire_sessions_created_total", "counter",
        "Sessions ever created, at the last sample.",
        _sampled_sessions, lambda stats: stats.created,
    ),
    _single(
        "oddswire_sample_age_seconds", "gauge",
        "Age of what Redis was asked for: sessions and queues of all processes.",
        _sampled, lambda stats: stats.age,
    ),
    _single(
        "oddswire_server_clock_skew_seconds", "gauge",
        "By how much the server's clock is ahead of ours; negative: behind.",
        _sampled, lambda stats: stats.clock_skew,
    ),
    _single(
        "oddswire_sample_failures_total", "counter",
        "Samples that failed, for Redis could not be asked.",
        _process, lambda seen: seen.sample_failures,
    ),
    # --- limiter
    Family(
        "oddswire_ratelimit_decisions_total", "counter",
        "Decisions by rule: admitted, denied, would_deny (a shadow).",
        ("rule", "decision"), _decisions,
    ),
    _rule(
        "oddswire_ratelimit_remembered_total",
        "Denials that Redis was not asked for.",
        lambda counts: counts.remembered,
    ),
    _rule(
        "oddswire_ratelimit_degraded_total",
        "Decisions made while Redis was down.",
        lambda counts: counts.degraded,
    ),
    _rule(
        "oddswire_ratelimit_waited_total",
        "Calls of acquire that waited.",
        lambda counts: counts.waited,
    ),
    _single(
        "oddswire_ratelimit_waiting", "gauge", "Calls of acquire that wait now.",
        _limiter, lambda stats: stats.waiting,
    ),
    _single(
        "oddswire_ratelimit_wait_seconds", "histogram",
        "How long admitted calls waited, of those that had to wait.",
        _limiter, lambda stats: stats.waits,
    ),
    _single(
        "oddswire_ratelimit_redis_down", "gauge",
        "1 while Redis did not answer the limiter's last question.",
        _limiter, lambda stats: int(stats.redis_down),
    ),
    # --- topics
    _topic(
        "oddswire_pubsub_published_total", "counter", "Messages that the server took.",
        lambda stats: stats.published,
    ),
    _topic(
        "oddswire_pubsub_delivered_total", "counter",
        "Messages that subscriptions yielded.",
        lambda stats: stats.delivered,
    ),
    _topic(
        "oddswire_pubsub_dropped_total", "counter",
        "Messages that left a full queue; of VOLATILE lost and announced.",
        lambda stats: stats.dropped,
    ),
    _topic(
        "oddswire_pubsub_conflated_total", "counter",
        "Values that a newer one replaced before they were read.",
        lambda stats: stats.conflated,
    ),
    _topic(
        "oddswire_pubsub_duplicates_total", "counter",
        "Messages that came or were published twice, and passed on once.",
        lambda stats: stats.duplicates,
    ),
    Family(
        "oddswire_pubsub_gaps_total", "counter",
        "Gaps that subscriptions yielded, by reason.",
        ("topic", "reason"), _gaps,
    ),
    _topic(
        "oddswire_pubsub_lag_seconds", "histogram", "From the publish to the delivery.",
        lambda stats: stats.lag,
    ),
    _topic(
        "oddswire_pubsub_depth", "gauge", "Messages that wait in subscriptions now.",
        lambda stats: stats.depth,
    ),
    _topic(
        "oddswire_pubsub_subscriptions", "gauge", "Subscriptions that are open.",
        lambda stats: stats.subscriptions,
    ),
    _topic(
        "oddswire_pubsub_handler_errors_total", "counter",
        "Handlers that raised, hung or were cancelled from within.",
        lambda stats: stats.handler_errors,
    ),
    # --- queues
    _queue(
        "oddswire_queue_enqueued_total", "counter",
        "Messages that this process enqueued.",
        lambda activity: activity.enqueued,
    ),
    Family(
        "oddswire_queue_messages_total", "counter",
        "What this process's handlers did with messages.",
        ("queue", "outcome"), _outcomes,
    ),
    _queue(
        "oddswire_queue_lag_seconds", "histogram",
        "From being due to being handed to a handler.",
        lambda activity: activity.lag,
    ),
    _queue(
        "oddswire_queue_handling_seconds", "histogram", "How long handlers took.",
        lambda activity: activity.handling,
    ),
    Family(
        "oddswire_queue_depth", "gauge",
        "Messages of all processes, at the last sample.",
        ("queue", "state"), _queue_states,
    ),
    _sampled_queue(
        "oddswire_queue_oldest_seconds", "gauge",
        "How long the longest waiting user could have been served, at the last sample.",
        lambda stats: stats.lag,
    ),
    # --- locks
    _single(
        "oddswire_locks_held", "gauge", "Locks that this process holds.",
        _locks, lambda stats: stats.held,
    ),
    _single(
        "oddswire_locks_waiting", "gauge", "Tasks that wait for a lock.",
        _locks, lambda stats: stats.waiting,
    ),
    _single(
        "oddswire_locks_acquired_total", "counter", "Locks that were taken.",
        _locks, lambda stats: stats.acquired,
    ),
    _single(
        "oddswire_locks_contended_total", "counter",
        "Locks that another process had first.",
        _locks, lambda stats: stats.contended,
    ),
    _single(
        "oddswire_locks_lost_total", "counter",
        "Leases that ended before their block did.",
        _locks, lambda stats: stats.lost,
    ),
)  # fmt: skip
