"""The first commands on a connection and what their replies must be. No I/O.

With HELLO all of them leave in one write. The connection counts as open only when every
reply is there: a socket on which AUTH or SELECT was lost must never serve a caller.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
from redis import exceptions as redis_errors

from oddswire._text import text
from oddswire.connection.errors import PROTECTED_MODE, TRANSIENT_ERRORS
from oddswire.errors import AuthFailed, NoPermission, Outcome, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


class Refusals(msgspec.Struct, kw_only=True):
    """What this user may not do in a handshake; shared by a client's connections.

    Each refusal is an entry in the server's ACL LOG. Each of these is asked once, by
    the first connection, and never again on any.

    Attributes:
        info_denied: INFO was refused, or a proxy hung up at it: which process it is
            remains unknown.
        name_denied: CLIENT SETNAME was refused (only without HELLO, which carries the
            name).
        library_denied: CLIENT SETINFO was refused.
        ping_denied: PING was refused.
    """

    info_denied: bool = False
    name_denied: bool = False
    library_denied: bool = False
    ping_denied: bool = False


class HandshakeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a new connection says of itself.

    Attributes:
        protocol: RESP version, 3 or 2. With 2 there is no HELLO, as in redis-py: Redis
            5 and most proxies do not know it.
        username: ACL user; the default user without one.
        password: None: no authentication.
        database: Selected if not 0.
        client_name: Shown by CLIENT LIST.
        on_connect: Further commands that must succeed (CLIENT TRACKING).
        channels: What to subscribe to, before anybody else sees the connection.
        library: Name and version for CLIENT SETINFO.
        identify: Ask which server process this is; a refusal is no error.
        ask_role: Ask by ROLE, without HELLO; a refusal is no error.
        ping: Send PING without HELLO, where no password is answered either.
    """

    protocol: int = 3
    username: str | None = None
    password: str | None = None
    database: int = 0
    client_name: str | bytes | None = None
    on_connect: tuple[tuple[str | int, ...], ...] = ()
    channels: tuple[str, ...] = ()
    library: tuple[str | None, str | None] | None = None
    identify: bool = False
    ask_role: bool = False
    ping: bool = True

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """User and password."""
        return self.username, self.password

    def __repr__(self) -> str:
        # msgspec's own has the password.
        return f"HandshakeOptions(protocol={self.protocol}, username={self.username!r})"

    def commands(self) -> list[tuple[str | bytes | int, ...]]:
        """Return the commands to send, in order, in one write."""
        return [command for _, command in self.steps()]

    def batches(self) -> list[list[tuple[str | bytes | int, ...]]]:
        """Return the commands as they are to be sent, each batch in one write.

        Without HELLO there may be a proxy that answers some of them itself, before
        those that it passed on: then one after the other.
        """
        commands = self.commands()
        return [commands] if self.protocol >= 3 else [[each] for each in commands]

    def steps(self) -> list[tuple[_Step, tuple[str | bytes | int, ...]]]:
        """Return the commands, each with what it is for."""
        steps: list[tuple[_Step, tuple[str | bytes | int, ...]]] = []
        if self.protocol >= 3:
            options: tuple[str | bytes | int, ...] = ("HELLO", self.protocol)
            if self.password is not None:
                options += ("AUTH", self.username or "default", self.password)
            if self.client_name:
                options += ("SETNAME", self.client_name)
            steps.append((_Step.HELLO, options))
        else:
            if self.password is not None:
                # Redis 5 knows no user names.
                user = () if self.username in {None, "default"} else (self.username,)
                steps.append((_Step.AUTH, ("AUTH", *user, self.password)))
            # Something that is answered, if only by "who are you?".
            if self.ping or self.password is None:
                steps.append((_Step.PING, ("PING",)))
            if self.client_name:
                name = ("CLIENT", "SETNAME", self.client_name)
                steps.append((_Step.NAME, name))
        if self.database:
            steps.append((_Step.DATABASE, ("SELECT", self.database)))
        steps.extend((_Step.ON_CONNECT, command) for command in self.on_connect)
        for option, value in zip(
            ("LIB-NAME", "LIB-VER"), self.library or (), strict=False
        ):
            if value:
                steps.append((_Step.LIBRARY, ("CLIENT", "SETINFO", option, value)))
        if self.ask_role and self.protocol < 3:
            steps.append((_Step.ROLE, ("ROLE",)))
        if self.identify:
            # HELLO has the version and the role; without it they are in INFO.
            sections = ("server",) if self.protocol >= 3 else ()
            steps.append((_Step.INFO, ("INFO", *sections)))
        return steps


class _Step(Enum):
    """What a command of the handshake is for."""

    HELLO = "options"
    AUTH = "auth"
    PING = "ping"
    NAME = "name"
    DATABASE = "database"
    ON_CONNECT = "on connect"
    LIBRARY = "library"
    ROLE = "role"
    INFO = "info"


class ServerInfo(msgspec.Struct, frozen=True):
    """What the server answered.

    Attributes:
        server: ``"valkey"`` or ``"redis"``.
        version: Its own. The client asks what the server can do, and does not conclude
            it from this.
        role: ``"master"`` or ``"replica"``; empty: unknown.
        connection_id: Of this connection, at the server; 0 without HELLO.
        run_id: Of the server process; empty: unknown.
        address: Where it was dialled, ``host:port`` or a path.
        echoes: Whether PING returns its argument; a proxy may not do so.
        mode: ``"standalone"``, ``"cluster"`` or ``"sentinel"``; empty: unknown.
    """

    server: str
    version: str
    role: str
    connection_id: int
    run_id: str = ""
    address: str = ""
    echoes: bool = True
    mode: str = ""


def accept(
    options: HandshakeOptions,
    replies: Sequence[Any],
    where: str,
    refusals: Refusals | None = None,
) -> ServerInfo:
    """Return the server's server_info if every reply is as it must be.

    Args:
        options: What was said.
        replies: One per command; fewer if the server closed after the last of them.
        where: The address, for errors.
        refusals: Notes what the user may not do and need not.

    Raises:
        AuthFailed: Wrong password or user; trying again does not help.
        NoPermission: The user may not even say HELLO.
        Unavailable: With `Outcome.REJECTED`, what trying again does not help: the
            database, an `on_connect` command, a server without HELLO, protected
            mode. With `Outcome.NOT_SENT`, what will pass: too many clients, loading.
    """
    refusals = refusals or Refusals()
    fields: dict[str, Any] = {}
    information: dict[str, str] = {}
    for (step, command), reply in zip(options.steps(), replies, strict=False):
        failed = isinstance(reply, Exception)
        if failed and _ends_it(step, reply) and not _needs_none(options, step, reply):
            raise _explained(options, step, command, reply, where)
        denied = isinstance(reply, NoPermission)
        if step is _Step.HELLO:
            fields = {text(k): v for k, v in _pairs(reply)}
        elif step is _Step.PING:
            refusals.ping_denied |= denied
        elif step is _Step.NAME:
            refusals.name_denied |= denied
        elif step is _Step.LIBRARY:
            # Unknown below Redis 7.2, and then it is not asked again either.
            refusals.library_denied |= failed
        elif step is _Step.INFO:
            refusals.info_denied |= denied
            information = {} if failed else _information(reply)
        elif step is _Step.ROLE and isinstance(reply, list):
            fields["role"] = reply[0]
    server = "valkey" if "valkey_version" in information else "redis"
    version = information.get("valkey_version") or information.get("redis_version", "")
    mode = information.get("server_mode") or information.get("redis_mode", "")
    role = text(fields.get("role") or information.get("role", ""))
    return ServerInfo(
        server=text(fields.get("server", server)),
        version=text(fields.get("version", version)),
        role="replica" if role == "slave" else role,
        connection_id=int(fields.get("id", 0)),
        run_id=information.get("run_id", ""),
        address=where,
        echoes=options.protocol >= 3 or bool(version),
        mode=text(fields.get("mode") or mode),
    )


# Of CLIENT SETNAME, and of HELLO with a name.
_BAD_NAME = "names cannot contain"

_OPTIONAL = frozenset({_Step.PING, _Step.NAME, _Step.LIBRARY, _Step.ROLE, _Step.INFO})


def _ends_it(step: _Step, error: Exception) -> bool:
    """Whether no connection can be had after this refusal."""
    if isinstance(error, Unavailable | redis_errors.AuthenticationError):
        return True  # too many clients, protected mode, "who are you?"
    # A name that no server takes is a mistake; that none may be given is not.
    return step not in _OPTIONAL or (step is _Step.NAME and _BAD_NAME in str(error))


def _needs_none(options: HandshakeOptions, step: _Step, error: Exception) -> bool:
    """Whether the default user was named and has no password: then any is right.

    Redis answers so where the user is named too; Redis 5 would not know the name.
    """
    return (
        step is _Step.AUTH
        and options.username == "default"
        and "without any password configured" in str(error)
    )


def _explained(
    options: HandshakeOptions,
    step: _Step,
    command: tuple[str | bytes | int, ...],
    error: Exception,
    where: str,
) -> Exception:
    text = str(error)
    if isinstance(error, redis_errors.AuthenticationError):
        user = options.username or "default"
        hint = (
            "give the password in the URL or REDIS_PASSWORD"
            if options.password is None
            else "check the password and the user name"
        )
        return AuthFailed(f"{where}: {text} (user {user!r}); {hint}")
    if isinstance(error, TRANSIENT_ERRORS):
        # It will pass, so nothing about us was refused: a cache would do without
        # tracking for ever. Protected mode will not pass.
        lasts = PROTECTED_MODE in text
        return Unavailable(
            f"{where}: {text}", outcome=Outcome.REJECTED if lasts else None
        )
    if isinstance(error, NoPermission) and step is not _Step.ON_CONNECT:
        return NoPermission(f"{where}: {text}")
    if _BAD_NAME in text:
        text = f"client_name={options.client_name!r} was refused: {text}"
    elif step is _Step.DATABASE:
        text = (
            f"database {options.database} cannot be selected ({text}); "
            "check the number in the URL"
        )
    elif step is _Step.ON_CONNECT:
        text = f"{' '.join(map(str, command))} was refused: {text}"
    elif step is _Step.AUTH:
        text = f"AUTH was refused: {text}"
    elif step is _Step.HELLO and (
        text.startswith("NOPROTO")
        or "HELLO" in text.upper()
        or "unknown command" in text
    ):
        text = (
            f"the server does not know HELLO {options.protocol} ({text}); give a "
            "Client protocol=2; a Wire, and what listens, need Redis 6.2 or Valkey"
        )
    return Unavailable(f"{where}: {text}", outcome=Outcome.REJECTED)


def _information(reply: Any) -> dict[str, str]:
    """Return the fields of INFO's answer."""
    lines = text(reply).splitlines() if isinstance(reply, str | bytes) else ()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _pairs(reply: Any) -> list[tuple[Any, Any]]:
    if isinstance(reply, dict):  # RESP3
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=False))
