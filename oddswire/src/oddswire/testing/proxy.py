"""`FaultProxy`: a TCP link to a real server that can be broken in every way a link is.

The kinds of fault are Toxiproxy's, with corruption, pushes and errors put in by the
test, and a stand-in for a load balancer that accepts and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

from oddswire.testing._frames import Frames

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

_CHUNK = 64 * 1024


class Direction:
    """The faults of one direction; set them at any time, they act on what comes next.

    Attributes:
        latency: Seconds that each chunk is late.
        jitter: Up to so many seconds more, at random.
        bandwidth: Bytes a second; None for no limit.
        slice: Bytes of one write, as far as the kernel leaves them apart; None for as
            many as came.
        blackhole: Swallow everything; the link stays up. A link that bytes were taken
            from stays dead after that, as TCP never goes on behind a gap.
        hold: Take in nothing, so that the sender meets a full socket.
        corrupt: The probability that a bit of a chunk is flipped.
        cut_after: After so many more bytes the link is reset, once; None for never.
        bytes: Passed on so far.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._flowing = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        """Back to a perfect link."""
        self.latency = 0.0
        self.jitter = 0.0
        self.bandwidth: float | None = None
        self.slice: int | None = None
        self.blackhole = False
        self.corrupt = 0.0
        self.cut_after: int | None = None
        self._flowing.set()

    @property
    def hold(self) -> bool:
        """Whether nothing is taken in."""
        return not self._flowing.is_set()

    @hold.setter
    def hold(self, holds: bool) -> None:
        if holds:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def flowing(self) -> None:
        """Wait while it is on hold."""
        await self._flowing.wait()


class FaultProxy:
    """A link to a server, ``async with FaultProxy(server.url) as proxy``; single use.

    Leaving the block resets every link and waits for what it started.

    Args:
        upstream: The server's URL (``redis://`` or ``rediss://``), or (host, port).
        tls: Speak TLS to the client with this context, also if the server speaks none:
            a test shows a client an expired certificate by it.
        upstream_tls: Speak TLS to the server with this context.
        seed: Of jitter and corruption.

    Attributes:
        up: Faults of what the client sends.
        down: Faults of what the server sends.
        accepted: Connections that came.
    """

    def __init__(
        self,
        upstream: str | tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        upstream_tls: ssl.SSLContext | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(upstream, str):
            parts = urlsplit(upstream)
            if not parts.hostname or not parts.port:
                raise ValueError(
                    "FaultProxy needs the URL of a server on TCP, or (host, port)"
                )
            self._upstream = (parts.hostname, parts.port)
            self._url = upstream
        else:
            self._upstream = upstream
            self._url = f"redis://{upstream[0]}:{upstream[1]}"
        self._tls = tls
        self._upstream_tls = upstream_tls
        self._random = random.Random(seed)  # noqa: S311 - repeatable faults
        self.up = Direction()
        self.down = Direction()
        self.accepted = 0
        self._links: set[_Link] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = asyncio.Event()
        self._answering.set()
        self._refusing = False

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return "127.0.0.1"

    @property
    def url(self) -> str:
        """The server's URL with this proxy's address."""
        parts = urlsplit(self._url)
        login, at, _ = parts.netloc.rpartition("@")
        netloc = f"{login}{at}{self.host}:{self.port}"
        scheme = "rediss" if self._tls else "redis"
        return urlunsplit(parts._replace(netloc=netloc, scheme=scheme))

    @property
    def open(self) -> int:
        """Links that are up."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(
            self._take, self.host, 0, ssl=self._tls
        )
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_listener(self._listener, self._end)

    async def _end(self) -> None:
        self.refuse()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def quiet(self) -> None:
        """Wait until no link is up: the end of one is noticed a moment later."""
        await self._quiet.wait()

    # --- faults of the whole link

    def heal(self) -> None:
        """Take every fault away; links that are cut stay cut."""
        self.up.heal()
        self.down.heal()
        self.accept()

    def blackhole(self) -> None:
        """Swallow both directions: a link that is up and dead."""
        self.up.blackhole = self.down.blackhole = True

    def reset(self) -> None:
        """Reset every link (RST); bytes on the way are lost."""
        for link in list(self._links):
            link.reset()

    def cut(self) -> None:
        """Close every link in order (FIN), as a server that is shut down does."""
        for link in list(self._links):
            link.close()

    def refuse(self) -> None:
        """Reset new connections at once."""
        self._refusing = True

    def redirect(self, host: str, port: int) -> None:
        """Bring connections from now on to another server, which was promoted."""
        self._upstream = (host, port)

    def accept(self) -> None:
        """Serve new connections again, and those that were stalled."""
        self._refusing = False
        self._answering.set()

    def stall(self) -> None:
        """Accept new connections and say nothing, as a dead load balancer does."""
        self._answering.clear()

    def inject(self, data: bytes) -> None:
        """Send bytes to every client, between two replies of the server.

        A reply that is half way through is waited for, so that what a RESP3 push or
        an error would look like is exactly what arrives.
        """
        for link in self._links:
            link.inject(data)

    # --- a connection's life

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - asyncio calls this in a task
            return
        self._tasks.add(task)
        try:
            if self._refusing:
                _reset(writer)
                return
            await self._answering.wait()
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(
            *self._upstream, ssl=self._upstream_tls
        )
        link = _Link(writer, server_writer)
        self._links.add(link)
        self._quiet.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, link, self.up, to_server=True))
                group.create_task(
                    self._pump(server_reader, link, self.down, to_server=False)
                )
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            if not self._links:
                self._quiet.set()
            link.reset()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        link: _Link,
        faults: Direction,
        *,
        to_server: bool,
    ) -> None:
        while True:
            await faults.flowing()
            data = await reader.read(_CHUNK)
            if not data:
                break
            # Held after it was read: it waits here, and the socket fills behind it.
            await faults.flowing()
            if faults.blackhole or faults in link.dead:
                link.dead.add(faults)
                continue
            data = self._corrupted(data, faults)
            late = faults.latency + faults.jitter * self._random.random()
            if late:
                await asyncio.sleep(late)
            rest = faults.cut_after
            if rest is not None and len(data) >= rest:
                faults.cut_after = None
                await link.pass_on(data[:rest], to_server=to_server)
                faults.bytes += rest
                # So that what was let through is read before the reset is seen.
                await asyncio.sleep(0.01)
                link.reset()
                return
            if rest is not None:
                faults.cut_after = rest - len(data)
            for piece in _pieces(data, faults):
                await link.pass_on(piece, to_server=to_server)
                faults.bytes += len(piece)
                # Without a turn of the loop in between the kernel joins the pieces.
                rate = faults.bandwidth
                await asyncio.sleep(0 if rate is None else len(piece) / rate)
        link.end(to_server=to_server)

    def _corrupted(self, data: bytes, faults: Direction) -> bytes:
        if not faults.corrupt or self._random.random() >= faults.corrupt:
            return data
        flipped = bytearray(data)
        flipped[self._random.randrange(len(flipped))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)


async def close_listener(
    listener: asyncio.Server, end: Callable[[], Awaitable[object]]
) -> None:
    """Close a listener, and what it accepted.

    A connection that was accepted takes some turns of the loop to reach its handler
    it. asyncio drops one that is accepted in the turn in which the listener closes, and
    leaves its socket open (Python 3.11): so no more come in before that.

    Args:
        listener: It.
        end: Ends what is being served; called for each of those turns.
    """
    loop = asyncio.get_running_loop()
    for listening in listener.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(4):
        await end()
        await asyncio.sleep(0)
    listener.close()
    await listener.wait_closed()


class _Link:
    """The two sockets of a connection through the proxy."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._client = client
        self._server = server
        self._frames = Frames()
        self.dead: set[Direction] = set()

    async def pass_on(self, data: bytes, *, to_server: bool) -> None:
        if to_server:
            writer = self._server
            writer.write(data)
        else:
            writer = self._client
            writer.write(self._frames.feed(data))
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    def inject(self, data: bytes) -> None:
        self._client.write(self._frames.inject(data))

    def end(self, *, to_server: bool) -> None:
        """One side will send no more."""
        if to_server and self._server.can_write_eof():
            with contextlib.suppress(OSError):
                self._server.write_eof()
        else:
            self.close()

    def close(self) -> None:
        self._client.close()
        self._server.close()

    def reset(self) -> None:
        _reset(self._client)
        _reset(self._server)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
    writer.transport.abort()


def _pieces(data: bytes, faults: Direction) -> list[bytes]:
    size = faults.slice
    if size is None and faults.bandwidth is not None:
        # Small enough that the rate is even, twenty times a second.
        size = max(1, int(faults.bandwidth / 20))
    if size is None or size >= len(data):
        return [data]
    return [data[start : start + size] for start in range(0, len(data), size)]
