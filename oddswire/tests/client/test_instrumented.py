"""What replaces redis-py's methods (OpenTelemetry, Sentry) sees our commands, once."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as aredis
from redis.asyncio.client import Pipeline

from oddswire import Client
from oddswire.embedded import EmbeddedCluster
from oddswire.errors import CommandTimeout, WrongType
from support import eventually


@pytest.fixture
def seen(monkeypatch):
    """What was seen: a command's name, or a batch; with what it was seen on."""
    found = []
    execute, batch = aredis.Redis.execute_command, Pipeline.execute
    at_once = Pipeline.immediate_execute_command

    async def execute_command(self, *args, **options):
        found.append((args[0], self.connection_pool.connection_kwargs["port"]))
        try:
            return await execute(self, *args, **options)
        except Exception as error:
            found.append((type(error).__name__, None))
            raise

    async def execute_batch(self, *args, **options):
        found.append(([args[0] for args, _ in self.command_stack], None))
        return await batch(self, *args, **options)

    async def immediate(self, *args, **options):
        found.append((args[0], None))
        return await at_once(self, *args, **options)

    monkeypatch.setattr(aredis.Redis, "execute_command", execute_command)
    monkeypatch.setattr(Pipeline, "execute", execute_batch)
    monkeypatch.setattr(Pipeline, "immediate_execute_command", immediate)
    return found


@pytest.mark.integration
@pytest.mark.requirement("C15")
@pytest.mark.parametrize("transport", ["multiplexed", "pool"])
async def test_each_command_is_seen_once(server, prefix, seen, transport):
    """Plain, blocking, failing and cancelled commands, batches and WATCH: one each."""
    key = f"{prefix}k"
    async with Client.from_url(server.url, transport=transport) as client:
        assert await client.set(key, "v", ex=60)
        assert await client.get(key) == b"v"
        assert await asyncio.gather(*[client.get(key) for _ in range(5)]) == [b"v"] * 5
        assert [name for name, _ in seen] == ["SET", "GET", *["GET"] * 5]
        assert {port for _, port in seen} == {server.port}
        seen.clear()
        assert await client.blpop(f"{prefix}none", timeout=0.01) is None
        with pytest.raises(WrongType):
            await client.lpush(key, "x")
        assert [name for name, _ in seen] == [
            "BLPOP", "LPUSH", "WrongType" if transport == "multiplexed" else
            "ResponseError",
        ]  # fmt: skip
        seen.clear()
        for transaction in (True, False):
            async with client.pipeline(transaction=transaction) as batch:
                assert await batch.get(key).get(key).execute() == [b"v", b"v"]
        async with client.pipeline() as batch:
            await batch.watch(key)
            batch.multi()
            assert await batch.get(key).execute() == [b"v"]
        assert [name for name, _ in seen] == [
            ["GET", "GET"], ["GET", "GET"], "WATCH", ["GET"],
        ]  # fmt: skip
        seen.clear()
        blocked = asyncio.ensure_future(client.blpop(f"{prefix}none", timeout=30))  # noqa: TID251
        await eventually(lambda: seen)
        blocked.cancel()
        await asyncio.wait([blocked])
        assert blocked.cancelled()
        assert await client.get(key) == b"v"


@pytest.mark.advanced
@pytest.mark.requirement("C15")
async def test_a_timeout_is_seen_and_calls_are_counted(own, seen):
    """An instrumented call has its deadline and its place in the statistics."""
    async with Client.from_url(own.url, command_timeout=1.5) as client:
        await client.ping()
        own.kill(19)
        try:
            with pytest.raises(CommandTimeout):
                await client.get("k")
        finally:
            own.kill(18)
        assert ("CommandTimeout", None) in seen
        assert client.stats().calls["GET"] == 1
        assert client.stats().failures == {"CommandTimeout": 1}


@pytest.fixture
def failures(monkeypatch):
    """The errors with which batches were seen to fail."""
    found, original = [], Pipeline.execute

    async def execute(self, *args, **options):
        try:
            return await original(self, *args, **options)
        except Exception as error:
            found.append(type(error).__name__)
            raise

    monkeypatch.setattr(Pipeline, "execute", execute)
    return found


@pytest.mark.errors
@pytest.mark.parametrize("transaction", [False, True])
async def test_a_batch_that_fails_is_seen_to_fail(
    server, prefix, failures, transaction
):
    """An error that `execute` raises is seen raised, and every failure is counted."""
    async with Client.from_url(server.url) as client:
        await client.set(f"{prefix}k", "text", ex=60)

        def batch():
            pipe = client.pipeline(transaction=transaction)
            return pipe.lpush(f"{prefix}k", 1).get(f"{prefix}k").incr(f"{prefix}k")

        with pytest.raises(WrongType, match="Command # 1"):
            await batch().execute()
        assert failures == ["WrongType"]
        assert client.stats().failures == {"WrongType": 1, "CommandRejected": 1}
        results = await batch().execute(raise_on_error=False)
        assert [type(each).__name__ for each in results] == [
            "WrongType", "bytes", "CommandRejected",
        ]  # fmt: skip
        assert failures == ["WrongType"]


@pytest.mark.errors
@pytest.mark.parametrize("alone", ["watch", "many", "pool"])
async def test_a_batch_on_a_connection_of_its_own_is_seen_to_fail(
    server, prefix, failures, alone
):
    """So is one that watches, one that is long, and one of redis-py's transport."""
    key, many = f"{prefix}k", 1_001 if alone == "many" else 2
    transport = "pool" if alone == "pool" else "multiplexed"
    async with Client.from_url(server.url, transport=transport) as client:
        await client.set(key, "text", ex=60)
        async with client.pipeline() as pipe:
            if alone == "watch":
                await pipe.watch(key)
                pipe.multi()
            for _ in range(many):
                pipe.lpush(key, 1)
            with pytest.raises(WrongType, match="Command # 1"):
                await pipe.get(key).execute()
        assert failures == ["ResponseError"]
        assert client.stats().failures == {"WrongType": many}
        assert await client.get(key) == b"text"


@pytest.mark.errors
@pytest.mark.parametrize("transaction", [False, True])
async def test_a_batch_over_a_cluster_is_seen_to_fail(failures, transaction):
    """The batch of the node that refused a command is seen to fail."""
    async with (
        EmbeddedCluster(primaries=1) as cluster,
        Client.from_url(cluster.cluster_url) as client,
    ):
        await client.set("{seen}k", "text")
        pipe = client.pipeline(transaction=transaction)
        with pytest.raises(WrongType, match="Command # 2"):
            await pipe.get("{seen}k").lpush("{seen}k", 1).execute()
    assert failures == ["WrongType"]


@pytest.mark.advanced
async def test_what_stands_in_for_a_batch_is_returned(server, monkeypatch):
    """A replacement that answers by itself, as a mock does, is what the caller gets."""

    async def execute(*_, **__):
        return ["stand-in"]

    monkeypatch.setattr(Pipeline, "execute", execute)
    async with Client.from_url(server.url) as client:
        assert await client.pipeline().get("k").execute() == ["stand-in"]
