"""`FaultProxy`: a TCP link to a real server, with every fault that a link can have.

The kinds of fault are Toxiproxy's. In addition the proxy corrupts bytes, injects pushes
and errors, and plays a load balancer that accepts connections and does not answer.
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
    """The faults of one direction. Set them at any time: they act on the next bytes.

    Attributes:
        latency: Seconds that each chunk is late.
        jitter: Seconds that each chunk is later still, at most; random.
        bandwidth: Bytes a second; None: no limit.
        slice: Bytes of one write, which the kernel may join; None: as many as arrived.
        blackhole: Discard everything; the link stays up. A link that lost bytes stays
            dead when this ends: TCP does not continue behind a gap.
        hold: Read nothing, so that the sender's socket becomes full.
        corrupt: The probability that one bit of a chunk is flipped.
        cut_after: The link is reset after so many more bytes, once; None: never.
        bytes: Bytes passed on so far.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._flowing = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        """Remove every fault of this direction."""
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
        """Whether nothing is read."""
        return not self._flowing.is_set()

    @hold.setter
    def hold(self, holds: bool) -> None:
        if holds:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def flowing(self) -> None:
        """Wait until `hold` is false."""
        await self._flowing.wait()


class FaultProxy:
    """A link to a server, ``async with FaultProxy(server.url) as proxy``; single use.

    The end of the block resets every link, and waits for the tasks of the proxy.

    Args:
        upstream: The server's URL (``redis://`` or ``rediss://``), or (host, port).
        tls: The context for TLS with the client, also if the server has no TLS. A test
            can show the client an expired certificate.
        upstream_tls: The context for TLS with the server.
        seed: The seed of jitter and corruption.

    Attributes:
        up: Faults of what the client sends.
        down: Faults of what the server sends.
        accepted: Connections that were accepted so far.
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
        """Wait until no connection is left: the proxy notices an end a moment later.

        A connection that was not answered (`stall`) counts too. The sockets of the
        connections that ended are closed then.
        """
        await self._quiet.wait()

    # --- faults of the whole link

    def heal(self) -> None:
        """Remove every fault; a link that was cut stays cut."""
        self.up.heal()
        self.down.heal()
        self.accept()

    def blackhole(self) -> None:
        """Discard everything in both directions: the link is up and dead."""
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
        """Lead new connections to another server, as after a failover."""
        self._upstream = (host, port)

    def accept(self) -> None:
        """Serve new connections again, and the stalled ones."""
        self._refusing = False
        self._answering.set()

    def stall(self) -> None:
        """Accept new connections and do not answer, as a dead load balancer does."""
        self._answering.clear()

    def inject(self, data: bytes) -> None:
        """Send bytes to every client, between two replies of the server.

        If the server is in the middle of a reply, the bytes follow its end. So the
        client reads them as one RESP3 push or one error.
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
        self._quiet.clear()
        task.add_done_callback(self._ended)
        try:
            if self._refusing:
                return
            await self._answering.wait()
            await self._serve(reader, writer)
        # Python 3.11 logs a connection whose task ends as cancelled.
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            await _close(writer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._quiet.set()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(
            *self._upstream, ssl=self._upstream_tls
        )
        link = _Link(writer, server_writer)
        self._links.add(link)
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
            link.reset()
            await _close(server_writer)

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
            # `hold` was set during the read: the data waits here, the socket fills.
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
                # So that the client reads these bytes before it sees the reset.
                await asyncio.sleep(0.01)
                link.reset()
                return
            if rest is not None:
                faults.cut_after = rest - len(data)
            for piece in _pieces(data, faults):
                await link.pass_on(piece, to_server=to_server)
                faults.bytes += len(piece)
                # Without a turn of the loop in between, the kernel joins the pieces.
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
    """Close a listener, and the connections that it accepted.

    An accepted connection takes some turns of the loop to reach its handler. A
    connection that is accepted in the turn in which the listener closes is dropped by
    asyncio, which leaves its socket open (Python 3.11). Therefore the listener first
    stops accepting, and closes some turns later.

    Args:
        listener: The listener.
        end: Ends the connections that are served; called in each of those turns.
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


async def _close(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, and wait until asyncio has closed its socket."""
    _reset(writer)
    with contextlib.suppress(OSError):
        await writer.wait_closed()


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
        # Twenty pieces a second keep the rate even.
        size = max(1, int(faults.bandwidth / 20))
    if size is None or size >= len(data):
        return [data]
    return [data[start : start + size] for start in range(0, len(data), size)]
