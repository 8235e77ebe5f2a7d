"""WAIT and WAITAOF speak of the caller's writes, over whatever connection."""

from __future__ import annotations

from contextlib import suppress

import pytest
import redis.asyncio as aredis

from oddswire import Client, EmbeddedServer, SimpleClient
from oddswire.errors import ConnectionLost, NotShared
from oddswire.testing import frozen
from support import eventually
from support.replicas import pair

MS = 150


async def _set(client):
    await client.set("k", "v")


async def _large(client):
    pipe = client.pipeline(transaction=False)
    for n in range(1_100):
        pipe.set(f"k{n}", "v")
    await pipe.execute()


async def _watched(client):
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        pipe.multi()
        await pipe.set("k", "v").execute()


async def _moved(client):
    await client.rpush("from", "x")
    await client.blmove("from", "to", 1)


async def _reconnected(client):
    await client.set("k", "v")
    (await client.open_connection(5)).abort(ConnectionLost("cut"))
    await client.ping()


WRITES = {
    "set": _set,
    "large batch": _large,
    "watched": _watched,
    "moved": _moved,
    "reconnected": _reconnected,
}


@pytest.mark.requirement("C5")
@pytest.mark.integration
async def test_a_replica_that_stands_still_has_acknowledged_nothing(program):
    """Whatever connection a write went over, WAIT counts no replica without it."""
    async with pair(program) as servers:
        client = Client.from_url(servers.primary.url)
        pool = Client.from_url(servers.primary.url, transport="pool")
        simple = SimpleClient.from_url(servers.primary.url)
        async with client, pool, simple:
            for each in (client, pool, simple):
                await each.set("k", "v")
                assert await each.wait(1, 5_000) == 1
            with frozen(servers.replica):
                for write in WRITES.values():
                    await write(client)
                    assert await client.wait(1, MS) == 0
                    assert await client.bounded(1).wait(1, MS) == 0
                await pool.set("k", "v")
                assert await pool.wait(1, MS) == 0
                await simple.set("k", "v")
                assert await simple.wait(1, MS) == 0
                for transaction in (False, True):
                    pipe = client.pipeline(transaction=transaction)
                    pipe.set("k", "v").execute_command("WAIT", 1, MS)
                    assert await pipe.execute() == [True, 0]
                async with client.client() as alone:
                    await alone.set("k", "v")
                    assert await alone.wait(1, MS) == 0
                    await alone.connection.disconnect()
                    assert await alone.wait(1, MS) == 0
                # The write went over another connection than the one that asks here.
                await client.set("k", "v")
                batch = client.pipeline(transaction=False).wait(1, MS)
                assert await batch.execute() == [0]
                async with client.pipeline() as pipe:
                    await pipe.watch("k")
                    assert await pipe.wait(1, MS) == 0
                async with aredis.Redis.from_url(servers.primary.url) as admin:
                    await admin.client_kill_filter(_id=await simple.client_id())

                async def connected_again():
                    with suppress(ConnectionLost):
                        return await simple.ping()

                await eventually(connected_again)
                assert await simple.wait(1, MS) == 0
            await client.set("k", "v")
            assert await client.wait(1, 5_000) == 1


@pytest.mark.errors
async def test_waiting_for_replicas_outlives_the_command_timeout(own):
    """Waiting for replicas may take longer than a command."""
    async with Client.from_url(own.url, command_timeout=0.5) as client:
        await client.set("k", "v")
        assert await client.wait(0, 100) == 0
        async with client.client() as alone:
            # Longer than a command may take.
            assert await alone.wait(1, 700) == 0
        assert await client.wait(1, 700) == 0


@pytest.mark.errors
async def test_waiting_for_the_disk_speaks_of_the_callers_writes():
    """WAITAOF counts no replica, and no disk, that has not got the last write."""
    async with (
        EmbeddedServer(aof=True) as server,
        Client.from_url(server.url) as client,
    ):
        await client.set("k", "v")

        async def on_disk():
            return await client.waitaof(1, 0, 2_000) == [1, 0]

        await eventually(on_disk)
        await client.config_set("appendfsync", "no")
        await client.set("k", "w")
        assert await client.waitaof(0, 1, MS) in ([0, 0], [1, 0])


@pytest.mark.errors
async def test_waiting_on_a_server_without_shard_channels():
    """Before Redis 7 an ordinary channel does what WAIT needs."""
    old = ("--rename-command", "SPUBLISH", "")
    async with EmbeddedServer(args=old) as server:
        client, simple = Client.from_url(server.url), SimpleClient.from_url(server.url)
        async with client, simple:
            for each in (client, simple):
                await each.set("k", "v")
                assert await each.wait(0, MS) == 0
                stats = await each.info("commandstats")
                assert stats.pop("cmdstat_publish")["calls"] == 1
                await each.config_resetstat()


@pytest.mark.errors
async def test_waiting_without_the_right_to_it_says_the_other_way(own):
    """Where the message that WAIT needs is forbidden, the error says what works."""
    async with Client.from_url(own.url) as admin:
        await admin.acl_setuser(
            "plain",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            categories=["+@all"],
            reset_channels=True,
        )
    url = f"redis://plain:pw@{own.host}:{own.port}/0"
    async with Client.from_url(url) as client:
        await client.set("k", "v")
        with pytest.raises(NotShared, match=r"client\.pipeline\(transaction=False\)"):
            await client.wait(1, MS)
        with pytest.raises(NotShared):
            await client.pipeline(transaction=False).wait(1, MS).execute()
        pipe = client.pipeline(transaction=False).set("k", "v")
        assert await pipe.execute_command("WAIT", 1, MS).execute() == [True, 0]
        async with client.client() as alone:
            await alone.set("k", "v")
            assert await alone.wait(1, MS) == 0
