"""What a user may do. The server is asked by ACL DRYRUN, which runs nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from oddswire import acl
from oddswire._text import text
from oddswire.errors import CommandRejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oddswire.acl import Component
    from oddswire.client import Client

# The keys of these commands depend on their arguments: the call to try, in place of the
# shortest form.
_MOVABLE = {
    "eval": ("EVAL", "return 1", "1", "KEY"),
    "eval_ro": ("EVAL_RO", "return 1", "1", "KEY"),
    "evalsha": ("EVALSHA", "0" * 40, "1", "KEY"),
    "evalsha_ro": ("EVALSHA_RO", "0" * 40, "1", "KEY"),
    "fcall": ("FCALL", "f", "1", "KEY"),
    "fcall_ro": ("FCALL_RO", "f", "1", "KEY"),
    "xread": ("XREAD", "STREAMS", "KEY", "0"),
    "xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"),
    "zunion": ("ZUNION", "1", "KEY"),
    "zinter": ("ZINTER", "1", "KEY"),
    "zdiff": ("ZDIFF", "1", "KEY"),
    "zunionstore": ("ZUNIONSTORE", "KEY", "1", "KEY"),
}
_CHANNELS = frozenset(
    {"publish", "spublish", "subscribe", "psubscribe", "ssubscribe"}
)  # fmt: skip


class CommandTable:
    """The arguments and keys of commands at one server, from COMMAND INFO.

    Args:
        entries: The reply for each name; None for a command that the server lacks.
    """

    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    @classmethod
    async def of(cls, client: Client, names: Iterable[str]) -> CommandTable:
        """Ask the server.

        Raises:
            OddswireError: The server does not answer.
        """
        wanted = tuple(names)
        found = await client.execute_command("COMMAND INFO", *wanted)
        return cls(dict(zip(wanted, found, strict=True)))

    def knows(self, name: str) -> bool:
        """Whether the server has this command."""
        return bool(self._entries[name])

    def missing(self) -> tuple[str, ...]:
        """Return the commands that the server does not have."""
        return tuple(name for name in self._entries if not self.knows(name))

    def calls(
        self, name: str, keys: Sequence[str], channels: Sequence[str]
    ) -> list[tuple[str, ...]]:
        """Return calls of a command to try.

        Args:
            name: The command.
            keys: If the command takes keys, one call for each of these.
            channels: If it takes channels, one call for each of these patterns.
        """
        words = tuple(name.split("|"))
        if name in _MOVABLE:
            return [_filled(_MOVABLE[name], key) for key in keys]
        _, arity, _, first, last, step = self._entries[name][:6]
        length = max(abs(arity), len(words))
        plain = words + ("1",) * (length - len(words))
        if name in _CHANNELS:
            # PSUBSCRIBE is allowed for a pattern that the rules have word for word.
            exact = name == "psubscribe"
            return [
                (*words, channel if exact else _sample(channel), *plain[2:])
                for channel in channels
            ]
        if first <= 0:
            return [plain]
        stop = last if last >= 0 else length + last
        places = range(first, min(stop, length - 1) + 1, max(1, step))
        return [
            tuple(key if at in places else word for at, word in enumerate(plain))
            for key in keys
        ]


def _filled(call: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(key if word == "KEY" else word for word in call)


async def denied(
    client: Client, user: str, component: Component, table: CommandTable, prefix: str
) -> tuple[str, ...]:
    """Return the calls of a component that a user may not run, as the server says it.

    Args:
        client: Its user may run ACL DRYRUN; of a cluster, the client of a node.
        user: The user whose rights are judged.
        component: The commands, with their keys and channels.
        table: The table of these commands.
        prefix: The beginning of every key.

    Raises:
        OddswireError: The server does not answer.
    """
    keys = [_sample(each) for each in acl.key_patterns([component], prefix)]
    channels = acl.channel_patterns([component], prefix)
    calls = [
        call
        for name in (*component.needs(cluster=client.in_cluster), *component.optional)
        if table.knows(name)
        for call in table.calls(name, keys, channels)
    ]
    said = await asyncio.gather(*(dry_run(client, user, call) for call in calls))
    return tuple(dict.fromkeys(word for word in said if word))


async def allowed(
    client: Client, user: str, names: Iterable[str], table: CommandTable
) -> tuple[str, ...]:
    """Return the commands, of these, that a user may run on any key.

    Raises:
        OddswireError: The server does not answer.
    """
    known = [name for name in names if table.knows(name)]
    calls = [table.calls(name, ["a-key-of-nobody"], ["a-channel"]) for name in known]
    said = await asyncio.gather(*(dry_run(client, user, call[0]) for call in calls))
    return tuple(name for name, word in zip(known, said, strict=True) if not word)


async def dry_run(client: Client, user: str, call: Sequence[str]) -> str:
    """Return why a user may not run a call; empty if they may."""
    try:
        reply = await client.execute_command("ACL DRYRUN", user, *call)
    except CommandRejected as error:
        # The server refuses the call itself, for every user.
        return f"{call[0].lower()}: {error}"
    said = text(reply)
    if said == "OK":
        return ""
    return said.removeprefix(f"User {user} has no permissions to ")


def _sample(pattern: str) -> str:
    """Return a key that matches a pattern of ours."""
    return pattern.replace("*", "1")
