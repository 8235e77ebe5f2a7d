"""The first commands on a connection and what their replies must be. No I/O.

All of them leave in one write, and the connection counts as open only when every reply
is there: a socket on which AUTH or SELECT was lost must never serve a caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from redis import exceptions as redis_errors

from oddswire.connection.outage import TRANSIENT_ERRORS
from oddswire.errors import AuthFailed, NoPermission, Outcome, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a new connection says of itself.

    Attributes:
        protocol: RESP version, 3 or 2.
        username: ACL user; the default user without one.
        password: None: no authentication.
        database: Selected if not 0.
        client_name: Shown by CLIENT LIST.
        arm: Further commands that must succeed (CLIENT TRACKING).
        channels: What to subscribe to, before anybody else sees the wire.
        library: Name and version for CLIENT SETINFO.
        identify: Ask which server process this is; a refusal is no error.
    """

    protocol: int = 3
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | bytes | None = None
    arm: tuple[tuple[str | int, ...], ...] = ()
    channels: tuple[str, ...] = ()
    library: tuple[str, str] | None = None
    identify: bool = False

    def commands(self) -> list[tuple[str | bytes | int, ...]]:
        """Return the commands to send, in order, in one write."""
        hello: tuple[str | bytes | int, ...] = ("HELLO", self.protocol)
        if self.password is not None:
            hello += ("AUTH", self.username or "default", self.password)
        if self.client_name:
            hello += ("SETNAME", self.client_name)
        commands: list[tuple[str | bytes | int, ...]] = [hello]
        if self.database:
            commands.append(("SELECT", self.database))
        commands.extend(self.arm)
        if self.library is not None:
            name, version = self.library
            commands.append(("CLIENT", "SETINFO", "LIB-NAME", name))
            commands.append(("CLIENT", "SETINFO", "LIB-VER", version))
        if self.identify:
            commands.append(("INFO", "server"))
        return commands


class Greeting(msgspec.Struct, frozen=True):
    """What the server answered.

    Attributes:
        server: ``"valkey"`` or ``"redis"``.
        version: Its own; what it can do is found out by asking, not from this.
        role: ``"master"`` or ``"replica"``.
        connection_id: Of this connection, at the server.
        run_id: Of the server process; empty when it does not tell.
        address: Where it was dialled, ``host:port`` or a path.
        secretive: The user may not ask which process it is.
    """

    server: str
    version: str
    role: str
    connection_id: int
    run_id: str = ""
    address: str = ""
    secretive: bool = False


def accept(hello: Hello, replies: Sequence[Any], where: str) -> Greeting:
    """Return the server's greeting if every reply is as it must be.

    Raises:
        AuthFailed: Wrong password or user; trying again does not help.
        NoPermission: The user may not even say HELLO.
        Unavailable: With `Outcome.REJECTED`, what trying again does not help: the
            database, a command to arm the wire, a server without HELLO. With
            `Outcome.NOT_SENT`, what will pass: too many clients, loading.
    """
    first = replies[0]
    if isinstance(first, Exception):
        raise _explained(hello, first, where)
    start = 2 if hello.database else 1
    # A refusal that passes (a script runs for too long) must not be taken for one of
    # the database or of the tracking: a cache would do without tracking from then on.
    for reply in replies[1 : start + len(hello.arm)]:
        if isinstance(reply, TRANSIENT_ERRORS):
            raise Unavailable(f"{where}: {reply}") from reply
    if hello.database and isinstance(replies[1], Exception):
        raise Unavailable(
            f"{where}: database {hello.database} cannot be selected ({replies[1]}); "
            "check the number in the URL",
            outcome=Outcome.REJECTED,
        ) from replies[1]
    for command, reply in zip(hello.arm, replies[start:], strict=False):
        if isinstance(reply, Exception):
            raise Unavailable(
                f"{where}: {' '.join(map(str, command))} was refused: {reply}",
                outcome=Outcome.REJECTED,
            ) from reply
    # CLIENT SETINFO is unknown below Redis 7.2: its replies are not looked at.
    fields = {_text(k): v for k, v in _pairs(first)}
    return Greeting(
        server=_text(fields.get("server", "redis")),
        version=_text(fields.get("version", "")),
        role=_text(fields.get("role", "")),
        connection_id=int(fields.get("id", 0)),
        run_id=_run_id(replies[-1]) if hello.identify else "",
        address=where,
        secretive=hello.identify and isinstance(replies[-1], NoPermission),
    )


def _explained(hello: Hello, error: Exception, where: str) -> Exception:
    text = str(error)
    if isinstance(error, redis_errors.AuthenticationError):
        user = hello.username or "default"
        hint = (
            "give the password in the URL or REDIS_PASSWORD"
            if hello.password is None
            else "check the password and the user name"
        )
        return AuthFailed(f"{where}: {text} (user {user!r}); {hint}")
    if "unknown command" in text.lower():
        return Unavailable(
            f"{where}: the server does not know HELLO; Redis 6.2 or Valkey is needed",
            outcome=Outcome.REJECTED,
        )
    if isinstance(error, TRANSIENT_ERRORS):
        # It will pass, so nothing about us was refused.
        return Unavailable(f"{where}: {text}")
    if isinstance(error, NoPermission):
        return NoPermission(f"{where}: {text}")
    return Unavailable(f"{where}: {text}", outcome=Outcome.REJECTED)


def _run_id(reply: Any) -> str:
    if not isinstance(reply, str | bytes):
        return ""  # it may not be asked, or has nothing to say
    _, _, rest = _text(reply).partition("run_id:")
    return rest.partition("\r\n")[0]


def _pairs(reply: Any) -> list[tuple[Any, Any]]:
    if isinstance(reply, dict):  # RESP3
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=False))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
