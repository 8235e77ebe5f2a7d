"""The checks that read the server's INFO."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from oddswire.health.report import Check, Status, Verdict, unknown
from oddswire.health.units import long, size

if TYPE_CHECKING:
    from oddswire.health._reading import Reading
    from oddswire.health.thresholds import Thresholds

_GRANT_INFO = "ACL SETUSER <user> +info"


class _Missing(Exception):
    """INFO has no such number."""


class _Look(NamedTuple):
    """What a check is judged by, beside INFO.

    Attributes:
        seen: The figures of this process.
        limits: Where warnings and failures begin.
        durable: Whether the server holds what users asked for.
    """

    seen: Reading
    limits: Thresholds
    durable: bool


def server_checks(
    seen: Reading, limits: Thresholds, *, durable: bool
) -> tuple[Check, ...]:
    """Return every check that INFO decides; unknown where INFO lacks the figure."""
    look = _Look(seen, limits, durable)
    return tuple(
        Check.of(name, why, _judged(judge, look)) for name, why, judge in _CHECKS
    )


def _judged(judge: _Judge, look: _Look) -> Verdict:
    seen = look.seen
    if seen.info is None:
        return unknown(seen.info_error, "" if seen.unreachable else _GRANT_INFO)
    try:
        return judge(seen.info, look)
    except _Missing as missing:
        return unknown(f"INFO of this server has no {missing}")


def _number(info: dict[str, Any], name: str) -> float:
    value = info.get(name)
    if not isinstance(value, int | float) or not isfinite(value):
        raise _Missing(name)
    return value


def _word(info: dict[str, Any], name: str) -> str:
    if name not in info:
        raise _Missing(name)
    return str(info[name])


def _numbered(info: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return what INFO says of ``name0``, ``name1`` and so on."""
    return [
        value
        for field, value in info.items()
        if field.startswith(name)
        and field.removeprefix(name).isdigit()
        and isinstance(value, dict)
    ]


def _server(info: dict[str, Any], _: _Look) -> Verdict:
    product = str(info.get("server_name", "redis"))
    # Valkey's redis_version is 7.2.4 in every version.
    version = str(info.get("valkey_version") or info.get("redis_version", "unknown"))
    uptime = _number(info, "uptime_in_seconds")
    loading = bool(info.get("loading")) or bool(info.get("async_loading"))
    return Verdict(
        status=Status.FAIL if loading else Status.PASS,
        seen=f"{product} {version}, up {long(uptime)}"
        + (", loading its data" if loading else ""),
        fix="wait: INFO persistence has loading_eta_seconds",
        values={
            "product": product,
            "version": version,
            "uptime": uptime,
            "loading": int(loading),
        },
    )


def _role(info: dict[str, Any], _: _Look) -> Verdict:
    # Valkey has the second name.
    if "sentinel" in (info.get("redis_mode"), info.get("server_mode")):
        return Verdict(
            status=Status.FAIL,
            seen="a Sentinel, which keeps no data",
            fix="set ODDSWIRE_SENTINELS to its address, and REDIS_URL to the name of "
            "its primary: redis://mymaster",
            values={"role": "sentinel"},
        )
    role = _word(info, "role")
    primary = role == "master"
    link = "" if primary else f", its link is {info.get('master_link_status', '?')}"
    where = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
    return Verdict(
        status=Status.PASS if primary else Status.FAIL,
        seen="primary" if primary else f"replica of {where}{link}",
        fix=f"point REDIS_URL at {where}, or set ODDSWIRE_SENTINELS to follow it",
        values={"role": "primary" if primary else "replica"},
    )


def _replication(info: dict[str, Any], look: _Look) -> Verdict:
    if _word(info, "role") != "master":
        up = str(info.get("master_link_status")) == "up"
        return Verdict(
            status=Status.PASS if up else Status.FAIL,
            seen=f"the link to the primary is {'up' if up else 'down'}",
            fix="check masterauth, the network and the primary's log",
        )
    count = int(_number(info, "connected_slaves"))
    replicas = _numbered(info, "slave")
    # One that is still being copied has no lag yet.
    lags = [_number(each, "lag") for each in replicas if "lag" in each]
    syncing = sum(str(each.get("state")) != "online" for each in replicas)
    lag = max(lags, default=0.0)
    status = look.limits.replica_lag.judge(lag)
    if syncing and status is Status.PASS:
        status = Status.WARN
    seen = f"{count} replicas" if count else "no replicas"
    if lags:
        seen += f", the one furthest behind was heard of {long(lag)} ago"
    if syncing:
        seen += f", {syncing} not in step yet"
    return Verdict(
        status=status,
        seen=seen,
        fix="INFO replication on the primary names it; look at its log and network",
        values={
            "replicas": count,
            "lag": lag,
            "syncing": syncing,
            # There exactly where min-replicas-to-write is set.
            **(
                {"good": int(_number(info, "min_slaves_good_slaves"))}
                if "min_slaves_good_slaves" in info
                else {}
            ),
        },
    )


def _memory(info: dict[str, Any], look: _Look) -> Verdict:
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
    status = Status.PASS if evicts else look.limits.memory.judge(share)
    return Verdict(
        status=status,
        seen=f"{size(used)} of {of}",
        fix="CONFIG SET maxmemory <more>, or find what is large: redis-cli --memkeys",
        values={
            "used": used,
            "limit": limit,
            "share": share,
            "peak": info.get("used_memory_peak", used),
            "fragmentation": info.get("mem_fragmentation_ratio", 1.0),
        },
    )


def _eviction(info: dict[str, Any], look: _Look) -> Verdict:
    policy = _word(info, "maxmemory_policy")
    limit, evicted = _number(info, "maxmemory"), int(_number(info, "evicted_keys"))
    status, fix = Status.PASS, ""
    if look.durable and policy != "noeviction":
        # Without a limit nothing is evicted yet; volatile-* takes what has a TTL only.
        lost = evicted and policy.startswith("allkeys")
        status = Status.FAIL if lost else Status.WARN
        fix = (
            "CONFIG SET maxmemory-policy noeviction, CONFIG REWRITE; a cache that may "
            "evict gets an instance of its own in ODDSWIRE_CACHE_URL"
        )
    elif not look.durable and not limit:
        status, fix = Status.WARN, "CONFIG SET maxmemory <size of the cache>"
    elif not look.durable and policy == "noeviction":
        status, fix = Status.WARN, "CONFIG SET maxmemory-policy allkeys-lfu"
    return Verdict(
        status=status,
        seen=f"{policy}{'' if limit else ' without maxmemory'}, "
        f"{evicted:,} keys evicted since it started",
        fix=fix,
        values={"policy": policy, "evicted": evicted, "durable": int(look.durable)},
    )


def _persistence(info: dict[str, Any], look: _Look) -> Verdict:
    snapshot = _word(info, "rdb_last_bgsave_status")
    append = str(info.get("aof_last_write_status", "ok"))
    rewrite = str(info.get("aof_last_bgrewrite_status", "ok"))
    aof = bool(info.get("aof_enabled"))
    status, fix = Status.PASS, ""
    if snapshot != "ok" or append != "ok":
        status = Status.FAIL if look.durable else Status.WARN
        fix = "the server's log says why: a full disk, its directory; then BGSAVE"
    elif rewrite != "ok":
        status, fix = Status.WARN, "the server's log has the reason; then BGREWRITEAOF"
    return Verdict(
        status=status,
        seen=f"last snapshot {snapshot}, append-only file {'on' if aof else 'off'}"
        + (f", last append {append}, last rewrite {rewrite}" if aof else ""),
        fix=fix,
        values={
            "snapshot": snapshot,
            "append": append,
            "rewrite": rewrite,
            "aof": int(aof),
            "unsaved": info.get("rdb_changes_since_last_save", 0),
        },
    )


def _connections(info: dict[str, Any], look: _Look) -> Verdict:
    connected = int(_number(info, "connected_clients"))
    most = int(_number(info, "maxclients"))
    ours = look.seen.stats.connections
    status = look.limits.clients.judge(connected / max(1, most))
    fix = (
        ""
        if status is Status.PASS
        else "CONFIG SET maxclients, or find who: CLIENT LIST"
    )
    if status is Status.PASS and ours.waiting:
        status, fix = Status.WARN, "a higher REDIS_POOL_MAX, or fewer blocking calls"
    return Verdict(
        status=status,
        seen=f"{connected:,} of {most:,} at the server; ours: {ours.shared} shared, "
        f"{ours.leased} in use, {ours.idle} idle, {ours.waiting} calls waiting",
        fix=fix,
        values={
            "connected": connected,
            "maxclients": most,
            "rejected": info.get("rejected_connections", 0),
            "in_use": ours.shared + ours.leased,
            "idle": ours.idle,
            "waiting": ours.waiting,
        },
    )


def _keys(info: dict[str, Any], _: _Look) -> Verdict:
    databases = _numbered(info, "db")
    keys = sum(int(_number(each, "keys")) for each in databases)
    expiring = sum(int(_number(each, "expires")) for each in databases)
    return Verdict(
        status=Status.PASS,
        seen=f"{keys:,} keys, {expiring:,} of them with a lifetime",
        values={"keys": keys, "expiring": expiring},
    )


_Judge = Callable[[dict[str, Any], _Look], Verdict]
_CHECKS: tuple[tuple[str, str, _Judge], ...] = (
    ("server", "while it loads its data it answers nothing else", _server),
    ("role", "a replica refuses writes, and its reads are late", _role),
    ("replication", "what no replica has is lost with the primary", _replication),
    (
        "memory",
        "at its limit a server refuses writes, evicts, or is killed by the kernel",
        _memory,
    ),
    (
        "eviction",
        "what users asked for must never be evicted, and a cache has to be able to",
        _eviction,
    ),
    (
        "persistence",
        "a server that cannot write to its disk refuses writes, and forgets",
        _persistence,
    ),
    (
        "connections",
        "above maxclients the server turns connections away",
        _connections,
    ),
    ("keys", "a number that only grows is a key without a lifetime", _keys),
)
NAMES = frozenset(name for name, _, _ in _CHECKS)
"""Of these checks."""
