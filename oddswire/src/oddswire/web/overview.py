"""`Overview`: what the status page and ``/status.json`` show. No input or output.

It has names that code gives, numbers, and words of this package; no text of the server,
no address, no user and no key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from oddswire.counters import HistogramSnapshot
from oddswire.health import Report, Status
from oddswire.metrics import Incident, JournalEntry

if TYPE_CHECKING:
    from oddswire.metrics import Journal, Snapshot

# If one of these checks fails, the process cannot serve. Another one only warns.
_NEEDED = {
    "reachable": "Redis does not answer",
    "circuit": "calls to Redis fail at once",
    "server": "Redis is loading its data",
    "role": "Redis is a replica where the primary should be",
}
_POINTS = 60


class CheckLine(msgspec.Struct, frozen=True, kw_only=True):
    """One check, without the text of what it found."""

    name: str
    status: str
    why: str
    values: dict[str, float | int | str]


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """The lookups of one namespace, and the share that each tier answered."""

    namespace: str
    lookups: int
    l1: float
    l2: float
    missed: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The calls between two looks at Redis; times in seconds, None without a call."""

    at: float
    calls: int
    p50: float | None
    p99: float | None


class QueueLine(msgspec.Struct, frozen=True, kw_only=True):
    """One queue of all processes, at the last sample; `oldest` in seconds."""

    name: str
    waiting: int
    delayed: int
    parked: int
    dead: int
    oldest: float


class RuleLine(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of the limiter, in this process."""

    name: str
    admitted: int
    denied: int
    waited: int
    degraded: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A process at one moment.

    Attributes:
        at: Seconds since 1970.
        version: Of oddswire.
        status: ``"pass"``, ``"warn"`` or ``"fail"``.
        sentence: The same for people.
        ready: Whether the process can serve.
        looked: Seconds since the last look at Redis; None before the first.
        checks: The checks of the last look.
        calls: Calls to Redis since the process started.
        failed: Calls that failed.
        tiers: The lookups of each namespace.
        latency: The calls between the last looks, the oldest first.
        queues: Each queue.
        rules: Each rule, the one that denied most first.
        incidents: Those that go on, then the ones that ended, the latest first.
        events: The last changes of state, the newest first.
    """

    at: float
    version: str
    status: str
    sentence: str
    ready: bool
    looked: float | None
    checks: tuple[CheckLine, ...]
    calls: int
    failed: int
    tiers: tuple[Tier, ...]
    latency: tuple[Point, ...]
    queues: tuple[QueueLine, ...]
    rules: tuple[RuleLine, ...]
    incidents: tuple[Incident, ...]
    events: tuple[JournalEntry, ...]


class LatencyStrip:
    """The response times between two looks, of the last 60 looks."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=_POINTS)
        self._before: HistogramSnapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Add the calls since the last look."""
        now = snapshot.client.latency.histogram
        before, self._before = self._before, now
        if before is None:
            return
        counts = tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))
        between = HistogramSnapshot(
            bounds=now.bounds,
            counts=counts,
            sum=now.sum - before.sum,
            min=now.min,
            max=now.max,
        )
        some = between.count > 0
        self.points.append(
            Point(
                at=snapshot.taken,
                calls=between.count,
                p50=between.quantile(0.5) if some else None,
                p99=between.quantile(0.99) if some else None,
            )
        )


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The last report of `Health`, and how old it is.

    Attributes:
        report: The report; None before the first.
        added: Names of the checks that parts added.
        age: Seconds since the report.
        patience: Seconds after which a report is too old to count.
    """

    report: Report | None
    added: Collection[str]
    age: float
    patience: float

    @property
    def obstacles(self) -> list[str]:
        """Why the process cannot serve, in words; empty when it can."""
        if self.report is None:
            return ["Redis was not looked at yet"]
        if self.age > self.patience:
            return ["the last look at Redis is too old"]
        return [
            _NEEDED.get(check.name, f"{check.name} fails")
            for check in self.report.checks
            if check.status is Status.FAIL
            and (check.name in _NEEDED or check.name in self.added)
        ]


def overview(
    snapshot: Snapshot, journal: Journal, look: Look, strip: LatencyStrip
) -> Overview:
    """Return what is shown."""
    status, sentence = _state(snapshot, journal, look)
    rules = () if snapshot.limiter is None else tuple(snapshot.limiter.rules.items())
    queues = {} if snapshot.sample is None else snapshot.sample.queues
    return Overview(
        at=snapshot.taken,
        version=snapshot.version,
        status=status.value,
        sentence=sentence,
        ready=not look.obstacles,
        looked=None if look.report is None else look.age,
        checks=()
        if look.report is None
        else tuple(
            CheckLine(
                name=check.name,
                status=check.status.value,
                why=check.why,
                values=check.values,
            )
            for check in look.report.checks
        ),
        calls=snapshot.client.total,
        failed=sum(snapshot.client.failures.values()),
        tiers=tuple(
            _tier(name, stats.l1_hits, stats.l2_hits, stats.misses)
            for name, stats in snapshot.namespaces.items()
        ),
        latency=tuple(strip.points),
        queues=tuple(
            QueueLine(
                name=name,
                waiting=stats.waiting,
                delayed=stats.delayed,
                parked=stats.parked,
                dead=stats.dead_letters,
                oldest=stats.lag,
            )
            for name, stats in queues.items()
        ),
        rules=tuple(
            RuleLine(
                name=name,
                admitted=counts.admitted,
                denied=counts.denied,
                waited=counts.waited,
                degraded=counts.degraded,
            )
            for name, counts in sorted(rules, key=lambda rule: -rule[1].denied)
        ),
        incidents=journal.incidents[:20],
        events=journal.entries,
    )


def _tier(namespace: str, l1: int, l2: int, missed: int) -> Tier:
    lookups = l1 + l2 + missed
    whole = lookups or 1
    return Tier(
        namespace=namespace,
        lookups=lookups,
        l1=l1 / whole,
        l2=l2 / whole,
        missed=missed / whole,
    )


def _state(snapshot: Snapshot, journal: Journal, look: Look) -> tuple[Status, str]:
    if look.report is None:
        return Status.WARN, "Starting: Redis was not looked at yet."
    lasting = [each for each in journal.incidents if each.seconds is None]
    since = ""
    if lasting:
        began = min(each.began for each in lasting)
        since = f", for {max(0.0, snapshot.taken - began):.0f} s"
    if look.obstacles:
        return Status.FAIL, f"Not ready: {', and '.join(look.obstacles)}{since}."
    if lasting:
        parts = ", ".join(f"{each.subject} is {each.mode}" for each in lasting)
        return Status.WARN, f"Serving, with less than promised: {parts}{since}."
    warned = [
        check.name for check in look.report.checks if check.status is not Status.PASS
    ]
    if warned:
        return Status.WARN, f"Serving, with warnings: {', '.join(warned)}."
    return Status.PASS, "Serving: every check passes."
