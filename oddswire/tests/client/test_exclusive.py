"""What needs a connection for itself gets one, and nobody else notices."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client
from oddswire.errors import (
    CommandTimeout,
    ConnectionLost,
    NotShared,
    Outcome,
    WrongType,
)
from oddswire.testing import LoopLag


@pytest.mark.advanced
async def test_blocking_call_does_not_hold_up_the_others(client, prefix):
    """While one caller blocks, ordinary calls are answered; one of them wakes it."""
    blocked = asyncio.get_running_loop().create_task(client.blpop(f"{prefix}l", 5))
    assert await asyncio.gather(*(client.incr(f"{prefix}n") for _ in range(100)))
    await client.rpush(f"{prefix}l", "x")

    assert list(await blocked) == [f"{prefix}l".encode(), b"x"]
    await client.delete(f"{prefix}n")


@pytest.mark.requirement("C4")
@pytest.mark.advanced
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
@pytest.mark.parametrize(
    "call",
    [
        lambda c, k: c.blpop(k, 0.6),
        lambda c, k: c.bzpopmin(k, 0.6),
        lambda c, k: c.blmpop(0.6, 1, k, direction="LEFT"),
        lambda c, k: c.xread({k: "$"}, block=600),
        lambda c, k: c.wait(3, 600),
    ],
    ids=["blpop", "bzpopmin", "blmpop", "xread", "wait"],
)
async def test_blocking_longer_than_the_command_timeout(
    server, prefix, call, transport
):
    """A call that asks to block for longer than the deadline of others may do so."""
    options = {"command_timeout": 0.2, "transport": transport}
    async with Client.from_url(server.url, **options) as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = await call(client, f"{prefix}none")
        took = loop.time() - started

    assert not result
    assert took >= 0.55


@pytest.mark.errors
async def test_cancelled_blocking_call_costs_its_own_connection_at_most(own):
    """A cancelled blocking call takes nothing from the list or from the pool."""
    async with Client.from_url(own.url) as client:
        for _ in range(10):
            call = asyncio.get_running_loop().create_task(client.blpop("list", 0))
            async with asyncio.timeout(5):
                while not int((await client.info("clients"))["blocked_clients"]):
                    pass
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            async with asyncio.timeout(5):
                while int((await client.info("clients"))["blocked_clients"]):
                    pass
        await client.rpush("list", 1)
        assert list(await client.blpop("list", 1)) == [b"list", b"1"]
        assert client.stats().connects == 1
        assert client.stats().connections.leased == 0


@pytest.mark.errors
async def test_blocked_without_an_answer_ends_in_time(through, cutter, prefix):
    """A blocking call that the link swallows ends soon after the time it asked for."""
    one = through(command_timeout=0.2)
    await one.blpop(f"{prefix}warm", 0.01)
    cutter.plan = [(f"{prefix}k".encode(), "mute")]
    with (
        LoopLag() as lag,
        pytest.raises(CommandTimeout, match=r"no reply within 1\.1 s"),
    ):
        await one.blpop(f"{prefix}k", 0.1)

    assert lag.free < 1.1 * 1.1 + 0.1
    assert one.stats().connections.leased == 0


@pytest.mark.errors
async def test_cut_while_blocked(through, cutter, client, prefix):
    """A blocking call whose link is cut fails typed and is not sent again."""
    one = through()
    await one.blpop(f"{prefix}warm", 0.01)
    await client.rpush(f"{prefix}l", 1, 2, 3)
    cutter.plan = [(f"{prefix}l".encode(), "after")]
    with pytest.raises(ConnectionLost):
        await one.blpop(f"{prefix}l", 1)
    left = await client.llen(f"{prefix}l")
    await client.delete(f"{prefix}l")

    assert left == 2


@pytest.mark.errors
async def test_error_reply_of_a_blocking_call_is_typed(client, prefix):
    """A refusal on an exclusive connection is the same error as elsewhere."""
    await client.set(f"{prefix}k", "v", ex=60)
    with pytest.raises(WrongType):
        await client.blpop(f"{prefix}k", 1)

    assert client.stats().failures == {"WrongType": 1}


@pytest.mark.advanced
async def test_streams_are_read_with_and_without_blocking(client, prefix):
    """XREAD and XREADGROUP take a connection of their own only when they block."""
    stream = f"{prefix}s"
    await client.xadd(stream, {"n": 1}, id="1-1")
    await client.xgroup_create(stream, "g", id="0")
    assert await client.xread({stream: "0"})
    assert await client.xreadgroup("g", "c", {stream: ">"})
    assert client.stats().connections.idle == 0
    assert not await client.xread({stream: "$"}, block=10)
    assert not await client.xreadgroup("g", "c", {stream: ">"}, block=10)
    assert client.stats().connections.idle == 1
    await client.delete(stream)


@pytest.mark.integration
async def test_pubsub_and_monitor(client, prefix):
    """Raw pub/sub and MONITOR lease a connection each, and give it back."""
    async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe(f"{prefix}c")
        async with asyncio.timeout(5):
            while not await client.publish(f"{prefix}c", "hello"):
                pass
            while (message := await subscriber.get_message(timeout=5)) is None:
                pass
    async with client.monitor() as monitor:
        await client.get(f"{prefix}seen")
        async with asyncio.timeout(5):
            async for command in monitor.listen():
                if f"{prefix}seen" in command["command"]:
                    break

    assert message["data"] == b"hello"
    assert client.stats().connections.leased == 0
    assert await client.ping()


ABOUT_ITS_CONNECTION = {
    "client": [
        *(("AUTH", "x"), ("HELLO", 3), ("RESET",), ("QUIT",), ("READONLY",)),
        *(("READWRITE",), ("ASKING",), ("SYNC",), ("PSYNC", "?", -1)),
        *(("REPLCONF", "capa", "eof"), ("SELECT", 1), ("client", b"reply", "off")),
        *(("CLIENT TRACKING", "ON"), ("CLIENT", "TRACKING", "ON")),
        *(("CLIENT NO-EVICT", "ON"), ("CLIENT", "NO-TOUCH", "ON")),
        *(("CLIENT SETINFO", "LIB-NAME", "x"), ("CLIENT CACHING", "YES")),
        *(("CLIENT", "IMPORT-SOURCE", "ON"), ("CLIENT", "CAPA", "redirect")),
        *(("CLIENT", "MAINT_NOTIFICATIONS", "ON"), ("SCRIPT", "DEBUG", "YES")),
    ],
    "pipeline": [
        *(("MULTI",), ("exec",), (b"DISCARD",), ("WATCH", "k"), ("UNWATCH",)),
    ],
    "pubsub": [
        *(("SUBSCRIBE", "c"), ("PSUBSCRIBE", "c*"), ("SSUBSCRIBE", "c")),
        *(("UNSUBSCRIBE",), ("PUNSUBSCRIBE",), ("SUNSUBSCRIBE",)),
    ],
    "monitor": [("MONITOR",)],
}


@pytest.mark.errors
@pytest.mark.parametrize("way", ABOUT_ITS_CONNECTION)
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_what_is_about_its_connection_is_refused(server, way, transport):
    """What is about the connection it is sent on is refused, with the right way."""
    async with Client.from_url(server.url, transport=transport) as client:
        before = await client.client_info()
        for args in ABOUT_ITS_CONNECTION[way]:
            with pytest.raises(
                NotShared, match=rf"use .*`client\.{way}\(\)`"
            ) as caught:
                await client.execute_command(*args)
            assert caught.value.outcome is Outcome.NOT_SENT
        after = await client.client_info()
        same = ("id", "flags", "db", "name", "lib-name", "redir", "resp")
        assert [after.get(name) for name in same] == [before.get(name) for name in same]


@pytest.mark.advanced
async def test_one_connection_for_oneself(client, prefix):
    """On `client.client()` the state of the connection is the caller's to change."""
    async with client.client() as own:
        assert await own.select(9)
        await own.set(f"{prefix}k", "nine", ex=60)
        assert await own.get(f"{prefix}k") == b"nine"
        assert await own.client_reply("ON")
        assert await own.delete(f"{prefix}k")
    assert await client.get(f"{prefix}k") is None
    assert client.stats().connections.leased == 0


@pytest.mark.errors
@pytest.mark.parametrize("turns", range(1, 9))
async def test_cancelled_at_any_moment_a_blocking_call_ends(server, prefix, turns):
    """A cancellation is never swallowed, whatever the call was doing just then."""
    async with Client.from_url(server.url) as client:
        stream = f"{prefix}stream"
        await client.xread({stream: "$"}, block=1)  # the connection is open
        task = asyncio.create_task(  # noqa: TID251 - to be cancelled
            client.xread({stream: "$"}, block=2_000)
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.errors
@pytest.mark.parametrize("turns", range(1, 12))
async def test_cancelled_at_any_moment_a_watch_ends(server, prefix, turns):
    """A transaction that watches, cancelled anywhere, gives its connection back.

    Under redis-py's own `asyncio.wait_for` it goes on, before Python 3.12.
    """
    async with Client.from_url(server.url) as client:

        async def count():
            async with client.pipeline() as pipe:
                await pipe.watch(f"{prefix}n")
                pipe.multi()
                await pipe.incr(f"{prefix}n").execute()

        await count()  # the connection is open
        for _ in range(3):
            task = asyncio.create_task(count())  # noqa: TID251 - to be cancelled
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                continue
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert client.stats().connections.leased == 0
        assert await client.delete(f"{prefix}n")
