"""`EmbeddedServer`: one Valkey or Redis process for the time of a block."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar
from urllib.parse import quote as url_quote

from redis.exceptions import ResponseError

from oddswire._tasks import spawn
from oddswire.embedded._ask import info
from oddswire.embedded._config import config_text, option_lines
from oddswire.embedded._server_dir import ServerDir
from oddswire.embedded._server_process import ServerProcess, run_shielded
from oddswire.embedded.binary import find_binary
from oddswire.errors import ClosedError, EmbeddedFailed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_HOST = "127.0.0.1"
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_LOCK_SECONDS = 3.0  # so long may a server live on whose parent was killed
_LOCK_POLL = 0.02
_PORT_TRIES = 20
_PORT_PROBES = 100
_LOG_LINES = 200
_LOG_LINES_SHOWN = 10


class EmbeddedServer:
    """A private server: ``async with EmbeddedServer() as server``; single use.

    The server listens on 127.0.0.1 and on a private unix socket, and both want a
    password. It ends when the block ends or this process dies, even by SIGKILL. When
    the block is entered, the server has answered on each listener with its own process
    id.

    Cancelled while entering: the process and its directory are gone. Cancelled while
    leaving: the same, but the server is killed and not asked to stop.

    Args:
        tcp: Whether to listen on TCP too; False leaves only the unix socket.
        data_dir: The directory for the data; None: a private one, removed at the end.
            A second server on the same directory is refused.
        aof: Whether the server appends every write to a file and fsyncs it once a
            second; while the disk is busy with that, a reply may come before its write
            is in the file. Without it the server writes no data to disk, unless `args`
            ask for it.
        args: Further options as on the server's command line:
            ``("--maxmemory", "1mb")``.
        binary: The server program; see `find_binary`.
        password: The password of the default user; None: a random one.

    Raises:
        EmbeddedFailed: At construction: `args` holds an option that `EmbeddedServer`
            sets itself, or the password is empty. On entering: there is no program,
            the data directory is in use or not writable, or the server was not ready
            in 10 s; the message ends with the server's last log lines.
        ClosedError: An attribute was read before the block, or it was entered twice.
    """

    _argv: ClassVar[Sequence[str]] = ()
    _marker: ClassVar[bytes] = b"Ready to accept connections"

    def __init__(
        self,
        *,
        tcp: bool = True,
        data_dir: str | os.PathLike[str] | None = None,
        aof: bool = False,
        args: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        if password == "":
            raise EmbeddedFailed("password is empty: leave it out for a random one")
        self._tcp = tcp
        self._aof = aof
        self._options = option_lines(args)
        self._wanted_binary = binary
        self._password = secrets.token_hex(16) if password is None else password
        self._dir = ServerDir(data_dir)
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._entered = self._ended = False
        self._binary: Path | None = None
        self._port = 0
        self._process: ServerProcess | None = None
        # Only Linux sends a signal to the server when its parent dies.
        self._watched = sys.platform != "linux"
        self._pick_port: Callable[[], int] = free_port

    @property
    def url(self) -> str:
        """The URL over TCP, or over the unix socket without TCP; with the password."""
        if self._tcp:
            return f"redis://:{self._quoted_password}@{_HOST}:{self.port}/0"
        return self.unix_url

    @property
    def unix_url(self) -> str:
        """The URL over the unix socket, with the password."""
        path = url_quote(str(self.unix_socket))
        return f"unix://:{self._quoted_password}@{path}?db=0"

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return _HOST

    @property
    def port(self) -> int:
        """The TCP port, the same after `restart`; 0 when there is no TCP."""
        self._started()
        return self._port

    @property
    def unix_socket(self) -> Path:
        """The path of the private socket."""
        self._started()
        return self._dir.unix_socket

    @property
    def pid(self) -> int:
        """The process id of the server, or of the last one when it has ended."""
        pid = self._started().pid
        if pid is None:
            raise ClosedError("the embedded server's process did not start")
        return pid

    @property
    def password(self) -> str:
        """The password of the default user."""
        return self._password

    @property
    def log(self) -> Sequence[str]:
        """The server's last 200 lines, restarts included, with the password masked."""
        return tuple(line.replace(self._password, "***") for line in self._log)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ClosedError("an EmbeddedServer is single use: make a new one")
        self._entered = True
        try:
            self._binary = await _in_thread(find_binary, self._wanted_binary)
            await _in_thread(self._dir.open)
            await self._claim_data()
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        try:
            await self.stop()
        finally:
            await _in_thread(self._dir.close)

    async def wait_exit(self) -> int:
        """Wait until the process ends, by this program or another.

        Returns:
            Its exit code; minus the signal's number when a signal ended it.
        """
        return await asyncio.shield(self._started().exited)

    def kill(self, signal: int = signal.SIGKILL) -> None:
        """Send a signal to the server, for tests; nothing happens if it has ended."""
        self._started().send(signal)

    async def stop(self) -> None:
        """End the process: SIGTERM first, SIGKILL after 5 s.

        The data stays until the block ends. Cancelled: the process is killed.
        """
        if self._process is not None:
            await self._process.end(_STOP_SECONDS)

    async def restart(self) -> None:
        """Start again on the same port, socket, password and data directory.

        A server that still runs is stopped first. Cancelled or failed: there is no
        process, and `restart` may be called again.

        Raises:
            EmbeddedFailed: The server did not become ready, or the port was taken
                while it was down.
            ClosedError: The block was not entered, or has ended.
        """
        self._started()
        if self._ended:
            raise ClosedError("the embedded server's block has ended: make a new one")
        await self.stop()
        if not await self._launch():
            raise EmbeddedFailed(
                f"port {self._port} was taken by another process while the server was "
                "down; start a new server"
            )

    # --- start and end

    async def _claim_data(self) -> None:
        # A server whose parent was just killed still writes its last bytes: wait for
        # it. The system does not announce that a flock is released: hence the poll.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOCK_SECONDS
        while not await _in_thread(self._dir.claim_data):
            if loop.time() > deadline:
                raise EmbeddedFailed(
                    f"data directory {self._dir.data}: another server uses it; "
                    "stop that one, or give another directory"
                )
            await asyncio.sleep(_LOCK_POLL)

    async def _start(self) -> None:
        for _ in range(_PORT_TRIES):
            self._port = self._pick_port() if self._tcp else 0
            text = config_text(
                port=self._port,
                unix_socket=str(self._dir.unix_socket),
                directory=str(self._dir.data),
                password=self._password,
                aof=self._aof,
                options=self._options,
            )
            await _in_thread(self._dir.write_config, text)
            # Another process may take the port between this choice and the bind.
            if await self._launch():
                return
        raise EmbeddedFailed(
            f"{_PORT_TRIES} ports in a row were taken by other processes; "
            "use tcp=False and the unix socket"
        )

    async def _launch(self) -> bool:
        """Start the process and verify it; False: another process has its port."""
        self._process = process = ServerProcess(self._marker, self._log)
        command = (str(self._binary), str(self._dir.config), *self._argv)
        start = process.start(command, locks=self._dir.locks, watched=self._watched)
        try:
            # A start that fails or is cancelled leaves no process.
            async with AsyncExitStack() as on_failure:
                on_failure.push_async_callback(process.end, 0)
                await run_shielded(spawn(start, name="oddswire server starting"))
                async with asyncio.timeout(_START_SECONDS):
                    if await process.wait_ready():
                        await self._verify(process)
                        on_failure.pop_all()
                        return True
        except TimeoutError:
            problem = f"was not ready after {_START_SECONDS:.0f} s"
            raise EmbeddedFailed(self._explain(problem)) from None
        except OSError as error:
            raise EmbeddedFailed(f"cannot start {sys.executable}: {error}") from error
        if process.port_taken:
            return False
        code = process.exited.result()
        raise EmbeddedFailed(self._explain(f"ended with code {code} at its start"))

    async def _verify(self, process: ServerProcess) -> None:
        # Any process may answer on a port or a socket path: compare the process id.
        for url in dict.fromkeys((self.unix_url, self.url)):
            try:
                pid = (await info(url, "server")).get("process_id")
            except (ResponseError, OSError) as error:
                raise EmbeddedFailed(
                    self._explain(f"was ready, but did not answer INFO ({error})")
                ) from error
            if pid != str(process.pid):
                raise EmbeddedFailed(
                    f"process {pid} answers instead of the embedded server "
                    f"{process.pid}"
                )

    def _explain(self, problem: str) -> str:
        lines = [line for line in self.log if line][-_LOG_LINES_SHOWN:]
        reason = lines[-1] if lines else "it wrote nothing"
        first = (
            f"the embedded server {problem}: {reason}; "
            "check args, data_dir and the program"
        )
        return "\n  ".join((first, f"program: {self._binary}", *lines))

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise ClosedError("the embedded server is not started: use `async with`")
        return self._process

    @property
    def _quoted_password(self) -> str:
        return url_quote(self._password, safe="")


def free_port() -> int:
    """Choose a TCP port of 127.0.0.1 on which nothing listens now.

    The port is below the range from which the kernel takes the ports of outgoing
    connections. A client that reconnects to a server that is down could otherwise take
    the server's port, even by a connection to itself. A cluster's second port, 10,000
    higher, is below that range as well.
    """
    port = 0
    for _ in range(_PORT_PROBES):
        # Not from `random`: processes seeded alike would all choose the same port.
        port = 10_240 + secrets.randbelow(12_288)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        break
    return port  # if none could be bound, the server will say why


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    loop = asyncio.get_running_loop()
    return await run_shielded(loop.run_in_executor(None, function, *args))
