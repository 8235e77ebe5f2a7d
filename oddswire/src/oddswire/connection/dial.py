"""Open a wire: socket, TLS, handshake; all of it or nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any

import msgspec

from oddswire.connection.calls import Named
from oddswire.connection.handshake import Greeting, Hello, accept
from oddswire.connection.outage import TRANSIENT_ERRORS
from oddswire.connection.packing import pack
from oddswire.errors import OddswireError, Outcome, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from oddswire.connection.multiplexer import Multiplexer


# Seconds after which the next address of a name is tried beside the one before: RFC
# 8305's recommendation.
_NEXT_ADDRESS = 0.25


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a wire goes.

    Attributes:
        host: Name or address; looked up anew at each connect.
        port: TCP port.
        path: Unix socket; host and port are then not used.
        tls: How to verify the server, or None for plaintext.
        keepalive: Seconds of idleness before the kernel probes the link.
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


async def dial(
    target: Target,
    introduce: Callable[[], Awaitable[Hello]],
    make: Callable[[], Multiplexer],
    timeout: float,
) -> tuple[Multiplexer, Greeting]:
    """Return a wire on which the handshake is done, and what the server said.

    Nobody else sees the wire before that. On any error, and when cancelled, its socket
    is closed.

    Args:
        target: Where to.
        introduce: Returns what to say; called for each wire, so that credentials which
            rotate are read when they are needed.
        make: Returns a new multiplexer.
        timeout: Seconds for all of it.

    Raises:
        Unavailable: Nobody answers there, or not in time, or not in our language. With
            `Outcome.REJECTED` the same attempt will fail again: TLS, the database.
        AuthFailed: Wrong password or user.
    """
    wire: Multiplexer | None = None
    finished = False
    try:
        async with asyncio.timeout(timeout):
            hello = await introduce()
            commands = hello.commands()
            packed = b"".join(map(pack, commands))
            wire = await _open(target, make)
            if wire.error is not None:
                # Refused before we said anything: too many clients.
                raise Unavailable(f"{target}: {wire.error}")  # noqa: TRY301 - it is closed below
            replies = await wire.send(
                packed, timeout, Named("handshake"), count=len(commands), raw=True
            )
            greeting = accept(
                hello, replies if len(commands) > 1 else [replies], str(target)
            )
            if hello.channels:
                await _subscribe(wire, hello.channels, timeout)
        finished = True
    except TimeoutError:
        raise Unavailable(
            f"{target}: no connection within {timeout:g} s{_silence(target, wire)}"
        ) from None
    except ssl.SSLError as error:
        raise Unavailable(
            f"{target}: TLS failed: {error}{_tls_hint(error)}",
            outcome=Outcome.REJECTED,
        ) from error
    except OSError as error:
        raise Unavailable(f"{target}: {error.strerror or error}") from error
    except OddswireError as error:
        if error.outcome is Outcome.UNKNOWN:
            # Lost in the handshake: no caller's bytes were on the way.
            raise Unavailable(
                f"{target}: {error}, during the handshake{_lost_hint(target)}"
            ) from error
        if wire is not None and wire.error is not None:
            # Its last word, before it closed: too many clients.
            raise Unavailable(f"{target}: {error}", outcome=error.outcome) from error
        raise
    except Exception as error:
        # Whatever a provider of credentials raises: an attempt that failed.
        raise Unavailable(f"{target}: {type(error).__name__}: {error}") from error
    finally:
        if wire is not None and not finished:
            wire.abort(Unavailable("the handshake did not finish"))
    return wire, greeting


async def _subscribe(
    wire: Multiplexer, channels: tuple[str, ...], timeout: float
) -> None:
    # Answered by push messages, or by an error.
    data = pack(("SUBSCRIBE", *channels)) + pack(("PING", "subscribed"))
    replies = await wire.send(
        data, timeout, Named("handshake"), raw=True, until=b"subscribed"
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
        _, wire = await loop.create_unix_connection(make, target.path)
        return wire
    options: dict[str, Any] = {}
    if target.tls is not None:
        options = {"ssl": target.tls, "server_hostname": target.host}
    options |= staggered(target.host)
    transport, wire = await loop.create_connection(
        make, target.host, target.port, **options
    )
    try:
        _watch(transport.get_extra_info("socket"), target)
    except BaseException:
        transport.abort()
        raise
    return wire


def staggered(host: str) -> dict[str, float]:
    """Return how to try the addresses of a name: not one after the other (RFC 8305).

    uvloop's `create_connection` cannot do otherwise, and a loop with a task factory of
    the application's does not.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        loop = asyncio.get_running_loop()
        # With eager tasks asyncio's race between addresses fails (CPython 3.12, 3.13).
        if isinstance(loop, asyncio.BaseEventLoop) and loop.get_task_factory() is None:
            return {"happy_eyeballs_delay": _NEXT_ADDRESS}
    return {}


def _watch(sock: socket.socket, target: Target) -> None:
    """Let the kernel find dead links, idle or with unacknowledged bytes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in probes(target.keepalive, target.user_timeout).items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def probes(keepalive: float, user_timeout: float) -> dict[int, int]:
    """Return the TCP options, those this system has, that find a dead link.

    Args:
        keepalive: Seconds of idleness before the kernel probes the link.
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


def _silence(target: Target, wire: Multiplexer | None) -> str:
    if target.tls is not None:
        return "; if the server speaks plaintext here, use redis://"
    if wire is None:
        return ""
    return "; it accepts and stays silent; if it wants TLS here, use rediss://"


def _lost_hint(target: Target) -> str:
    if target.tls is None:
        return "; if the server wants TLS here, use rediss://"
    # TLS 1.3 tells of a missing client certificate only after its own handshake.
    return (
        "; if the server wants a certificate of ours, set tls_cert_file and "
        "tls_key_file"
    )


def _tls_hint(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; name its CA, or check the host name and the certificate's dates"
    return "; does this port speak TLS?"
