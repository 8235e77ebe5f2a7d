"""`oddswire acl`: the lines that make users who may do just what they need."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from oddswire import acl
from oddswire.cli._permissions import CommandTable
from oddswire.client import Client
from oddswire.errors import SettingsError
from oddswire.events import Events

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from oddswire.acl import Component
    from oddswire.cli._servers import Server

_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One user.

    Attributes:
        user: Its name.
        components: The parts that it can be.
        rules: For ACL SETUSER.
        line: The command to type.
    """

    user: str
    components: tuple[str, ...]
    rules: tuple[str, ...]
    line: str


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints.

    Attributes:
        schema: Counts up when a field changes its meaning or goes.
        left_out: Commands that this server does not have; with one of them in it the
            whole line would be refused.
        withheld: Commands that these parts send too and that are in no line, for they
            show more than a part's own.
        users: One for each.
    """

    schema: int = 1
    left_out: tuple[str, ...]
    withheld: tuple[str, ...] = ()
    users: tuple[Grant, ...]


def grants(
    components: Sequence[Component],
    user: str | None,
    prefix: str,
    without: Collection[str],
    *,
    add: bool = False,
    revealing: bool = False,
    cluster: bool = False,
) -> Grants:
    """Return a user for each component, or the one that can be all of them.

    Args:
        components: Which.
        user: The name of the one user; None: ``oddswire-<component>`` for each.
        prefix: What every key begins with.
        without: Commands that the server does not have.
        add: To what the user may do already.
        revealing: With what shows the names of every key of the server.
        cluster: For the nodes of a cluster.

    Raises:
        SettingsError: The name of the user is none.
    """
    if user is not None and not _USER.fullmatch(user):
        raise SettingsError(f"--user {user!r}: a name is [A-Za-z0-9_.-], at most 64")
    if user is not None:
        wanted = {user: tuple(components)}
    else:
        wanted = {f"oddswire-{each.name}": (each,) for each in components}
    users = []
    for name, parts in wanted.items():
        # A user without a password cannot log in: the line opens nothing by itself.
        allowed = acl.rules(
            parts,
            prefix,
            without=without,
            add=add,
            revealing=revealing,
            cluster=cluster,
        )
        rules = allowed if add else ("on", *allowed)
        line = f"ACL SETUSER {name} {' '.join(rules)}"
        names = tuple(each.name for each in parts)
        users.append(Grant(user=name, components=names, rules=rules, line=line))
    asked = acl.commands(components, cluster=cluster)
    left_out = tuple(name for name in asked if name in set(without))
    withheld = acl.withheld(components, revealing=revealing)
    return Grants(left_out=left_out, withheld=withheld, users=tuple(users))


async def unknown_commands(
    server: Server, components: Sequence[Component]
) -> tuple[str, ...]:
    """Return the commands of these that the server does not have.

    Raises:
        OddswireError: It does not answer, or may not be asked.
    """
    async with Client.from_settings(server.settings, events=Events()) as client:
        names = acl.commands(components, cluster=client.is_cluster)
        commands = await CommandTable.of(client, names)
    return commands.missing()
