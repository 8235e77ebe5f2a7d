"""A command that was packed before is a command like any other."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from oddswire import Client
from oddswire.connection.packing import pack
from oddswire.errors import ConnectionLost, Outcome, WrongType


def packed(client, *args):
    """Send it packed."""
    return client.execute_packed(pack(args), args)


@pytest.mark.basic
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_a_packed_command_is_answered_and_counted(server, prefix, transport):
    """Connected or not, on either transport, it replies and counts like any other."""
    key = f"{prefix}k"
    async with Client.from_url(server.url, transport=transport) as client:
        # The first one connects.
        assert await packed(client, "INCR", key) == 1
        many = (packed(client, "INCR", key) for _ in range(100))
        assert sorted(await asyncio.gather(*many)) == list(range(2, 102))
        assert client.stats().calls["INCR"] == 101
        with pytest.raises(WrongType):
            await packed(client, "LPUSH", key, "x")
        assert client.stats().failures["WrongType"] == 1
        await client.delete(key)


@pytest.mark.errors
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_packed_command_is_repeated_where_that_is_safe(
    through, cutter, client, prefix, when
):
    """Its answer lost, a read is asked again, and what counts is never sent twice."""
    key = f"{prefix}k"
    one = through()
    await one.ping()
    cutter.plan = [(key.encode(), when)]
    with pytest.raises(ConnectionLost) as caught:
        await packed(one, "INCR", key)
    assert caught.value.outcome is Outcome.UNKNOWN
    counted = await client.get(key)
    assert counted == (b"1" if when == "after" else None)

    await one.ping()
    cutter.plan = [(key.encode(), when)]
    assert await packed(one, "GET", key) == counted
    assert cutter.plan == []
    await client.delete(key)


@pytest.mark.errors
async def test_a_cancelled_packed_command_harms_no_other(server, prefix):
    """Those that were sent with it get their own answers."""
    async with Client.from_url(server.url) as client:
        await client.ping()
        calls = [
            asyncio.get_running_loop().create_task(
                packed(client, "ECHO", f"{prefix}{number}"), name=f"echo {number}"
            )
            for number in range(9)
        ]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        for number, reply in enumerate(replies):
            if number % 3:
                assert reply == f"{prefix}{number}".encode()
            else:
                assert isinstance(reply, asyncio.CancelledError)
        assert client.stats().abandoned == 3


@pytest.mark.errors
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abcdef")[::2],
        memoryview(b"abcdef")[::-1],
        memoryview(bytearray(b"abcdef"))[1:3],
        memoryview(array("i", [1, 2, 3]))[::2],
    ],
)
async def test_a_view_is_sent_as_its_own_bytes(server, prefix, transport, view):
    """A memoryview with gaps, or read backwards, arrives as its own bytes."""
    key = f"{prefix}k"
    async with Client.from_url(server.url, transport=transport) as client:
        await client.set(key, view)
        assert await client.get(key) == view.tobytes()
        assert await client.set(key, view, ex=60, get=True) == view.tobytes()
        await client.pipeline(transaction=False).hset(f"{key}h", "f", view).execute()
        assert await client.hget(f"{key}h", "f") == view.tobytes()
        async with client.pipeline() as watching:
            await watching.watch(key)
            watching.multi()
            await watching.append(key, view).execute()
        assert await client.get(key) == view.tobytes() * 2
        await client.rpush(f"{key}l", view)
        assert await client.lpop(f"{key}l") == view.tobytes()
        await client.delete(key, f"{key}h")
