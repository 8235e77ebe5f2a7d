"""Open a connection: socket, TLS, handshake; all of it or nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from oddswire.connection.access import NEWER_CREDENTIALS
from oddswire.connection.deadline import Deadline
from oddswire.connection.errors import TRANSIENT_ERRORS, drop_frames
from oddswire.connection.handshake import HandshakeOptions, Refusals, ServerInfo, accept
from oddswire.connection.multiplexer import CallLabel
from oddswire.connection.packing import pack
from oddswire.connection.sockets import open_socket
from oddswire.errors import (
    AuthFailed,
    ConnectionLost,
    OddswireError,
    Outcome,
    ProtocolBroken,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from oddswire.connection.multiplexer import Multiplexer


# Seconds after which a TLS handshake that is not answered is looked into, and that the
# answer to that may take.
_TLS_TAKES = 0.5
_PLAINTEXT_TAKES = 2.0

_Opened = TypeVar("_Opened")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a connection goes.

    Attributes:
        host: Name or address; looked up at each connect.
        port: TCP port.
        path: Unix socket; host and port are then not used.
        tls: How to verify the server, or None for plaintext.
        keepalive: Seconds of idleness before the kernel probes the peer.
        user_timeout: Seconds that sent bytes may stay unacknowledged (Linux).
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
    keepalive: float = 30.0
    user_timeout: float = 10.0

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Progress:
    """How far an attempt to connect has come, for callers that give up on it.

    Attributes:
        stage: What is being waited for; empty between attempts.
    """

    __slots__ = ("stage",)

    def __init__(self) -> None:
        self.stage = ""


async def dial(
    locate: Callable[[], Awaitable[Target]],
    hello_factory: Callable[[], Awaitable[HandshakeOptions]],
    make: Callable[[], Multiplexer],
    timeout: float,
    *,
    refusals: Refusals | None = None,
    progress: Progress | None = None,
) -> tuple[Multiplexer, ServerInfo]:
    """Return a connection on which the handshake is done, and what the server said.

    No caller sees the connection before that. On any error, and when cancelled, its
    socket is closed. Where the credentials are refused and there are newer ones by now,
    another connection offers those, within the same timeout.

    Args:
        locate: Returns where to; called for each connection, within the timeout.
        hello_factory: Returns what to say; called for each connection and after a
            refusal, so that credentials which rotate are read when they are needed.
        make: Returns a new multiplexer.
        timeout: Seconds for all of it.
        refusals: Notes what the user may not do and need not.
        progress: Says what is being waited for.

    Raises:
        Unavailable: No server answers there, or not in time, or not in RESP. With
            `Outcome.REJECTED` the same attempt will fail again: TLS, the database.
        AuthFailed: Wrong password or user, and no newer ones.
    """
    progress = progress or Progress()
    where: Target | None = None
    hint = ""
    connection: Multiplexer | None = None
    finished = False
    known = sys.exception()
    deadline = Deadline(timeout)
    try:
        async with deadline:
            where = await locate()
            hint = lost_hint(tls=where.tls is not None)
            progress.stage = f"{where}: waiting for the credentials"
            options = await hello_factory()
            offers_left = NEWER_CREDENTIALS
            while True:
                progress.stage = f"{where}: connecting{_silence(where, None)}"
                connection = await _open(where, make)
                progress.stage = f"{where}: no answer yet{_silence(where, connection)}"
                try:
                    server_info = await _shake_hands(
                        connection, options, str(where), timeout, refusals
                    )
                except AuthFailed:
                    # They may have been taken away while this was under way.
                    progress.stage = f"{where}: waiting for newer credentials"
                    refused, options = options, await hello_factory()
                    if not offers_left or options.credentials == refused.credentials:
                        raise
                    offers_left -= 1
                    connection.abort(Unavailable("the credentials were refused"))
                    continue
                if options.channels:
                    await _subscribe(connection, options.channels, timeout)
                finished = True
                return connection, server_info
    except TimeoutError as error:
        if not deadline.expired():
            # The system's own, when nothing answers for minutes.
            raise Unavailable(
                f"{where}: {with_system_words(error.strerror or str(error), error)}"
            ) from error
        late = f"no connection within {timeout:g} s"
        raise Unavailable(
            f"{where}: {late}{_silence(where, connection)}"
            if where is not None
            else f"{late}: {progress.stage}"
        ) from None
    except ssl.SSLError as error:
        raise Unavailable(
            f"{where}: TLS failed: {error}{_tls_hint(error)}",
            outcome=Outcome.REJECTED,
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{where}: {with_system_words(error.strerror or str(error), error)}"
        ) from error
    except ProtocolBroken as error:
        # An alert of TLS, a page of HTTP: it will be the same the next time.
        raise Unavailable(
            f"{where}: {error}{hint}",
            outcome=Outcome.REJECTED,
        ) from error
    except OddswireError as error:
        if error.outcome is Outcome.UNKNOWN:
            # Lost in the handshake: no caller's bytes were on the way.
            raise Unavailable(
                f"{where}: {error}, during the handshake{hint}"
            ) from error
        raise
    except Exception as error:
        # A provider of credentials may raise anything: the attempt failed.
        raise Unavailable(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        progress.stage = ""
        if connection is not None and not finished:
            connection.abort(Unavailable("the handshake did not finish"))
        failure = sys.exception()
        if failure is not None and failure is not known:
            drop_frames(failure, known)


async def _shake_hands(
    connection: Multiplexer,
    options: HandshakeOptions,
    where: str,
    timeout: float,
    refusals: Refusals | None,
) -> ServerInfo:
    if connection.error is not None:
        if not isinstance(connection.error, ConnectionLost):
            # It spoke before we did, and closed: too many clients, protected mode.
            accept(options, [connection.error], where)
        raise connection.error
    replies: list[Any] = []
    batches = options.batches()
    for position, batch in enumerate(batches, start=1):
        answered: list[Any] = []
        data = b"".join(map(pack, batch))
        try:
            reply = await connection.send(
                data,
                timeout,
                CallLabel("handshake"),
                count=len(batch),
                raw=True,
                into=answered,
            )
        except OddswireError:
            # What it said before it closed is the cause; that it closed is not.
            accept(options, [*replies, *answered], where)
            if refusals is not None and position == len(batches) > 1:
                refusals.info_denied |= options.identify
            raise
        replies += answered or [reply]
    return accept(options, replies, where, refusals)


async def _subscribe(
    connection: Multiplexer, channels: tuple[str, ...], timeout: float
) -> None:
    # Answered by push messages, or by an error.
    data = pack(("SUBSCRIBE", *channels)) + pack(("PING", "subscribed"))
    replies = await connection.send(
        data, timeout, CallLabel("handshake"), raw=True, until=b"subscribed"
    )
    for reply in replies:
        if isinstance(reply, TRANSIENT_ERRORS):
            raise Unavailable(f"SUBSCRIBE {' '.join(channels)}: {reply}") from reply
        if isinstance(reply, Exception):
            raise Unavailable(
                f"SUBSCRIBE {' '.join(channels)} was refused: {reply}",
                outcome=Outcome.REJECTED,
            ) from reply


async def _open(target: Target, make: Callable[[], Multiplexer]) -> Multiplexer:
    loop = asyncio.get_running_loop()
    if target.path is not None:
        _, connection = await loop.create_unix_connection(make, target.path)
        return connection
    opened = await open_socket(target.host, target.port)
    connection = make()
    try:
        _watch(opened, target)
        if target.tls is None:
            await loop.create_connection(lambda: connection, sock=opened)
        else:
            opening = loop.create_connection(
                lambda: connection,
                sock=opened,
                ssl=target.tls,
                server_hostname=target.host,
            )
            await unless_plaintext(target.host, target.port, opening)
    except BaseException:
        # The transport first, for TLS may be open by now: while it lives, asyncio
        # refuses the next socket that gets the same file descriptor.
        connection.abort(Unavailable("the connection was not opened"))
        opened.close()
        raise
    return connection


def _watch(sock: socket.socket, target: Target) -> None:
    """Let the kernel find dead links, idle or with unacknowledged bytes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in keepalive_options(
        target.keepalive, target.user_timeout
    ).items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def keepalive_options(keepalive: float, user_timeout: float) -> dict[int, int]:
    """Return the TCP options, those this system has, that find a dead peer.

    Args:
        keepalive: Seconds of idleness before the kernel probes the peer.
        user_timeout: Seconds that sent bytes may stay unacknowledged (Linux).
    """
    idle = max(1, round(keepalive))
    options = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPALIVE": idle,  # macOS's name for it
        "TCP_KEEPINTVL": max(1, idle // 6),
        "TCP_KEEPCNT": 3,
        # Keepalive does not fire while bytes are unacknowledged (Lettuce issue 2082).
        "TCP_USER_TIMEOUT": round(user_timeout * 1000),
    }
    return {
        getattr(socket, name): value
        for name, value in options.items()
        if hasattr(socket, name)
    }


def _silence(target: Target, connection: Multiplexer | None) -> str:
    if target.tls is not None:
        return "; if the server speaks plaintext here, use redis://"
    if connection is None:
        return ""
    return "; it accepts and stays silent; if it wants TLS here, use rediss://"


def with_system_words(text: str, error: BaseException | None) -> str:
    """Return a text with the system's words for an error, which asyncio leaves out."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    words = os.strerror(number) if number > 0 else ""
    return text if words in text else f"{text}: {words}"


async def unless_plaintext(
    host: str, port: int, opening: Coroutine[Any, Any, _Opened]
) -> _Opened:
    """Return what opens a TLS connection, or find out that the port speaks plaintext.

    A Redis without TLS takes a TLS handshake for the beginning of a command and waits
    for the rest of it. A second connection asks such a silent server in plaintext.

    Raises:
        Unavailable: Rejected: the port answers in plaintext.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(opening, name="oddswire TLS handshake")
    asking: asyncio.Task[bool] | None = None
    try:
        await asyncio.wait([task], timeout=_TLS_TAKES)
        if not task.done():
            asking = loop.create_task(
                _answers_in_plaintext(host, port), name="oddswire asking for plaintext"
            )
            await asyncio.wait([task, asking], return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and asking.result():
                raise Unavailable(
                    f"{host}:{port}: the TLS handshake is not answered, and plaintext "
                    "is; does this port speak TLS? if not, use redis://",
                    outcome=Outcome.REJECTED,
                )
        return await task
    finally:
        for each in (task, asking):
            if each is not None and not each.done():
                each.cancel()
                await asyncio.wait([each])


async def _answers_in_plaintext(host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    try:
        async with Deadline(_PLAINTEXT_TAKES):
            with await open_socket(host, port) as opened:
                await loop.sock_sendall(opened, b"PING\r\n")
                # TLS answers with an alert, or not at all.
                return await loop.sock_recv(opened, 1) in {b"+", b"-"}
    except (OSError, TimeoutError):
        return False


def lost_hint(*, tls: bool) -> str:
    """Say what a server may have wanted that hung up in the handshake."""
    if not tls:
        return "; if the server wants TLS here, use rediss://"
    # TLS 1.3 reports a missing client certificate only after its own handshake.
    return (
        "; if the server wants a certificate of ours, set tls_cert_file and "
        "tls_key_file"
    )


def _tls_hint(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; name its CA, or check the host name and the certificate's dates"
    return "; does this port speak TLS?"
