"""`Dialer`: from a pool's connection arguments to an open multiplexed connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from oddswire.client._sentinel import primary_of
from oddswire.connection.access import handshake_options
from oddswire.connection.dial import Progress, Target, dial
from oddswire.connection.flow import Limits
from oddswire.connection.multiplexer import CallLabel, ConnectionMetrics, Multiplexer
from oddswire.connection.packing import pack
from oddswire.connection.threads import in_own_thread
from oddswire.errors import AuthFailed, Outcome, Unavailable
from oddswire.logs import log_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio as aredis

    from oddswire.connection.access import Access
    from oddswire.connection.handshake import HandshakeOptions, ServerInfo
    from oddswire.errors import OddswireError
    from oddswire.settings import Settings


_log = logging.getLogger("oddswire")


class NotANode(Unavailable):
    """The server at an address that a cluster names is no node of a cluster."""


class Dialer:
    """Opens connections to where a pool's connections go, with the same credentials.

    Args:
        settings: Timeouts and limits.
        pool: Its connection arguments are redis-py's; they are read at each call, so
            that credentials and certificates which rotate are read when needed.
        access: Shared by all connections of the client.
        protocol: RESP version; None: what the pool's connections speak.
        on_push: Called by the parser with each push message.
        on_connect: Commands sent in the handshake after the usual ones; they must
            succeed.
        channels: What each connection subscribes to in its handshake.

    Attributes:
        metrics: Counted over all the connections opened here.
        pacer: Spaces the attempts while callers wait.
        refusals: What the user may not do.
        progress: How far the attempt under way has come.
        primary: Where to ask for the address, if it can change.
        user: The user of the last connection, as the server names it; for errors.
        client_name: What the caller has named the connection since, by CLIENT SETNAME.
    """

    def __init__(
        self,
        settings: Settings,
        pool: aredis.ConnectionPool,
        access: Access,
        *,
        protocol: int | None = None,
        on_push: Callable[[list[Any]], None] | None = None,
        on_connect: tuple[tuple[str | int, ...], ...] = (),
        channels: tuple[str, ...] = (),
        in_cluster: bool = False,
    ) -> None:
        self.metrics = ConnectionMetrics(settings.slow_above)
        self._settings = settings
        self._pool = pool
        self.primary = primary_of(settings, pool)
        self._access = access
        self.pacer, self.refusals = access.pacer, access.refusals
        self.progress = Progress()
        self._protocol = protocol
        self._on_push = on_push
        self._on_connect = on_connect
        self._channels = channels
        self._in_cluster = in_cluster
        self.client_name: str | bytes | None = None
        self.user = str(pool.connection_kwargs.get("username") or "default")

    async def __call__(
        self, on_closed: Callable[[Multiplexer, OddswireError], None] | None = None
    ) -> tuple[Multiplexer, ServerInfo]:
        """Open a connection; see `oddswire.connection.dial`."""
        refusals = self._access.refusals
        known = refusals.info_denied
        limit = self._settings.connect_timeout
        try:
            return await self._open(self._handshake_options, limit, on_closed)
        except Unavailable:
            if known or not refusals.info_denied:
                raise
        # A proxy hung up at INFO, as some do at a command they do not know.
        try:
            return await self._open(self._handshake_options, limit, on_closed)
        except BaseException:
            refusals.info_denied = False  # a server that went away, after all
            raise

    async def out_of_band(self, timeout: float) -> Multiplexer:
        """Open a connection for one command, with a handshake of HELLO and AUTH alone.

        A server that a script holds up answers HELLO and AUTH, and no SELECT.
        """

        async def hello_factory() -> HandshakeOptions:
            return msgspec.structs.replace(
                await self._handshake_options(),
                client_name=None,
                database=0,
                on_connect=(),
                channels=(),
                library=None,
                identify=False,
            )

        limit = min(timeout, self._settings.connect_timeout)
        connection, _ = await self._open(hello_factory, limit, None)
        return connection

    async def _open(
        self,
        hello_factory: Callable[[], Awaitable[HandshakeOptions]],
        limit: float,
        on_closed: Callable[[Multiplexer, OddswireError], None] | None,
    ) -> tuple[Multiplexer, ServerInfo]:
        settings = self._settings
        encoder = self._pool.get_encoder()
        # A key in a push message need not be text, and the parser that fails on one
        # does not say whether it was a message or a reply.
        decode = encoder.decode_responses and self._on_push is None

        def make() -> Multiplexer:
            return Multiplexer(
                metrics=self.metrics,
                limits=Limits(settings.inflight_commands, settings.inflight_bytes),
                encoding=encoder.encoding if decode else None,
                encoding_errors=encoder.encoding_errors,
                on_push=self._on_push,
                on_closed=on_closed,
            )

        token = self._access.token

        async def offer() -> HandshakeOptions:
            nonlocal token
            token = self._access.token
            return await hello_factory()

        connection, server_info = await dial(
            self._locate,
            offer,
            make,
            limit,
            refusals=self._access.refusals,
            progress=self.progress,
        )
        while token != self._access.token:
            # A token came after the handshake had asked for the credentials.
            token = self._access.token
            try:
                await self.authenticate(connection)
            except AuthFailed as error:
                # The connection keeps the rights of its first login, as one that was
                # open before the new token.
                log_line(_log, logging.WARNING, "reauthentication_failed", reason=error)
            except BaseException:
                connection.abort(Unavailable("the new credentials were refused"))
                raise
        refusal = self._refusal_of(server_info)
        if refusal is not None:
            connection.abort(refusal)
            raise refusal
        return connection, server_info

    def _refusal_of(self, server_info: ServerInfo) -> Unavailable | None:
        """Return why the server that answered is not the one that is wanted."""
        if self.primary is not None and server_info.role not in ("master", ""):
            return Unavailable(
                f"{server_info.address}: the sentinels name it as the primary and it "
                f"is a {server_info.role}"
            )
        if self._in_cluster and server_info.mode not in ("cluster", ""):
            # It would take every key, and no other client would find it there.
            return NotANode(
                f"{server_info.address} is a server of its own and no node of a cluster"
            )
        return None

    async def authenticate(self, connection: Multiplexer) -> None:
        """Authenticate an open connection by the newest token.

        Raises:
            OddswireError: The server refused it, or did not answer.
        """
        words = self._access.words
        reply = await connection.send(
            pack(words), self._settings.command_timeout, CallLabel("AUTH"), raw=True
        )
        if isinstance(reply, Exception):
            raise reply
        if len(words) > 2:
            self.user = words[1]

    async def _locate(self) -> Target:
        """Return where to connect now, with what verifies the server."""
        arguments = self._pool.connection_kwargs
        kind = self._pool.connection_class
        if issubclass(kind, UnixDomainSocketConnection):
            return Target(path=arguments["path"])
        host = arguments.get("host", "localhost")
        port = int(arguments.get("port", 6379))
        if self.primary is not None:
            self.progress.stage = "no sentinel answered yet; check their addresses"
            host, port = await self.primary.address()
        tls = None
        if issubclass(kind, SSLConnection):
            self.progress.stage = f"reading the certificates, {_files(arguments)}"
            try:
                # Made by redis-py's class, so that both kinds of connection verify
                # alike; in a thread, since it reads files.
                tls = await in_own_thread(self._pool.make_connection().ssl_context.get)
            except (OSError, ValueError, RedisError) as error:
                # They are read from disk for each connection.
                raise Unavailable(
                    f"TLS cannot be set up: {error}; check {_files(arguments)}",
                    outcome=Outcome.REJECTED,
                ) from error
        return Target(
            host=host,
            port=port,
            tls=tls,
            keepalive=self._settings.keepalive,
            user_timeout=self._settings.tcp_user_timeout,
        )

    async def _handshake_options(self) -> HandshakeOptions:
        refusals = self._access.refusals
        arguments = dict(self._pool.connection_kwargs)
        if self._protocol is not None:
            arguments["protocol"] = self._protocol
        if self.client_name is not None:
            arguments["client_name"] = self.client_name
        hello = await handshake_options(arguments, refusals)
        self.user = hello.username or "default"
        return msgspec.structs.replace(
            hello,
            on_connect=self._on_connect,
            channels=self._channels,
            identify=not refusals.info_denied,
            ask_role=self.primary is not None,
        )


def _files(arguments: dict[str, Any]) -> str:
    """Name the certificate files: the system's error does not."""
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    given = [str(arguments[name]) for name in names if arguments.get(name)]
    return ", ".join(given) or "the system's certificates"
