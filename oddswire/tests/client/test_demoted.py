"""A demoted primary stays up as a replica; every way of calling leaves it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import redis.asyncio as aredis

from oddswire import Client, SimpleClient
from oddswire.errors import Outcome, ReadOnly, Unblocked
from support import eventually
from support.replicas import pair


async def _plain(client):
    await client.set("k", "v")


async def _transaction(client):
    await client.pipeline().set("k", "v").get("k").execute()


async def _large_transaction(client):
    pipe = client.pipeline()
    for n in range(1_100):
        pipe.set(f"k{n}", "v")
    assert await pipe.execute() == [True] * 1_100


async def _blocking(client):
    await client.blpop("full", 1)


async def _moving(client):
    await client.blmove("full", "other", 1)


async def _alone(client):
    alone = vars(client).setdefault("of_the_test", client.client())
    await alone.set("k", "v")


FOLLOW = (_plain, _transaction, _large_transaction, _blocking, _moving, _alone)


async def _batch(client):
    await client.pipeline(transaction=False).set("k", "v").get("k").execute()


async def _large_batch(client):
    pipe = client.pipeline(transaction=False)
    for n in range(1_100):
        pipe.set(f"k{n}", "v")
    await pipe.execute()


async def _watched(client):
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        await pipe.get("k")
        pipe.multi()
        await pipe.set("k", "v").execute()


async def _written_while_watching(client):
    async with client.pipeline() as pipe:
        await pipe.watch("k")
        await pipe.set("free", "v")


async def _script(client):
    await client.eval("return redis.call('SET', KEYS[1], 'v')", 1, "k")


# What was refused may not have been alone: the caller is told once at most.
TOLD_ONCE = (_batch, _large_batch, _watched, _written_while_watching, _script)


@pytest.mark.requirement("C12")
@pytest.mark.integration
@pytest.mark.parametrize("transport", ["multiplexed", "pool", "redis-py's pool"])
async def test_every_way_leaves_a_demoted_primary(transport):
    """With a call of any kind open to the old primary, the next one goes to the new."""
    async with pair() as servers:
        async with aredis.Redis.from_url(servers.primary.url) as admin:
            await admin.rpush("full", *range(100))
        clients = {}
        for call in FOLLOW + TOLD_ONCE:
            if transport == "redis-py's pool":
                pool = aredis.ConnectionPool.from_url(servers.name.url)
                clients[call] = Client(connection_pool=pool)
            else:
                clients[call] = Client.from_url(servers.name.url, transport=transport)
            await call(clients[call])

        await servers.demote()
        servers.move()
        for call in FOLLOW:
            await call(clients[call])
        for call in TOLD_ONCE:
            with suppress(ReadOnly):
                await call(clients[call])
            await call(clients[call])
        for client in clients.values():
            if "of_the_test" in vars(client):
                await client.of_the_test.aclose()
            await client.aclose()
            await client.connection_pool.disconnect()


@pytest.mark.requirement("C12")
@pytest.mark.integration
async def test_a_name_that_is_moved_late_is_followed_too():
    """While the name still leads to the old primary it is asked again, and followed."""
    async with pair() as servers, Client.from_url(servers.name.url) as client:
        await client.set("k", "v")
        await servers.demote()
        with pytest.raises(ReadOnly):  # connected anew, to the same one
            await client.set("k", "v")
        assert await client.get("k") == b"v"
        servers.move()

        async def written():
            try:
                return await client.set("k", "w")
            except ReadOnly:
                return False

        await eventually(written)
        async with aredis.Redis.from_url(servers.replica.url) as admin:
            assert await admin.get("k") == b"w"


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_what_blocks_on_a_demoted_primary_may_be_asked_again():
    """A blocking call ends as rejected when its server is demoted, and goes on."""
    async with pair() as servers, Client.from_url(servers.name.url) as client:
        async with asyncio.TaskGroup() as tasks:

            async def block(waiting):
                with pytest.raises(Unblocked) as caught:
                    await waiting
                assert caught.value.outcome is Outcome.REJECTED

            tasks.create_task(block(client.blpop("empty", 10)))
            tasks.create_task(block(client.bzpopmin("none", 10)))
            async with aredis.Redis.from_url(servers.primary.url) as admin:

                async def blocked():
                    return (await admin.info("clients"))["blocked_clients"] == 2

                await eventually(blocked)
            servers.move()
            await servers.demote()
        await client.rpush("empty", "x")
        assert await client.blpop("empty", 1) == (b"empty", b"x")


@pytest.mark.errors
async def test_a_server_that_always_was_a_replica_is_not_left():
    """Where a replica was asked for, READONLY is the answer and costs no connection."""
    async with pair() as servers, Client.from_url(servers.replica.url) as client:
        await client.get("k")
        for _ in range(5):
            with pytest.raises(ReadOnly):
                await client.set("k", "v")
            with pytest.raises(ReadOnly):
                await client.blpop("k", 1)
        assert client.stats().connects == 1


@pytest.mark.requirement("C12")
@pytest.mark.errors
async def test_a_simple_client_leaves_a_demoted_primary():
    """It is told once, and its next call goes to the new primary, moved late or not."""
    async with pair() as servers, SimpleClient.from_url(servers.name.url) as client:
        await client.set("k", "v")
        await servers.demote()
        with pytest.raises(ReadOnly):
            await client.set("k", "v")
        with pytest.raises(ReadOnly):  # connected anew, to the same one
            await client.set("k", "v")
        servers.move()

        async def written():
            try:
                return await client.set("k", "w")
            except ReadOnly:
                return False

        await eventually(written)


@pytest.mark.errors
async def test_a_connection_that_its_user_changed_is_told():
    """In a transaction begun by hand nothing is sent again; the connection is left."""
    async with (
        pair() as servers,
        Client.from_url(servers.name.url) as client,
        client.client() as alone,
    ):
        await alone.select(1)
        await alone.execute_command("WATCH", "k")
        await servers.demote()
        servers.move()
        with pytest.raises(ReadOnly):
            await alone.set("k", "v")
        assert await alone.set("k", "v")
