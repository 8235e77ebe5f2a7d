"""What ends something else never waits behind it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as aredis

from oddswire import Client, EmbeddedServer, SimpleClient
from oddswire.errors import CommandRejected, ConnectionLost, OddswireError
from support import eventually

LOOP = "while true do end"
LIBRARY = """#!lua name=oddswire_test
redis.register_function{function_name='for_ever', flags={'no-writes'},
                        callback=function() while true do end end}"""
HOW = ("multiplexed", "pool", "simple", "alone")


@asynccontextmanager
async def _open(how, url):
    """Open a client of this kind."""
    options = {"command_timeout": 15.0, "client_name": "tester"}
    if how == "simple":
        opened = SimpleClient.from_url(url, **options)
    else:
        transport = "pool" if how == "pool" else "multiplexed"
        opened = Client.from_url(url, transport=transport, **options)
    async with opened:
        if how == "alone":
            async with opened.client() as alone:
                yield alone
        else:
            yield opened


@pytest.fixture
async def impatient(program):
    """A server that answers -BUSY soon."""
    args = ("--lua-time-limit", "50")
    async with EmbeddedServer(binary=program, args=args) as server:
        yield server


@asynccontextmanager
async def _running(call):
    """Have a call under way that does not end by itself; it fails in the end."""
    task = asyncio.get_running_loop().create_task(call)
    yield task
    with pytest.raises(OddswireError):
        await task


async def _busy(server):
    """Wait until the server says that a script has been running for too long."""

    async def busy():
        async with aredis.Redis.from_url(server.url) as other:
            try:
                await other.get("k")
            except aredis.ResponseError as error:
                return str(error).startswith("BUSY")
        return False

    await eventually(busy)


@pytest.mark.requirement("C5")
@pytest.mark.errors
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("database", [0, 1])
async def test_a_script_is_killed_by_the_client_that_runs_it(impatient, how, database):
    """SCRIPT KILL and FUNCTION KILL reach the server past the call they are to end."""
    url = impatient.url.rpartition("/")[0] + f"/{database}"
    async with _open(how, url) as client:
        await client.ping()
        async with _running(client.eval(LOOP, 0)):
            await _busy(impatient)
            assert await client.script_kill()
        await client.function_load(LIBRARY)
        async with _running(client.fcall_ro("for_ever", 0)):
            await _busy(impatient)
            running = await client.function_stats()
            assert b"for_ever" in str(running).encode()
            assert await client.function_kill()
        assert await client.ping()
        with pytest.raises(CommandRejected):
            await client.script_kill()


@pytest.mark.requirement("C5")
@pytest.mark.errors
async def test_killing_needs_no_connection_of_the_pool(own):
    """With every exclusive connection lent out, its holders can still be ended."""
    async with (
        Client.from_url(own.url, pool_max=3, acquire_timeout=2.0) as client,
        aredis.Redis.from_url(own.url) as other,
    ):

        async def blocked():
            found = await other.client_list()
            return [each["id"] for each in found if each["cmd"] == "blpop"]

        task = asyncio.get_running_loop().create_task(client.blpop("none", 0))
        (number,) = await eventually(blocked)
        assert await client.client_unblock(number)
        assert await task is None

        async with _running(client.blpop("none", 0)):
            (number,) = await eventually(blocked)
            assert await client.client_kill_filter(_id=number) == 1


@pytest.mark.errors
async def test_a_pause_is_ended_past_the_calls_that_it_holds_up(own):
    """CLIENT UNPAUSE does not wait behind the writes that CLIENT PAUSE holds up."""
    async with (
        Client.from_url(own.url, command_timeout=20.0) as client,
        Client.from_url(own.url) as admin,
    ):
        await client.client_pause(60_000, all=False)
        held_up = asyncio.get_running_loop().create_task(client.set("k", "v"))

        async def is_held_up():
            return (await admin.info("clients"))["blocked_clients"]

        await eventually(is_held_up)
        assert not held_up.done()
        await client.client_unpause()
        async with asyncio.timeout(10):
            assert await held_up


@pytest.mark.errors
async def test_killing_a_kind_spares_the_client_that_asks(own):
    """CLIENT KILL of a whole kind ends the others; by its number, the client itself."""
    async with Client.from_url(own.url) as client, Client.from_url(own.url) as other:
        number = await client.client_id()
        await other.ping()
        assert await client.client_kill_filter(_type="normal") == 1
        assert await client.client_id() == number
        assert await client.client_kill_filter(_id=number) == 1

        async def connected_anew():
            try:
                return await client.client_id() != number
            except ConnectionLost:
                return False

        await eventually(connected_anew)


@pytest.mark.errors
async def test_shutting_down_needs_nothing_that_a_script_holds(impatient):
    """SHUTDOWN NOSAVE ends a server that a script holds up."""
    async with Client.from_url(impatient.url, command_timeout=15.0) as client:
        async with _running(client.eval(LOOP, 0)):
            await _busy(impatient)
            await client.shutdown(nosave=True)
        await impatient.wait_exit()


@pytest.mark.errors
async def test_a_closed_client_opens_no_connection_for_it(own):
    """After `aclose` such a command is refused as any other."""
    client = Client.from_url(own.url)
    await client.ping()
    await client.aclose()
    with pytest.raises(OddswireError, match="closed"):
        await client.script_kill()
