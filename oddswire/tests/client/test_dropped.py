"""A client that nobody closed, and what waits while there is no connection."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import suppress

import pytest

from oddswire import Client
from oddswire.errors import CommandTimeout, Outcome, Unavailable
from oddswire.events import Disconnected
from oddswire.testing import LoopLag, frozen


def _drop(holder):
    holder.clear()
    gc.collect()  # a traceback and its frame hold each other


@pytest.mark.errors
async def test_dropped_client_leaves_no_connection_behind(own):
    """A client dropped without aclose() is reported, and its connection ends."""
    async with Client.from_url(own.url) as watch:
        client = Client.from_url(own.url)
        await client.ping()
        assert len(await watch.client_list()) == 2
        dropped = [client]
        del client
        with pytest.warns(ResourceWarning, match="without `await client.aclose"):
            _drop(dropped)
        async with asyncio.timeout(5):
            while len(await watch.client_list()) > 1:
                pass


async def _refused(client):
    with suppress(Unavailable):  # its traceback would keep the client
        await client.ping()


@pytest.mark.errors
async def test_dropped_client_stops_connecting(unused_tcp_port):
    """A dropped client whose server is away does not go on trying for ever."""
    client = Client(host="127.0.0.1", port=unused_tcp_port, command_timeout=0.05)
    # In a task of its own: from Python 3.12 on a task keeps the error that its deadline
    # cancelled it by, whose traceback would keep the client.
    await asyncio.gather(_refused(client))
    (connecting,) = asyncio.all_tasks() - {asyncio.current_task()}
    assert connecting.get_name() == "oddswire command connecting"
    dropped = [client]
    del client
    with pytest.warns(ResourceWarning, match="without `await client.aclose"):
        _drop(dropped)
    await asyncio.wait([connecting], timeout=5)
    assert connecting.done()


@pytest.mark.basic
async def test_client_that_was_closed_or_never_used_is_dropped_in_silence(server):
    """No warning for a client that left nothing open (warnings are errors here)."""
    used = Client.from_url(server.url)
    await used.ping()
    await used.aclose()
    never = Client.from_url(server.url)
    del used, never
    gc.collect()


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_calls_beyond_the_caps_wait_for_the_server_as_well(own):
    """While the server is away calls above the limits wait, as they do at the flow."""
    async with Client.from_url(
        own.url, inflight_commands=100, inflight_bytes=1_000_000, command_timeout=10
    ) as client:
        await client.ping()
        lost = asyncio.get_running_loop().create_future()
        client.events.subscribe(lost.set_result, Disconnected)
        own.kill(signal.SIGKILL)
        await lost
        large = [client.set(f"k{n}", b"v" * 300_000) for n in range(5)]
        small = [client.set(f"s{n}", n) for n in range(1_000)]
        calls = asyncio.gather(*large, *small)
        await own.wait_exit()
        await own.restart()
        assert all(await calls)


@pytest.mark.errors
async def test_large_batch_ends_within_the_deadline_of_its_client(own):
    """A batch too large for the command connection has one deadline, not one a read."""
    async with Client.from_url(own.url, command_timeout=2.0) as client:
        await client.ping()
        pipe = client.pipeline(transaction=False)
        for n in range(1_500):
            pipe.get(f"k{n}")
        assert len(await pipe.execute()) == 1_500
        for n in range(1_500):
            pipe.get(f"k{n}")
        with (
            frozen(own),
            LoopLag() as lag,
            pytest.raises(CommandTimeout, match="1500 commands") as caught,
        ):
            await pipe.execute()
        assert lag.free < 3.0
        assert caught.value.outcome is Outcome.UNKNOWN
        assert await client.ping()


@pytest.mark.basic
async def test_one_large_call_may_be_the_first(server, prefix):
    """A call larger than what may wait is sent all the same when it is alone."""
    async with Client.from_url(server.url, inflight_bytes=1_000_000) as client:
        assert await client.set(f"{prefix}k", b"v" * 3_000_000, ex=60)
