"""What the commands print for people."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from oddswire.health import Status
from oddswire.health.units import long, short, size
from oddswire.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.cli._doctor import Diagnosis, Finding
    from oddswire.cli._stats import Snapshot, Snapshots

# The most characters of a name and of a finding that come from a server.
_NAME, _SEEN = 60, 2000
_PRESENT = {True: "yes", False: "no", None: "?"}


_ORDER = (Status.FAIL, Status.WARN, Status.UNKNOWN, Status.PASS)


def diagnosis(found: Diagnosis) -> str:
    """Return each server's problems, then its checks that passed, and at last a sum."""
    lines = [line for each in found.servers for line in _finding(each)]
    return "\n".join((*lines, _sum(found)))


def _finding(found: Finding) -> Iterator[str]:
    kind = "durable" if found.durable else "disposable"
    yield f"{found.name}: {found.address} ({kind}): {found.status}"
    # Without a connection only its cause matters: the other checks are skipped.
    away = found.skipped
    for check in sorted(found.checks, key=lambda each: _ORDER.index(each.status)):
        if away and check.status in (Status.UNKNOWN, Status.PASS):
            continue
        yield f"  {check.status:<8}{check.name:<14}{plain(check.seen, _SEEN)}"
        if check.status in (Status.WARN, Status.FAIL):
            yield f"          why: {check.why}"
        if check.fix:
            yield f"          do:  {plain(check.fix, _SEEN)}"
    if away:
        yield f"  {away} checks skipped: no connection"
    for feature in found.features:
        present = _PRESENT[feature.present]
        yield f"  {present:<8}{feature.name:<22}{feature.what}"


def _sum(found: Diagnosis) -> str:
    counts = Counter(check.status for each in found.servers for check in each.checks)
    skipped = sum(each.skipped for each in found.servers)
    words = {
        "failed": counts[Status.FAIL],
        "warnings": counts[Status.WARN],
        "unknown": counts[Status.UNKNOWN] - skipped,
        "skipped": skipped,
        "passed": counts[Status.PASS],
    }
    text = ", ".join(f"{count} {word}" for word, count in words.items() if count)
    return f"{found.status}: {text}"


def snapshots(found: Snapshots, top: int) -> str:
    """Return the numbers of each server, and its busiest commands."""
    return "\n".join(line for each in found.servers for line in _snapshot(each, top))


def _snapshot(found: Snapshot, top: int) -> Iterator[str]:
    hits = "no lookups yet" if found.hit_rate is None else f"{found.hit_rate:.1%}"
    limit = size(found.memory_limit) if found.memory_limit else "no limit"
    ours = found.client
    version = plain(found.version, _NAME)
    yield f"{found.name}: {found.address}, {version}, up {long(found.uptime)}"
    yield f"  clients   {found.clients}, {found.blocked} blocked"
    yield f"  memory    {size(found.memory)} of {limit}"
    ended = f"{found.expired:,} expired, {found.evicted:,} evicted"
    yield f"  keys      {found.keys:,}, {ended}"
    yield f"  hits      {hits}"
    yield f"  commands  {found.per_second} a second"
    for each in found.commands[:top]:
        yield (
            f"    {plain(each.name, _NAME):<20}{each.calls:>12,} calls"
            f"  {short(each.mean):>10}"
            f"  {each.failed} failed, {each.rejected} rejected"
        )
    for kind, count in found.errors.items():
        yield f"  error     {plain(kind, _NAME)} {count}"
    yield (
        f"  our own   {ours.total} calls, p50 {short(ours.latency.p50)}, "
        f"{sum(ours.failures.values())} failed"
    )
