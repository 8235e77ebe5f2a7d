"""The faults, one function each, and what a client has to make of them.

The numbers are those of the fault matrix in docs/results/chaos.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from load import DEADLINE
from parts import (
    cut_short,
    killed_processes,
    killed_while_cached,
    killed_while_limiting,
    restarted,
    slow_subscriber,
)
from redis.exceptions import RedisError

from oddswire.testing import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from load import Result, Stage


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        number: In the matrix.
        name: What happens.
        fault: Makes it happen; when it returns it is over.
        criteria: What ours has to make of it, each with its text.
        keeps: Whether what was acknowledged must be there at the end.
        aof: Whether the server writes its data down.
        args: Further options of the server.
        peers: Whether the other clients are looked at too.
        seconds: How long it lasts in the long form.
    """

    number: int
    name: str
    fault: Callable[[Stage], Awaitable[None]]
    criteria: tuple[tuple[str, Callable[[Result], bool]], ...]
    keeps: bool = True
    aof: bool = False
    args: tuple[str, ...] = ()
    peers: bool = False
    seconds: float = 1.5


# --- what is asked of every row

_NEVER = (
    ("nothing acknowledged is lost, no counter is off", lambda r: r.lost == []),
    ("no reply belongs to another key", lambda r: not r.wrong),
    ("no call is past its deadline and a tenth", lambda r: not r.late),
    ("nothing is left behind", lambda r: not r.leaked),
)


def _back_within(seconds: float) -> tuple[str, Callable[[Result], bool]]:
    return (
        (
            f"good calls within {seconds:g} s of its end, or twice what the server "
            "took to start"
        ),
        # The pauses between attempts grow with the time that a server takes to start.
        lambda r: (
            r.recovery is not None
            and r.recovery < max(seconds, 2 * r.notes.get("start", 0))
        ),
    )


def _at_most(connections: int) -> tuple[str, Callable[[Result], bool]]:
    return (
        (
            f"at most {connections} new connections, and one for each quarter of a "
            "second that the server took to start"
        ),
        lambda r: r.connections <= connections + int(4 * r.notes.get("start", 0)),
    )


def _only(*errors: str) -> tuple[str, Callable[[Result], bool]]:
    named = ", ".join(errors) or "none"
    return f"errors: {named}", lambda r: r.errors.keys() <= set(errors)


_ALL_ANSWERED = ("every call is answered", lambda r: r.unknown == r.refused == 0)
# A machine that gives the loop no time gives the server none either.
_ANSWERED_IN_TIME = (
    "every call is answered, unless the event loop was late by a whole deadline",
    lambda r: r.unknown == r.refused == 0 or r.notes["loop held up"] >= DEADLINE,
)


# --- the server


async def killed(stage: Stage) -> None:
    """Kill it and start it again on the same data directory."""
    stage.server.kill(signal.SIGKILL)
    await stage.server.wait_exit()
    await restarted(stage)


async def stopped(stage: Stage) -> None:
    """Stop its process, let it go on."""
    with frozen(stage.server):
        await asyncio.sleep(stage.seconds)


async def loading(stage: Stage) -> None:
    """Start it again with data that it takes some time to load."""
    fill = stage.admin.pipeline(transaction=False)
    for number in range(2_000):
        fill.set(f"fill:{number}", "v" * 100)
    await fill.execute()
    await stage.admin.save()
    await killed(stage)


async def full_memory(stage: Stage) -> None:
    """Refuse every write for want of memory."""
    await stage.admin.config_set("maxmemory", 1)
    await asyncio.sleep(stage.seconds)
    await stage.admin.config_set("maxmemory", 0)


async def full_disk(stage: Stage) -> None:
    """Let no file grow, as on a full disk."""
    limit = resource.RLIMIT_FSIZE
    usual = resource.prlimit(stage.server.pid, limit, (20_000, resource.RLIM_INFINITY))
    # The fault begins when the file has grown so far.
    async with asyncio.timeout(20):
        while (await _aof(stage)) == "ok":  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
    await asyncio.sleep(stage.seconds)
    resource.prlimit(stage.server.pid, limit, usual)
    async with asyncio.timeout(10):
        while (await _aof(stage)) != "ok":  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


async def _aof(stage: Stage) -> str:
    return (await stage.admin.info("persistence"))["aof_last_write_status"]


async def too_many_clients(stage: Stage) -> None:
    """Cut the links when the server takes no more clients."""
    usual = (await stage.admin.config_get("maxclients"))["maxclients"]
    # The least is the number of those that are there.
    await stage.admin.config_set("maxclients", 1)
    stage.proxy.reset()
    await asyncio.sleep(stage.seconds)
    await stage.admin.config_set("maxclients", usual)


async def busy_script(stage: Stage) -> None:
    """Have a script occupy the server until it is killed."""
    await stage.admin.config_set("busy-reply-threshold", 50)
    other = stage.admin.__class__.from_url(stage.server.url)
    async with other:
        running = asyncio.get_running_loop().create_task(
            other.eval("while true do end", 0)
        )
        await asyncio.sleep(stage.seconds)
        with contextlib.suppress(RedisError):
            await stage.admin.script_kill()
        with contextlib.suppress(RedisError):
            await running


async def narrowed(stage: Stage) -> None:
    """Take commands from the user, then the user, then give both back."""
    user = "default"
    await stage.admin.execute_command("ACL", "SETUSER", user, "-set", "-incr")
    await asyncio.sleep(stage.seconds / 2)
    await stage.admin.execute_command("ACL", "SETUSER", user, "+@all")


# --- the link


async def half_open(stage: Stage) -> None:
    """Swallow everything in both directions, the link stays up."""
    stage.proxy.blackhole()
    await asyncio.sleep(stage.seconds)
    stage.proxy.heal()


async def half_open_up(stage: Stage) -> None:
    """Swallow what the client sends."""
    stage.proxy.up.blackhole = True
    await asyncio.sleep(stage.seconds)
    stage.proxy.heal()


async def silent_listener(stage: Stage) -> None:
    """Cut the link; new connections are accepted and met with silence."""
    stage.proxy.stall()
    stage.proxy.reset()
    await asyncio.sleep(stage.seconds)
    stage.proxy.heal()


async def reset_in_replies(stage: Stage) -> None:
    """Reset the link in the middle of a reply, several times."""
    await _cut(stage, stage.proxy.down)


async def cut_in_requests(stage: Stage) -> None:
    """Reset the link in the middle of a request, several times."""
    await _cut(stage, stage.proxy.up)


async def _cut(stage: Stage, direction: Any) -> None:
    for cut in range(5):
        # Past the handshake of the connection before, which is some 1,500 bytes.
        direction.cut_after = 3_000 + 7 * cut
        ends = monotonic() + 5
        while direction.cut_after is not None and monotonic() < ends:  # noqa: ASYNC110 - bytes tell nobody
            await asyncio.sleep(0.005)
    stage.proxy.heal()


async def slow_and_sliced(stage: Stage) -> None:
    """Deliver late and in pieces of a few bytes, in both directions."""
    for direction in (stage.proxy.up, stage.proxy.down):
        direction.latency, direction.jitter = 0.003, 0.003
        direction.slice = 7 if stage.tasks > 1 else 1
    await asyncio.sleep(stage.seconds)
    stage.proxy.heal()


async def corrupted(stage: Stage) -> None:
    """Flip a bit in one chunk of fifty on its way to the client."""
    stage.proxy.down.corrupt = 0.02
    await asyncio.sleep(stage.seconds)
    stage.proxy.heal()


# --- the process of the client


async def stalled_loop(stage: Stage) -> None:
    """Hold up the event loop for twice the deadline of calls that are under way."""

    async def ask() -> None:
        await asyncio.gather(*(_recorded(stage, number) for number in range(10)))

    await ask()  # whoever needs a connection for each call has them now
    sent = stage.proxy.up.bytes
    stage.proxy.down.hold = True
    asking = asyncio.get_running_loop().create_task(ask())
    async with asyncio.timeout(5):
        # An INCR is some 25 bytes: they have left, and no reply has come.
        while stage.proxy.up.bytes < sent + 10 * 20:  # noqa: ASYNC110 - bytes tell nobody
            await asyncio.sleep(0)
    stage.proxy.down.hold = False
    until = monotonic() + 1.0
    while monotonic() < until:
        pass  # the fault: nothing else runs meanwhile
    await asking


async def _recorded(stage: Stage, number: int) -> None:
    key = f"n:stall:{number}"
    await stage.history.record(
        "incr", key, stage.subject.incr(key), deadline=stage.deadline
    )


async def cancelled(stage: Stage) -> None:
    """Cancel every second one of 2,000 calls, through a link of 2 ms."""
    stage.proxy.down.latency = 0.002
    subject = stage.subject
    await subject.set("k:storm", "k:storm|1")
    calls = []
    for number in range(2_000):
        calls.append(asyncio.get_running_loop().create_task(_one(subject)))
        if number % 2:
            calls[-2].cancel()
        if number % 20 == 0:
            await asyncio.sleep(0.001)
    await asyncio.gather(*calls, return_exceptions=True)
    stage.proxy.heal()


async def _one(subject: Any) -> Any:
    return await subject.get("k:storm")


async def rotated(stage: Stage) -> None:
    """Add a password, give it to the client, take the old one away, cut the links."""
    server, admin = stage.server, stage.admin
    old = server.password
    await admin.execute_command("ACL", "SETUSER", "default", ">another")
    stage.subject.credentials["password"] = "another"  # type: ignore[attr-defined]
    stage.proxy.reset()
    await asyncio.sleep(stage.seconds / 2)
    await admin.execute_command("ACL", "SETUSER", "default", f"<{old}")
    stage.proxy.reset()
    await asyncio.sleep(stage.seconds / 2)
    await admin.execute_command("ACL", "SETUSER", "default", f">{old}")


# By default a reply does not wait for a disk that is still busy with the last second.
_KEPT: dict[str, Any] = {"aof": True, "args": ("--appendfsync", "always")}

_TRANSIENT = ("CommandTimeout", "ConnectionLost", "Unavailable", "CircuitOpen")

ROWS = (
    Row(1, "server killed, restarted with its data", killed,
        (*_NEVER, _back_within(1.0), _at_most(5), _only(*_TRANSIENT)),
        peers=True, **_KEPT),
    Row(2, "server killed, restarted empty", killed,
        (*_NEVER[1:], _back_within(1.0), _at_most(5),
         ("it is told: DataReset", lambda r: "DataReset" in r.notes["events"])),
        keeps=False),
    Row(2, "the same, with a cache in use", killed_while_cached,
        (*_NEVER[1:], _back_within(1.0), _at_most(16),
         ("no cached value is older than its last confirmed invalidation",
          lambda r: r.notes["cache"]["stale"] == [] and r.notes["cache"]["read"] > 50),
         ("memory is believed again", lambda r: r.notes["cache"]["memory again"])),
        keeps=False),
    Row(1, "the same, with a rate limit in use", killed_while_limiting,
        # While somebody waits, an attempt is made each 250 ms at least.
        (*_NEVER, _back_within(1.0), _at_most(8), _only(*_TRANSIENT),
         ("never above the limit in any window",
          lambda r: r.notes["admitted"]["worst"] <= 1.0),
         ("decided with the server and without it",
          lambda r: r.notes["admitted"]["by"] == ["local", "redis"])),
        **_KEPT),
    Row(3, "server stopped, goes on later (SIGSTOP, SIGCONT)", stopped,
        (*_NEVER, _back_within(1.0), _only(*_TRANSIENT)), peers=True),
    Row(4, "server loads its data", loading,
        (*_NEVER[1:], _back_within(1.0), _only("Loading", *_TRANSIENT),
         ("calls waited for it", lambda r: r.longest > 0.2)),
        keeps=False,
        # 0.8 s for the 2,000 keys that are there when it starts again.
        args=("--key-load-delay", "400",
              "--loading-process-events-interval-bytes", "1024")),
    Row(8, "half-open link, both directions", half_open,
        (*_NEVER, _back_within(3.5), _only(*_TRANSIENT)), peers=True),
    Row(8, "half-open link, requests only", half_open_up,
        (*_NEVER, _back_within(3.5), _only(*_TRANSIENT))),
    Row(9, "connections accepted and met with silence", silent_listener,
        (*_NEVER, _back_within(1.5), _only(*_TRANSIENT)), seconds=1.2),
    Row(10, "link reset in the middle of a reply", reset_in_replies,
        (*_NEVER, _back_within(1.0), _at_most(8), _only(*_TRANSIENT)), peers=True),
    Row(11, "link reset in the middle of a request", cut_in_requests,
        (*_NEVER, _back_within(1.0), _at_most(8), _only(*_TRANSIENT))),
    Row(12, "late, jittering, sliced", slow_and_sliced,
        (*_NEVER, _ANSWERED_IN_TIME, _at_most(0))),
    Row(13, "a bit flipped in 2 % of the chunks", corrupted,
        (("no reply is wrong when it is over: a broken link is left, not read on",
          lambda r: r.notes["wrong afterwards"] == 0),
         _NEVER[2], _NEVER[3], _back_within(1.5)),
        keeps=False, peers=True),
    Row(14, "no more clients (maxclients)", too_many_clients,
        (*_NEVER, _back_within(2.0), _at_most(40), _only(*_TRANSIENT))),
    Row(15, "out of memory (maxmemory, noeviction)", full_memory,
        (*_NEVER, _back_within(0.5), _at_most(0), _only("OutOfMemory"),
         ("refused, not unknown", lambda r: r.refused > 0 == r.unknown))),
    Row(16, "disk full", full_disk,
        (*_NEVER, _back_within(1.0), _at_most(0), _only("Misconfigured"),
         ("refused, not unknown", lambda r: r.refused > 0 == r.unknown)),
        aof=True),
    Row(17, "commands taken from the user (ACL)", narrowed,
        (*_NEVER, _back_within(0.5), _at_most(0), _only("NoPermission"),
         ("refused, not unknown", lambda r: r.refused > 0 == r.unknown))),
    Row(18, "password rotated", rotated,
        (*_NEVER, _back_within(1.0), _only("ConnectionLost"),
         ("none is refused", lambda r: r.refused == 0)), peers=True),
    Row(21, "event loop held up for twice the deadline", stalled_loop,
        (*_NEVER, _ALL_ANSWERED, _at_most(0),
         ("calls were under way for twice their deadline",
          lambda r: r.longest > 0.9 and r.notes["loop held up"] > 0.9)), peers=True),
    Row(22, "storm of cancellations", cancelled,
        (*_NEVER, _ANSWERED_IN_TIME, _at_most(0)), peers=True),
    Row(23, "a subscriber over the server's limit for its output", slow_subscriber,
        (*_NEVER, _ANSWERED_IN_TIME,
         ("the server cut its link", lambda r: r.notes["topics"]["cut"] > 0),
         ("a LOG is read whole and in order", lambda r: r.notes["topics"]["log"]),
         ("what a live topic lost is counted by its gaps",
          lambda r: r.notes["topics"]["live"]))),
    Row(24, "processes killed while they write", killed_processes,
        # The processes leave the server little time for the others.
        (*_NEVER, _only("CommandTimeout"), _back_within(0.5),
         ("no session is half, none lost what was acknowledged",
          lambda r: r.notes["sessions"] == []),
         ("what they had in hand is delivered by another, once and as uncertain",
          lambda r: r.notes["queue"] == []))),
    Row(25, "a script that does not end", busy_script,
        (*_NEVER, _back_within(0.5), _at_most(0), _only("Busy", "CommandTimeout"))),
    Row(26, "append-only file cut short", cut_short,
        (*_NEVER[1:], _back_within(1.0), _at_most(5), _only(*_TRANSIENT),
         ("what was before the cut is there", lambda r: len(r.lost) <= 1)),
        **_KEPT),
)  # fmt: skip
