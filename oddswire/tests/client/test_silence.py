"""Silence is not death: what waits for longer than a command may take goes on."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aredis
from redis.asyncio.client import PubSub

from oddswire import Client, SimpleClient
from oddswire.errors import CommandTimeout
from support import eventually

COMMAND_TIMEOUT = 0.4
SILENCE = 0.8


async def _listen(client, ready):
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("c")
        ready()
        async for message in pubsub.listen():
            return message["data"]
    return None


async def _get_message(client, ready, timeout=None):
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("c")
        await pubsub.get_message(timeout=5)
        ready()
        return (await pubsub.get_message(timeout=timeout))["data"]


async def _get_message_in_time(client, ready):
    return await _get_message(client, ready, 10)


async def _monitor(client, ready):
    async with client.monitor() as monitor:
        ready()
        async for command in monitor.listen():
            if "PUBLISH" in command["command"]:
                return command["command"].split()[-1].encode()
    return None


async def _blpop(client, ready):
    ready()
    return (await client.blpop("l1", 10))[1]


async def _blpop_for_ever(client, ready):
    ready()
    return (await client.blpop("l2", 0))[1]


async def _xread(client, ready):
    ready()
    ((_, entries),) = await client.xread({"s": "$"}, block=10_000)
    return entries[0][1][b"f"]


async def _as_one_text(client, ready):
    ready()
    return (await client.execute_command("BLPOP l5 0"))[1]


async def _batch(client, ready):
    pipe = client.pipeline(transaction=False).ping().blpop("l3", 10)
    ready()
    return (await pipe.execute())[1][1]


async def _while_watching(client, ready):
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        ready()
        return (await pipe.blpop("l4", 10))[1]


ON_A_CLIENT = (
    *(_listen, _get_message, _get_message_in_time, _monitor, _blpop),
    *(_blpop_for_ever, _xread, _batch, _while_watching, _as_one_text),
)


async def _outlive(own, client, waits):
    """Have all of them wait at once, for longer than a command may take."""
    loop = asyncio.get_running_loop()
    ready = [asyncio.Event() for _ in waits]
    tasks = {
        wait.__name__: loop.create_task(wait(client, event.set))
        for wait, event in zip(waits, ready, strict=True)
    }
    async with asyncio.timeout(20):
        await asyncio.gather(*(event.wait() for event in ready))
    await asyncio.sleep(SILENCE)
    assert [name for name, task in tasks.items() if task.done()] == []
    async with aredis.Redis.from_url(own.url) as other:
        for number in "12345":
            await other.rpush(f"l{number}", "x")
        await other.xadd("s", {"f": "x"})
        await other.publish("c", "x")
    async with asyncio.timeout(20):
        got = {name: await task for name, task in tasks.items()}
    assert got == dict.fromkeys(tasks, b"x")


@pytest.mark.requirement("C4")
@pytest.mark.advanced
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_what_waits_outlives_the_command_timeout(own, transport):
    """Listening and blocking on an exclusive connection last as long as asked."""
    options = {"command_timeout": COMMAND_TIMEOUT, "pool_max": 12}
    async with Client.from_url(own.url, transport=transport, **options) as client:
        await _outlive(own, client, ON_A_CLIENT)
        assert await client.ping()


@pytest.mark.requirement("C4")
@pytest.mark.advanced
async def test_what_waits_on_a_pool_of_redis_py_outlives_its_timeout(own):
    """It is so on a pool that the caller brought, whatever timeout that has."""
    pool = aredis.ConnectionPool.from_url(own.url, socket_timeout=COMMAND_TIMEOUT)
    async with Client(connection_pool=pool, command_timeout=COMMAND_TIMEOUT) as client:
        await _outlive(own, client, ON_A_CLIENT)
        assert await client.ping()
    await pool.disconnect()


@pytest.mark.requirement("C4")
@pytest.mark.advanced
async def test_waiting_on_ones_own_connection_outlives_the_command_timeout(own):
    """On `client.client()` and `SimpleClient` what blocks has the time it asks for."""
    options = {"command_timeout": COMMAND_TIMEOUT}
    async with (
        Client.from_url(own.url, **options) as client,
        client.client() as alone,
    ):
        for wait in (_blpop, _blpop_for_ever, _xread):
            await _outlive(own, alone, (wait, _listen, _batch))
            await _flush(own)
            assert await alone.ping()
    async with SimpleClient.from_url(own.url, **options) as simple:
        for wait in (_blpop, _blpop_for_ever, _xread):
            await _outlive(own, simple, (wait,))
            await _flush(own)


async def _flush(own):
    """Take away what nobody waited for."""
    async with aredis.Redis.from_url(own.url) as other:
        await other.flushall()


@pytest.mark.requirement("C4")
@pytest.mark.errors
async def test_silence_where_an_answer_is_due_is_found(own):
    """What does not block has the command timeout, also behind something that did."""
    async with (
        Client.from_url(own.url, command_timeout=COMMAND_TIMEOUT) as client,
        client.client() as alone,
    ):
        assert await alone.blpop("none", 0.4) is None
        async with aredis.Redis.from_url(own.url) as other:
            await other.client_pause(2_000)
            with pytest.raises((CommandTimeout, aredis.TimeoutError)):
                await alone.ping()
            await other.client_unpause()

        async def answered():
            return await alone.ping()

        await eventually(answered)


@pytest.mark.advanced
async def test_pub_sub_is_redis_pys(own):
    """What `client.pubsub()` and `client.monitor()` return are redis-py's own kinds."""
    async with Client.from_url(own.url) as client:
        assert isinstance(client.pubsub(), PubSub)
        assert isinstance(client.monitor(), aredis.client.Monitor)
