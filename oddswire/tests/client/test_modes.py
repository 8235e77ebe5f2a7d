"""The other ways to use it: tracked, decoding, RESP2, one connection, SimpleClient."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from oddswire import Client, SimpleClient
from oddswire.errors import (
    ClosedError,
    ConnectionLost,
    NotShared,
    Outcome,
    Unavailable,
    WrongType,
)
from oddswire.testing import FaultProxy
from support import eventually
from support.hooks import drop_connection


class Pushes:
    """Keys that were announced as changed, in order."""

    def __init__(self):
        self.keys = []
        self._waiting = None

    def __call__(self, push):
        """Take a push message."""
        assert push[0] == b"invalidate"
        self.keys += push[1] or [None]
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, count):
        """Wait until so many were announced."""
        async with asyncio.timeout(5):
            while len(self.keys) < count:
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting


@pytest.mark.advanced
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "decoding client"])
async def test_tracking_connection_hears_of_changes(server, prefix, decode):
    """The server announces keys read on the tracked connection when they change."""
    key, odd = f"{prefix}k".encode(), f"{prefix}".encode() + b"\xff\xfe"
    async with Client.from_url(server.url, decode_responses=decode) as client:
        pushes = Pushes()
        tracked = client.tracked(pushes)
        assert await tracked.mget(key, odd) == [None, None]
        await client.set(key, "1", ex=60)
        await client.set(odd, b"\xff", ex=60)
        await pushes.wait(2)
        assert await tracked.get(odd) == b"\xff"
        await tracked.set(odd, "mine", ex=60)
        await pushes.wait(3)
        assert pushes.keys == [key, odd, odd]
        assert tracked.stats().connects == client.stats().connects == 1
        await tracked.aclose()
        assert await client.exists(key) == 1


@pytest.mark.advanced
async def test_announcement_stands_where_the_change_was(server, prefix):
    """A change is announced before any reply that was read after it."""
    key = f"{prefix}k"
    async with Client.from_url(server.url) as client:
        seen = []
        tracked = client.tracked(lambda push: seen.append(push[1]))
        get = tracked.command_spec("GET")
        loop = asyncio.get_running_loop()
        for n in range(100):
            await client.set(key, n, ex=60)
            data = tracked.pack(get, ("GET", key))
            await tracked.send_once(data, loop.time() + 5, get, on_reply=seen.append)
        await client.delete(key)
        await tracked.aclose()

    changed = [key.encode()]
    expected = [item for n in range(100) for item in (changed, str(n).encode())]
    assert seen[:199] == expected[1:]


@pytest.mark.errors
async def test_tracking_is_on_again_after_a_loss(own):
    """A tracked connection that was lost comes back with tracking on."""
    async with Client.from_url(own.url) as client:
        pushes = Pushes()
        tracked = client.tracked(pushes)
        await tracked.get("k")
        drop_connection(tracked)
        await tracked.get("k")
        await client.set("k", "1")
        await pushes.wait(1)
        await tracked.aclose()
        assert tracked.stats().connects == 2

    assert pushes.keys == [b"k"]


@pytest.mark.basic
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
async def test_protocols_and_decoding(server, prefix, transport, protocol, decode):
    """Replies have redis-py's shapes for both protocols, as bytes or as text."""
    key = prefix if decode else prefix.encode()
    text = (lambda value: value) if decode else str.encode
    options = {"transport": transport, "protocol": protocol}
    async with Client.from_url(
        server.url, decode_responses=decode, **options
    ) as client:
        await client.hset(key, mapping={"a": 1, "b": "é"})
        assert await client.hgetall(key) == {text("a"): text("1"), text("b"): text("é")}
        assert await client.hget(key, "none") is None
        assert await client.delete(key) == 1
        await client.zadd(key, {"m": 1.5})
        scored = await client.zrange(key, 0, -1, withscores=True)
        assert [list(pair) for pair in scored] == [[text("m"), 1.5]]
        assert isinstance(await client.dump(key), bytes)
        assert await client.type(key) == text("zset")
        assert await client.expire(key, 60) is True
        assert (await client.info("server"))["tcp_port"] == server.port
        assert await client.delete(key) == 1


@pytest.mark.basic
@pytest.mark.parametrize("single", [True, False])
async def test_single_connection_client(own, single):
    """`single_connection_client` keeps everything on one exclusive connection."""
    options = {"single_connection_client": single}
    async with Client.from_url(own.url, **options) as client:
        assert await asyncio.gather(*(client.incr("n") for _ in range(50))) == list(
            range(1, 51)
        )
        with pytest.raises(WrongType) as caught:
            await client.lpush("n", 1)
        assert caught.value.outcome is Outcome.REJECTED
        clients = await client.client_list()
        assert await client.pipeline().incr("n").incr("n").execute() == [51, 52]

    assert len(clients) == 1


@pytest.mark.requirement("C11")
@pytest.mark.basic
async def test_simple_client_is_one_connection(own):
    """`SimpleClient` has redis-py's commands on one connection, and makes another."""
    async with SimpleClient.from_url(own.url, decode_responses=True) as client:
        values = await asyncio.gather(*(client.incr("n") for _ in range(200)))
        assert values == list(range(1, 201))
        assert await client.config_get("maxmemory") == {"maxmemory": "0"}
        assert await client.hset("h", mapping={"a": 1}) == 1
        assert await client.hgetall("h") == {"a": "1"}
        assert isinstance(await client.dump("h"), bytes)
        assert len(await client.client_list()) == 1
        with pytest.raises(WrongType):
            await client.incr("h")
        drop_connection(client)
        assert await client.get("n") == "200"
        assert len(await client.client_list()) == 1
    assert await client.get("n") == "200"  # closed is not the end: it connects again
    await client.aclose()


@pytest.mark.requirement("C11")
@pytest.mark.errors
async def test_simple_client_refuses_what_needs_more(server):
    """What needs a connection for itself is refused with where to find it."""
    async with SimpleClient.from_url(server.url) as client:
        for call in (client.pipeline, client.pubsub, client.monitor, client.client):
            with pytest.raises(NotShared, match=r"oddswire\.Client"):
                call()
        for args in (("SUBSCRIBE", "c"), ("MONITOR",), ("SELECT", 1), ("MULTI",)):
            with pytest.raises(NotShared, match=r"oddswire\.Client"):
                await client.execute_command(*args)
        assert await client.ping()


@pytest.mark.requirement("C11")
@pytest.mark.errors
async def test_simple_client_never_repeats(through, cutter, server, client, prefix):
    """A lost connection fails the calls on it, each told whether it may have run."""
    through()
    one = SimpleClient.from_url(f"redis://:{server.password}@127.0.0.1:{cutter.port}")
    await one.ping()
    cutter.plan = [(prefix.encode(), "after")]
    with pytest.raises(ConnectionLost) as caught:
        await one.get(f"{prefix}a")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert await one.get(f"{prefix}a") is None
    await one.aclose()


@pytest.mark.requirement("C11")
@pytest.mark.errors
async def test_simple_client_makes_one_attempt_for_all_callers(server, prefix):
    """However many wait for the connection, they fail or are served by the same one."""
    loop = asyncio.get_running_loop()
    async with FaultProxy(server.url) as proxy:
        client = SimpleClient.from_url(proxy.url, connect_timeout=1.0)
        proxy.stall()
        calls = [loop.create_task(client.get(f"{prefix}{n}")) for n in range(20)]
        await eventually(lambda: proxy.accepted)
        calls.pop().cancel()  # it leaves the attempt to the others
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        assert len({id(failure) for failure in failures}) == len(failures)
        assert proxy.accepted == 1

        calls = [loop.create_task(client.get(f"{prefix}{n}")) for n in range(20)]
        await eventually(lambda: proxy.accepted == 2)
        await client.aclose()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {ClosedError}
        proxy.heal()
        await proxy.quiet()
        assert await client.get(f"{prefix}k") is None
        assert proxy.open == 1
        await client.aclose()


@pytest.mark.requirement("C11")
@pytest.mark.performance
def test_simple_client_is_small():
    """Importing it loads no part of the library above the client, and is measured."""
    out = subprocess.run(
        [sys.executable, Path(__file__).with_name("importing.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    parts = {module.split(".")[1] for module in out[1].split()}

    # Less than what redis-py and its parser cost by themselves.
    assert float(out[0]) < 1.0
    assert parts <= {
        "client", "connection", "settings", "events", "keys", "counters", "errors",
        "logs", "plain", "_numbers", "_tasks", "_text",
    }  # fmt: skip
