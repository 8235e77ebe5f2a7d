"""What the tests of the embedded server share: a directory, processes, their ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest


@pytest.fixture
def root(monkeypatch, tmp_path_factory):
    """The directory for temporary files of this test; it has to be empty at the end."""
    tmp_path_factory.getbasetemp()  # it would otherwise be made in here
    directory = Path(tempfile.mkdtemp(prefix="ow", dir="/tmp"))
    directory.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    left = sorted(path.name for path in directory.iterdir())
    running = processes(directory)
    shutil.rmtree(directory)
    assert left == []
    assert running == []  # and not merely without a directory


def processes(root):
    """The ids of the processes that have something under `root` open, even removed.

    A server always has: its locks.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is not ours
            for link in (process / "fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    if link.readlink().is_relative_to(root):
                        found.add(int(process.name))
    return sorted(found)


class End:
    """The end of any process, child or not: the kernel says when it has come."""

    def __init__(self, pid):
        self._descriptor = os.pidfd_open(pid)
        self._event = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._ended)

    def _ended(self):
        self._event.set()
        self.close()

    def close(self):
        """Stop watching."""
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    async def wait(self):
        """Wait for the end, at most 10 s."""
        async with asyncio.timeout(10):
            await self._event.wait()


@pytest.fixture
async def end_of():
    """`end_of(pid)`: its `wait()` returns when that process has ended."""
    ends = []

    def watch(pid):
        ends.append(End(pid))
        return ends[-1]

    yield watch
    for end in ends:
        end.close()


class Parent:
    """A process that runs an embedded server of its own."""

    def __init__(self, process):
        self.process = process
        self.server_pid = 0

    async def open(self):
        """Let it start its server."""
        self.process.stdin.write(b"start\n")
        self.server_pid = int(await self.process.stdout.readline())

    async def tell(self, line):
        """Have it do what the line says, and return what it prints."""
        self.process.stdin.write(f"{line}\n".encode())
        return (await self.process.stdout.readline()).decode().split()

    async def die(self, number):
        """End it by a signal, without any chance to clean up."""
        self.process.send_signal(number)
        assert await self.process.wait() == -number


@pytest.fixture
def parent(root):
    """Start another process, which is about to start a server of its own."""

    @asynccontextmanager
    async def start(*, watched=False, data_dir=""):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("parent.py")),
            *("watched" if watched else "", str(data_dir)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(root)},  # noqa: TID251 - its environment
        )
        try:
            yield Parent(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            # Otherwise it closes itself some steps of the loop later, or never.
            process._transport.close()

    return start
