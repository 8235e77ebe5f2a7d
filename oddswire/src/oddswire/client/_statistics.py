"""What a client counts, and the same as one immutable value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import ResponseError

from oddswire.connection.pool import ExclusivePool
from oddswire.counters import HistogramSnapshot, Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oddswire.client._commands import CommandSpec
    from oddswire.client._connections import Connections
    from oddswire.counters import Histogram


class Latency(msgspec.Struct, frozen=True):
    """Seconds from sending to reply, over all commands on the command connection.

    The percentiles are estimates from `histogram`; the rest is exact.
    """

    count: int
    mean: float
    least: float
    p50: float
    p95: float
    p99: float
    most: float
    histogram: HistogramSnapshot


class ConnectionCounts(msgspec.Struct, frozen=True):
    """Connections, and calls on them, at this moment.

    Attributes:
        shared: 1 while the command connection is connected.
        leased: Exclusive connections in use.
        idle: Exclusive connections out of use.
        opening: Exclusive connections on their way.
        waiting: Callers that wait for a connection, or for room on one.
        in_flight: Calls on the command connection.
        in_flight_bytes: Their bytes.
        silent: Seconds since the command connection last brought anything, the echo of
            a heartbeat included; None while it is not connected.
    """

    shared: int
    leased: int
    idle: int
    opening: int
    waiting: int
    in_flight: int
    in_flight_bytes: int
    silent: float | None


class Recent(msgspec.Struct, frozen=True):
    """The last minute or so.

    Attributes:
        calls: Calls that ended.
        failures: Failed ones by error class; those of none are left out.
    """

    calls: int
    failures: dict[str, int]

    @property
    def failure_rate(self) -> float:
        """Failed calls among all calls, 0 to 1."""
        return sum(self.failures.values()) / max(1, self.calls)


class ClientStats(msgspec.Struct, frozen=True):
    """Counted since the client was made.

    Attributes:
        calls: Calls by command.
        failures: Failed calls by error class.
        retries: Further attempts by the error class that was their reason; a call that
            a later attempt answers is no failure.
        slow: Replies that took longer than `Settings.slow_above`, by command.
        latency: Response times.
        recent: The same calls and failures, of the last minute.
        loop_lag: Seconds by which the event loop came late to a deadline, when it did.
        connections: Connections now.
        circuit_open: Whether calls fail at once, for too many attempts to connect
            failed in a row.
        connects: Times the command connection was connected.
        writes: Socket writes on it; calls per write tell how well calls are joined.
        bytes_in: Bytes read on it.
        bytes_out: Bytes written.
        timeouts: Calls whose deadline passed.
        abandoned: Calls whose caller was cancelled.
        waits: Calls that waited for room on it.
        certificate_ends: When the certificate of its server ends, seconds since 1970;
            None without TLS, without a verified certificate, or while it is not
            connected.
    """

    calls: dict[str, int]
    failures: dict[str, int]
    retries: dict[str, int]
    slow: dict[str, int]
    latency: Latency
    recent: Recent
    loop_lag: Latency
    connections: ConnectionCounts
    circuit_open: bool
    connects: int
    writes: int
    bytes_in: int
    bytes_out: int
    timeouts: int
    abandoned: int
    waits: int
    certificate_ends: float | None

    @property
    def total(self) -> int:
        """All calls."""
        return sum(self.calls.values())

    @property
    def failure_rate(self) -> float:
        """Failed calls among all calls, 0 to 1."""
        return sum(self.failures.values()) / max(1, self.total)


def _latency(seen: Histogram) -> Latency:
    return Latency(
        count=seen.count,
        mean=seen.sum / seen.count if seen.count else 0.0,
        least=seen.min or 0.0,
        p50=seen.quantile(0.5) or 0.0,
        p95=seen.quantile(0.95) or 0.0,
        p99=seen.quantile(0.99) or 0.0,
        most=seen.max or 0.0,
        histogram=seen.snapshot(),
    )


class FailureCounts:
    """Failed calls by error class: all of them, and those of the last minute.

    Attributes:
        retries: Further attempts by the error class that was their reason.
    """

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.windows: dict[str, Window] = {}

    def count(self, error: Exception, now: float) -> None:
        """Count a call that fails with this error."""
        kind = type(error).__name__
        self.totals[kind] = self.totals.get(kind, 0) + 1
        # An error reply is counted among the answered calls already.
        calls = not isinstance(error, ResponseError)
        self.windows.setdefault(kind, Window()).record(now, calls=calls, failed=1)

    def count_retry(self, error: Exception) -> None:
        """Count an attempt that is made again for this error."""
        kind = type(error).__name__
        self.retries[kind] = self.retries.get(kind, 0) + 1


def _recent(answered: Window, failures: FailureCounts, now: float) -> Recent:
    calls, _ = answered.counts(now)
    found = {}
    for kind, window in failures.windows.items():
        unanswered, failed = window.counts(now)
        calls += unanswered
        if failed:
            found[kind] = failed
    return Recent(calls=calls, failures=found)


def summarize(
    connections: Connections,
    commands: Iterable[CommandSpec],
    failures: FailureCounts,
    now: float,
) -> ClientStats:
    """Gather a snapshot."""
    calls: dict[str, int] = {}
    slow: dict[str, int] = {}
    for command in commands:
        name = " ".join(command.words).upper()
        if command.calls:
            calls[name] = calls.get(name, 0) + command.calls
        if command.slow:
            slow[name] = slow.get(name, 0) + command.slow
    metrics, connection = connections.metrics, connections.command.current
    pool = connections.pool
    state = pool.state if isinstance(pool, ExclusivePool) else None
    return ClientStats(
        calls=calls,
        failures=dict(failures.totals),
        retries=dict(failures.retries),
        slow=slow,
        latency=_latency(metrics.latency),
        recent=_recent(metrics.answered, failures, now),
        loop_lag=_latency(metrics.stalls),
        connections=ConnectionCounts(
            shared=0 if connection is None else 1,
            leased=state.leased if state else 0,
            idle=state.idle if state else 0,
            opening=state.opening if state else 0,
            waiting=(state.waiting if state else 0)
            + (0 if connection is None else connection.flow.waiting),
            in_flight=0 if connection is None else connection.flow.commands,
            in_flight_bytes=0 if connection is None else connection.flow.bytes,
            silent=None if connection is None else now - connection.last_read,
        ),
        circuit_open=connections.command.circuit_open,
        connects=connections.command.connects,
        writes=metrics.writes,
        bytes_in=metrics.bytes_in,
        bytes_out=metrics.bytes_out,
        timeouts=metrics.timeouts,
        abandoned=metrics.abandoned,
        waits=metrics.waits,
        certificate_ends=None if connection is None else connection.certificate_ends,
    )
