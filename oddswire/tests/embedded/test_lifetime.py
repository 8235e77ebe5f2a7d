"""Servers in other processes: side by side, and after their parent was killed."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from oddswire.embedded import EmbeddedServer
from support.hooks import ask


@pytest.mark.integration
async def test_six_processes_at_once(root, parent, end_of):
    """Six processes that start a server at the same moment each get their own.

    Each then still reaches it by both ways: no start swept another's directory.
    """
    async with AsyncExitStack() as stack:
        parents = [await stack.enter_async_context(parent()) for _ in range(6)]
        await asyncio.gather(*(one.open() for one in parents))
        for one in parents:
            assert await one.tell("pids") == [str(one.server_pid)] * 2
        assert len({one.server_pid for one in parents}) == 6
        ends = [end_of(one.server_pid) for one in parents]
        for one in parents:
            await one.die(signal.SIGKILL)
        for end in ends:
            await end.wait()
    async with EmbeddedServer() as server:
        assert list(root.iterdir()) == [server.unix_socket.parent]


@pytest.mark.errors
@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("watched", [False, True], ids=["kernel", "watcher"])
async def test_server_dies_with_its_parent(
    root, parent, end_of, watched, number, state
):
    """A killed parent leaves no server, and the next start removes its directory."""
    async with parent(watched=watched) as one:
        await one.open()
        end = end_of(one.server_pid)
        if state == "stopped":
            os.kill(one.server_pid, signal.SIGSTOP)
            _wait_stopped(one.server_pid)
        await one.die(number)
        await end.wait()
        (left,) = root.iterdir()
        async with EmbeddedServer() as server:
            assert list(root.iterdir()) == [server.unix_socket.parent]
            assert server.unix_socket.parent != left


def _wait_stopped(pid):
    # Nothing but its state tells that a process which is no child of ours has stopped:
    # the state of every thread, as they stop one by one.
    for stat in Path("/proc", str(pid), "task").glob("*/stat"):
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            os.sched_yield()


@pytest.mark.errors
@pytest.mark.parametrize("watched", [False, True], ids=["kernel", "watcher"])
async def test_takes_over_from_a_killed_parent(root, parent, end_of, watched, tmp_path):
    """Its data directory is free once the old server is dead, never before."""
    async with parent(watched=watched, data_dir=tmp_path) as one:
        await one.open()
        end = end_of(one.server_pid)
        assert await one.tell("set") == ["None"]
        # The old server cannot act on the signal yet: the new one has to wait for it.
        os.kill(one.server_pid, signal.SIGSTOP)
        _wait_stopped(one.server_pid)
        await one.die(signal.SIGKILL)
        async with EmbeddedServer(data_dir=tmp_path, aof=True) as server:
            await end.wait()
            assert await ask(server.url, "GET", "key") == "value"
    async with EmbeddedServer() as server:
        assert list(root.iterdir()) == [server.unix_socket.parent]


@pytest.mark.advanced
async def test_ctrl_c_reaches_only_the_application():
    """The server is in a process group of its own, as Ctrl-C goes to the whole one."""
    async with EmbeddedServer() as server:
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)


@pytest.mark.advanced
async def test_disk_full_is_an_answer_not_a_death():
    """A server that cannot write more refuses writes (MISCONF) and keeps reading."""
    async with EmbeddedServer(aof=True) as server:
        # Room for the next 1,000 bytes of its append-only file, as on a full disk.
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1_000, 1_000))
        with pytest.raises(ResponseError, match="MISCONF"):  # noqa: PT012 - until it is full
            for number in range(1_000):
                await ask(server.unix_url, "SET", number, "x" * 100)
        assert await ask(server.unix_url, "GET", "0") == "x" * 100
