"""What `doctor` looks at beyond the health of a server: how it is set up."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire import acl
from oddswire.cli._certificate import days_left
from oddswire.cli._permissions import Shapes, allowed, denied
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
_SERVER = 2  # seconds in which a server notices, beyond min-replicas-max-lag
_LEASE = 2  # seconds that it is believed after a write that it acknowledged
_ASK = (
    "look with an administrator's URL at the bot's user: "
    "oddswire doctor --url redis://<administrator>@... --user <user>"
)
_CONFIG = (
    "maxmemory",
    "save",
    "appendonly",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "timeout",
)


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at.

    Attributes:
        server: Which one, with its settings.
        client: Connected to it.
        clock: Ours.
        reachable: Whether it answers.
        cause: Why it does not.
        replicas: How many it has; None if it did not tell.
        bounded: Whether INFO shows that min-replicas-to-write is set.
        config: Its configuration by name; empty if it may not be read.
        shapes: Its commands; None if they may not be asked for.
        user: Whose rights are judged; None: those of the user who looks.
    """

    server: Server
    client: Client
    clock: Clock
    reachable: bool
    cause: str = ""
    replicas: int | None
    bounded: bool = False
    config: dict[str, str]
    shapes: Shapes | None
    user: str | None = None

    @property
    def deployed(self) -> bool:
        """Whether people depend on it."""
        return self.server.settings.profile in ("staging", "production")


async def config_of(client: Client) -> dict[str, str]:
    """Return the part of the configuration that is judged; empty if it is not told."""
    try:
        found = await client.config_get(*_CONFIG)
    except OddswireError:
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def settings(patient: Patient) -> Verdict:
    """What the settings allow, and may surprise."""
    warnings = patient.server.settings.warnings
    return Verdict(
        status=Status.WARN if warnings else Status.PASS,
        seen="; ".join(warnings) or f"profile {patient.server.settings.profile}",
        fix="remove or correct what is named",
        values={"warnings": len(warnings)},
    )


async def tls(patient: Patient) -> Verdict:
    """Whether somebody on the way can read or replace what is sent."""
    endpoint, options = patient.server.endpoint, patient.server.settings
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
            fix = "rediss:// in the URL, ODDSWIRE_TLS_CA_FILE for an authority of yours"
    elif not patient.reachable:
        # Nothing was seen of it: neither encrypted nor verified.
        if "TLS failed" not in patient.cause:
            return unknown("the server does not answer")
        status, seen = Status.FAIL, patient.cause
        fix = "ODDSWIRE_TLS_CA_FILE for an authority of yours; the name and the dates"
    elif verified:
        seen = "encrypted, the certificate and its name are verified"
        # With sentinels the URL has the primary's name and not its address.
        if options.sentinels is None:
            try:
                days = await days_left(endpoint, options, patient.clock.now())
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
        status = Status.FAIL if patient.deployed else Status.WARN
        fix = "remove REDIS_TLS_REJECT_UNAUTHORIZED; ODDSWIRE_TLS_CA_FILE trusts yours"
    return Verdict(
        status=status,
        seen=seen,
        fix=fix,
        values=values,
    )


async def round_trip(patient: Patient) -> Verdict:
    """How long commands take from here, one after the other."""
    times = []
    for _ in range(_PINGS):
        sent = monotonic()
        await patient.client.execute_command("PING")
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


async def clock_skew(patient: Patient) -> Verdict:
    """How far the server's clock is from ours."""
    before = patient.clock.now()
    seconds, micros = await patient.client.time()
    after = patient.clock.now()
    skew = seconds + micros / 1e6 - (before + after) / 2
    status = _SKEW.judge(abs(skew))
    return Verdict(
        status=status,
        seen=f"the server is {short(abs(skew))} {'ahead' if skew > 0 else 'behind'}",
        fix="timedatectl set-ntp true, on both",
        values={"seconds": skew, "uncertain": (after - before) / 2},
    )


async def maxmemory(patient: Patient) -> Verdict:
    """Whether the server has a limit of its own."""
    limit = int(_configured(patient, "maxmemory"))
    return Verdict(
        status=Status.PASS if limit else Status.WARN,
        seen=size(limit) if limit else "not set",
        fix="CONFIG SET maxmemory <three quarters of the machine>, CONFIG REWRITE",
        values={"maxmemory": limit},
    )


async def durability(patient: Patient) -> Verdict:
    """What is left after the server is killed."""
    aof = _configured(patient, "appendonly") == "yes"
    save = _configured(patient, "save")
    status, fix = Status.PASS, ""
    if not patient.server.durable:
        seen = "a disposable server: nothing has to be left"
    elif aof:
        seen = "append-only file: at most the last second is lost"
    else:
        seen = f"snapshots only ({save})" if save else "nothing is kept"
        status = Status.FAIL if patient.deployed and not save else Status.WARN
        fix = "CONFIG SET appendonly yes, CONFIG REWRITE"
    return Verdict(
        status=status,
        seen=seen,
        fix=fix,
        values={"aof": int(aof), "save": save},
    )


async def min_replicas(patient: Patient) -> Verdict:
    """Whether a primary that was deposed goes on taking writes, and is believed."""
    there = patient.replicas
    if there is None:
        raise _NotTold("the server did not tell its replicas")
    if "min-replicas-to-write" in patient.config:
        wanted = int(_configured(patient, "min-replicas-to-write"))
    elif patient.bounded and there > 1:
        raise _NotTold("min-replicas-to-write is set, and to how many is not told")
    else:
        wanted = int(patient.bounded)
    seen = f"{there} replicas, writes need {wanted} of them"
    if 0 < wanted < there:
        seen += f": with {wanted} of them beside it, a deposed primary goes on"
    elif wanted and "min-replicas-max-lag" in patient.config:
        lag = int(patient.config["min-replicas-max-lag"])
        seen += f": in a failover nothing read is older than {lag + _SERVER + _LEASE} s"
    return Verdict(
        status=Status.WARN if wanted < there else Status.PASS,
        seen=seen,
        fix=f"CONFIG SET min-replicas-to-write {there} min-replicas-max-lag 2, CONFIG "
        "REWRITE; fewer, if so many cannot be cut off together with the primary",
        values={"replicas": there, "needed": wanted},
    )


async def idle_timeout(patient: Patient) -> Verdict:
    """Whether the server closes connections that are merely quiet."""
    limit = int(_configured(patient, "timeout"))
    heartbeat = patient.server.settings.heartbeat
    closes = 0 < limit <= heartbeat
    return Verdict(
        status=Status.WARN if closes else Status.PASS,
        seen=f"the server closes after {limit} s" if limit else "never closes for it",
        fix=f"CONFIG SET timeout 0, or REDIS_HEALTH_CHECK_INTERVAL below {limit}000",
        values={"timeout": limit, "heartbeat": heartbeat},
    )


async def permissions(patient: Patient) -> Verdict:
    """What the parts of the library need and this user may not."""
    user, shapes = await _who(patient)
    prefix = patient.server.settings.prefix
    # The doctor looks as whoever calls it; the bot's user need not be able to.
    parts_of_bot = [part for part in acl.COMPONENTS if part is not acl.DOCTOR]
    found = await asyncio.gather(
        *(denied(patient.client, user, part, shapes, prefix) for part in parts_of_bot)
    )
    lacking = {
        part.name: said for part, said in zip(parts_of_bot, found, strict=True) if said
    }
    parts = " ".join(lacking)
    return Verdict(
        status=Status.WARN if lacking else Status.PASS,
        seen="; ".join(
            f"{part} may not {', '.join(said)}" for part, said in lacking.items()
        )
        or f"user {user!r} may do what every part needs",
        # Added to what the user may do: this is the user that the bot runs as.
        fix=f"if these are used: oddswire acl --add --user {user} {parts}",
        values={"user": user, "lacking": parts},
    )


async def privilege(patient: Patient) -> Verdict:
    """What this user may do and nothing here needs."""
    user, _ = await _who(patient)
    names = await _dangerous(patient.client)
    shapes = await Shapes.of(patient.client, names)
    more = await allowed(patient.client, user, names, shapes)
    # Never the present one: the lines replace what a user may do.
    new = "oddswire-bot" if user == "oddswire" else "oddswire"
    return Verdict(
        status=Status.WARN if more and patient.deployed else Status.PASS,
        seen=f"user {user!r} may also run {', '.join(more)}"
        if more
        else f"user {user!r} may run nothing that ends, empties, reads or rules the "
        "server",
        fix=f"a new user for the bot: oddswire acl --user {new}, then its name and "
        "password in REDIS_URL",
        values={"user": user, "allowed": " ".join(more)},
    )


async def _who(patient: Patient) -> tuple[str, Shapes]:
    """Return the user to judge, and what commands look like."""
    shapes = patient.shapes
    if shapes is None:
        raise _NotTold("this user may not run COMMAND INFO")
    if not shapes.knows("acl|dryrun"):
        raise _NotTold("this server has no ACL DRYRUN")
    if patient.user is not None:
        return patient.user, shapes
    return _text(await patient.client.execute_command("ACL WHOAMI")), shapes


async def _dangerous(client: Client) -> tuple[str, ...]:
    """Return what no part needs: of our list, and of the server's own categories."""
    names = list(acl.DANGEROUS)
    for category in acl.CATEGORIES:
        try:
            names += map(_text, await client.execute_command("ACL CAT", category))
        except OddswireError:
            continue  # it may not be asked, or has no such category
    needed = acl.needed()
    return tuple(dict.fromkeys(name for name in names if name not in needed))


class _NotTold(OddswireError):
    """The server does not tell this."""


CHECKS: tuple[tuple[str, str, Callable[[Patient], Awaitable[Verdict]]], ...] = (
    ("settings", "a variable that has no effect is a wish that nobody hears", settings),
    ("tls", "the password and every value go over this link", tls),
    ("round_trip", "a reply of the bot waits for several of them", round_trip),
    (
        "clock",
        "lifetimes and limits go by the server's clock, alerts show ours",
        clock_skew,
    ),
    (
        "maxmemory",
        "without it the kernel kills the server when the machine is full",
        maxmemory,
    ),
    (
        "durability",
        "what users asked for has to survive a restart of the server",
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
    ("privilege", "whoever has the password of this user may do it too", privilege),
)
"""Name, why it matters, and who looks."""

# These look at the settings, and at the server only if it answers.
_HERE = (settings, tls)


async def run(
    look: Callable[[Patient], Awaitable[Verdict]], patient: Patient
) -> Verdict:
    """Look; what could not be read is unknown, with the grant to make."""
    if not patient.reachable and look not in _HERE:
        return unknown("the server does not answer")
    try:
        return await look(patient)
    except (NoPermission, _NotTold) as error:
        return unknown(str(error), _ASK)
    except OddswireError as error:
        return unknown(f"{type(error).__name__}: {error}", "look again")


def _configured(patient: Patient, name: str) -> str:
    if name not in patient.config:
        raise _NotTold(f"CONFIG GET {name} is not answered")
    return patient.config[name]
