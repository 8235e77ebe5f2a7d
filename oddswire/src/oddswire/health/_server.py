"""What is judged from the server's INFO."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from oddswire.health._process import unknown
from oddswire.health.report import Check, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.health._reading import Reading
    from oddswire.health.thresholds import Thresholds

_GRANT_INFO = "ACL SETUSER <user> +info"


class _Missing(Exception):
    """INFO has no such number."""


def server_checks(
    seen: Reading, limits: Thresholds, *, durable: bool
) -> tuple[Check, ...]:
    """Return every check that INFO decides; each is unknown where it does not say."""
    judges: tuple[tuple[str, str, Callable[[dict[str, Any]], Check]], ...] = (
        ("server", _SERVER, _server),
        ("role", _ROLE, _role),
        ("replication", _REPLICATION, lambda info: _replication(info, limits)),
        ("memory", _MEMORY, lambda info: _memory(info, limits)),
        ("eviction", _EVICTION, lambda info: _eviction(info, durable=durable)),
        ("persistence", _PERSISTENCE, lambda info: _persistence(info, durable=durable)),
        ("connections", _CONNECTIONS, lambda info: _connections(info, seen, limits)),
        ("keys", _KEYS, _keys),
    )
    return tuple(_judged(name, why, judge, seen) for name, why, judge in judges)


def _judged(
    name: str, why: str, judge: Callable[[dict[str, Any]], Check], seen: Reading
) -> Check:
    if seen.info is None:
        fix = "" if seen.unreachable else _GRANT_INFO
        return unknown(name, why, seen.info_error, fix)
    try:
        return judge(seen.info)
    except _Missing as missing:
        return unknown(name, why, f"INFO of this server has no {missing}")


def _number(info: dict[str, Any], name: str) -> float:
    value = info.get(name)
    if not isinstance(value, int | float) or not isfinite(value):
        raise _Missing(name)
    return value


def _word(info: dict[str, Any], name: str) -> str:
    if name not in info:
        raise _Missing(name)
    return str(info[name])


_SERVER = "while it loads its data it answers nothing else"


def _server(info: dict[str, Any]) -> Check:
    product = str(info.get("server_name", "redis"))
    # Valkey's redis_version is 7.2.4 whatever its own.
    version = str(info.get("valkey_version") or info.get("redis_version", "unknown"))
    uptime = _number(info, "uptime_in_seconds")
    loading = bool(info.get("loading")) or bool(info.get("async_loading"))
    return Check(
        name="server",
        status=Status.FAIL if loading else Status.PASS,
        seen=f"{product} {version}, up {_duration(uptime)}"
        + (", loading its data" if loading else ""),
        why=_SERVER,
        fix="wait: INFO persistence has loading_eta_seconds" if loading else "",
        values={
            "product": product,
            "version": version,
            "uptime": uptime,
            "loading": int(loading),
        },
    )


_ROLE = "a replica refuses writes, and its reads are late"


def _role(info: dict[str, Any]) -> Check:
    role = _word(info, "role")
    primary = role == "master"
    link = "" if primary else f", its link is {info.get('master_link_status', '?')}"
    where = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    return Check(
        name="role",
        status=Status.PASS if primary else Status.FAIL,
        seen="primary" if primary else f"replica of {where}{link}",
        why=_ROLE,
        fix=""
        if primary
        else f"point REDIS_URL at {where}, or set ODDSWIRE_SENTINELS to follow it",
        values={"role": "primary" if primary else "replica"},
    )


_REPLICATION = "what no replica has is lost with the primary"


def _replication(info: dict[str, Any], limits: Thresholds) -> Check:
    if _word(info, "role") != "master":
        up = str(info.get("master_link_status")) == "up"
        return Check(
            name="replication",
            status=Status.PASS if up else Status.FAIL,
            seen=f"the link to the primary is {'up' if up else 'down'}",
            why="a replica without its primary serves what was",
            fix="" if up else "check masterauth, the network and the primary's log",
        )
    count = int(_number(info, "connected_slaves"))
    found = (info.get(f"slave{number}") for number in range(count))
    replicas = [each for each in found if isinstance(each, dict)]
    # One that is still being copied has no lag yet.
    lags = [_number(each, "lag") for each in replicas if "lag" in each]
    syncing = sum(str(each.get("state")) != "online" for each in replicas)
    lag = max(lags, default=0.0)
    status = limits.replica_lag.judge(lag)
    if syncing and status is Status.PASS:
        status = Status.WARN
    seen = f"{count} replicas" if count else "no replicas"
    if lags:
        seen += f", the one furthest behind was heard of {lag:g} s ago"
    if syncing:
        seen += f", {syncing} not in step yet"
    return Check(
        name="replication",
        status=status,
        seen=seen,
        why=_REPLICATION,
        fix=""
        if status is Status.PASS
        else "INFO replication on the primary names it; look at its log and network",
        values={"replicas": count, "lag": lag, "syncing": syncing},
    )


_MEMORY = "at its limit a server refuses writes, evicts, or is killed by the kernel"


def _memory(info: dict[str, Any], limits: Thresholds) -> Check:
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    policy = _word(info, "maxmemory_policy")
    machine = _number(info, "total_system_memory") if not limit else 0.0
    if limit:
        of, share = f"{size(limit)} maxmemory", used / limit
    elif machine:
        of, share = f"{size(machine)} of the machine, no maxmemory", used / machine
    else:
        of, share = "no limit known", 0.0
    # A cache that evicts is full when it works well.
    evicts = bool(limit) and policy != "noeviction"
    status = Status.PASS if evicts else limits.memory.judge(share)
    return Check(
        name="memory",
        status=status,
        seen=f"{size(used)} of {of}",
        why=_MEMORY,
        fix=""
        if status is Status.PASS
        else "CONFIG SET maxmemory <more>, or find what is large: redis-cli --memkeys",
        values={
            "used": used,
            "limit": limit,
            "share": share,
            "peak": info.get("used_memory_peak", used),
            "fragmentation": info.get("mem_fragmentation_ratio", 1.0),
        },
    )


_EVICTION = (
    "what users asked for must never be evicted, and a cache must be able to evict"
)


def _eviction(info: dict[str, Any], *, durable: bool) -> Check:
    policy = _word(info, "maxmemory_policy")
    limit, evicted = _number(info, "maxmemory"), int(_number(info, "evicted_keys"))
    status, fix = Status.PASS, ""
    if durable and policy != "noeviction":
        # Without a limit nothing is evicted yet; volatile-* takes what has a TTL only.
        lost = evicted and policy.startswith("allkeys")
        status = Status.FAIL if lost else Status.WARN
        fix = (
            "CONFIG SET maxmemory-policy noeviction, CONFIG REWRITE; a cache that may "
            "evict gets an instance of its own in ODDSWIRE_CACHE_URL"
        )
    elif not durable and not limit:
        status, fix = Status.WARN, "CONFIG SET maxmemory <size of the cache>"
    elif not durable and policy == "noeviction":
        status, fix = Status.WARN, "CONFIG SET maxmemory-policy allkeys-lfu"
    return Check(
        name="eviction",
        status=status,
        seen=f"{policy}{'' if limit else ' without maxmemory'}, "
        f"{evicted} keys evicted since it started",
        why=_EVICTION,
        fix=fix,
        values={"policy": policy, "evicted": evicted, "durable": int(durable)},
    )


_PERSISTENCE = "a server that cannot write to its disk refuses writes, and forgets"


def _persistence(info: dict[str, Any], *, durable: bool) -> Check:
    snapshot = _word(info, "rdb_last_bgsave_status")
    append = str(info.get("aof_last_write_status", "ok"))
    rewrite = str(info.get("aof_last_bgrewrite_status", "ok"))
    aof = bool(info.get("aof_enabled"))
    status, fix = Status.PASS, ""
    if snapshot != "ok" or append != "ok":
        status = Status.FAIL if durable else Status.WARN
        fix = "the server's log says why: a full disk, its directory; then BGSAVE"
    elif rewrite != "ok":
        status, fix = Status.WARN, "the server's log has the reason; then BGREWRITEAOF"
    return Check(
        name="persistence",
        status=status,
        seen=f"last snapshot {snapshot}, append-only file {'on' if aof else 'off'}"
        + (f", last append {append}, last rewrite {rewrite}" if aof else ""),
        why=_PERSISTENCE,
        fix=fix,
        values={
            "snapshot": snapshot,
            "append": append,
            "rewrite": rewrite,
            "aof": int(aof),
            "unsaved": info.get("rdb_changes_since_last_save", 0),
        },
    )


_CONNECTIONS = "above maxclients the server turns connections away"


def _connections(info: dict[str, Any], seen: Reading, limits: Thresholds) -> Check:
    connected = int(_number(info, "connected_clients"))
    most = int(_number(info, "maxclients"))
    wires = seen.statistics.wires
    status = limits.clients.judge(connected / max(1, most))
    fix = (
        ""
        if status is Status.PASS
        else "CONFIG SET maxclients, or find who: CLIENT LIST"
    )
    if status is Status.PASS and wires.waiting:
        status, fix = Status.WARN, "a higher REDIS_POOL_MAX, or fewer blocking calls"
    return Check(
        name="connections",
        status=status,
        seen=f"{connected} of {most} at the server; ours: {wires.shared} shared, "
        f"{wires.leased} in use, {wires.idle} idle, {wires.waiting} calls waiting",
        why=_CONNECTIONS,
        fix=fix,
        values={
            "connected": connected,
            "maxclients": most,
            "rejected": info.get("rejected_connections", 0),
            "in_use": wires.shared + wires.leased,
            "idle": wires.idle,
            "waiting": wires.waiting,
        },
    )


_KEYS = "a number that only grows is a key without a lifetime"


def _keys(info: dict[str, Any]) -> Check:
    databases = [
        each
        for name, each in info.items()
        if name[:2] == "db" and name[2:].isdigit() and isinstance(each, dict)
    ]
    keys = sum(int(_number(each, "keys")) for each in databases)
    expiring = sum(int(_number(each, "expires")) for each in databases)
    return Check(
        name="keys",
        status=Status.PASS,
        seen=f"{keys} keys, {expiring} of them with a lifetime",
        why=_KEYS,
        values={"keys": keys, "expiring": expiring},
    )


def size(count: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _duration(seconds: float) -> str:
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
