"""What `doctor` looks at beyond the health of a server: how it is set up."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from oddswire import acl
from oddswire._text import text
from oddswire.cli._certificate import days_left
from oddswire.cli._permissions import CommandTable, allowed, denied
from oddswire.cli._servers import Server
from oddswire.client import Client
from oddswire.clock import Clock
from oddswire.errors import NoPermission, OddswireError
from oddswire.health import Bound, Status
from oddswire.health.report import Verdict, unknown
from oddswire.health.units import short, size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PINGS = 200
_ROUND_TRIP = Bound(0.05, 1.0)
_SKEW = Bound(1.0)
_RENEWED = 14.0  # days before its end in which a certificate has to be renewed
_SERVER = 2  # seconds beyond min-replicas-max-lag until a primary counts again
_LEASE = 2  # seconds for which a primary is believed after it acknowledged a write
_ASK = (
    "look with an administrator's URL at the bot's user: "
    "oddswire doctor --url redis://<administrator>@... --user <user>"
)
_WORKING = tuple(part for part in acl.COMPONENTS if "evalsha" in part.commands)
_CONFIG = (
    "maxmemory",
    "save",
    "appendonly",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "timeout",
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The server that the checks look at.

    Attributes:
        server: Its name and its settings.
        client: A client of the server.
        clock: The clock of this machine.
        reachable: Whether the server answers.
        cause: The reason if the server does not answer.
        role: ``"primary"``, ``"replica"`` or ``"sentinel"``; empty if it does not say.
        replicas: How many it has; None if it does not say.
        bounded: Whether INFO shows that min-replicas-to-write is set.
        config: Its configuration by name; empty if this user may not read it.
        commands: Its commands; None if this user may not ask for them.
        user: The user whose rights are judged; None: the user of the URL.
    """

    server: Server
    client: Client
    clock: Clock
    reachable: bool
    cause: str = ""
    role: str = ""
    replicas: int | None
    bounded: bool = False
    config: dict[str, str]
    commands: CommandTable | None
    user: str | None = None

    @property
    def deployed(self) -> bool:
        """Whether the profile is staging or production."""
        return self.server.settings.profile in ("staging", "production")


async def config_of(client: Client) -> dict[str, str]:
    """Return the options that the checks judge; empty if the server does not tell."""
    try:
        found = await client.config_get(*_CONFIG)
    except OddswireError:
        return {}
    return {text(name): text(value) for name, value in found.items()}


async def settings(target: Target) -> Verdict:
    """Whether a setting has no effect, or a dangerous one."""
    warnings = target.server.settings.warnings
    return Verdict(
        status=Status.WARN if warnings else Status.PASS,
        seen="; ".join(warnings) or f"profile {target.server.settings.profile}",
        fix="remove or correct the settings that are named",
        values={"warnings": len(warnings)},
    )


async def tls(target: Target) -> Verdict:
    """Whether a third party can read or replace the traffic."""
    endpoint, options = target.server.endpoint, target.server.settings
    status, fix = Status.PASS, ""
    verified = options.tls_verify and options.tls_check_hostname
    values: dict[str, float | int | str] = {
        "tls": int(endpoint.tls),
        "verified": int(endpoint.tls and verified),
        "reach": endpoint.reach,
    }
    if not endpoint.tls:
        seen = f"plaintext to a {endpoint.reach} address"
        if endpoint.reach != "local":
            status = Status.FAIL if endpoint.reach == "public" else Status.WARN
            fix = "use rediss:// in the URL; ODDSWIRE_TLS_CA_FILE trusts your authority"
    elif not target.reachable:
        # Without a handshake neither encryption nor certificate is known.
        if "TLS failed" not in target.cause:
            return unknown("the server does not answer")
        status, seen = Status.FAIL, target.cause
        fix = "check name and dates; ODDSWIRE_TLS_CA_FILE trusts your own authority"
    elif verified:
        seen = "encrypted, the certificate and its name are verified"
        # With sentinels the URL has the primary's name and not its address.
        if options.sentinels is None:
            try:
                days = await days_left(endpoint, options, target.clock.now())
            except OSError as error:
                return unknown(
                    f"the certificate was not shown: {error}",
                    f"openssl s_client -connect {endpoint.address}",
                )
            values["days"] = days
            seen += f"; it ends in {days:.0f} days"
            if days < _RENEWED:
                status = Status.WARN
                fix = "renew the server's certificate, then CONFIG SET tls-cert-file"
    else:
        seen = "encrypted, the certificate is not verified"
        status = Status.FAIL if target.deployed else Status.WARN
        fix = "unset REDIS_TLS_REJECT_UNAUTHORIZED; ODDSWIRE_TLS_CA_FILE trusts yours"
    return Verdict(
        status=status,
        seen=seen,
        fix=fix,
        values=values,
    )


async def round_trip(target: Target) -> Verdict:
    """How long commands take from here, one after the other."""
    times = []
    for _ in range(_PINGS):
        sent = monotonic()
        await target.client.execute_command("PING")
        times.append(monotonic() - sent)
    times.sort()
    p50, p99 = times[_PINGS // 2], times[_PINGS * 99 // 100]
    status = _ROUND_TRIP.judge(p99)
    return Verdict(
        status=status,
        seen=f"p50 {short(p50)}, p99 {short(p99)} of {_PINGS}",
        fix="bring the bot nearer to the server; redis-cli --latency measures alone",
        values={"p50": p50, "p99": p99, "count": _PINGS},
    )


async def clock_skew(target: Target) -> Verdict:
    """How far the server's clock is from ours."""
    before = target.clock.now()
    seconds, micros = await target.client.time()
    after = target.clock.now()
    skew = seconds + micros / 1e6 - (before + after) / 2
    status = _SKEW.judge(abs(skew))
    return Verdict(
        status=status,
        seen=f"the server is {short(abs(skew))} {'ahead' if skew > 0 else 'behind'}",
        fix="run `timedatectl set-ntp true` on both machines",
        values={"seconds": skew, "uncertain": (after - before) / 2},
    )


async def maxmemory(target: Target) -> Verdict:
    """Whether the server has a limit of its own."""
    limit = int(_configured(target, "maxmemory"))
    return Verdict(
        status=Status.PASS if limit else Status.WARN,
        seen=size(limit) if limit else "not set",
        fix="CONFIG SET maxmemory <three quarters of the machine>, CONFIG REWRITE",
        values={"maxmemory": limit},
    )


async def durability(target: Target) -> Verdict:
    """Which data survives a kill of the server."""
    aof = _configured(target, "appendonly") == "yes"
    save = _configured(target, "save")
    status, fix = Status.PASS, ""
    if not target.server.durable:
        seen = "a disposable server: its data may be lost"
    elif aof:
        seen = "append-only file: at most the last second is lost"
    else:
        seen = f"snapshots only ({save})" if save else "nothing is kept"
        status = Status.FAIL if target.deployed and not save else Status.WARN
        fix = "CONFIG SET appendonly yes, CONFIG REWRITE"
    return Verdict(
        status=status,
        seen=seen,
        fix=fix,
        values={"aof": int(aof), "save": save},
    )


async def min_replicas(target: Target) -> Verdict:
    """Whether a deposed primary still accepts writes, and acknowledges them."""
    if target.role in ("replica", "sentinel"):
        return unknown(
            f"this server is a {target.role}, and its primary accepts the writes",
            "look at the primary, which the check role names",
        )
    there = target.replicas
    if there is None:
        raise _NotAnswered("the server does not say how many replicas it has")
    if "min-replicas-to-write" in target.config:
        wanted = int(_configured(target, "min-replicas-to-write"))
    elif target.bounded and there > 1:
        raise _NotAnswered(
            "min-replicas-to-write is set, and the server does not show its value"
        )
    else:
        wanted = int(target.bounded)
    seen = f"{there} replicas, writes need {wanted} of them"
    if 0 < wanted < there:
        seen += f": with {wanted} of them beside it, a deposed primary goes on"
    elif wanted and "min-replicas-max-lag" in target.config:
        lag = int(target.config["min-replicas-max-lag"])
        seen += f": in a failover nothing read is older than {lag + _SERVER + _LEASE} s"
    return Verdict(
        status=Status.WARN if wanted < there else Status.PASS,
        seen=seen,
        fix=f"CONFIG SET min-replicas-to-write {there} min-replicas-max-lag 2, CONFIG "
        "REWRITE; a lower number if fewer can be cut off together with the primary",
        values={"replicas": there, "needed": wanted},
    )


async def idle_timeout(target: Target) -> Verdict:
    """Whether the server closes connections that are only idle."""
    limit = int(_configured(target, "timeout"))
    heartbeat = target.server.settings.heartbeat
    closes = 0 < limit <= heartbeat
    return Verdict(
        status=Status.WARN if closes else Status.PASS,
        seen=f"the server closes after {limit} s" if limit else "never closes",
        fix=f"CONFIG SET timeout 0, or REDIS_HEALTH_CHECK_INTERVAL below {limit}000",
        values={"timeout": limit, "heartbeat": heartbeat},
    )


async def permissions(target: Target) -> Verdict:
    """Which commands the library needs and this user may not run."""
    prefix = target.server.settings.prefix
    try:
        user, commands = await _who(target)
    except (NoPermission, _NotAnswered):
        refused = await _without_ping(target)
        if refused is None:
            raise
        return refused
    # The doctor asks as the user of the URL: the user of the bot needs no such right.
    parts_of_bot = [part for part in acl.COMPONENTS if part is not acl.DOCTOR]
    found = await asyncio.gather(
        *(denied(target.client, user, part, commands, prefix) for part in parts_of_bot)
    )
    lacking = {
        part.name: said for part, said in zip(parts_of_bot, found, strict=True) if said
    }
    parts = " ".join(lacking)
    # FAIL: no part can work, because each sends PING; or --user names the bot's user,
    # and each part that runs scripts lacks something. A user who only looks is no FAIL.
    idle = any("'ping'" in word for word in lacking.get("client", ())) or (
        target.user is not None and all(part.name in lacking for part in _WORKING)
    )
    status = Status.FAIL if idle else Status.WARN
    return Verdict(
        status=status if lacking else Status.PASS,
        seen="; ".join(
            f"{part} may not {', '.join(said)}" for part, said in lacking.items()
        )
        or f"user {user!r} may do what every part needs",
        # --add: the bot may run as this user, and must lose no right.
        fix=f"if these are used: oddswire acl --add --user {user} {parts}",
        values={"user": user, "lacking": parts},
    )


async def _without_ping(target: Target) -> Verdict | None:
    """Return the verdict on a user who may not send PING; None: they may."""
    if target.user is not None:
        return None  # the user of the URL is not the one that is judged
    try:
        await target.client.ping()
    except NoPermission as error:
        user = target.server.endpoint.username or "default"
        parts = " ".join(part.name for part in (acl.CLIENT, *_WORKING))
        return Verdict(
            status=Status.FAIL,
            seen=f"no part can work as user {user!r}: {error}",
            fix=f"if these are used: oddswire acl --add --user {user} {parts}",
            values={"user": user, "lacking": parts},
        )
    return None


async def privilege(target: Target) -> Verdict:
    """Which dangerous commands this user may run without need."""
    user, _ = await _who(target)
    names = await _dangerous(target.client)
    commands = await CommandTable.of(target.client, names)
    more = await allowed(target.client, user, names, commands)
    # Not the present user: the lines replace its rights, and the bot would stop.
    new = "oddswire-bot" if user == "oddswire" else "oddswire"
    return Verdict(
        status=Status.WARN if more and target.deployed else Status.PASS,
        seen=f"user {user!r} may also run {', '.join(more)}"
        if more
        else f"user {user!r} may run no command that stops, empties, dumps or controls "
        "the server",
        fix=f"make a new user for the bot: oddswire acl --user {new}; put its name and "
        "password into REDIS_URL",
        values={"user": user, "allowed": " ".join(more)},
    )


async def _who(target: Target) -> tuple[str, CommandTable]:
    """Return the user to judge, and the commands of the server."""
    commands = target.commands
    if commands is None:
        raise _NotAnswered("this user may not run COMMAND INFO")
    if not commands.knows("acl|dryrun"):
        raise _NotAnswered("this server has no ACL DRYRUN")
    if target.user is not None:
        return target.user, commands
    return text(await target.client.execute_command("ACL WHOAMI")), commands


async def _dangerous(client: Client) -> tuple[str, ...]:
    """Return the dangerous commands, ours and the server's, that no part needs."""
    names = list(acl.DANGEROUS)
    for category in acl.CATEGORIES:
        try:
            names += map(text, await client.execute_command("ACL CAT", category))
        except OddswireError:
            continue  # this user may not ask, or there is no such category
    needed = acl.needed()
    return tuple(dict.fromkeys(name for name in names if name not in needed))


class _NotAnswered(OddswireError):
    """The server does not answer this question."""


CHECKS: tuple[tuple[str, str, Callable[[Target], Awaitable[Verdict]]], ...] = (
    (
        "settings",
        "a variable without effect leaves a default in force that nobody expects",
        settings,
    ),
    ("tls", "the password and every value travel on this connection", tls),
    ("round_trip", "one answer of the bot waits for several round trips", round_trip),
    (
        "clock",
        "the server's clock decides on lifetimes and limits, alerts show our time",
        clock_skew,
    ),
    (
        "maxmemory",
        "without it the kernel kills the server when the machine is full",
        maxmemory,
    ),
    (
        "durability",
        "the data of users has to survive a restart of the server",
        durability,
    ),
    (
        "min_replicas",
        "a primary that is cut off acknowledges writes that are lost in the failover",
        min_replicas,
    ),
    (
        "idle_timeout",
        "a connection closed between two heartbeats costs the next call a connect",
        idle_timeout,
    ),
    (
        "permissions",
        "a part whose command is refused fails when it is needed",
        permissions,
    ),
    ("privilege", "a thief of this user's password could run them too", privilege),
)
"""For each check: its name, why it matters, and the function."""

# These checks judge the settings; they run also if the server does not answer.
_HERE = (settings, tls)


async def run(look: Callable[[Target], Awaitable[Verdict]], target: Target) -> Verdict:
    """Run a check; if the server does not answer, the verdict is unknown."""
    if not target.reachable and look not in _HERE:
        return unknown("the server does not answer")
    try:
        return await look(target)
    except (NoPermission, _NotAnswered) as error:
        return unknown(str(error), _ASK)
    except OddswireError as error:
        return unknown(f"{type(error).__name__}: {error}", "run the check again")


def _configured(target: Target, name: str) -> str:
    if name not in target.config:
        raise _NotAnswered(f"the server does not answer CONFIG GET {name}")
    return target.config[name]
