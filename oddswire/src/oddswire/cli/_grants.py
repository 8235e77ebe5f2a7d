"""`oddswire acl`: the lines that make users with the rights that they need, no more."""

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
        user: The user's name.
        components: The parts of the library that may use it.
        rules: The rules for ACL SETUSER.
        line: The command to type.
    """

    user: str
    components: tuple[str, ...]
    rules: tuple[str, ...]
    line: str


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints.

    Attributes:
        schema: A higher number when a field is removed or gets another meaning.
        left_out: Commands that this server does not have. The server would refuse a
            line that names one of them.
        withheld: Commands that the parts send and that no line allows, because they
            show names of keys of other programs, or the administrator's password.
        users: The users, in the order of the lines.
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
    """Return a user for each component, or one user for all of them.

    Args:
        components: The parts of the library.
        user: The name of the one user; None: ``oddswire-<component>`` for each.
        prefix: The beginning of every key.
        without: Commands that the server does not have.
        add: Whether the rules add to the user's rights; else they replace them.
        revealing: Whether to allow what shows the names of all keys of the server.
        cluster: Whether the users are for the nodes of a cluster.

    Raises:
        SettingsError: The name of the user is not valid.
    """
    if user is not None and not _USER.fullmatch(user):
        raise SettingsError(
            f"--user {user!r}: a name has 1 to 64 characters of A-Z a-z 0-9 _ . -"
        )
    if user is not None:
        wanted = {user: tuple(components)}
    else:
        wanted = {f"oddswire-{each.name}": (each,) for each in components}
    users = []
    for name, parts in wanted.items():
        # A user without a password cannot log in. So the line alone opens nothing.
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
    """Return the commands of the components that the server does not have.

    Raises:
        OddswireError: The server does not answer, or refuses COMMAND INFO.
    """
    async with Client.from_settings(server.settings, events=Events()) as client:
        names = acl.commands(components, cluster=client.is_cluster)
        commands = await CommandTable.of(client, names)
    return commands.missing()
