"""One life of a server process: from its start to its exit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

_LAUNCHER = str(Path(__file__).with_name("_launch.py"))
_LAST_OUTPUT = 1.0  # seconds for the last output to follow the exit
_LINE_MAX = 4096  # bytes kept of one line of the log

T = TypeVar("T")


# The variables that a server needs. The application's environment has tokens, keys and
# passwords, and the server is a program of another author.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


def _environment() -> dict[str, str]:
    ours = os.environ  # noqa: TID251 - the server gets a part of it
    return {name: ours[name] for name in _PASSED_ON if name in ours}


class ServerProcess(asyncio.SubprocessProtocol):
    """Follows one server process by its output and its exit; needs no task.

    Args:
        marker: A part of the log line that the server writes when it is ready.
        log: Where the lines of the log go.

    Attributes:
        pid: The process id of the server; None until it is known.
        ready: Done when the log says that the server accepts connections.
        exited: The exit code, negative for a signal, when the process has ended.
        port_taken: Whether the log says that another process has the port.
    """

    pid: int | None = None
    port_taken = False

    def __init__(self, marker: bytes, log: deque[str]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._silent: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._marker = marker
        self._log = log
        self._partial = b""
        # With the watching launcher: the end of a pipe. Its closing ends the server.
        self._lifeline: int | None = None
        self._transport: asyncio.SubprocessTransport | None = None

    async def start(
        self, command: Sequence[str], *, locks: Sequence[int], watched: bool
    ) -> None:
        """Start the process, which inherits the locks.

        The caller runs it shielded: a cancelled start would leave a process that
        nobody owns.

        Raises:
            OSError: The launcher could not be started.
        """
        # The kernel sends the parent-death signal when the *thread* that forked ends.
        # subprocess_exec forks in the thread of the event loop, which lives longer.
        loop = asyncio.get_running_loop()
        mode, numbers, inherited = "exec", str(os.getpid()), list(locks)
        if watched:
            pipe, self._lifeline = os.pipe()
            mode, inherited = "watch", [pipe, *locks]
            numbers = ",".join(str(descriptor) for descriptor in inherited)
        try:
            await loop.subprocess_exec(
                lambda: self,
                *(sys.executable, "-I", "-S", _LAUNCHER, mode, numbers, *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(),
                pass_fds=inherited,
            )
        except BaseException:
            self._hang_up()
            raise
        finally:
            if watched:
                os.close(inherited[0])

    async def wait_ready(self) -> bool:
        """Wait until the server is ready or has ended; return whether it is ready."""
        either: set[asyncio.Future[Any]] = {self.ready, self.exited}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.exited.done():
            # The loop often sees the exit before the last lines, which have the reason.
            await asyncio.wait({self._silent}, timeout=_LAST_OUTPUT)
            return False
        return True

    def send(self, number: int) -> None:
        """Send a signal to the server; nothing happens when it has ended."""
        if self.pid is not None and not self.exited.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, patience: float) -> None:
        """End the process: SIGTERM, after `patience` seconds SIGKILL.

        Cancelled: the process is killed at once, and has ended when this returns.
        """
        if self._transport is None:  # it never started
            return
        # 1. Ask it to end. SIGCONT as well: a stopped process does not act on SIGTERM.
        try:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)
            await asyncio.wait({self.exited}, timeout=patience)
            if self.exited.done():
                # The loop often sees the exit first: its last lines are read before the
                # pipe is closed.
                await asyncio.wait({self._silent}, timeout=_LAST_OUTPUT)
        finally:
            # 2. Kill it, and end its launcher.
            self.send(signal.SIGKILL)
            self._hang_up()
            # 3. Wait for the exit and then for the pipes, also when cancelled: the
            #    loop would reap a process that has no transport any more.
            try:
                await run_shielded(self.exited)
            finally:
                self._transport.close()
                await run_shielded(self._closed)

    def _hang_up(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    # --- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if self._lifeline is None:
            self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's
        """Read the log, line by line."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LINE_MAX:]
        for line in lines:
            self._line_received(line)

    def _line_received(self, line: bytes) -> None:
        if self.pid is None and line.isdigit():
            self.pid = int(line)
            return
        if self._marker in line and not self.ready.done():
            self.ready.set_result(None)
        if b"Address already in use" in line:
            self.port_taken = True
        self._log.append(line[:_LINE_MAX].decode(errors="replace").rstrip())

    def pipe_connection_lost(self, *_: object) -> None:
        """The output ended."""
        if not self._silent.done():
            self._silent.set_result(None)

    def process_exited(self) -> None:
        """The process ended."""
        transport = cast("asyncio.SubprocessTransport", self._transport)
        self.exited.set_result(cast("int", transport.get_returncode()))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """The process ended and its pipes are closed."""
        self._closed.set_result(None)


async def run_shielded(work: asyncio.Future[T]) -> T:
    """Wait until the work is done, also when cancelled; then raise the cancellation.

    For work that leaves something behind without an owner: a thread that makes a
    directory, a process that was just killed.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return work.result()
