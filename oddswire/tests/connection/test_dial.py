"""A name with several addresses: the dead ones cost a moment, not the connection."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from oddswire import Client
from oddswire.errors import Unavailable
from oddswire.testing import LoopLag

WITHOUT_NAMES = str(Path(__file__).with_name("without_names.py"))


@pytest.fixture
def dead_port():
    """A port of 127.0.0.1 that neither takes a connection nor refuses one."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Its queue is full, so the kernel drops whoever else comes.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.requirement("C1", "C4")
@pytest.mark.integration
async def test_a_dead_address_of_a_name_is_overtaken(server, dead_port, monkeypatch):
    """Every kind of connection tries the next address beside the first (RFC 8305)."""
    kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    right, asked = socket.getaddrinfo, []

    def resolve(host, port, **options):
        if host != "redis.example":
            return right(host, port, **options)
        asked.append(host)
        return [
            (*kind, ("127.0.0.1", dead_port)),
            (*kind, (server.host, server.port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with Client(
        host="redis.example",
        port=server.port,
        password=server.password,
        connect_timeout=3.0,
    ) as client:
        with LoopLag() as lag:
            assert await client.ping()
            assert await client.blpop("none", 0.01) is None
        assert lag.free < 2.0
    assert asked == ["redis.example"] * 2


@pytest.mark.requirement("C1")
@pytest.mark.errors
async def test_a_name_is_looked_up_while_the_threads_are_busy(own):
    """The application's threads are busy: a client connects by name, and again."""
    loop, done = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, done.wait)
    url = f"redis://:{own.password}@localhost:{own.port}"
    try:
        async with Client.from_url(url) as client, asyncio.timeout(10):
            assert await client.ping()
            assert await client.blpop("none", 0.01) is None
            await client.client_kill_filter(_type="normal", skipme=False)
            assert await client.set("k", "v")
    finally:
        done.set()
        await busy


@pytest.mark.requirement("C1", "C13")
@pytest.mark.errors
async def test_a_silent_name_server_holds_up_no_exit():
    """A program ends although a name that it gave up on is still being looked up."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, WITHOUT_NAMES, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        said, _ = await child.communicate()
    assert (said, child.returncode) == (b"gave up\n", 0)


@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_an_attempt_that_takes_too_long_names_its_address(dead_port, transport):
    """Of a port that is silent every kind of connection says which it is."""
    async with Client(
        host="127.0.0.1", port=dead_port, connect_timeout=0.2, transport=transport
    ) as client:
        for call in (client.get("k"), client.blpop("none", 0.1)):
            with pytest.raises(Unavailable, match=f"127.0.0.1:{dead_port}"):
                await call
