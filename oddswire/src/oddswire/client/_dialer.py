"""`Dialer`: from a pool's connection arguments to an open multiplexed wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.connection import (  # type: ignore[attr-defined]
    DEFAULT_RESP_VERSION,
)
from redis.exceptions import RedisError

from oddswire.client._sentinel import primary_of
from oddswire.connection.dial import Target, dial
from oddswire.connection.gate import Caps
from oddswire.connection.handshake import Hello
from oddswire.connection.multiplexer import Multiplexer
from oddswire.connection.traffic import Traffic
from oddswire.errors import Outcome, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio as aredis

    from oddswire.connection.handshake import Greeting
    from oddswire.errors import OddswireError
    from oddswire.settings import Settings


class Dialer:
    """Opens wires to where a pool's connections go, with the same credentials.

    Args:
        settings: Timeouts and caps.
        pool: Its connection arguments are redis-py's; they are read at each call, so
            that credentials and certificates which rotate are read when needed.
        protocol: RESP version; None: what the pool's connections speak.
        on_push: Called by the parser with each push message.
        arm: Commands sent in the handshake after the usual ones; they must succeed.
        channels: What each wire subscribes to in its handshake.

    Attributes:
        traffic: Counted over all the wires opened here.
        primary: Where to ask for the address, if it can change.
        user: Whom the server knows us as, since the last wire; for errors.
        client_name: What the caller has named the wire since, by CLIENT SETNAME.
    """

    def __init__(
        self,
        settings: Settings,
        pool: aredis.ConnectionPool,
        *,
        protocol: int | None = None,
        on_push: Callable[[list[Any]], None] | None = None,
        arm: tuple[tuple[str | int, ...], ...] = (),
        channels: tuple[str, ...] = (),
    ) -> None:
        self.traffic = Traffic(settings.slow_above)
        self._settings = settings
        self._pool = pool
        self.primary = primary_of(settings, pool)
        self._protocol = protocol
        self._on_push = on_push
        self._arm = arm
        self._channels = channels
        # Whether the user may ask which server process it is, until told otherwise:
        # each refusal is an entry in the server's ACL LOG.
        self._identify = True
        self.client_name: str | bytes | None = None
        self.user = str(pool.connection_kwargs.get("username") or "default")

    async def __call__(
        self, on_closed: Callable[[Multiplexer, OddswireError], None] | None = None
    ) -> tuple[Multiplexer, Greeting]:
        """Open a wire; see `oddswire.connection.dial`."""
        return await self._open(
            self._introduce, self._settings.connect_timeout, on_closed
        )

    async def aside(self, timeout: float) -> Multiplexer:
        """Open a wire for one command, which says nothing but who it is.

        A server that a script holds up answers HELLO and AUTH, and no SELECT.
        """

        async def introduce() -> Hello:
            hello = await self._introduce()
            return Hello(
                protocol=hello.protocol,
                username=hello.username,
                password=hello.password,
            )

        limit = min(timeout, self._settings.connect_timeout)
        wire, _ = await self._open(introduce, limit, None)
        return wire

    async def _open(
        self,
        introduce: Callable[[], Awaitable[Hello]],
        limit: float,
        on_closed: Callable[[Multiplexer, OddswireError], None] | None,
    ) -> tuple[Multiplexer, Greeting]:
        settings = self._settings
        arguments = self._pool.connection_kwargs
        # A key in a push message need not be text, and the parser that fails on one
        # does not say whether it was a message or a reply.
        decode = arguments.get("decode_responses", False) and self._on_push is None

        def make() -> Multiplexer:
            return Multiplexer(
                traffic=self.traffic,
                caps=Caps(settings.inflight_commands, settings.inflight_bytes),
                encoding=arguments.get("encoding", "utf-8") if decode else None,
                encoding_errors=arguments.get("encoding_errors", "strict"),
                on_push=self._on_push,
                on_closed=on_closed,
            )

        address = await self._ask()
        try:
            target = await self._target()
        except (OSError, ValueError, RedisError) as error:
            # The certificates: they are read from disk for each wire.
            raise Unavailable(
                f"TLS cannot be set up: {error}; check {_files(arguments)}",
                outcome=Outcome.REJECTED,
            ) from error
        if address is not None:
            host, port = address
            target = msgspec.structs.replace(target, host=host, port=port)
        wire, greeting = await dial(target, introduce, make, limit)
        if greeting.secretive:
            self._identify = False
        if address is not None and greeting.role != "master":
            refusal = Unavailable(
                f"{target}: the sentinels name it as the primary and it is a "
                f"{greeting.role}"
            )
            wire.abort(refusal)
            raise refusal
        return wire, greeting

    async def _ask(self) -> tuple[str, int] | None:
        """Return where the primary is now, where that can change."""
        if self.primary is None:
            return None
        limit = self._settings.connect_timeout
        try:
            async with asyncio.timeout(limit):
                return await self.primary.address()
        except TimeoutError:
            raise Unavailable(
                f"no sentinel answered within {limit:g} s; check their addresses"
            ) from None

    async def _target(self) -> Target:
        arguments = self._pool.connection_kwargs
        kind = self._pool.connection_class
        if issubclass(kind, UnixDomainSocketConnection):
            return Target(path=arguments["path"])
        tls = None
        if issubclass(kind, SSLConnection):
            # Made by redis-py's class, so that both kinds of wire verify alike; in a
            # thread, since it reads files.
            tls = await asyncio.to_thread(self._pool.make_connection().ssl_context.get)
        return Target(
            host=arguments.get("host", "localhost"),
            port=int(arguments.get("port", 6379)),
            tls=tls,
            keepalive=self._settings.keepalive,
            user_timeout=self._settings.tcp_user_timeout,
        )

    async def _introduce(self) -> Hello:
        arguments = self._pool.connection_kwargs
        username, password = arguments.get("username"), arguments.get("password")
        provider = arguments.get("credential_provider")
        if provider is not None:
            credentials = await provider.get_credentials_async()
            username, password = (
                credentials if len(credentials) == 2 else (None, credentials[0])
            )
        elif username and not password:
            password = ""
        self.user = username or "default"
        protocol = self._protocol or arguments.get("protocol") or DEFAULT_RESP_VERSION
        return Hello(
            protocol=int(protocol),
            username=username,
            password=password,
            database=int(arguments.get("db") or 0),
            client_name=self.client_name or arguments.get("client_name"),
            arm=self._arm,
            channels=self._channels,
            identify=self._identify,
        )


def _files(arguments: dict[str, Any]) -> str:
    """Name the certificate files: the system's error does not."""
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    given = [str(arguments[name]) for name in names if arguments.get(name)]
    return ", ".join(given) or "the system's certificates"
