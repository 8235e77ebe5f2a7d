"""What the server can do: found by asking or trying, never from its version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from oddswire.errors import CommandRejected, NoPermission, OddswireError
from oddswire.health import Status
from oddswire.health.report import Verdict, unknown

if TYPE_CHECKING:
    from oddswire.cli._permissions import CommandTable
    from oddswire.client import Client


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that some servers can do.

    Attributes:
        name: Its name.
        present: Whether this server can; None if that is not known.
        what: What the library uses it for.
    """

    name: str
    present: bool | None
    what: str


WHY = "the library replaces a missing feature, or does without it"

# Name and use of a feature, by the command that shows it.
COMMANDS = {
    "client|setinfo": ("CLIENT SETINFO", "the library's name in CLIENT LIST"),
    "client|no-touch": ("CLIENT NO-TOUCH", "reading without making a key look used"),
    "fcall": ("functions", "not used: scripts go by EVALSHA"),
    "hpexpire": ("hash field lifetimes", "fields that end by themselves"),
    "hsetex": ("HSETEX", "a hash field and its lifetime in one command"),
    "spublish": ("sharded pub/sub", "channels of a cluster's shard"),
    "waitaof": ("WAITAOF", "waiting until a write is on disk"),
    "delifeq": ("DELIFEQ", "deleting only what one wrote, without a script"),
    "msetex": ("MSETEX", "many values and their lifetime in one command"),
}


async def features(
    client: Client, commands: CommandTable | None
) -> tuple[Feature, ...]:
    """Return the table.

    Args:
        client: Of the server.
        commands: The server's commands, with those of `COMMANDS`; None if this user may
            not ask for them.
    """
    resp3, tracking = await _tried(client)
    return (
        Feature(name="RESP3", present=resp3, what="pushes beside replies"),
        Feature(
            name="CLIENT TRACKING",
            present=tracking,
            what="the cache's memory in this process (L1) stays true",
        ),
        Feature(
            name="SET IFEQ",
            present=await _takes_ifeq(client),
            what="compare and set without a script",
        ),
        *(
            Feature(
                name=name,
                present=None if commands is None else commands.knows(command),
                what=what,
            )
            for command, (name, what) in COMMANDS.items()
        ),
    )


def judge(table: tuple[Feature, ...]) -> Verdict:
    """Return the verdict on a table: which features are missing that a part needs."""
    if not table:
        return unknown("the server does not answer")
    needed = [each for each in table if each.name in ("RESP3", "CLIENT TRACKING")]
    missing = [each.name for each in needed if each.present is False]
    unsure = [each.name for each in table if each.present is None]
    status, fix = Status.PASS, ""
    if missing:
        status, fix = Status.WARN, "Valkey 7.2 or Redis 7.0, or later, has them"
    elif unsure:
        status = Status.UNKNOWN
        fix = "look as an administrator: oddswire doctor --url redis://..."
    here = ", ".join(each.name for each in table if each.present)
    return Verdict(
        status=status,
        seen=f"missing: {', '.join(missing)}"
        if missing
        else f"unknown: {', '.join(unsure)}"
        if unsure
        else here,
        fix=fix,
        values={
            each.name: "unknown" if each.present is None else int(each.present)
            for each in table
        },
    )


async def _tried(client: Client) -> tuple[bool | None, bool | None]:
    """Try RESP3 and tracking, on a connection that is closed afterwards."""
    try:
        async with client.client() as alone:
            resp3 = await _works(alone, "HELLO", 3)
            tracking = await _works(alone, "CLIENT", "TRACKING", "ON")
    except (OddswireError, RedisError):
        return None, None
    return resp3, tracking if resp3 else resp3


async def _works(client: Client, *command: Any) -> bool | None:
    try:
        await client.execute_command(*command)
    except NoPermission:
        return None
    except (CommandRejected, RedisError):
        return False
    return True


async def _takes_ifeq(client: Client) -> bool | None:
    try:
        reply = await client.execute_command("COMMAND DOCS", "set")
    except (OddswireError, RedisError):
        return None
    return "IFEQ" in str(reply)
