import asyncio

import pytest

from oddswire import Client, EmbeddedServer
from oddswire.errors import InvalidKey, ScriptFailed
from oddswire.locks import Locks
from oddswire.scripts import Script


@pytest.mark.basic
async def test_a_script_runs_with_its_keys_and_arguments(client, prefix):
    """Keys and arguments arrive in their order, and the reply is bytes."""
    script = Script("pair", "return {KEYS[1], ARGV[1], ARGV[2] + 1}")
    assert await script.run(client, [prefix + "a"], ["x", 41]) == [
        (prefix + "a").encode(),
        b"x",
        42,
    ]


@pytest.mark.basic
async def test_a_script_replies_bytes_to_a_client_that_decodes(server):
    """A sealed value comes back as bytes whatever the client decodes to."""
    script = Script("raw", r"return '\255\254'")
    async with Client.from_url(server.url, decode_responses=True) as client:
        assert await script.run(client, ["k"]) == b"\xff\xfe"


@pytest.mark.errors
@pytest.mark.requirement("C3")
async def test_a_script_the_server_forgot_is_loaded_again():
    """A server that lost its scripts gets them back by the next call, once."""
    script = Script("count", "return redis.call('INCR', KEYS[1])")
    async with EmbeddedServer() as server, Client.from_url(server.url) as client:
        assert await script.run(client, ["n"]) == 1
        await client.script_flush()
        assert await asyncio.gather(*(script.run(client, ["n"]) for _ in range(20)))
        assert await client.get("n") == b"21"
        assert await client.script_exists(script.sha) == [True]


@pytest.mark.errors
async def test_keys_of_two_slots_are_refused_before_anything_is_sent(client, prefix):
    """A script of a lock that could not run on a cluster does not run here either."""
    script = Script("two", "redis.call('SET', KEYS[1], 1)")
    async with Locks(client, prefix=prefix).lock("x", 5) as lock:
        with pytest.raises(InvalidKey, match=r"common \{tag\}"):
            await lock.run(script, [lock.key("a"), prefix + "b"])
        assert not await client.exists(lock.key("a"))
        await lock.run(script, [lock.key("a"), lock.key("b").encode()])


@pytest.mark.errors
async def test_a_script_that_fails_half_way_has_an_unknown_outcome(client, prefix):
    """What ran before the failure stays, so the outcome is not "rejected"."""
    script = Script("half", "redis.call('SET', KEYS[1], 1); return redis.call('NO')")
    with pytest.raises(ScriptFailed) as caught:
        await script.run(client, [prefix + "half"])
    assert caught.value.outcome == "unknown"
    assert await client.exists(prefix + "half")
