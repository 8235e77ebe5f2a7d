"""`Access`: what the connections of one client share to get in, and back in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.connection import (  # type: ignore[attr-defined]
    DEFAULT_RESP_VERSION,
)

from oddswire.connection.credentials import credentials_of
from oddswire.connection.handshake import HandshakeOptions, Refusals
from oddswire.connection.pacing import AttemptPacer

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    import redis.asyncio as aredis


NEWER_CREDENTIALS = 8
"""How often one attempt to connect offers newer credentials, after it was refused.

Those that it had may be taken away while its handshake is under way. A provider that
makes up others for each question must not become a storm of refusals.
"""


class Access:
    """Shared by the command connection, the views' connections and the pool's.

    Args:
        server: Names the server, for the clients in this process that share it.

    Attributes:
        pacer: Spaces their attempts while callers wait.
        refusals: What the server refused one of them and the others need not ask.
        token: Counts the tokens of a streaming provider of credentials.
        words: The command that authenticates by the newest of them.
    """

    def __init__(self, server: Hashable | None = None) -> None:
        self.pacer = AttemptPacer(server)
        self.refusals = Refusals()
        self.token = 0
        self.words: tuple[str, ...] = ()

    def renewed(self, words: tuple[str, ...]) -> None:
        """There is a new token: connections opened with an older one have to follow.

        The clients on one pool hear of each token, and only the first has news.
        """
        if words != self.words:
            self.token += 1
            self.words = words


def access_of(pool: aredis.ConnectionPool) -> Access:
    """Return that of a pool of ours, or one for a pool of redis-py's."""
    access = getattr(pool, "access", None)
    if isinstance(access, Access):
        return access
    return Access(server_of(pool.connection_kwargs))


def server_of(arguments: Mapping[str, Any]) -> Hashable | None:
    """Name the server of a connection's arguments (redis-py's), where they say it."""
    if arguments.get("path"):
        return str(arguments["path"])
    if not arguments.get("host"):
        return None  # the sentinels know
    return str(arguments["host"]), int(arguments.get("port") or 6379)


async def handshake_options(
    arguments: Mapping[str, Any], refusals: Refusals
) -> HandshakeOptions:
    """Return what a connection with these arguments (redis-py's) says of itself.

    Credentials are asked for here, for each connection, since they may rotate.
    """
    username, password = arguments.get("username"), arguments.get("password")
    provider = arguments.get("credential_provider")
    if provider is not None:
        username, password = await credentials_of(provider)
    elif username and not password:
        password = ""
    if not username and not password:
        username = password = None
    protocol = int(arguments.get("protocol") or DEFAULT_RESP_VERSION)
    named = protocol >= 3 or not refusals.name_denied
    return HandshakeOptions(
        protocol=protocol,
        username=username,
        password=password,
        database=int(arguments.get("db") or 0),
        client_name=arguments.get("client_name") if named else None,
        library=None if refusals.library_denied else _library(arguments),
        ping=not refusals.ping_denied,
    )


def _library(arguments: Mapping[str, Any]) -> tuple[str | None, str | None] | None:
    """Return what CLIENT SETINFO is to say: only what the application gave."""
    driver = arguments.get("driver_info")
    if driver is not None and hasattr(driver, "formatted_name"):
        return driver.formatted_name, driver.lib_version
    name, version = arguments.get("lib_name"), arguments.get("lib_version")
    given = tuple(each if isinstance(each, str) else None for each in (name, version))
    return (given[0], given[1]) if any(given) else None
