"""The checks of this process: its connection, round trips, event loop and calls."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from oddswire.errors import (
    AuthFailed,
    CircuitOpen,
    ClosedError,
    Misconfigured,
    NoPermission,
    Overloaded,
    WrongLoop,
)
from oddswire.health.report import Status, Verdict, unknown
from oddswire.health.units import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from oddswire.health._reading import Reading
    from oddswire.health.thresholds import Thresholds


def reachable(seen: Reading, _: Thresholds) -> Verdict:
    """Whether the server answers, and takes commands."""
    error = seen.unreachable
    if error is not None:
        return Verdict(
            status=Status.FAIL,
            seen=f"no answer: {type(error).__name__}: {error}",
            fix=_way_out(error),
            values={"error": type(error).__name__},
        )
    refused = seen.refused
    if refused is not None and not isinstance(refused, NoPermission):
        fix = (
            "the check persistence says why; CONFIG SET "
            "stop-writes-on-bgsave-error no lets writes through meanwhile"
            if isinstance(refused, Misconfigured)
            else "wait until it is done, and ask again"
        )
        return Verdict(
            status=Status.FAIL,
            seen=f"it answers, and refuses commands: {refused}",
            fix=fix,
            values={"error": type(refused).__name__},
        )
    return Verdict(status=Status.PASS, seen="it answers")


def _way_out(error: Exception) -> str:
    match error:
        case AuthFailed():
            return "check the user and the password of REDIS_URL and REDIS_PASSWORD"
        case NoPermission():
            return "let an administrator run what `oddswire acl client` prints"
        case Overloaded():
            return "fewer calls at once, or a higher ODDSWIRE_INFLIGHT_COMMANDS"
        case ClosedError():
            return "make a new client: this one was closed"
        case WrongLoop():
            return "make a client in this event loop: this one belongs to another"
    return next(
        (way for words, way in _WAYS_OUT if words in str(error)),
        "is it running, and does redis-cli -u $REDIS_URL ping answer from here?",
    )


# What `connection` says of an attempt that failed, and what to do about that.
_WAYS_OUT = (
    (
        "cannot be selected",
        (
            "the server answers: correct the database's number in REDIS_URL, or raise "
            "--databases of the server"
        ),
    ),
    ("redis://", "correct the scheme of REDIS_URL as the error says, or the port"),
    (
        "TLS failed",
        (
            "the server answers: ODDSWIRE_TLS_CA_FILE names its authority; the host in "
            "REDIS_URL has to be a name of its certificate, and the dates have to hold"
        ),
    ),
    ("certificate of ours", "ODDSWIRE_TLS_CERT_FILE and ODDSWIRE_TLS_KEY_FILE"),
    ("TLS cannot be set up", "correct the files that are named"),
    (
        "protected mode",
        (
            "the server answers: give it a password (requirepass) and the same in "
            "REDIS_PASSWORD, or connect from its own machine"
        ),
    ),
    (
        "max number of clients",
        (
            "the server answers: CLIENT LIST tells its clients, CONFIG SET maxclients "
            "raises the limit"
        ),
    ),
    ("does not know HELLO", "a server of Redis 6.2 or later, or Valkey"),
    ("Protocol error", "something else answers at this port: correct REDIS_URL"),
    (
        "rediss://",
        (
            "rediss:// in REDIS_URL if the server wants TLS; if not, look for what "
            "closes the connection"
        ),
    ),
)


def circuit(seen: Reading, _: Thresholds) -> Verdict:
    """Whether the client has given up connecting for a while."""
    # It may have opened while we asked.
    is_open = seen.stats.circuit_open or isinstance(seen.unreachable, CircuitOpen)
    return Verdict(
        status=Status.FAIL if is_open else Status.PASS,
        seen="open: calls fail at once" if is_open else "closed",
        fix="it closes by itself with the first probe that succeeds",
        values={"open": int(is_open), "connects": seen.stats.connects},
    )


def heartbeat(seen: Reading, limits: Thresholds) -> Verdict:
    """How long ago the server was last heard of, before we asked."""
    silent = seen.stats.connections.silent
    if silent is None:
        return Verdict(
            # A client connects on first use, and that may have been this check.
            status=Status.UNKNOWN if seen.unreachable else Status.PASS,
            seen="it was not connected before this check",
        )
    status = limits.silence.judge(silent)
    return Verdict(
        status=status,
        seen=f"last heard of {short(silent)} ago",
        fix="see the check loop; is REDIS_HEALTH_CHECK_INTERVAL below the threshold?",
        values={"seconds": silent},
    )


def latency(seen: Reading, limits: Thresholds) -> Verdict:
    """How long a PING takes, by the median of a few."""
    if not seen.pings:
        return unknown("no PING was answered")
    typical = median(seen.pings)
    status = limits.latency.judge(typical)
    return Verdict(
        status=status,
        seen=f"{short(typical)}, at worst {short(max(seen.pings))}",
        fix="if the check loop passes: redis-cli --latency, and SLOWLOG GET 10",
        values={"median": typical, "worst": max(seen.pings)},
    )


def loop(seen: Reading, limits: Thresholds) -> Verdict:
    """How late our own event loop is."""
    status = limits.loop_lag.judge(seen.loop_lag)
    return Verdict(
        status=status,
        seen=f"{short(seen.loop_lag)} late",
        fix="run with PYTHONASYNCIODEBUG=1: asyncio names the callback that blocks",
        values={"seconds": seen.loop_lag},
    )


def calls(seen: Reading, limits: Thresholds) -> Verdict:
    """How many calls failed in the last minute."""
    recent, slow = seen.stats.recent, sum(seen.stats.slow.values())
    failures = sum(recent.failures.values())
    count = max(recent.calls - seen.own, failures)
    rate = failures / max(1, count)
    values: dict[str, float | int | str] = {
        "calls": count,
        "failures": failures,
        "failure_rate": rate,
        "slow": slow,
    }
    by_class = ", ".join(f"{many} {kind}" for kind, many in recent.failures.items())
    text = f"{count:,} in the last minute, failed: {by_class or 'none'}"
    if count < limits.failures_least:
        status = Status.PASS
    else:
        status = limits.failures.judge(rate)
    return Verdict(
        status=status,
        seen=text,
        fix="the class of the error says what to do: `oddswire doctor` looks further",
        values=values,
    )


CHECKS: tuple[tuple[str, str, Callable[[Reading, Thresholds], Verdict]], ...] = (
    ("reachable", "without the server nothing of this library works", reachable),
    ("circuit", "while it is open calls do not wait for the server at all", circuit),
    ("heartbeat", "a link that died in silence is only found by asking", heartbeat),
    ("latency", "every call takes at least as long", latency),
    ("loop", "a loop that something blocks makes a fast server look slow", loop),
    ("calls", "what fails here is what users see", calls),
)
"""Name, why it matters, and the function that looks."""
