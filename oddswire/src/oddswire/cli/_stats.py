"""`oddswire stats`: one snapshot of the numbers of each server, and of our client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from oddswire.cli._servers import nodes_of
from oddswire.client import Client, ClientStats
from oddswire.events import Events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oddswire.cli._servers import Server


class CommandStats(msgspec.Struct, frozen=True, kw_only=True):
    """One command, since the server started or its statistics were reset.

    Attributes:
        name: ``"GET"``, ``"CONFIG GET"``.
        calls: How often it ran.
        seconds: Seconds in the server, of all calls together.
        mean: Seconds of one call.
        failed: Calls that failed while they ran.
        rejected: Calls that were refused before they ran.
    """

    name: str
    calls: int
    seconds: float
    mean: float
    failed: int
    rejected: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One server's numbers.

    Attributes:
        name: ``"main"`` or ``"cache"``.
        address: ``host:port`` or a path.
        version: Product and version.
        uptime: Seconds since the server started.
        clients: Connections.
        blocked: Connections that wait in a blocking command.
        memory: Bytes used.
        memory_limit: `maxmemory`; 0: no limit.
        keys: Keys in all databases.
        hit_rate: Keys found among keys looked up, 0 to 1; None before the first.
        evicted: Keys evicted.
        expired: Keys expired.
        per_second: Commands a second lately.
        commands: The commands, the one with the most seconds first.
        errors: Error replies by their first word.
        client: What this command's own client counted.
    """

    name: str
    address: str
    version: str
    uptime: int
    clients: int
    blocked: int
    memory: int
    memory_limit: int
    keys: int
    hit_rate: float | None
    evicted: int
    expired: int
    per_second: int
    commands: tuple[CommandStats, ...]
    errors: dict[str, int]
    client: ClientStats


class Snapshots(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints.

    Attributes:
        schema: A higher number when a field is removed or gets another meaning.
        servers: One snapshot for each server.
    """

    schema: int = 1
    servers: tuple[Snapshot, ...]


async def snapshots(servers: Sequence[Server]) -> Snapshots:
    """Ask each server.

    Raises:
        OddswireError: A server does not answer, or refuses INFO.
    """
    found = []
    for server in servers:
        async with Client.from_settings(server.settings, events=Events()) as client:
            for each, its in await nodes_of(server, client):
                info = await its.info("everything")
                found.append(_snapshot(each, info, its.stats()))
    return Snapshots(servers=tuple(found))


def _snapshot(server: Server, info: dict[str, Any], ours: ClientStats) -> Snapshot:
    hits, misses = info.get("keyspace_hits", 0), info.get("keyspace_misses", 0)
    product = info.get("server_name", "redis")
    version = info.get("valkey_version") or info.get("redis_version", "")
    databases = (value for name, value in info.items() if _is_database(name))
    return Snapshot(
        name=server.name,
        address=server.endpoint.address,
        version=f"{product} {version}",
        uptime=info.get("uptime_in_seconds", 0),
        clients=info.get("connected_clients", 0),
        blocked=info.get("blocked_clients", 0),
        memory=info.get("used_memory", 0),
        memory_limit=info.get("maxmemory", 0),
        keys=sum(each.get("keys", 0) for each in databases),
        hit_rate=hits / (hits + misses) if hits + misses else None,
        evicted=info.get("evicted_keys", 0),
        expired=info.get("expired_keys", 0),
        per_second=info.get("instantaneous_ops_per_sec", 0),
        commands=_commands(info),
        errors={
            name.removeprefix("errorstat_"): _number(each, "count")
            for name, each in info.items()
            if name.startswith("errorstat_")
        },
        client=ours,
    )


def _is_database(name: str) -> bool:
    return name[:2] == "db" and name[2:].isdigit()


def _commands(info: dict[str, Any]) -> tuple[CommandStats, ...]:
    found = [
        CommandStats(
            name=name.removeprefix("cmdstat_").replace("|", " ").upper(),
            calls=each["calls"],
            seconds=each["usec"] / 1e6,
            mean=each["usec"] / 1e6 / max(1, each["calls"]),
            failed=each.get("failed_calls", 0),
            rejected=each.get("rejected_calls", 0),
        )
        for name, each in info.items()
        if name.startswith("cmdstat_")
    ]
    return tuple(sorted(found, key=lambda each: each.seconds, reverse=True))


def _number(entry: Any, name: str) -> int:
    # A script may choose the name of an error, and so break the format of its line.
    value = entry.get(name, 0) if isinstance(entry, dict) else 0
    return value if isinstance(value, int) else 0
