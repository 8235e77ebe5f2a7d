"""`HardenedConnection`: redis-py's connection without the faults that the pool meets.

It is open with its handshake done, or closed. redis-py keeps the socket of a handshake
that was cancelled, and the next user of that connection is somebody else (the default
user, database 0). A leased connection connects again by itself when it is used, so the
pool alone cannot prevent that.
"""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import Connection, SSLConnection

from oddswire.connection.access import (
    NEWER_CREDENTIALS,
    Access,
    handshake_options,
)
from oddswire.connection.deadline import Deadline
from oddswire.connection.dial import lost_hint, unless_plaintext
from oddswire.connection.errors import drop_frames, from_redis
from oddswire.connection.handshake import HandshakeOptions, Refusals, accept
from oddswire.connection.packing import pack
from oddswire.connection.sockets import open_socket
from oddswire.connection.threads import in_own_thread
from oddswire.errors import (
    AuthFailed,
    ClosedError,
    CommandTimeout,
    ConnectionLost,
    Outcome,
    ProtocolBroken,
    Unavailable,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from redis.asyncio.connection import AbstractConnection

# Seconds: redis-py's own limit for one read is not to end it before ours does. redis-py
# 7 knows no infinity here, and uvloop none anywhere.
_FOREVER = 1e9

# What redis-py's connection says of itself in its handshake.
_IDENTITY = ("username", "password", "credential_provider", "protocol", "db",
             "client_name")  # fmt: skip


def _nothing() -> None:
    pass


class HardenedConnection:
    """Comes before redis-py's class in a class that `hardened` makes.

    It changes more than the handshake. It dials the addresses of a name as the command
    connection does. It reads no files in the event loop. It sends the content of a
    memoryview with gaps. A cancelled write stays cancelled.

    Attributes:
        connected_at: By `time.monotonic`.
        access: Set by its pool; a connection to a sentinel has no such pool.
        token: Counts the tokens of a streaming provider: it was opened with this one.
        library: For CLIENT SETINFO, as the application gave it.
        offered: User and password of the newest handshake.
        retired: Its pool closed it for good: it opens no more. A pub/sub object that
            another task reads from would open it again, for nobody to close.
    """

    connected_at = 0.0
    retired = False
    _opened: socket.socket | None = None
    access: Access | None = None
    token = 0
    library: Mapping[str, Any] = MappingProxyType({})
    offered: tuple[str | None, str | None] = (None, None)

    async def on_connect_check_health(
        self: Any,
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """Shake hands (redis-py's) as the command connection does.

        In one write, with the same words when it is refused, and without asking for
        what another connection of the client was refused.
        """
        if not isinstance(self._parser, _AsyncHiredisParser):
            await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
            return
        # A server session of its own begins (redis-py 8.1).
        getattr(self, "_reset_himport_state", _nothing)()
        self._parser.on_connect(self)
        refusals = Refusals() if self.access is None else self.access.refusals
        if self.access is not None:
            self.token = self.access.token
        options = await self._handshake_options(refusals)
        self.offered = options.credentials
        where = self._host_error()
        replies: list[Any] = []
        lost: Exception | None = None
        for batch in options.batches():
            if not self.is_connected:
                # Sending would connect again, and shake hands from the start.
                lost = ConnectionLost("the connection was closed")
                break
            try:
                async with Deadline(self.socket_connect_timeout):
                    # A server that closed has often said why: its words are read below.
                    with contextlib.suppress(OSError):
                        await self._send_packed_command(map(pack, batch))
                    replies += [await self._reply_or_refusal() for _ in batch]
            except TimeoutError:
                lost = CommandTimeout(f"no answer in {self.socket_connect_timeout:g} s")
                break
            except (ConnectionLost, CommandTimeout, ProtocolBroken) as error:
                lost = error
                break
        # If the server spoke before it closed, its words are the cause, not the close.
        accept(options, replies, where, refusals)
        if lost is not None:
            tls = isinstance(self, SSLConnection)
            raise Unavailable(
                f"{where}: {lost}, during the handshake{lost_hint(tls=tls)}",
                outcome=Outcome.REJECTED if isinstance(lost, ProtocolBroken) else None,
            ) from lost
        activate = getattr(
            self, "activate_maint_notifications_handling_if_enabled", None
        )
        if activate is not None:  # since redis-py 8
            await activate(check_health=check_health)

    async def _handshake_options(self, refusals: Refusals) -> HandshakeOptions:
        identity = {name: getattr(self, name) for name in _IDENTITY}
        return await handshake_options({**self.library, **identity}, refusals)

    async def _reply_or_refusal(self: Any) -> Any:
        """Read a reply; an error reply is returned, a lost connection raised."""
        try:
            # LOADING is a ConnectionError of redis-py's, at which its version 7 closes
            # the connection. `connect_check_health` closes one that is lost.
            return await self.read_response(
                disable_decoding=True, timeout=_FOREVER, disconnect_on_error=False
            )
        except redis_errors.RedisError as error:
            ours = from_redis(error)
            if isinstance(ours, ConnectionLost | CommandTimeout | ProtocolBroken):
                raise ours from error
            return ours

    async def read_response(
        self: Any, *args: Any, timeout: float | None = None, **options: Any
    ) -> Any:
        """Read a reply (redis-py's), within a limit that a stall does not use up."""
        limit = self.socket_timeout
        if timeout is not None or limit is None:
            return await super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]
        try:
            async with Deadline(limit):
                return await super().read_response(  # type: ignore[misc]
                    *args, timeout=_FOREVER, **options
                )
        except TimeoutError:
            if options.get("disconnect_on_error", True):
                await self.disconnect(nowait=True)
            raise redis_errors.TimeoutError(
                f"Timeout reading from {self._host_error()}"
            ) from None

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect (redis-py's); every way of connecting comes by here.

        Raises:
            ClosedError: It was given back, or its client was closed.
        """
        self._check_not_retired()
        known = sys.exception()
        try:
            if isinstance(self, SSLConnection) and not self.is_connected:
                # It reads the certificate files of now: they rotate. An error of theirs
                # is raised again below, as any failure to connect.
                self.ssl_context.context = None
                with contextlib.suppress(Exception):
                    await in_own_thread(self.ssl_context.get)
            offers_left = NEWER_CREDENTIALS
            while True:
                try:
                    await super().connect_check_health(*args, **options)  # type: ignore[misc]
                    break
                except AuthFailed:
                    # As `dial` does: they may have been taken away meanwhile.
                    newest = await self._handshake_options(Refusals())
                    if not offers_left or newest.credentials == self.offered:
                        raise
                    offers_left -= 1
            self._check_not_retired()  # it may have been given back meanwhile
            self.connected_at = monotonic()
        except BaseException as error:
            # Cancelled in the handshake, it must not stay open half introduced.
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            drop_frames(error, known)
            raise

    def _check_not_retired(self) -> None:
        if self.retired:
            raise ClosedError("the connection was closed, or its client was")

    async def _connect(self: Any) -> None:
        """Open the socket (redis-py's); TLS to a plain port is found out at once."""
        connect = super()._connect  # type: ignore[misc]
        # A class of the application's may have a way of its own, through a tunnel.
        if connect.__func__ is Connection._connect:  # noqa: SLF001 - as above
            async with Deadline(self.socket_connect_timeout):
                self._opened = await open_socket(self.host, int(self.port))
        try:
            opening = connect()
            if isinstance(self, SSLConnection):
                opening = unless_plaintext(self.host, self.port, opening)
            await opening
        finally:
            # From `_connection_arguments` on the transport owns it, and closes it.
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack (redis-py's), with the bytes of a memoryview as they are meant."""
        plain = (bytes(each) if isinstance(each, memoryview) else each for each in args)
        try:
            packed: list[bytes] = super().pack_command(*plain)  # type: ignore[misc]
        except UnicodeError:
            raise
        except ValueError as error:
            raise redis_errors.DataError(
                f"a number that cannot be packed: {error}"
            ) from None
        return packed

    def _connection_arguments(self: Any) -> Any:
        """Return the arguments for `asyncio.open_connection` (redis-py's)."""
        arguments = dict(super()._connection_arguments())  # type: ignore[misc]
        opened, self._opened = self._opened, None
        if opened is None:
            return arguments
        host = arguments.pop("host")
        del arguments["port"]
        named = {"server_hostname": host} if "ssl" in arguments else {}
        return {**arguments, **named, "sock": opened}

    async def send_packed_command(
        self: Any,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """Write (redis-py's), with a limit that swallows no cancellation.

        redis-py's limit is `asyncio.wait_for`: before Python 3.12 a task that is
        cancelled just when the bytes have left goes on as if it had not been.
        """
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()
        if self._writer is None:
            # The server closed it during one of the checks, and redis-py does not look.
            raise redis_errors.ConnectionError("Connection closed by server.")
        if isinstance(command, str):
            command = command.encode()
        try:
            async with Deadline(self.socket_timeout):
                await self._send_packed_command(
                    [command] if isinstance(command, bytes) else command
                )
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise redis_errors.TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(
                f"Error while writing to socket: {error}"
            ) from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have left
            raise


@cache
def hardened(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return redis-py's class of connections, hardened."""
    return type(
        kind.__name__, (HardenedConnection, kind), {"__module__": kind.__module__}
    )
