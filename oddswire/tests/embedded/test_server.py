"""One server: it answers, it is the right one, it stops, it leaves nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from oddswire.embedded import EmbeddedServer
from oddswire.embedded.server import free_port
from oddswire.errors import ClosedError, EmbeddedFailed
from support.hooks import ask, info, is_released, limit, pick_ports, watched_by_process

pytestmark = pytest.mark.usefixtures("root")


async def pid_at(url):
    """The process id that the server at the URL calls its own."""
    return int((await info(url, "server"))["process_id"])


@pytest.fixture(params=["kernel", "watcher"])
def watched(request):
    """Both ways in which the server is tied to its parent."""
    return request.param == "watcher"


@pytest.mark.basic
async def test_answers_on_each_listener(watched):
    """The server of the block answers over TCP and over its socket, as itself."""
    server = watched_by_process(EmbeddedServer(), watched)
    async with server:
        for url in (server.url, server.unix_url):
            assert await pid_at(url) == server.pid
        assert server.host == "127.0.0.1"
        assert str(server.port) in server.url
        assert any("Ready to accept connections" in line for line in server.log)


@pytest.mark.basic
async def test_speaks_resp3():
    """A client may ask for RESP3."""
    async with EmbeddedServer() as server:
        assert (await ask(server.url, "HELLO", "3"))["proto"] == 3


@pytest.mark.basic
async def test_without_tcp():
    """`tcp=False` leaves the unix socket only, and `.url` leads there."""
    async with EmbeddedServer(tcp=False) as server:
        assert server.port == 0
        assert server.url.startswith("unix://")
        assert (await ask(server.url, "CONFIG", "GET", "port")) == {"port": "0"}


@pytest.mark.basic
async def test_options_and_password_arrive():
    """`args` and a password with any characters reach the server unchanged."""
    server = EmbeddedServer(
        args=(
            "--maxmemory",
            "1mb",
            "--save",
            "60 1",
            "--maxmemory-policy",
            "allkeys-lru",
        ),
        password="a b@/:?#%\"'\\é",
    )
    async with server:
        for url in (server.url, server.unix_url):
            got = await ask(url, "CONFIG", "GET", "maxmemory*", "save")
            assert got["maxmemory"] == "1048576"
            assert got["maxmemory-policy"] == "allkeys-lru"
            assert got["save"] == "60 1"


@pytest.mark.errors
@pytest.mark.parametrize("listener", ["tcp", "unix"])
async def test_wants_the_password(listener):
    """Without the password nobody gets in, on either listener."""
    async with EmbeddedServer() as server:
        reader, writer = await (
            asyncio.open_connection(server.host, server.port)
            if listener == "tcp"
            else asyncio.open_unix_connection(server.unix_socket)
        )
        writer.write(b"PING\r\n")
        assert (await reader.readline()).startswith(b"-NOAUTH")
        writer.close()
        await writer.wait_closed()


@pytest.mark.errors
async def test_secrets_and_files_are_private():
    """The password is in no argument list, and only this user can read the files."""
    async with EmbeddedServer(password="canary-7f3a") as server:
        command = (Path("/proc") / str(server.pid) / "cmdline").read_bytes()
        directory = server.unix_socket.parent
        config = directory / "oddswire.conf"
        assert b"canary-7f3a" not in command
        assert "canary-7f3a" in config.read_text()
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert "canary-7f3a" not in repr(server)


@pytest.mark.basic
async def test_stop_is_orderly_and_repeatable(watched):
    """`stop` lets the server end by itself, with code 0; a second one does nothing."""
    server = watched_by_process(EmbeddedServer(), watched)
    async with server:
        await server.stop()
        await server.stop()
        assert await server.wait_exit() == 0
        assert any("ready to exit" in line for line in server.log)


@pytest.mark.advanced
async def test_restart_keeps_address_and_password(watched):
    """After a kill the same port, socket and password lead to a new process."""
    server = watched_by_process(EmbeddedServer(), watched)
    async with server:
        before = (server.url, server.unix_url, server.password)
        pid = server.pid
        server.kill()
        assert await server.wait_exit() == -signal.SIGKILL
        server.kill()  # it has ended: nothing happens
        await server.restart()
        assert (server.url, server.unix_url, server.password) == before
        assert server.pid != pid
        assert await pid_at(server.url) == server.pid


@pytest.mark.advanced
async def test_restart_of_a_running_server(end_of):
    """`restart` stops a server that still runs, and then starts it again."""
    async with EmbeddedServer() as server:
        old = end_of(server.pid)
        await server.restart()
        await old.wait()
        assert await ask(server.url, "PING")


@pytest.mark.advanced
async def test_wait_exit_may_be_cancelled():
    """A cancelled `wait_exit` harms neither the server nor another waiter."""
    async with EmbeddedServer() as server, asyncio.TaskGroup() as tasks:
        one = tasks.create_task(server.wait_exit())
        two = tasks.create_task(server.wait_exit())
        await ask(server.url, "PING")
        one.cancel()
        assert await ask(server.url, "PING")
        server.kill(signal.SIGTERM)
        assert await two == 0


@pytest.mark.advanced
async def test_stops_a_stopped_process(watched):
    """A server held by SIGSTOP is woken and ends in order, not after a timeout."""
    server = watched_by_process(EmbeddedServer(), watched)
    async with server:
        server.kill(signal.SIGSTOP)
        await server.stop()
        assert await server.wait_exit() == 0


@pytest.mark.advanced
async def test_kills_what_does_not_stop(monkeypatch, watched):
    """A server that does not act on SIGTERM in time is killed."""
    limit(monkeypatch, "server stops", 0.1)
    server = watched_by_process(EmbeddedServer(), watched)
    async with server:
        await _keep_busy(server)
        await server.stop()
        assert await server.wait_exit() == -signal.SIGKILL


@pytest.mark.advanced
async def test_cancelled_while_leaving(end_of, watched):
    """Leaving may be cancelled, again and again: the server is killed, all is gone."""
    entered = asyncio.Event()

    async def use():
        server = watched_by_process(EmbeddedServer(), watched)
        async with server:
            await _keep_busy(server)
            entered.server = server
            entered.set()

    task = asyncio.get_running_loop().create_task(use())
    await entered.wait()
    end = end_of(entered.server.pid)
    for _ in range(5):  # whoever cancels once may do it again
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await end.wait()
    assert await entered.server.wait_exit() == -signal.SIGKILL
    assert is_released(entered.server)
    assert not entered.server.unix_socket.parent.exists()


async def _keep_busy(server):
    # Busy for ever inside one script: the server acts on no SIGTERM then. Whoever is
    # told BUSY knows that the script runs.
    reader, writer = await asyncio.open_unix_connection(server.unix_socket)
    writer.write(f"AUTH {server.password}\r\n".encode())
    await ask(server.url, "CONFIG", "SET", "busy-reply-threshold", "1")
    writer.write(b"EVAL 'while true do end' 0\r\n")
    assert await reader.readline() == b"+OK\r\n"
    with pytest.raises(ResponseError, match="BUSY"):  # noqa: PT012 - until it is busy
        while await ask(server.url, "PING"):
            pass
    writer.close()


@pytest.mark.advanced
@pytest.mark.parametrize("milliseconds", [0, 1, 5, 20, 40, 60, 80])
async def test_cancelled_while_starting(root, milliseconds, watched):
    """Whenever a start is cancelled, no process and no directory is left."""
    server = watched_by_process(EmbeddedServer(), watched)
    start = asyncio.get_running_loop().create_task(server.__aenter__())
    asyncio.get_running_loop().call_later(milliseconds / 1000, start.cancel)
    try:
        await start
    except asyncio.CancelledError:
        assert list(root.iterdir()) == []
    else:  # a fast machine had it ready
        await server.__aexit__(None, None, None)


@pytest.mark.advanced
async def test_cancelled_at_any_step(root, watched):
    """Cancelled in the middle of making its files, a start still removes them."""
    for steps in [*range(1, 30), *range(30, 300, 30)]:
        server = watched_by_process(EmbeddedServer(), watched)
        start = asyncio.get_running_loop().create_task(server.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)  # one step of the loop
        start.cancel()
        try:
            await start
        except asyncio.CancelledError:
            assert list(root.iterdir()) == []
        else:  # it was ready by then: these steps were slow
            await server.__aexit__(None, None, None)


def _descriptors():
    return sorted(Path("/proc/self/fd").iterdir())


@pytest.mark.advanced
async def test_nothing_leaks(watched):
    """Starts, kills, restarts and ends leave no descriptor and no task behind."""

    async def live():
        server = watched_by_process(EmbeddedServer(), watched)
        async with server:
            server.kill()
            await server.wait_exit()
            await server.restart()

    await live()  # what the interpreter opens once, it has opened now
    before = _descriptors()
    await live()
    await live()
    assert _descriptors() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.errors
async def test_taken_port_is_given_up():
    """When another process takes the chosen port first, the next one is tried."""
    async with EmbeddedServer() as other:
        server = EmbeddedServer()
        ports = iter([other.port, other.port, free_port()])
        pick_ports(server, lambda: next(ports))
        async with server:
            assert next(ports, None) is None
            assert server.port != other.port
            assert await pid_at(server.url) == server.pid != other.pid


@pytest.mark.errors
async def test_no_port_at_all():
    """A machine whose ports are all taken is an error with a way out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = EmbeddedServer()
        pick_ports(server, lambda: other.getsockname()[1])
        with pytest.raises(EmbeddedFailed, match="use tcp=False"):
            await server.__aenter__()


@pytest.mark.errors
async def test_port_taken_while_down():
    """A restart whose port was taken meanwhile says so, and may be tried again."""
    async with EmbeddedServer() as server:
        await server.stop()
        with (
            socket.create_server(("127.0.0.1", server.port)),
            pytest.raises(EmbeddedFailed, match=f"port {server.port} was taken"),
        ):
            await server.restart()
        await server.restart()
        assert await ask(server.url, "PING")


@pytest.mark.basic
def test_ports_are_out_of_the_kernels_way():
    """Neither a port nor a cluster's second port is one of an outgoing connection."""
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) > 150
    assert all(10_000 < port < 22_768 for port in ports)


@pytest.mark.errors
def test_no_port_can_be_bound(monkeypatch):
    """Where nothing can be bound the choice still ends: the server will say why."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert free_port() > 10_000


@pytest.mark.integration
async def test_six_in_one_loop():
    """Six servers started at once in one loop are six processes, each its own."""
    servers = [EmbeddedServer() for _ in range(6)]
    await asyncio.gather(*(server.__aenter__() for server in servers))
    try:
        for server in servers:
            for url in (server.url, server.unix_url):
                assert await pid_at(url) == server.pid
        assert len({server.pid for server in servers}) == 6
    finally:
        await asyncio.gather(*(s.__aexit__(None, None, None) for s in servers))


@pytest.mark.errors
async def test_outside_the_block():
    """Before the block there is no address, and there is no second block."""
    server = EmbeddedServer()
    for use in (
        lambda: server.url,
        lambda: server.unix_url,
        lambda: server.port,
        lambda: server.pid,
        lambda: server.unix_socket,
        server.kill,
    ):
        with pytest.raises(ClosedError, match="async with"):
            use()
    with pytest.raises(ClosedError):
        await server.wait_exit()
    with pytest.raises(ClosedError):
        await server.restart()
    async with server:
        pass
    with pytest.raises(ClosedError, match="has ended"):
        await server.restart()
    with pytest.raises(ClosedError, match="single use"):
        await server.__aenter__()


@pytest.mark.performance
async def test_starts_fast():
    """It answers on both listeners before 20 bare Pythons have come and gone."""

    async def bare():
        process = await asyncio.create_subprocess_exec(sys.executable, "-Ic", "")
        await process.wait()

    async def server():
        async with EmbeddedServer():
            seconds["server"].append(time.perf_counter() - begin)

    seconds = {"bare": [], "server": []}
    for _ in range(3):
        begin = time.perf_counter()
        await server()
        begin = time.perf_counter()
        await bare()
        seconds["bare"].append(time.perf_counter() - begin)
    assert min(seconds["server"]) < 20 * min(seconds["bare"]), seconds
