"""`oddsbot` in processes that are forked: to import everything takes seconds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Of the command itself: what the environment of the tests says is not its business.
CLEAN = {
    name: value
    for name, value in os.environ.items()  # noqa: TID251 - handed on
    if not name.startswith(("REDIS_", "ODDSWIRE_", "POLYMARKET_"))
}
_PROGRAM = Path(__file__).parent / "programs" / "forking.py"


class Forking:
    """The process that is forked. One task at a time may wait for an answer."""

    def __init__(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asks.setblocking(False)  # noqa: FBT003
        self.running: set[int] = set()
        self._codes: dict[int, int] = {}
        with theirs:
            self._process = subprocess.Popen(
                # What is left open is said on stderr.
                [sys.executable, "-W", "default", _PROGRAM],
                stdin=theirs,
                env=CLEAN,
            )

    async def fork(self, args, environ, folder, out, err) -> int:
        """Run the command with these descriptors; return the process's id."""
        asked = {"args": args, "environ": environ, "folder": str(folder)}
        socket.send_fds(self._asks, [json.dumps(asked).encode()], [out, err])
        while (pid := await self._answer()) is None:
            pass
        self.running.add(pid)
        return pid

    async def ended(self, pid) -> int:
        """Wait for the end of a process; return its exit code."""
        while pid not in self._codes:
            await self._answer()
        self.running.discard(pid)
        return self._codes.pop(pid)

    async def _answer(self) -> int | None:
        """Return the id of a process that was made; note the end of one."""
        async with asyncio.timeout(180):
            answer = await asyncio.get_running_loop().sock_recv(self._asks, 1_000)
        assert answer, f"{_PROGRAM.name} has ended"
        pid, *code = map(int, answer.split())
        if code:
            self._codes[pid] = code[0]
            return None
        return pid

    def close(self) -> None:
        """End it, and what a test left behind."""
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._asks.close()
        self._process.wait()


class Run:
    """One run of the command."""

    def __init__(self, forking, pid, stdout, stderr) -> None:
        self._forking = forking
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr

    def send(self, number) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    async def end(self) -> tuple[int, str, str]:
        """Wait for its end; return the exit code, stdout and stderr."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        return await self._forking.ended(self.pid), out.decode(), err.decode()


class Oddsbot:
    """Runs the command in the folder of the test."""

    def __init__(self, forking, folder) -> None:
        self._forking = forking
        self._folder = folder

    async def __call__(self, *args: str, **environ: str) -> tuple[int, str, str]:
        """Run the command to its end."""
        return await (await self.start(*args, **environ)).end()

    async def start(self, *args: str, **environ: str) -> Run:
        """Start it."""
        readers, writing = [], []
        for _ in range(2):
            reads, writes = os.pipe()
            writing.append(writes)
            readers.append(await _reader(reads))
        pid = await self._forking.fork(args, CLEAN | environ, self._folder, *writing)
        for descriptor in writing:
            os.close(descriptor)
        return Run(self._forking, pid, *readers)


async def _reader(descriptor) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader
