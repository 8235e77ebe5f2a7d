"""`oddswire doctor`: every check, server by server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from oddswire import acl
from oddswire.cli import _checks
from oddswire.cli._features import COMMANDS, WHY, Feature, features, judge
from oddswire.cli._permissions import CommandTable
from oddswire.cli._servers import nodes_of
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
    """The findings of one server.

    Attributes:
        name: ``"main"`` or ``"cache"``.
        address: ``host:port`` or a path; never a password.
        durable: Whether it holds data that users asked for.
        status: The worst status of its checks.
        checks: The checks of its health, then the others; always all, in one order.
        features: What the server can do; empty if it does not answer.
        skipped: How many checks are unknown because there is no connection.
    """

    name: str
    address: str
    durable: bool
    status: Status
    checks: tuple[Check, ...]
    features: tuple[Feature, ...] = ()
    skipped: int = 0


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of all servers; what `--json` prints.

    Attributes:
        schema: A higher number when a field is removed or gets another meaning.
        status: The worst status of the servers.
        servers: One finding for each server.
    """

    schema: int = 1
    status: Status
    servers: tuple[Finding, ...]


async def examine(
    servers: Sequence[Server],
    clock: Clock,
    progress: Callable[[str], object],
    user: str | None = None,
) -> Diagnosis:
    """Check each server. A failed check is in the diagnosis, and raises nothing.

    Args:
        servers: The servers.
        clock: The clock of this machine, to compare with the servers'.
        progress: Gets one line before each check.
        user: The user whose rights are judged; None: the user in the settings.
    """
    found = []
    for server in servers:
        # The findings name the problems. With events of its own, the client logs none.
        async with Client.from_settings(server.settings, events=Events()) as client:
            for each, its in await nodes_of(server, client):
                found.append(await _examine(each, its, clock, progress, user))
    checks = [check for each in found for check in each.checks]
    return Diagnosis(status=worst(checks), servers=tuple(found))


async def _examine(
    server: Server,
    client: Client,
    clock: Clock,
    progress: Callable[[str], object],
    user: str | None,
) -> Finding:
    progress(f"{server.name}: health")
    health = Health(
        client, durable=server.durable, timeout=server.settings.command_timeout
    )
    report = await health.check()
    reachable = report["reachable"].status is Status.PASS
    commands = await _command_table(client) if reachable else None
    target = _checks.Target(
        server=server,
        client=client,
        clock=clock,
        reachable=reachable,
        cause="" if reachable else report["reachable"].seen,
        role=str(report["role"].values.get("role", "")),
        replicas=_replicas(report["replication"]),
        bounded="good" in report["replication"].values,
        config=await _checks.config_of(client) if reachable else {},
        commands=commands,
        user=user,
    )
    checks = list(report.checks)
    for name, why, look in _checks.CHECKS:
        progress(f"{server.name}: {name}")
        checks.append(Check.of(name, why, await _checks.run(look, target)))
    progress(f"{server.name}: features")
    table = await features(client, commands) if reachable else ()
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


async def _command_table(client: Client) -> CommandTable | None:
    parts = acl.commands(acl.COMPONENTS, cluster=client.in_cluster)
    names = dict.fromkeys((*parts, *acl.DANGEROUS, *COMMANDS))
    try:
        return await CommandTable.of(client, names)
    except OddswireError:
        return None


def _replicas(replication: Check) -> int | None:
    count = replication.values.get("replicas")
    return count if isinstance(count, int) else None
