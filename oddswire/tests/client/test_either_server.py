"""The client on each server: what a server can do is found out, never assumed."""

from __future__ import annotations

import asyncio

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import AuthFailed, CommandRejected, NoPermission, Outcome
from oddswire.events import DataReset, Ready


@pytest.mark.requirement("C1", "C14")
@pytest.mark.integration
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_every_type_of_value(server, prefix, protocol, decode):
    """Commands of every type give the same results, in either protocol."""
    async with Client.from_url(
        server.url, protocol=protocol, decode_responses=decode, client_name="either"
    ) as client:

        def said(text):
            return text if decode else text.encode()

        key = prefix.__add__
        assert await client.set(key("s"), "v", ex=60)
        assert await client.get(key("s")) == said("v")
        assert await client.mget(key("s"), key("none")) == [said("v"), None]
        assert 0 < await client.ttl(key("s")) <= 60
        assert await client.hset(key("h"), mapping={"a": 1, "b": 2}) == 2
        assert await client.hgetall(key("h")) == {
            said("a"): said("1"),
            said("b"): said("2"),
        }
        assert await client.zadd(key("z"), {"m": 1.5, "n": 2}) == 2
        assert await client.zscore(key("z"), "m") == 1.5
        assert [
            name for name, _ in await client.zrange(key("z"), 0, -1, withscores=True)
        ] == [said("m"), said("n")]
        assert await client.sadd(key("set"), "x") == 1
        assert await client.smembers(key("set")) == {said("x")}
        assert await client.rpush(key("l"), 1, 2) == 2
        assert await client.lmpop(1, key("l"), direction="LEFT")
        first = await client.xadd(key("x"), {"f": "v"})
        assert await client.xrange(key("x")) == [(first, {said("f"): said("v")})]
        assert await client.incrbyfloat(key("n"), 0.5) == 0.5
        assert (await client.client_info())["name"] == "either"
        found = {
            name async for name in client.scan_iter(match=f"{prefix}*", count=1000)
        }
        assert len(found) == 7
        assert await client.delete(*found) == 7


@pytest.mark.requirement("C3")
@pytest.mark.integration
async def test_a_restart_is_survived_and_told(program):
    """Killed and started again: the client is back, with its scripts and its news."""
    async with (
        # With everysec a reply may leave before its write is in the file.
        EmbeddedServer(
            binary=program, aof=True, args=("--appendfsync", "always")
        ) as server,
        Client.from_url(server.url, reconnect_delay=0.01, retries=3) as client,
    ):
        assert await client.set("k", "v")
        count = client.register_script("return redis.call('INCR', KEYS[1])")
        assert await count(keys=["n"]) == 1
        told, back = [], asyncio.Event()
        client.events.subscribe(told.append)
        client.events.subscribe(lambda _: back.set(), Ready)
        server.kill()
        await server.wait_exit()
        await server.restart()
        async with asyncio.timeout(10):
            await back.wait()
        assert await client.get("k") == b"v"
        assert await count(keys=["n"]) == 2
        assert await client.blpop("none", 0.01) is None
        assert any(isinstance(event, DataReset) for event in told)


@pytest.mark.requirement("C7")
@pytest.mark.errors
async def test_what_a_server_does_not_know_is_its_own_typed_refusal(own):
    """A command of newer servers works or is rejected; the connection stays."""
    async with Client.from_url(own.url) as client:
        await client.hset("h", "f", "v")
        if b"hexpire" in await client.command_list():
            assert await client.hexpire("h", 60, "f") == [1]
        else:
            with pytest.raises(CommandRejected, match="unknown command") as refused:
                await client.hexpire("h", 60, "f")
            assert refused.value.outcome is Outcome.REJECTED
        assert await client.hget("h", "f") == b"v"
        assert client.stats().connects == 1


@pytest.mark.requirement("C1", "C7")
@pytest.mark.errors
async def test_refusals_are_typed_however_they_are_worded(own):
    """Of a password, a command, a key: the same classes, with the user in the text."""
    async with Client.from_url(own.url) as admin:
        await admin.execute_command(
            *("ACL", "SETUSER", "app", "on", ">secret", "~app:*", "-@all"),
            *("+get", "+hello", "+ping", "+multi", "+exec"),
        )
    at = {"host": own.host, "port": own.port}
    async with Client(**at, username="app", password="wrong") as client:
        with pytest.raises(AuthFailed, match="'app'"):
            await client.ping()
    async with Client(**at) as client:
        with pytest.raises(AuthFailed, match="REDIS_PASSWORD"):
            await client.ping()
    async with Client(**at, username="app", password="secret") as client:
        assert await client.get("app:k") is None
        for call, name in (
            (client.set("app:k", 1), "SET: "),
            (client.get("other"), "GET: "),
            (client.blpop("app:k", 1), "BLPOP: "),
            (client.pipeline().get("app:k").set("app:k", 1).execute(), "SET app:k"),
        ):
            with pytest.raises(NoPermission) as refused:
                await call
            assert name in str(refused.value)
            assert "(user 'app')" in str(refused.value)


@pytest.mark.requirement("C3")
@pytest.mark.advanced
async def test_a_name_that_was_given_is_kept(own):
    """CLIENT SETNAME outlives its connection; one that was refused is not taken."""
    async with Client.from_url(own.url, reconnect_delay=0.01) as client:
        assert await client.client_setname("first")
        assert await client.execute_command("client", b"setname", "second")
        with pytest.raises(CommandRejected):
            await client.client_setname("with a space")
        for _ in range(2):
            back = asyncio.Event()
            client.events.subscribe(lambda _, back=back: back.set(), Ready)
            async with Client.from_url(own.url) as admin:
                await admin.client_kill_filter(skipme=True)
            async with asyncio.timeout(5):
                await back.wait()
            assert await client.client_getname() == "second"
