"""`oddswire doctor`: everything that can be looked at from here, server by server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddswire import acl
from oddswire.cli import _checks
from oddswire.cli._features import COMMANDS, WHY, Feature, features, judge
from oddswire.cli._permissions import Shapes
from oddswire.client import Client
from oddswire.errors import OddswireError
from oddswire.events import Events
from oddswire.health import Check, Health, Status
from oddswire.health.report import worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oddswire.cli._servers import Server
    from oddswire.clock import Clock


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one server.

    Attributes:
        name: ``"main"`` or ``"cache"``.
        address: ``host:port`` or a path; never a password.
        durable: Whether it holds what users asked for.
        status: Of all its checks together.
        checks: Those of its health first; always all of them, in the same order.
        features: What it can do; empty if it does not answer.
        skipped: Checks that found nothing out, because there is no connection.
    """

    name: str
    address: str
    durable: bool
    status: Status
    checks: tuple[Check, ...]
    features: tuple[Feature, ...] = ()
    skipped: int = 0


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The whole; what `--json` prints.

    Attributes:
        schema: Counts up when a field changes its meaning or goes.
        status: Of all servers together.
        servers: One for each.
    """

    schema: int = 1
    status: Status
    servers: tuple[Finding, ...]


async def examine(
    servers: Sequence[Server],
    clock: Clock,
    tell: Callable[[str], object],
    user: str | None = None,
) -> Diagnosis:
    """Look at each server; what fails is in what is returned.

    Args:
        servers: Which.
        clock: Ours, to compare theirs with.
        tell: Told what is being looked at.
        user: Whose rights are judged; None: those of the user in the settings.
    """
    found = []
    for server in servers:
        # What goes wrong is in the findings, so it is no line of the log too.
        async with Client.from_settings(server.settings, events=Events()) as client:
            found.append(await _examine(server, client, clock, tell, user))
    checks = [check for each in found for check in each.checks]
    return Diagnosis(status=worst(checks), servers=tuple(found))


async def _examine(
    server: Server,
    client: Client,
    clock: Clock,
    tell: Callable[[str], object],
    user: str | None,
) -> Finding:
    tell(f"{server.name}: health")
    health = Health(
        client, durable=server.durable, timeout=server.settings.command_timeout
    )
    report = await health.check()
    reachable = report["reachable"].status is Status.PASS
    shapes = await _shapes(client) if reachable else None
    patient = _checks.Patient(
        server=server,
        client=client,
        clock=clock,
        reachable=reachable,
        cause="" if reachable else report["reachable"].seen,
        replicas=_replicas(report["replication"]),
        bounded="good" in report["replication"].values,
        config=await _checks.config_of(client) if reachable else {},
        shapes=shapes,
        user=user,
    )
    checks = list(report.checks)
    for name, why, look in _checks.CHECKS:
        tell(f"{server.name}: {name}")
        checks.append(Check.of(name, why, await _checks.run(look, patient)))
    tell(f"{server.name}: features")
    table = await features(client, shapes) if reachable else ()
    checks.append(Check.of("features", WHY, judge(table)))
    return Finding(
        name=server.name,
        address=server.endpoint.address,
        durable=server.durable,
        status=worst(checks),
        checks=tuple(checks),
        features=table,
        skipped=0
        if reachable
        else sum(check.status is Status.UNKNOWN for check in checks),
    )


async def _shapes(client: Client) -> Shapes | None:
    names = dict.fromkeys((*acl.commands(acl.COMPONENTS), *acl.DANGEROUS, *COMMANDS))
    try:
        return await Shapes.of(client, names)
    except OddswireError:
        return None


def _replicas(replication: Check) -> int | None:
    count = replication.values.get("replicas")
    return count if isinstance(count, int) else None
