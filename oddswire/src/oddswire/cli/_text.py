"""What the commands print for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oddswire.health import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oddswire.cli._doctor import Diagnosis, Finding
    from oddswire.cli._stats import Snapshot, Snapshots

_PRESENT = {True: "yes", False: "no", None: "?"}


def diagnosis(found: Diagnosis) -> str:
    """Return every check in a line, and what to do about those that do not pass."""
    return "\n".join(line for each in found.servers for line in _finding(each))


def _finding(found: Finding) -> Iterator[str]:
    kind = "durable" if found.durable else "disposable"
    yield f"{found.name}: {found.address} ({kind}): {found.status}"
    told = [check for check in found.checks if check.status is not Status.UNKNOWN]
    silent = len(found.checks) - len(told) if told[0].status is Status.FAIL else 0
    for check in told if silent else found.checks:
        yield f"  {check.status:<8}{check.name:<14}{check.seen}"
        if check.status in (Status.WARN, Status.FAIL):
            yield f"          why: {check.why}"
        if check.fix:
            yield f"          do:  {check.fix}"
    if silent:
        yield f"  unknown {silent} more checks, for want of an answer"
    for feature in found.features:
        present = _PRESENT[feature.present]
        yield f"  {present:<8}{feature.name:<22}{feature.what}"


def snapshots(found: Snapshots, top: int) -> str:
    """Return the numbers of each server, and its busiest commands."""
    return "\n".join(line for each in found.servers for line in _snapshot(each, top))


def _snapshot(found: Snapshot, top: int) -> Iterator[str]:
    hits = "no lookups yet" if found.hit_rate is None else f"{found.hit_rate:.1%}"
    limit = f"{found.memory_limit:,}" if found.memory_limit else "no limit"
    ours = found.client
    yield f"{found.name}: {found.address}, {found.version}, up {found.uptime} s"
    yield f"  clients   {found.clients}, {found.blocked} blocked"
    yield f"  memory    {found.memory:,} of {limit} bytes"
    yield f"  keys      {found.keys}, {found.expired} expired, {found.evicted} evicted"
    yield f"  hits      {hits}"
    yield f"  commands  {found.per_second} a second"
    for each in found.commands[:top]:
        yield (
            f"    {each.name:<20}{each.calls:>12,} calls  {each.mean * 1e6:>10,.1f} us"
            f"  {each.failed} failed, {each.rejected} rejected"
        )
    for kind, count in found.errors.items():
        yield f"  error     {kind} {count}"
    yield (
        f"  our own   {ours.total} calls, p50 {ours.latency.p50 * 1e3:.3g} ms, "
        f"{sum(ours.failures.values())} failed"
    )
