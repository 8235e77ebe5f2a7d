"""`EmbeddedServer`: one Valkey or Redis process that lives as long as its block."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar
from urllib.parse import quote as url_quote

from redis.exceptions import ResponseError

from oddswire._tasks import spawn
from oddswire.embedded._ask import info
from oddswire.embedded._config import config_text, option_lines
from oddswire.embedded._home import Home
from oddswire.embedded._run import Run, see_through
from oddswire.embedded.binary import find_binary
from oddswire.errors import ClosedError, EmbeddedFailed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
T = TypeVar("T")

_HOST = "127.0.0.1"
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_LOCK_SECONDS = 3.0  # for a server whose parent was killed to finish its own end
_LOCK_POLL = 0.02
_PORT_TRIES = 20
_PORT_PROBES = 100
_LOG_LINES = 200
_LOG_LINES_SHOWN = 10


class EmbeddedServer:
    """A server of one's own: ``async with EmbeddedServer() as server``; single use.

    It listens on 127.0.0.1 and on a private unix socket, wants a password on both,
    and ends when the block ends or this process dies, however it dies. When the block
    is entered the server has answered from its own process id on each listener.

    Cancelled while entering: the process and its directory are gone. Cancelled while
    leaving: the server is killed instead of being asked to stop, and gone as well.

    Args:
        tcp: Whether to listen on TCP too; False leaves only the unix socket.
        data_dir: Where the data is kept. Without it the data is removed at the end.
            One server at a time: a second one is refused.
        aof: Whether every write is appended to a file, fsynced once a second; while
            the disk is busy with that, a reply may come before its write is in the
            file. Without it nothing is written to disk unless `args` says so.
        args: Further options as on the server's command line:
            ``("--maxmemory", "1mb")``.
        binary: The server program; see `find_binary`.
        password: Of the default user; a random one when not given.

    Raises:
        EmbeddedFailed: At construction: `args` holds an option that the starter
            decides, or the password is empty. On entering: there is no program, the
            data directory is in use or not writable, or the server did not become
            ready in 10 s; the message ends with its last log lines.
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
        self._home = Home(data_dir)
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._entered = self._ended = False
        self._binary: Path | None = None
        self._port = 0
        self._run: Run | None = None
        # Elsewhere than on Linux no signal comes when the parent dies.
        self._watched = sys.platform != "linux"
        self._pick_port: Callable[[], int] = free_port

    @property
    def url(self) -> str:
        """Over TCP, or over the unix socket when there is no TCP; with the password."""
        if self._tcp:
            return f"redis://:{self._quoted_password}@{_HOST}:{self.port}/0"
        return self.unix_url

    @property
    def unix_url(self) -> str:
        """Over the unix socket, with the password."""
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
        return self._home.unix_socket

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
            self._binary = await _in_thread(partial(find_binary, self._wanted_binary))
            await _in_thread(self._home.open)
            await self._claim_data()
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def wait_exit(self) -> int:
        """Wait until the process ends, whoever ends it.

        Returns:
            Its exit code; minus the signal's number when a signal ended it.
        """
        return await asyncio.shield(self._started().exited)

    def kill(self, signal: int = signal.SIGKILL) -> None:
        """Send a signal to the server, for tests; it may have ended already."""
        self._started().send(signal)

    async def stop(self) -> None:
        """End the process: SIGTERM first, SIGKILL after 5 s.

        The data stays until the block ends. Cancelled: the process is killed.
        """
        if self._run is not None:
            await self._run.end(_STOP_SECONDS)

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
        # A server whose parent was just killed is writing its last bytes: it is worth
        # waiting for. Nothing tells when a flock is released, hence the poll.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOCK_SECONDS
        while not await _in_thread(self._home.claim_data):
            if loop.time() > deadline:
                raise EmbeddedFailed(
                    f"data directory {self._home.data}: another server uses it; "
                    "stop that one, or give another directory"
                )
            await asyncio.sleep(_LOCK_POLL)

    async def _start(self) -> None:
        for _ in range(_PORT_TRIES):
            self._port = self._pick_port() if self._tcp else 0
            text = config_text(
                port=self._port,
                unix_socket=str(self._home.unix_socket),
                directory=str(self._home.data),
                password=self._password,
                aof=self._aof,
                options=self._options,
            )
            await _in_thread(partial(self._home.write_config, text))
            # Between the choice of the port and the bind another process may take it.
            if await self._launch():
                return
        raise EmbeddedFailed(
            f"{_PORT_TRIES} ports in a row were taken by other processes; "
            "use tcp=False and the unix socket"
        )

    async def _launch(self) -> bool:
        """Start the process and trust it: False when its port is taken."""
        self._run = run = Run(self._marker, self._log)
        command = (str(self._binary), str(self._home.config), *self._argv)
        start = run.start(command, locks=self._home.locks, watched=self._watched)
        try:
            await see_through(spawn(start, name="oddswire server starting"))
            async with asyncio.timeout(_START_SECONDS):
                ready = await run.wait_ready()
                if ready:
                    await self._verify(run)
        except TimeoutError:
            await run.end(0)
            problem = f"was not ready after {_START_SECONDS:.0f} s"
            raise EmbeddedFailed(self._explain(problem)) from None
        except OSError as error:
            await run.end(0)
            raise EmbeddedFailed(f"cannot start {sys.executable}: {error}") from error
        except BaseException:
            await run.end(0)
            raise
        if ready:
            return True
        await run.end(0)
        if run.port_taken:
            return False
        code = run.exited.result()
        raise EmbeddedFailed(self._explain(f"ended with code {code} at its start"))

    async def _verify(self, run: Run) -> None:
        # A port, or a socket path, says nothing about who answers on it.
        for url in dict.fromkeys((self.unix_url, self.url)):
            try:
                pid = (await info(url, "server")).get("process_id")
            except (ResponseError, OSError) as error:
                raise EmbeddedFailed(
                    self._explain(f"was ready, but did not answer INFO ({error})")
                ) from error
            if pid != str(run.pid):
                raise EmbeddedFailed(
                    f"process {pid} answers instead of the embedded server {run.pid}"
                )

    def _explain(self, problem: str) -> str:
        lines = [line for line in self.log if line][-_LOG_LINES_SHOWN:]
        reason = lines[-1] if lines else "it wrote nothing"
        first = (
            f"the embedded server {problem}: {reason}; "
            "check args, data_dir and the program"
        )
        return "\n  ".join((first, f"program: {self._binary}", *lines))

    def _started(self) -> Run:
        if self._run is None:
            raise ClosedError("the embedded server is not started: use `async with`")
        return self._run

    async def _close(self) -> None:
        self._ended = True
        try:
            await self.stop()
        finally:
            await _in_thread(self._home.close)

    @property
    def _quoted_password(self) -> str:
        return url_quote(self._password, safe="")


def free_port() -> int:
    """Choose a TCP port of 127.0.0.1 on which nothing listens now.

    Below the range from which the kernel takes the ports of outgoing connections: from
    there, a client that reconnects to a server that is down could take the server's
    port, even by connecting to itself. A cluster's second port, 10,000 higher, stays
    below it as well.
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


async def _in_thread(function: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    return await see_through(loop.run_in_executor(None, function))
